//! What can end the program early.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::check::dump::DumpError;
use crate::db::ConnectError;
use crate::db::tls::TlsError;
use crate::journal::JournalError;

/// An error that ends the program; each names what it failed on.
#[derive(Debug, Error)]
pub enum WorkloadError {
    /// Neither a CA nor `--insecure` was given.
    #[error("no CA to verify the server by: set PGSSLROOTCERT, or say --insecure to speak without TLS")]
    Untrusted,
    /// Not HOST or HOST:PORT.
    #[error("endpoint {endpoint:?}: expected HOST or HOST:PORT")]
    BadEndpoint {
        /// As given.
        endpoint: String,
    },
    /// Not NAME=CONNINFO.
    #[error("node {:?}: {reason}", node.split('=').next().unwrap_or_default())]
    BadNode {
        /// As given; only the name is shown, the rest may hold a password.
        node: String,
        /// Why.
        reason: String,
    },
    /// Not NAME=FILE.
    #[error("dump {dump:?}: expected NAME=FILE")]
    BadDump {
        /// As given.
        dump: String,
    },
    /// Two nodes of one name.
    #[error("two nodes are called {name:?}")]
    SameName {
        /// The name.
        name: String,
    },
    /// The CA file is no good.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A connection that had to be made wasn't.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A statement failed that had to succeed.
    #[error("{target}: {what}: {reason}")]
    Statement {
        /// The endpoint.
        target: String,
        /// What was being done.
        what: &'static str,
        /// What the server said.
        reason: String,
    },
    /// A node didn't come to rest in time.
    #[error("{target}: {what} after {seconds} s")]
    Restless {
        /// The node.
        target: String,
        /// What was still going on.
        what: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The journal can't be written or read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A dump can't be read.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// A file that isn't a journal or a dump.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The control port, a signal handler or standard output.
    #[error("{what}: {source}")]
    Io {
        /// What.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A task of ours panicked.
    #[error("a task ended in a panic: {0}")]
    Task(#[from] tokio::task::JoinError),
    /// The report can't be written as JSON.
    #[error("report: {0}")]
    Json(#[from] serde_json::Error),
}

impl WorkloadError {
    /// Whether the caller asked for something impossible.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Untrusted
                | Self::BadEndpoint { .. }
                | Self::BadNode { .. }
                | Self::BadDump { .. }
                | Self::SameName { .. }
        )
    }
}
