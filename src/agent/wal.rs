//! The agent's part in the WAL archive: its bounds, its size, its last failure.
use std::path::Path;

use crate::api::v1alpha1::MembershipSpec;
use crate::archive::{Policy, Store};
use crate::clock;

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
