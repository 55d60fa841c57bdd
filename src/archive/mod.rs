//! The WAL archive of a node, and the two commands by which PostgreSQL uses it: `archive-wal` is its
//! `archive_command`, `restore-wal` its `restore_command`.
//!
//! Every node archives (`archive_mode = always`), so that a node that was away finds what it missed on
//! any other. The archive is a help, not a backup: it is bounded by age and size, beyond which it keeps only what a
//! recovery under way may need, and drops its oldest file rather than let `pg_wal` fill up. What is in it is never
//! overwritten.
mod archive_wal;
mod count;
mod error;
mod file;
mod http;
mod lineage;
mod restore_wal;
mod retention;
mod store;

#[cfg(test)]
mod tests;

pub use archive_wal::{Args as ArchiveArgs, run as archive_wal};
pub use count::NodeCount;
pub use error::ArchiveError;
pub use file::{Kind, WalFile};
pub use http::router;
pub use lineage::{Branch, Lineage};
pub use restore_wal::{Args as RestoreArgs, run as restore_wal};
pub use store::{Dropped, LastError, Policy, Put, Store, Usage};
