//! Connections as the environment names them, and what comes by them unasked.

use std::env;
use std::future::poll_fn;
use std::net::IpAddr;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::net::lookup_host;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_postgres::config::{ChannelBinding, SslMode};
use tokio_postgres::error::DbError;
use tokio_postgres::{AsyncMessage, Client, Config};

use crate::tls::Tls;

/// Why a case can't be gone through.
#[derive(Debug, Error)]
pub enum Failure {
    /// A variable is missing, or isn't one.
    #[error("{0} isn't set as it should be")]
    Environment(&'static str),
    /// A certificate or a key.
    #[error(transparent)]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// TLS can't be set up.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// A name can't be looked up.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// tokio-postgres, or a server by it.
    #[error("{0}: {0:?}")]
    Driver(#[from] tokio_postgres::Error),
    /// sqlx, or a server by it.
    #[cfg(feature = "sqlx")]
    #[error("{0}")]
    Sqlx(#[from] sqlx::Error),
    /// Something else was seen than a case can go on with.
    #[error("{0}")]
    Seen(String),
}

/// What a server tells of itself at login.
const TOLD: [&str; 14] = [
    "server_version",
    "server_encoding",
    "client_encoding",
    "application_name",
    "is_superuser",
    "session_authorization",
    "DateStyle",
    "IntervalStyle",
    "TimeZone",
    "integer_datetimes",
    "standard_conforming_strings",
    "in_hot_standby",
    "default_transaction_read_only",
    "scram_iterations",
];

/// Where the server is, and who logs in to it.
pub struct Place {
    /// The host's name.
    pub host: String,
    port: u16,
    /// Who, and to what.
    pub config: Config,
    /// As a careful client does it.
    pub tls: Tls,
}

/// A session.
pub struct Session {
    /// For statements.
    pub client: Client,
    /// Notices and notifications.
    pub unasked: UnboundedReceiver<AsyncMessage>,
    /// What the server told of itself.
    pub told: Value,
    driver: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn variable(name: &'static str) -> Result<String, Failure> {
    env::var(name).map_err(|_| Failure::Environment(name))
}

impl Place {
    /// The one that libpq's variables name.
    pub fn of_environment() -> Result<Self, Failure> {
        let (host, port) = (variable("PGHOST")?, variable("PGPORT")?);
        let port = port.parse().map_err(|_| Failure::Environment("PGPORT"))?;
        let mut config = Config::new();
        config.user(variable("PGUSER")?).password(variable("PGPASSWORD")?).dbname(variable("PGDATABASE")?);
        config.ssl_mode(SslMode::Require).channel_binding(ChannelBinding::Prefer).application_name("drivers");
        Ok(Self { host, port, config, tls: Tls::new(true, rustls::ALL_VERSIONS)? })
    }

    /// The host's address.
    pub async fn address(&self) -> Result<IpAddr, Failure> {
        let mut found = lookup_host((self.host.as_str(), self.port)).await?;
        let address = found.find(std::net::SocketAddr::is_ipv4);
        address.map(|address| address.ip()).ok_or(Failure::Environment("PGHOST"))
    }

    /// A session as a careful client has it.
    pub async fn connect(&self) -> Result<Session, Failure> {
        let mut config = self.config.clone();
        Ok(self.connect_as(config.host(&self.host), &self.tls).await?)
    }

    /// A session with other settings; hosts are named in them, and the port isn't.
    pub async fn connect_as(&self, config: &Config, tls: &Tls) -> Result<Session, tokio_postgres::Error> {
        let (client, mut connection) = config.clone().port(self.port).connect(tls.clone()).await?;
        let told = TOLD.map(|name| json!([name, connection.parameter(name)]));
        let (sender, unasked) = unbounded_channel();
        let driver = tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                // Who asks for none of them doesn't listen.
                let _ = sender.send(message);
            }
        });
        Ok(Session { client, unasked, told: json!(told), driver })
    }
}

/// What a server said of an error or in a notice, without the line of its sources.
pub fn fields(said: &DbError) -> Value {
    json!([
        said.severity(),
        said.code().code(),
        said.message(),
        said.detail(),
        said.hint(),
        said.position().map(|position| format!("{position:?}")),
        said.where_(),
        said.schema(),
        said.table(),
        said.column(),
        said.constraint(),
    ])
}

/// The same of what came of a statement.
pub fn failing<T>(came: &Result<T, tokio_postgres::Error>) -> Value {
    match came {
        Ok(_) => json!("no error"),
        Err(error) => error.as_db_error().map_or_else(|| json!(error.to_string()), fields),
    }
}

/// A short form of much data.
pub fn digest(data: impl AsRef<[u8]>) -> String {
    format!("{:x}", Sha256::digest(data))
}
