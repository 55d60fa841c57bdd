//! The longest lease that may be alive, kept in the volume for the next start of the agent (R4).
use std::path::{Path, PathBuf};

use super::files::Longest;
use super::node::{Node, StepError};
use super::volume::{CONF, VolumeError, read_json, write_json};
use crate::clock;
use crate::membership::names::Names;

fn path(volume: &Path) -> PathBuf {
    volume.join(CONF).join("lease.json")
}

/// Writes it durably.
pub(super) fn write(volume: &Path, lease_ms: u32) -> Result<(), VolumeError> {
    write_json(&path(volume), &Longest { lease_ms })
}

impl Node {
    /// Takes over what an earlier start of the agent knew: as a standby, and as a primary.
    pub(super) fn remember_leases(&self) -> Result<(), StepError> {
        let stood: Option<Longest> = read_json(&path(&self.shared.env.volume))?;
        let stood = stood.map_or(0, |longest| longest.lease_ms);
        let names: Option<Names> = read_json(&self.names_path())?;
        let mut inner = self.shared.lock();
        inner.longest.hear(stood.max(names.map_or(0, |names| names.lease_ms)), clock::now());
        inner.longest_written = stood;
        Ok(())
    }

    /// Writes what is known, before a file that also says it goes.
    pub(super) fn keep_leases(&self) -> Result<(), StepError> {
        let mut inner = self.shared.lock();
        let length = inner.longest.length_ms();
        if length != inner.longest_written {
            write(&self.shared.env.volume, length)?;
            inner.longest_written = length;
        }
        Ok(())
    }
}
