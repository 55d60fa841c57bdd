//! Sessions with PostgreSQL: where to, how trusted, and what the server remarked on the way.

pub mod failure;
pub mod tls;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls};

use failure::Failure;

/// How sessions name themselves to the server; the checker looks for it in `pg_stat_activity`.
pub const APPLICATION: &str = "pgpool-workload";

/// Longest time that a connection, from name lookup to a session ready for statements, may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long the kernel may keep unanswered data before it gives a dead machine up.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(15);

/// Why no session came to be.
#[derive(Debug, Error)]
#[error("{target}: {}", failure.message)]
pub struct ConnectError {
    /// Which endpoint.
    pub target: String,
    /// What happened.
    pub failure: Failure,
}

/// Who may read along.
#[derive(Clone)]
pub enum Transport {
    /// No TLS at all: only when asked for by `--insecure`.
    Plain,
    /// TLS, certificate and name verified.
    Tls(tls::Verified),
}

/// An endpoint to connect to.
#[derive(Clone)]
pub struct Target {
    /// How reports call it.
    pub name: String,
    config: Config,
    transport: Transport,
}

impl Target {
    /// `config` says host, port, user and database; time bounds and the application's name are set here.
    pub fn new(name: String, mut config: Config, transport: Transport) -> Self {
        config
            .application_name(APPLICATION)
            .connect_timeout(CONNECT_WITHIN)
            .tcp_user_timeout(TCP_USER_TIMEOUT)
            .ssl_mode(match transport {
                Transport::Plain => SslMode::Disable,
                Transport::Tls(_) => SslMode::Require,
            });
        Self { name, config, transport }
    }

    /// Whether the configuration names a host at all.
    pub fn has_host(&self) -> bool {
        self.config.get_hosts().iter().any(|host| match host {
            Host::Tcp(name) => !name.is_empty(),
            Host::Unix(_) => true,
        })
    }

    /// Opens one session, within [`CONNECT_WITHIN`].
    pub async fn connect(&self) -> Result<Session, ConnectError> {
        let failed = |failure| ConnectError { target: self.name.clone(), failure };
        match tokio::time::timeout(CONNECT_WITHIN, self.connect_unbounded()).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(error)) => Err(failed(Failure::from(&error))),
            Err(_) => Err(failed(Failure::timeout())),
        }
    }

    async fn connect_unbounded(&self) -> Result<Session, tokio_postgres::Error> {
        match &self.transport {
            Transport::Plain => {
                let (client, connection) = self.config.connect(NoTls).await?;
                Ok(Session::drive(client, connection))
            }
            Transport::Tls(verified) => {
                let (client, connection) = self.config.connect(verified.clone()).await?;
                Ok(Session::drive(client, connection))
            }
        }
    }
}

/// One session; the socket closes when it is dropped, also with a statement under way.
pub struct Session {
    /// For statements.
    pub client: Client,
    doubts: Arc<AtomicU64>,
    driver: JoinHandle<()>,
}

impl Session {
    fn drive<S, T>(client: Client, mut connection: Connection<S, T>) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let doubts = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&doubts);
        let driver = tokio::spawn(async move {
            // A notice is handed out here before the answer that follows it on the wire reaches the client, so
            // whoever sees a success sees the doubt about it too.
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notice(notice) = message
                    && failure::is_cancelled_wait(notice.message())
                {
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        Self { client, doubts, driver }
    }

    /// How often the server has warned that it reported a commit without waiting for the standbys.
    pub fn doubts(&self) -> u64 {
        self.doubts.load(Ordering::SeqCst)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The driver would wait for an answer that a frozen server never sends.
        self.driver.abort();
    }
}
