//! The agent's own sessions: the superuser by the unix socket.
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio_postgres::{Error, NoTls, Row, Statement};

use crate::membership::lsn;
use crate::names;

/// Longest time that a question of the agent may take.
pub const LIMIT: Duration = Duration::from_secs(5);

/// Why Postgres did not answer.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// Postgres refused; its own words and its SQLSTATE.
    #[error("postgres: {message} ({code})")]
    Refused {
        /// What it said.
        message: String,
        /// Why, as a SQLSTATE (PostgreSQL docs, "PostgreSQL Error Codes").
        code: String,
    },
    /// The session could not be made, or broke off.
    #[error("postgres: {0}")]
    Session(String),
    /// What is asked for isn't safe with this PostgreSQL; why, for people.
    #[error("{0}")]
    Unsafe(String),
    /// No answer in time.
    #[error("postgres did not answer in {} s", LIMIT.as_secs())]
    Late,
}

impl SqlError {
    /// Whether a Postgres that was asked for a session has refused it for another reason than that it is
    /// starting (57P03), stopping (57P01) or full (53300): its data can't be read.
    pub fn is_broken(&self) -> bool {
        match self {
            Self::Refused { code, .. } => !matches!(code.as_str(), "57P03" | "57P01" | "57P02" | "53300"),
            Self::Session(_) | Self::Unsafe(_) | Self::Late => false,
        }
    }

    /// Whether a Postgres that was asked for a session replays WAL and lets nobody in yet. Before that it says that it is
    /// starting up; by then it knows which timeline it follows (PostgreSQL source, `canAcceptConnections`, `StartupXLOG`).
    pub fn is_replaying(&self) -> bool {
        matches!(self, Self::Refused { code, message } if code == "57P03" && message.contains("not yet accepting"))
    }
}

impl From<Error> for SqlError {
    fn from(error: Error) -> Self {
        match error.as_db_error() {
            Some(db) => Self::Refused { message: db.message().to_owned(), code: db.code().code().to_owned() },
            None => Self::Session(error.to_string()),
        }
    }
}

/// Runs a future of the driver within [`LIMIT`].
pub async fn within<T>(future: impl Future<Output = Result<T, Error>>) -> Result<T, SqlError> {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(SqlError::Late),
    }
}

/// Whatever the user's parameters say, a session of the agent works: on a standby too, and when it has been idle.
const SETTINGS: &str = "-c synchronous_commit=local -c statement_timeout=60s -c search_path=pg_catalog \
     -c default_transaction_isolation=read\\ committed -c default_transaction_read_only=off -c lock_timeout=0 \
     -c idle_session_timeout=0 -c idle_in_transaction_session_timeout=0";

/// A session of the agent.
pub struct Client {
    session: tokio_postgres::Client,
    /// What it asks many times a second is parsed and planned once.
    prepared: Option<Mutex<HashMap<&'static str, Statement>>>,
}

impl Client {
    /// One that prepares nothing for the next time.
    #[cfg(test)]
    pub fn unprepared(session: tokio_postgres::Client) -> Self {
        Self { session, prepared: None }
    }

    /// The rows of a question that is asked again and again. Where the session keeps it, the server has it prepared.
    pub async fn ask(&self, text: &'static str) -> Result<Vec<Row>, Error> {
        self.session.query(&self.statement(text).await?, &[]).await
    }

    /// The same of a question with one row.
    pub async fn ask_one(&self, text: &'static str) -> Result<Row, Error> {
        self.session.query_one(&self.statement(text).await?, &[]).await
    }

    async fn statement(&self, text: &'static str) -> Result<Statement, Error> {
        let Some(prepared) = &self.prepared else { return self.session.prepare(text).await };
        let known = prepared.lock().unwrap_or_else(PoisonError::into_inner).get(text).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.session.prepare(text).await?;
        prepared.lock().unwrap_or_else(PoisonError::into_inner).insert(text, statement.clone());
        Ok(statement)
    }
}

impl Deref for Client {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &tokio_postgres::Client {
        &self.session
    }
}

/// Logs in to a database as the superuser. The session commits without waiting for standbys, unless
/// it says otherwise, and has a limit on each statement.
pub async fn connect(database: &str) -> Result<Client, SqlError> {
    let mut config = tokio_postgres::Config::new();
    config
        .host_path(names::SOCKET_DIR)
        .user("postgres")
        .dbname(database)
        .application_name("pgpool-agent")
        .connect_timeout(LIMIT)
        .options(SETTINGS);
    let (session, connection) = within(config.connect(NoTls)).await?;
    let major = connection
        .parameter("server_version")
        .and_then(|v| v.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok());
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "session of the agent ended");
        }
    });
    if major.is_some_and(|major| major >= 17) {
        within(session.batch_execute("SET transaction_timeout = 0")).await?;
    }
    Ok(Client { session, prepared: Some(Mutex::default()) })
}

/// A position, from a column cast to text.
pub fn position(row: &Row, column: &str) -> Option<u64> {
    row.try_get::<_, Option<String>>(column).ok().flatten().and_then(|text| lsn::parse(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_postgres_that_replays_is_told_from_one_that_starts() {
        let refused =
            |code: &str, message: &str| SqlError::Refused { code: code.into(), message: message.into() };
        assert!(refused("57P03", "the database system is not yet accepting connections").is_replaying());
        for (code, message) in [
            ("57P03", "the database system is starting up"),
            ("57P03", "the database system is shutting down"),
            ("57P03", "the database system is not accepting connections"),
            ("53300", "sorry, too many clients already"),
        ] {
            assert!(!refused(code, message).is_replaying(), "{message}");
        }
        assert!(!SqlError::Late.is_replaying());
    }
}
