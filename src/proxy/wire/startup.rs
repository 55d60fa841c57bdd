//! The first messages of a connection, which have no tag ("Start-up").
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// PostgreSQL's own limit on a first message, in bytes (`MAX_STARTUP_PACKET_LENGTH`).
const LONGEST: usize = 10_000;

/// The first byte of a TLS handshake: a client that speaks TLS without asking first.
pub const TLS_HANDSHAKE: u8 = 0x16;
const CANCEL: u32 = 80_877_102;
const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;
/// Asks for TLS.
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum First {
    /// Asks for TLS.
    Tls,
    /// Asks for encryption by GSSAPI.
    Gss,
    /// Asks that the statement of another session be cancelled. The message as it came.
    Cancel(Vec<u8>),
    /// Begins a session.
    Startup(Startup),
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup {
    /// Minor version of protocol 3.
    pub minor: u16,
    /// Names and values, as they came.
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why a first message is refused.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    /// The connection.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is none.
    #[error("no first message of PostgreSQL's protocol: {0}")]
    Malformed(&'static str),
    /// Another version of the protocol.
    #[error("protocol {0}.{1} isn't spoken here: it is 3.0")]
    Version(u16, u16),
}

impl Startup {
    /// A parameter, if it is there and readable.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(n, _)| n == name.as_bytes())?;
        std::str::from_utf8(&found.1).ok()
    }

    /// The role that logs in.
    pub fn user(&self) -> Option<&str> {
        self.get("user").filter(|user| !user.is_empty())
    }

    /// Whether it wants to replicate rather than to ask.
    pub fn replicates(&self) -> bool {
        let off = ["false", "off", "no", "0", "f", "n"];
        self.get("replication").is_some_and(|value| !off.contains(&value.to_ascii_lowercase().as_str()))
    }

    /// A parameter that is given twice: of two values PostgreSQL takes the last, others may look at the first.
    pub fn twice(&self) -> Option<&[u8]> {
        let names = || self.parameters.iter().map(|(name, _)| name.as_slice());
        names()
            .enumerate()
            .find(|(place, name)| names().skip(place + 1).any(|other| other == *name))
            .map(|(_, n)| n)
    }

    /// Options of the protocol itself, which this server doesn't know.
    fn extensions(&self) -> impl Iterator<Item = &[u8]> {
        self.parameters.iter().map(|(name, _)| name.as_slice()).filter(|name| name.starts_with(b"_pq_."))
    }

    /// What of the request isn't understood, for the client to go on without (NegotiateProtocolVersion).
    pub fn negotiation(&self) -> Option<Vec<u8>> {
        let unknown: Vec<&[u8]> = self.extensions().collect();
        if self.minor == 0 && unknown.is_empty() {
            return None;
        }
        // Protocol 3.0, as the whole number that PostgreSQL sends.
        let mut body = (3_u32 << 16).to_be_bytes().to_vec();
        body.extend(u32::try_from(unknown.len()).unwrap_or_default().to_be_bytes());
        for name in unknown {
            body.extend_from_slice(name);
            body.push(0);
        }
        Some(super::message::encode(b'v', &body))
    }

    /// The message for a node: protocol 3.0, no options that were not agreed on, and never a wish to replicate.
    pub fn bytes(&self) -> Vec<u8> {
        let mut body = (3_u32 << 16).to_be_bytes().to_vec();
        let passed_on = |name: &[u8]| !name.starts_with(b"_pq_.") && name != b"replication";
        for (name, value) in self.parameters.iter().filter(|(name, _)| passed_on(name)) {
            for part in [name, value] {
                body.extend_from_slice(part);
                body.push(0);
            }
        }
        body.push(0);
        let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
        [length.to_be_bytes().as_slice(), &body].concat()
    }
}

/// Reads a first message. Not a byte more is read, so that nothing that follows a request for TLS unencrypted is
/// taken for a part of what is encrypted (CVE-2021-23214).
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<First, StartupError> {
    let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    let rest = length.checked_sub(8).filter(|_| length <= LONGEST);
    let rest = rest.ok_or(StartupError::Malformed("its length"))?;
    let code = stream.read_u32().await?;
    let mut body = vec![0; rest];
    stream.read_exact(&mut body).await?;
    match (code, rest) {
        (SSL, 0) => Ok(First::Tls),
        (GSS, 0) => Ok(First::Gss),
        (CANCEL, 8..) => {
            let length = u32::try_from(length).unwrap_or_default();
            Ok(First::Cancel([length.to_be_bytes().as_slice(), &code.to_be_bytes(), &body].concat()))
        }
        (SSL | GSS | CANCEL, _) => Err(StartupError::Malformed("its length")),
        _ => parse(code, &body).map(First::Startup),
    }
}

fn parse(code: u32, body: &[u8]) -> Result<Startup, StartupError> {
    let [a, b, c, d] = code.to_be_bytes();
    let (major, minor) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    if major != 3 {
        return Err(StartupError::Version(major, minor));
    }
    let malformed = StartupError::Malformed("its parameters");
    let Some(body) = body.strip_suffix(&[0]) else { return Err(malformed) };
    if body.is_empty() {
        return Ok(Startup { minor, parameters: Vec::new() });
    }
    let Some(body) = body.strip_suffix(&[0]) else { return Err(malformed) };
    let parts: Vec<&[u8]> = body.split(|b| *b == 0).collect();
    let (pairs, rest) = parts.as_chunks::<2>();
    if !rest.is_empty() || pairs.iter().any(|[name, _]| name.is_empty()) {
        return Err(malformed);
    }
    let parameters = pairs.iter().map(|[name, value]| (name.to_vec(), value.to_vec())).collect();
    Ok(Startup { minor, parameters })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    async fn first(bytes: &[u8]) -> Result<First, StartupError> {
        read(&mut &*bytes).await
    }

    fn startup(minor: u16, parameters: &[(&str, &str)]) -> Startup {
        let parameters =
            parameters.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec())).collect();
        Startup { minor, parameters }
    }

    #[tokio::test]
    async fn each_first_message_is_known() {
        assert_eq!(first(&SSL_REQUEST).await.unwrap(), First::Tls);
        assert_eq!(first(&[0, 0, 0, 8, 4, 210, 22, 48]).await.unwrap(), First::Gss);
        let cancel = [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 2];
        assert_eq!(first(&cancel).await.unwrap(), First::Cancel(cancel.to_vec()));
        let asked = startup(0, &[("user", "app"), ("options", "-c a=b")]);
        assert_eq!(first(&asked.bytes()).await.unwrap(), First::Startup(asked));
        let nobody = startup(0, &[]);
        assert_eq!(first(&nobody.bytes()).await.unwrap(), First::Startup(nobody));
    }

    #[tokio::test]
    async fn what_is_none_is_refused_before_it_is_waited_for() {
        for bad in [
            [0, 0, 0, 7, 0, 0, 0, 0].as_slice(),
            &[0xff; 8],
            &[0, 0, 0x27, 0x11, 0, 3, 0, 0],
            &[0, 0, 0, 9, 4, 210, 22, 47, 0],
            &[0, 0, 0, 12, 4, 210, 22, 46, 0, 0, 0, 1],
            &[0, 0, 0, 8, 0, 2, 0, 0],
            b"\0\0\0\x0e\0\x03\0\0user\0\0",
            b"GET / HTTP/1.1\r\n\r\n",
        ] {
            assert!(first(bad).await.is_err(), "{bad:?}");
        }
    }

    #[test]
    fn newer_clients_are_told_what_is_spoken() {
        assert_eq!(startup(0, &[("user", "app")]).negotiation(), None);
        let newer = startup(2, &[("user", "app"), ("_pq_.x", "1")]);
        assert_eq!(newer.negotiation().unwrap(), b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0");
        assert_eq!(newer.bytes(), startup(0, &[("user", "app")]).bytes());
    }

    #[test]
    fn replication_is_told_from_a_session() {
        for (value, wanted) in [("true", true), ("database", true), ("off", false), ("0", false)] {
            assert_eq!(startup(0, &[("replication", value)]).replicates(), wanted, "{value}");
        }
        assert!(!startup(0, &[("user", "replication")]).replicates());
        let sly = startup(0, &[("replication", "off"), ("user", "app"), ("replication", "database")]);
        assert_eq!(sly.twice(), Some(b"replication".as_slice()));
        assert_eq!(sly.bytes(), startup(0, &[("user", "app")]).bytes(), "no node hears of it");
        assert_eq!(startup(0, &[("user", "app"), ("database", "app")]).twice(), None);
    }

    proptest! {
        #[test]
        fn any_parameters_survive(parameters in prop::collection::vec(("[^\0]{1,9}", "[^\0]{0,9}"), 0..6)) {
            let parameters: Vec<(&str, &str)> =
                parameters.iter().map(|(n, v)| (n.as_str(), v.as_str())).filter(|(n, _)| !n.starts_with("_pq_.") && *n != "replication").collect();
            let asked = startup(0, &parameters);
            let bytes = asked.bytes();
            let parsed = parse(u32::from_be_bytes(bytes[4..8].try_into().unwrap()), &bytes[8..]).unwrap();
            prop_assert_eq!(parsed, asked);
        }

        #[test]
        fn any_bytes_are_looked_at(code in any::<u32>(), body in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(code, &body);
            let _ = parse(3 << 16, &body);
        }
    }
}
