//! Logging in to a node, in the client's place.
use std::io;

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::auth::{Login, PLAIN, ScramError, Verifier};
use super::cancel::Key;
use super::wire::message::{
    self, AUTH_OK, AUTH_SASL, AUTH_SASL_CONTINUE, AUTH_SASL_FINAL, Message, encode, error_texts, sasl_initial,
};
use super::wire::startup::{SSL_REQUEST, Startup};
use crate::link::Identity;

/// A node behind TLS.
pub type Secure = TlsStream<TcpStream>;

/// Why the node gives no session.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The connection.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The node doesn't answer.
    #[error("the node doesn't answer in time")]
    Late,
    /// The node takes no TLS.
    #[error("the node takes no TLS")]
    Unencrypted,
    /// The exchange.
    #[error(transparent)]
    Scram(#[from] ScramError),
    /// The node wants what the front can't give.
    #[error("the node asks for what the front doesn't speak")]
    Unknown,
    /// The node refuses: its own words, for the client.
    #[error("the node refuses: {} {}", error_texts(&.0.body).0, error_texts(&.0.body).1)]
    Refused(Message),
}

/// TLS with a node that must have the certificate for its name.
pub async fn secure(mut socket: TcpStream, host: &str, identity: &Identity) -> Result<Secure, NodeError> {
    socket.write_all(&SSL_REQUEST).await?;
    if socket.read_u8().await? != b'S' {
        return Err(NodeError::Unencrypted);
    }
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    Ok(TlsConnector::from(identity.to_postgres()).connect(name, socket).await?)
}

/// What a node says once a client is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    /// Settings and notices, as they came.
    pub said: Vec<u8>,
    /// By what a statement of the session is cancelled there.
    pub key: Key,
}

/// Messages of a greeting; PostgreSQL 18 sends 17.
const GREETING: usize = 256;

/// Asks for what the client asked for, and proves to be it; until the node waits for the first question.
pub async fn log_in<S: AsyncRead + AsyncWrite + Unpin>(
    node: &mut S,
    startup: &Startup,
    mut login: Login,
    verifier: &Verifier,
) -> Result<Greeting, NodeError> {
    node.write_all(&startup.bytes()).await?;
    node.flush().await?;
    loop {
        let message = message::read(node).await?;
        let answer = match (message.tag, message.authentication()) {
            (_, Some((AUTH_OK, _))) => return be_greeted(node).await,
            (_, Some((AUTH_SASL, names))) => {
                if !names.split(|b| *b == 0).any(|name| name == PLAIN.as_bytes()) {
                    return Err(NodeError::Unknown);
                }
                sasl_initial(PLAIN, &login.first())
            }
            (_, Some((AUTH_SASL_CONTINUE, challenge))) => {
                encode(b'p', login.answer(challenge, verifier)?.as_bytes())
            }
            (_, Some((AUTH_SASL_FINAL, last))) => {
                login.finish(last)?;
                continue;
            }
            (b'E', _) => return Err(NodeError::Refused(message)),
            (b'N', _) => continue,
            _ => return Err(NodeError::Unknown),
        };
        node.write_all(&answer).await?;
        node.flush().await?;
    }
}

async fn be_greeted<S: AsyncRead + Unpin>(node: &mut S) -> Result<Greeting, NodeError> {
    let mut greeting = Greeting::default();
    for _ in 0..GREETING {
        let message = message::read(node).await?;
        match message.tag {
            b'S' | b'N' => greeting.said.extend(message.bytes()),
            b'K' => greeting.key = message.body.try_into().map_err(|_| NodeError::Unknown)?,
            b'Z' if message.body == b"I" => {
                // It is kept as long as the session.
                greeting.said.shrink_to_fit();
                return Ok(greeting);
            }
            b'E' => return Err(NodeError::Refused(message)),
            _ => break,
        }
    }
    Err(NodeError::Unknown)
}

/// A commit that is acknowledged once every attached node has it, whatever the role's own settings are. A standby
/// commits nothing, and nothing of it can be in doubt.
const BARRIER: &str = "SET synchronous_commit = remote_apply; SET statement_timeout = 0; \
    SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() \
    THEN pg_catalog.pg_logical_emit_message(true, 'pgpool', '') END";

/// Commits something, and waits for it. A notice is an error: with one PostgreSQL says that the wait was cancelled. So is a
/// standby where one is wanted that `writes`: it has lost its office.
pub async fn barrier<S: AsyncRead + AsyncWrite + Unpin>(node: &mut S, writes: bool) -> Result<(), NodeError> {
    node.write_all(&encode(b'Q', format!("{BARRIER}\0").as_bytes())).await?;
    node.flush().await?;
    loop {
        let message = message::read(node).await?;
        match message.tag {
            b'Z' => break,
            b'N' | b'E' => return Err(NodeError::Refused(message)),
            // One column, and it is null.
            b'D' if writes && message.body == [0, 1, 0xff, 0xff, 0xff, 0xff] => {
                return Err(NodeError::Unknown);
            }
            _ => {}
        }
    }
    node.write_all(&encode(b'X', &[])).await?;
    Ok(node.shutdown().await?)
}
