//! What can go wrong in a command of this crate, each naming what it failed on.

use std::io;
use std::path::{Path, PathBuf};

/// The result of nearly everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure, worded for the person who typed the command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read, written or removed.
    #[error("{action} {path}: {source}")]
    File {
        /// What was being done, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A program could not be started at all.
    #[error("cannot start `{command}`: {source}")]
    Start {
        /// The command line.
        command: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("`{command}` ended with {status}{}", indented(.output))]
    Ended {
        /// The command line.
        command: String,
        /// The exit code or signal.
        status: String,
        /// What it wrote to standard error, if that was captured.
        output: String,
    },
    /// Something did not come about in time.
    #[error("{what} did not happen within {seconds} s{}", indented(.last))]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long, in seconds.
        seconds: u64,
        /// What was seen last.
        last: String,
    },
    /// The user wants no more of it.
    #[error("interrupted")]
    Interrupted,
    /// A JSON document is not as expected.
    #[error("{what}: {source}")]
    Json {
        /// Where the document came from.
        what: String,
        /// Why it could not be read.
        source: serde_json::Error,
    },
    /// A certificate could not be made.
    #[error("certificate {name}: {source}")]
    Certificate {
        /// Whose certificate.
        name: String,
        /// Why it failed.
        source: rcgen::Error,
    },
    /// The request cannot be met; the text says what to do instead.
    #[error("{0}")]
    Refused(String),
}

fn indented(text: &str) -> String {
    text.trim().lines().fold(String::new(), |all, line| all + "\n  " + line)
}

/// Adds the name of a file to an [`io::Error`].
pub trait OnFile<T> {
    /// Says what was being done (a verb) to which file.
    fn on(self, action: &'static str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<io::Error>> OnFile<T> for std::result::Result<T, E> {
    fn on(self, action: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|e| Error::File { action, path: path.as_ref().to_path_buf(), source: e.into() })
    }
}

/// Shorthand for [`Error::Refused`].
pub fn refused<T>(why: impl Into<String>) -> Result<T> {
    Err(Error::Refused(why.into()))
}
