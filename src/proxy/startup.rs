//! The little of PostgreSQL's protocol that the front speaks itself: telling a client why it is turned
//! away (PostgreSQL documentation, "Message Formats").
use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

/// Time that a client gets to say what it wants before it is told.
const PATIENCE: Duration = Duration::from_secs(3);
/// PostgreSQL's own limit on the first message, in bytes.
const FIRST_MESSAGE: usize = 10_000;
/// Questions for encryption (GSSAPI) that are answered before the client is told.
const QUESTIONS: usize = 2;

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

/// Why a client is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No node serves it.
    NoPrimary,
    /// No node may be read from.
    NoNode,
    /// The front has as many sessions as it may have.
    Full,
}

impl Refusal {
    /// The word for it in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoPrimary => "no_primary",
            Self::NoNode => "no_node",
            Self::Full => "full",
        }
    }

    /// SQLSTATE, message, hint.
    fn texts(self) -> [&'static str; 3] {
        match self {
            Self::NoPrimary => [
                "57P03",
                "no primary",
                "No node of the pool takes writes at the moment. Try again; kubectl describe pgpool says why.",
            ],
            Self::NoNode => [
                "57P03",
                "no node to read from",
                "No node of the pool may be read from at the moment. Try again; kubectl describe pgpool says why.",
            ],
            Self::Full => [
                "53300",
                "too many connections for the front of this pool",
                "Use fewer connections, or raise spec.proxy.maxConnections or spec.proxy.replicas.",
            ],
        }
    }

    /// An ErrorResponse.
    fn message(self) -> Vec<u8> {
        let [code, message, hint] = self.texts();
        let mut fields = Vec::new();
        for (field, text) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', code), (b'M', message), (b'H', hint)] {
            fields.push(field);
            fields.extend_from_slice(text.as_bytes());
            fields.push(0);
        }
        fields.push(0);
        let length = u32::try_from(fields.len() + 4).unwrap_or(u32::MAX);
        [b"E", length.to_be_bytes().as_slice(), &fields].concat()
    }
}

/// Waits for the client's first message, so that it is ready to hear, and tells it. A question for TLS is
/// answered with the error itself: that is allowed before encryption, and a plain "no" would tell
/// clients that ask for TLS something that isn't true. libpq shows the text only where no TLS was asked
/// for; else it says "server sent an error response during SSL exchange", lest a stranger's words be
/// taken for the server's.
pub async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, why: Refusal) -> io::Result<()> {
    timeout(PATIENCE, tell(stream, why)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn tell<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, why: Refusal) -> io::Result<()> {
    for _ in 0..QUESTIONS {
        match first_message(stream).await? {
            GSS_REQUEST => stream.write_all(b"N").await?,
            CANCEL_REQUEST => return stream.shutdown().await,
            code => {
                tracing::trace!(tls = code == SSL_REQUEST, "a client is turned away");
                stream.write_all(&why.message()).await?;
                return stream.shutdown().await;
            }
        }
    }
    Ok(())
}

/// Reads a whole first message and returns its code.
async fn first_message<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<u32> {
    let length = stream.read_u32().await?;
    let code = stream.read_u32().await?;
    let rest = usize::try_from(length).ok().and_then(|length| length.checked_sub(8));
    let rest = rest.filter(|rest| *rest <= FIRST_MESSAGE).ok_or(io::ErrorKind::InvalidData)?;
    stream.read_exact(&mut vec![0; rest]).await?;
    Ok(code)
}

#[cfg(test)]
mod tests {
    use postgres_protocol::message::{
        backend::{ErrorField, Message},
        frontend,
    };
    use tokio::io::duplex;
    use tokio_postgres::fallible_iterator::FallibleIterator;

    use super::*;

    async fn answer_to(first: &[u8], why: Refusal) -> Vec<u8> {
        let (mut client, mut front) = duplex(4096);
        client.write_all(first).await.unwrap();
        let told = refuse(&mut front, why).await;
        drop(front);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        if told.is_err() {
            assert!(answer.is_empty(), "nothing is said to somebody who isn't understood");
        }
        answer
    }

    fn startup() -> Vec<u8> {
        let mut buffer = bytes::BytesMut::new();
        frontend::startup_message([("user", "app")], &mut buffer).unwrap();
        buffer.to_vec()
    }

    fn fields(answer: &[u8]) -> Vec<(u8, String)> {
        let mut buffer = bytes::BytesMut::from(answer);
        let Some(Message::ErrorResponse(body)) = Message::parse(&mut buffer).unwrap() else {
            panic!("not an ErrorResponse");
        };
        let text = |field: ErrorField<'_>| String::from_utf8_lossy(field.value_bytes()).into_owned();
        body.fields().map(|field| Ok((field.type_(), text(field)))).collect().unwrap()
    }

    #[tokio::test]
    async fn a_client_is_told_in_its_own_protocol() {
        let found = fields(&answer_to(&startup(), Refusal::NoPrimary).await);
        assert!(found.contains(&(b'S', "FATAL".into())) && found.contains(&(b'C', "57P03".into())));
        assert!(found.contains(&(b'M', "no primary".into())));
        let found = fields(&answer_to(&[0, 0, 0, 8, 4, 210, 22, 47], Refusal::Full).await);
        assert!(found.contains(&(b'C', "53300".into())), "TLS was asked for");
        let gss_then_startup = [&[0, 0, 0, 8, 4, 210, 22, 48], startup().as_slice()].concat();
        let answer = answer_to(&gss_then_startup, Refusal::NoNode).await;
        assert_eq!(answer[0], b'N');
        assert!(fields(&answer[1..]).contains(&(b'C', "57P03".into())));
    }

    #[tokio::test]
    async fn rubbish_is_not_waited_for() {
        assert!(answer_to(&[0xff; 16], Refusal::Full).await.is_empty());
        assert!(answer_to(&[0, 0, 0, 1, 0, 0, 0, 0], Refusal::Full).await.is_empty());
        let cancel = [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 2];
        assert!(answer_to(&cancel, Refusal::Full).await.is_empty(), "a cancel request is never answered");
    }
}
