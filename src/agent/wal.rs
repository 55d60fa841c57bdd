//! The WAL of this node: what `pg_wal` holds, and the agent's part in the archive: its bounds, its size, its last failure.
use std::path::Path;

use super::node::{Node, StepError};
use super::volume::{VolumeError, entries};
use crate::api::v1alpha1::MembershipSpec;
use crate::archive::{Policy, Store};
use crate::clock;
use crate::membership::{joining, lsn, wal_end};

/// What the report says of the archive.
pub struct Seen {
    /// Bytes used.
    pub bytes: u64,
    /// The last failure, for people.
    pub error: Option<String>,
}

/// How full the archive is, and what went wrong last.
pub fn usage(archive: &Path) -> Seen {
    let store = Store::new(archive);
    let bytes = store.usage().map_or(0, |u| u.bytes);
    let error = store.last_error().ok().flatten().map(|e| format!("{}: {} ({})", e.file, e.message, e.at));
    Seen { bytes, error }
}

/// Sets the archive's bounds, which the archive command keeps too, and drops what is past them.
pub async fn prune(archive: &Path, spec: &MembershipSpec) {
    let policy = Policy {
        retention_seconds: u64::try_from(spec.archive_retention_seconds).ok(),
        max_bytes: u64::try_from(spec.archive_max_bytes).ok(),
        keep_since: spec.keep_wal_since,
    };
    let store = Store::new(archive);
    // Files are removed one by one: not on a thread that answers beats.
    let done = tokio::task::spawn_blocking(move || {
        store.set_policy(&policy)?;
        store.prune(clock::timestamp())
    });
    match done.await {
        Ok(Ok(dropped)) => {
            for file in dropped {
                tracing::info!(file = file.name, bytes = file.bytes, "archived WAL dropped");
            }
        }
        Ok(Err(error)) => tracing::warn!(%error, "the WAL archive can't be pruned"),
        Err(error) => tracing::warn!(%error, "pruning the WAL archive broke off"),
    }
}

impl Node {
    /// Names of the files in `pg_wal`.
    pub(super) fn wal_names(&self) -> Result<Vec<String>, VolumeError> {
        entries(&self.volume.data().join("pg_wal"))
    }

    /// The newest timeline, before `below`, of which the node holds a segment.
    pub(super) fn held_timeline(&self, below: u32) -> Result<u32, VolumeError> {
        Ok(joining::newest_segment(self.wal_names()?.iter().map(String::as_str), below))
    }

    /// Where the valid WAL of the stopped copy ends on that timeline, looking from a position on.
    pub(super) async fn wal_end(&self, timeline: u32, from: u64) -> Result<Option<u64>, StepError> {
        let Some(programs) = &self.programs else { return Ok(None) };
        let names = self.wal_names()?;
        let Some(segments) = wal_end::segments(timeline, from, self.segment_bytes, &names) else {
            return Ok(None);
        };
        let data = self.volume.data();
        let said = programs.wal_statistics(&data, &lsn::print(from), &segments.first, &segments.last).await?;
        Ok(wal_end::parse(&said.printed, said.failure.as_deref()))
    }
}
