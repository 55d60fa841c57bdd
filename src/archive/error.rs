//! What can go wrong with the archive.
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::link::LinkError;

/// A failure of the archive; names the file that it failed on.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Not a name that PostgreSQL gives to a file of WAL.
    #[error("{0:?} is no name of a WAL file")]
    Name(String),
    /// A file or folder can't be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file was archived before, with other content.
    #[error(
        "{0} is in the archive with other content; it isn't overwritten. Two histories have met: find out which one the other nodes have (docs/runbooks/volume-full.md)"
    )]
    Conflict(WalName),
    /// The archived file can't be read.
    #[error("{name} is in the archive but can't be read: {source}")]
    Damaged {
        /// The file.
        name: WalName,
        /// Why.
        source: io::Error,
    },
    /// A file of the archive's own isn't what it should be.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Another process holds the archive.
    #[error("{}: another process held it for {after:?}", path.display())]
    Held {
        /// The lock.
        path: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// The file isn't in this archive, nor in that of any node that answered.
    #[error("{name} is in no archive (not asked: {unheard} of {others} other nodes)")]
    Missing {
        /// The file.
        name: WalName,
        /// Nodes that gave no answer.
        unheard: usize,
        /// Nodes besides this one.
        others: usize,
    },
    /// Certificates.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// The name of a WAL file in an error.
pub type WalName = String;

impl ArchiveError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// True when a file that PostgreSQL asked for simply isn't there: it asks for many that aren't.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }

    /// True when the disk is full.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}
