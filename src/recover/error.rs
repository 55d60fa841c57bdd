//! Why a recovery could not be done.
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::postgres::programs::ProgramError;

/// A failure of the recovery Job; names what it failed on.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// A file or folder can't be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file's content isn't what it should be.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The node's agent, or another Job, is at work on the volume.
    #[error("{}: the volume was in use by another process for {after:?}", path.display())]
    Held {
        /// The lock.
        path: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// What the Job was told makes no sense.
    #[error("{0}")]
    Order(String),
    /// No programs of PostgreSQL.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The copy failed.
    #[error("pg_basebackup from {donor}: {said}")]
    Copy {
        /// The donor.
        donor: String,
        /// The end of what it said.
        said: String,
    },
    /// The old data and the new don't fit side by side.
    #[error(
        "{free} bytes are free and {wanted} are needed beside the old data, which may only be deleted when the operator says so"
    )]
    NoRoom {
        /// Free bytes on the volume.
        free: u64,
        /// Bytes needed.
        wanted: u64,
    },
    /// The new data doesn't fit at all.
    #[error(
        "{free} bytes are free and {wanted} are needed, with nothing left to delete: the volume is too small"
    )]
    TooSmall {
        /// Free bytes on the volume.
        free: u64,
        /// Bytes needed.
        wanted: u64,
    },
    /// The donor has tablespaces.
    #[error(
        "the donor has tablespaces ({0}), which a pool can't have: every node has one volume. Move their tables with ALTER TABLE … SET TABLESPACE pg_default and drop them"
    )]
    Tablespaces(String),
    /// What came is no usable copy.
    #[error("what came from {donor} can't be used: {reason}")]
    Result {
        /// The donor.
        donor: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The Job was told to stop.
    #[error("stopped before the copy was whole; the old data is as it was")]
    Stopped,
}

impl RecoverError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }

    pub(super) fn json(path: &Path) -> impl FnOnce(serde_json::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| Self::Json { path, source }
    }

    /// True when it would have gone on had it been let to delete the old data.
    pub fn needs_destroy(&self) -> bool {
        matches!(self, Self::NoRoom { .. })
    }
}
