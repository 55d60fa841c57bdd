//! A client's arrival: TLS, what it asks for, and who it proves to be.
use std::io;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::auth::{Binding, ClientKey, Exchange, PLAIN, PLUS, ScramError, Verifier};
use super::cancel::Key;
use super::certificate::{ALPN, Served};
use super::guard;
use super::metrics::Reason;
use super::refusal::{Refusal, SETTING};
use super::wire::message::{
    self, AUTH_OK, AUTH_SASL_CONTINUE, AUTH_SASL_FINAL, Fatal, authentication, encode, sasl,
};
use super::wire::startup::{self, First, Startup, StartupError, TLS_HANDSHAKE};

/// Questions for encryption before the session: one of each kind.
const QUESTIONS: usize = 2;

/// The SQLSTATE of a wrong password, and of a role that isn't there (PostgreSQL docs, "PostgreSQL Error Codes").
pub const WRONG_PASSWORD: &str = "28P01";
/// That of what is no message of the protocol.
const MALFORMED: &str = "08P01";

/// A client behind TLS.
pub type Secure = TlsStream<TcpStream>;

/// What a client came for.
pub enum Arrival {
    /// A session.
    Session(Box<Secure>, Startup),
    /// To have a statement cancelled: the message as it came. The connection is kept until that is done: its end tells
    /// the client so.
    Cancel(Vec<u8>, Held),
}

/// A connection on which nothing is said any more, but that it ends: libpq takes an end of TLS without that for a failure.
pub type Held = Box<dyn AsyncWrite + Unpin + Send>;

/// Why a client gets no session.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The connection.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Its first message.
    #[error(transparent)]
    Startup(#[from] StartupError),
    /// The exchange.
    #[error(transparent)]
    Scram(#[from] ScramError),
    /// It was told why.
    #[error("{}", .0.message)]
    Told(Fatal),
    /// It was turned away, which is counted.
    #[error("{}", .0.fatal().message)]
    TurnedAway(Refusal),
}

impl LoginError {
    /// What is counted for it, unless that is done, or the client has just gone.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::TimedOut => Some(Reason::Late),
            // What is no TLS, too.
            Self::Io(error) if error.kind() == io::ErrorKind::InvalidData => Some(Reason::Protocol),
            Self::Io(_) | Self::Startup(StartupError::Io(_)) | Self::TurnedAway(_) => None,
            Self::Startup(_) | Self::Scram(_) => Some(Reason::Protocol),
            Self::Told(fatal) if fatal.code == WRONG_PASSWORD => Some(Reason::Password),
            Self::Told(fatal) if fatal.code == MALFORMED => Some(Reason::Protocol),
            Self::Told(_) => Some(Reason::Forbidden),
        }
    }
}

/// Takes a client in: answers its questions for encryption and reads what it asks for.
pub async fn arrive(mut client: TcpStream, served: &Served) -> Result<Arrival, LoginError> {
    let mut byte = [0];
    if client.peek(&mut byte).await? == 1 && byte[0] == TLS_HANDSHAKE {
        let secure = TlsAcceptor::from(served.config.clone()).accept(client).await?;
        // Without the protocol's name it may be an attack across protocols (PostgreSQL docs, "sslnegotiation").
        if secure.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(StartupError::Malformed("TLS at once, and not for PostgreSQL").into());
        }
        return begin(secure).await;
    }
    for _ in 0..QUESTIONS {
        match startup::read(&mut client).await? {
            First::Gss => client.write_all(b"N").await?,
            First::Tls => {
                client.write_all(b"S").await?;
                return begin(TlsAcceptor::from(served.config.clone()).accept(client).await?).await;
            }
            First::Cancel(message) => return Ok(Arrival::Cancel(message, Box::new(client))),
            First::Startup(_) => return Err(tell(&mut client, unencrypted()).await),
        }
    }
    Err(StartupError::Malformed("too many questions").into())
}

async fn begin(mut secure: Secure) -> Result<Arrival, LoginError> {
    loop {
        match startup::read(&mut secure).await {
            Ok(First::Startup(startup)) => return Ok(Arrival::Session(Box::new(secure), startup)),
            Ok(First::Cancel(message)) => {
                return Ok(Arrival::Cancel(message, Box::new(secure)));
            }
            // PostgreSQL takes this question after TLS too, and says no.
            Ok(First::Gss) => secure.write_all(b"N").await?,
            Ok(First::Tls) => return Err(StartupError::Malformed("TLS within TLS").into()),
            Err(error @ StartupError::Version(..)) => {
                return Err(tell(&mut secure, fatal("0A000", error.to_string(), "")).await);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Tells a client why it gets no session; what remains for the log.
pub async fn tell<S: AsyncWrite + Unpin>(client: &mut S, fatal: Fatal) -> LoginError {
    let told = async {
        client.write_all(&fatal.bytes()).await?;
        client.shutdown().await
    };
    match told.await {
        Ok(()) => LoginError::Told(fatal),
        Err(error) => error.into(),
    }
}

fn fatal(code: &'static str, message: impl Into<String>, hint: &'static str) -> Fatal {
    Fatal { code, message: message.into(), hint: hint.into() }
}

fn unencrypted() -> Fatal {
    fatal(
        "28000",
        "the front of this pool takes no connections without TLS",
        "Connect with sslmode=verify-full, or at least sslmode=require.",
    )
}

/// What a client may not ask for.
pub fn refused(startup: &Startup) -> Option<Fatal> {
    if startup.user().is_none() {
        return Some(fatal("28000", "no PostgreSQL user name specified in startup packet", ""));
    }
    if let Some(name) = startup.twice() {
        let name = String::from_utf8_lossy(name);
        return Some(fatal(
            MALFORMED,
            format!("parameter {name:?} of the startup packet is given twice"),
            "",
        ));
    }
    if startup.parameters.iter().any(|(name, value)| guard::startup(name, value)) {
        let [code, message, hint] = SETTING;
        return Some(fatal(code, message, hint));
    }
    startup.replicates().then(|| {
        fatal(
            "0A000",
            "the front of this pool takes no replication connections",
            "Use pg_dump for a copy; see docs/limits.md.",
        )
    })
}

/// What is checked of a client.
pub enum Check {
    /// The password, by this verifier.
    Password(Verifier),
    /// The same, in vain: the role isn't there, has no password or may not use it any more. The client shall not be
    /// able to tell that from a wrong password.
    InVain(Verifier),
}

/// Has the client prove its password; gives the key with which it can be logged in. It isn't told yet that it is in.
pub async fn prove<S: AsyncRead + AsyncWrite + Unpin>(
    client: &mut S,
    user: &str,
    check: Check,
    binding: Binding,
) -> Result<ClientKey, LoginError> {
    let offer = if binding.offered() { [PLUS, PLAIN].as_slice() } else { &[PLAIN] };
    client.write_all(&sasl(offer)).await?;
    client.flush().await?;
    let (verifier, in_vain) = match check {
        Check::Password(verifier) => (verifier, false),
        Check::InVain(verifier) => (verifier, true),
    };
    let proved = exchange(client, Exchange::new(verifier, binding)).await;
    match proved {
        Ok((last, key)) if !in_vain => {
            client.write_all(&authentication(AUTH_SASL_FINAL, last.as_bytes())).await?;
            client.flush().await?;
            Ok(key)
        }
        Ok(_) | Err(LoginError::Scram(ScramError::WrongProof)) => {
            let message = format!("password authentication failed for user \"{user}\"");
            Err(tell(client, fatal(WRONG_PASSWORD, message, "")).await)
        }
        Err(LoginError::Scram(error)) => Err(tell(client, fatal(MALFORMED, error.to_string(), "")).await),
        Err(error) => Err(error),
    }
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    client: &mut S,
    mut exchange: Exchange,
) -> Result<(String, ClientKey), LoginError> {
    let initial = password(client).await?;
    let (mechanism, first) =
        message::read_sasl_initial(&initial).ok_or(ScramError::Malformed("the answer to the offer"))?;
    let challenge = exchange.first(mechanism, first)?;
    client.write_all(&authentication(AUTH_SASL_CONTINUE, challenge.as_bytes())).await?;
    client.flush().await?;
    Ok(exchange.last(&password(client).await?)?)
}

async fn password<S: AsyncRead + Unpin>(client: &mut S) -> Result<Vec<u8>, LoginError> {
    let message = message::read(client).await?;
    if message.tag == b'p' { Ok(message.body) } else { Err(ScramError::Malformed("no answer").into()) }
}

/// Tells the client that it is in, what its node said to that, and by what its statements are cancelled.
pub async fn admit<S: AsyncWrite + Unpin>(client: &mut S, said: &[u8], key: &Key) -> io::Result<()> {
    let (in_, key, ready) = (authentication(AUTH_OK, &[]), encode(b'K', key), encode(b'Z', b"I"));
    client.write_all(&[in_.as_slice(), said, &key, &ready].concat()).await?;
    client.flush().await
}

/// Whether the client sends on although it has been told to go: its words are read, so that the last one to it isn't
/// lost by a reset.
pub async fn drain<S: AsyncRead + Unpin>(client: &mut S) {
    let mut rubbish = [0; 512];
    while client.read(&mut rubbish).await.is_ok_and(|read| read > 0) {}
}
