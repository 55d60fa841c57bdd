//! What can go wrong on the way to another part of the pool.
use std::{io, path::PathBuf, time::Duration};

/// A failure of the link; names the file, or the host and the path, that it failed on.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A file of the identity can't be read.
    #[error("can't read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the identity isn't what it should be.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate doesn't say which part of which pool holds it.
    #[error("the certificate doesn't name a part of a pool: {reason}")]
    Certificate {
        /// What is wrong with it.
        reason: String,
    },
    /// The name isn't known.
    #[error("can't resolve {host}: {source}")]
    Resolve {
        /// The host.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// No connection.
    #[error("can't connect to {host}:{port}: {source}")]
    Dial {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// No TLS: the other side isn't who it should be, or doesn't take us for who we are.
    #[error("TLS with {host}:{port}: {source}")]
    Handshake {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// The other side belongs to another pool.
    #[error("{host}:{port} belongs to pool {uid}, not to this one")]
    Foreign {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// The pool that its certificate names.
        uid: String,
    },
    /// The connection broke.
    #[error("{host}{path}: {source}")]
    Http {
        /// The host.
        host: String,
        /// The path asked for.
        path: String,
        /// Why.
        source: hyper::Error,
    },
    /// The path or host can't stand in a request.
    #[error("{host}{path} can't be asked for: {source}")]
    Request {
        /// The host.
        host: String,
        /// The path asked for.
        path: String,
        /// Why.
        source: hyper::http::Error,
    },
    /// An answer, but not a good one.
    #[error("{host}{path}: answered {status}: {message}")]
    Status {
        /// The host.
        host: String,
        /// The path asked for.
        path: String,
        /// HTTP status.
        status: u16,
        /// The answer's beginning.
        message: String,
    },
    /// No answer in time.
    #[error("{host}{path}: no answer within {after:?}")]
    Timeout {
        /// The host.
        host: String,
        /// The path asked for.
        path: String,
        /// The time limit.
        after: Duration,
    },
    /// A message that can't be read or written as JSON.
    #[error("{host}{path}: not the message that it should be: {source}")]
    Message {
        /// The host.
        host: String,
        /// The path asked for.
        path: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A message longer than a message may be.
    #[error("{host}{path}: longer than {limit} bytes")]
    TooLong {
        /// The host.
        host: String,
        /// The path asked for.
        path: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// What came can't be stored.
    #[error("{host}{path}: can't store what came: {source}")]
    Store {
        /// The host.
        host: String,
        /// The path asked for.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl LinkError {
    /// True when the other side answered that it has no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { status: 404, .. })
    }
}
