//! The agent's own sessions: the superuser by the unix socket.
use std::time::Duration;

use thiserror::Error;
use tokio_postgres::{Client, NoTls, Row};

use crate::membership::lsn;
use crate::names;

/// Longest time that a question of the agent may take.
pub const LIMIT: Duration = Duration::from_secs(5);

/// Why Postgres did not answer.
#[derive(Debug, Error)]
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
            Self::Session(_) | Self::Late => false,
        }
    }
}

impl From<tokio_postgres::Error> for SqlError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db) => Self::Refused { message: db.message().to_owned(), code: db.code().code().to_owned() },
            None => Self::Session(error.to_string()),
        }
    }
}

/// Runs a future of the driver within [`LIMIT`].
pub async fn within<T>(
    future: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, SqlError> {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(SqlError::Late),
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
        .options("-c synchronous_commit=local -c statement_timeout=60s -c search_path=pg_catalog");
    let (client, connection) = within(config.connect(NoTls)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "session of the agent ended");
        }
    });
    Ok(client)
}

/// A position, from a column cast to text.
pub fn position(row: &Row, column: &str) -> Option<u64> {
    row.try_get::<_, Option<String>>(column).ok().flatten().and_then(|text| lsn::parse(&text))
}
