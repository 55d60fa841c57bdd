//! What went wrong with a statement, and what that says about its outcome. Pure.

use serde::{Deserialize, Serialize};
use tokio_postgres::error::Severity;

/// What is known of a write once its session has answered or died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The server said that it is committed, without any warning.
    Acked,
    /// It is certainly not done.
    Refused,
    /// Nobody can tell from here: it may be done, now or later.
    Unknown,
}

/// How far a write had come when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// No statement that could commit has been sent.
    Open,
    /// The committing statement may have reached the server.
    Committing,
}

/// The word for a read that the end of the run cut off.
const STOPPED: &str = "stopped";

/// A failed statement, connection or wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The SQLSTATE, or one of the words `connection_lost`, `timeout`, `cancelled_wait`, `stopped`.
    pub code: String,
    /// What the server or the socket said.
    pub message: String,
    /// True if the server answered with an ordinary ERROR: the session lives and the statement is undone.
    pub plain_error: bool,
}

impl Failure {
    /// No answer within the client's own bound.
    pub fn timeout() -> Self {
        Self { code: "timeout".into(), message: "no answer in time".into(), plain_error: false }
    }

    /// The run ended before the answer came.
    pub fn stopped() -> Self {
        Self { code: STOPPED.into(), message: "the run ended first".into(), plain_error: false }
    }

    /// Whether it is no failure of the server's but the end of the run.
    pub fn is_stopped(&self) -> bool {
        self.code == STOPPED
    }

    /// The server reported success and warned that it didn't wait for the standbys.
    pub fn cancelled_wait() -> Self {
        let message = "the wait for synchronous replication was cancelled".into();
        Self { code: "cancelled_wait".into(), message, plain_error: false }
    }

    /// Whether the session can go on after a ROLLBACK.
    pub fn session_lives(&self) -> bool {
        self.plain_error
    }

    /// The outcome of a write that failed like this at `stage`.
    ///
    /// Only an ordinary ERROR undoes a statement for certain. A FATAL while committing may come after the commit
    /// record was written (a backend told to end while it waits for a standby), and so may the classes that a
    /// proxy uses for a server that it lost: 08 (connection), 57P (shutdown), and 40003 (completion unknown).
    pub fn outcome(&self, stage: Stage) -> Outcome {
        let doubtful =
            self.code.starts_with("08") || self.code.starts_with("57P") || self.code.as_str() == "40003";
        match stage {
            Stage::Open => Outcome::Refused,
            Stage::Committing if self.plain_error && !doubtful => Outcome::Refused,
            Stage::Committing => Outcome::Unknown,
        }
    }
}

impl From<&tokio_postgres::Error> for Failure {
    fn from(error: &tokio_postgres::Error) -> Self {
        if let Some(db) = error.as_db_error() {
            return Self {
                code: db.code().code().to_owned(),
                message: format!("{}: {}", db.severity(), db.message()),
                plain_error: db.parsed_severity() == Some(Severity::Error),
            };
        }
        let cause = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
        Self { code: "connection_lost".into(), message: format!("{error}{cause}"), plain_error: false }
    }
}

/// Whether a notice says that a commit was reported without the standbys' word (PostgreSQL's
/// `SyncRepWaitForLSN` warns so on a cancel and on a shutdown; the text is fixed by `lc_messages = C`).
pub fn is_cancelled_wait(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("canceling") && message.contains("wait for synchronous replication")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: &str, plain_error: bool) -> Failure {
        Failure { code: code.into(), message: String::new(), plain_error }
    }

    #[test]
    fn what_fails_before_the_commit_is_sent_is_refused() {
        for (code, plain) in [("40P01", true), ("57P01", false), ("connection_lost", false)] {
            assert_eq!(failure(code, plain).outcome(Stage::Open), Outcome::Refused, "{code}");
        }
    }

    #[test]
    fn only_an_ordinary_error_refuses_a_commit() {
        for (code, plain, outcome) in [
            ("23505", true, Outcome::Refused),
            ("25006", true, Outcome::Refused),
            ("57014", true, Outcome::Refused),
            ("57P01", false, Outcome::Unknown),
            ("57P01", true, Outcome::Unknown),
            ("08006", true, Outcome::Unknown),
            ("40003", true, Outcome::Unknown),
            ("connection_lost", false, Outcome::Unknown),
            ("timeout", false, Outcome::Unknown),
            ("cancelled_wait", false, Outcome::Unknown),
        ] {
            assert_eq!(failure(code, plain).outcome(Stage::Committing), outcome, "{code}");
        }
    }

    #[test]
    fn both_warnings_about_a_cancelled_wait_are_known() {
        assert!(is_cancelled_wait("canceling wait for synchronous replication due to user request"));
        assert!(is_cancelled_wait(
            "canceling the wait for synchronous replication and terminating connection due to administrator command"
        ));
        assert!(!is_cancelled_wait("there is already a transaction in progress"));
    }
}
