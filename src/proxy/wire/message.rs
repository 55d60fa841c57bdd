//! Messages that the front itself sends or reads whole ("Message Formats").
use std::{borrow::Cow, io};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest message that is read whole: those of a login, in bytes. PostgreSQL's own limit on a password message.
const WHOLE: usize = 65_536;

/// Codes of authentication messages.
pub const AUTH_OK: u32 = 0;
/// The client must authenticate by SASL.
pub const AUTH_SASL: u32 = 10;
/// SASL goes on.
pub const AUTH_SASL_CONTINUE: u32 = 11;
/// SASL has ended well.
pub const AUTH_SASL_FINAL: u32 = 12;

/// A message with a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its kind.
    pub tag: u8,
    /// What follows the length.
    pub body: Vec<u8>,
}

impl Message {
    /// As it is sent.
    pub fn bytes(&self) -> Vec<u8> {
        encode(self.tag, &self.body)
    }

    /// Code and rest of an authentication message.
    pub fn authentication(&self) -> Option<(u32, &[u8])> {
        let (code, rest) = self.body.split_first_chunk()?;
        (self.tag == b'R').then_some((u32::from_be_bytes(*code), rest))
    }
}

/// A message of this kind with this body.
pub fn encode(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&[tag], length.to_be_bytes().as_slice(), body].concat()
}

/// An authentication request.
pub fn authentication(code: u32, rest: &[u8]) -> Vec<u8> {
    encode(b'R', &[code.to_be_bytes().as_slice(), rest].concat())
}

/// The names of SASL mechanisms, as they are offered.
pub fn sasl(mechanisms: &[&str]) -> Vec<u8> {
    let mut rest = Vec::new();
    for name in mechanisms {
        rest.extend_from_slice(name.as_bytes());
        rest.push(0);
    }
    rest.push(0);
    authentication(AUTH_SASL, &rest)
}

/// The answer to an offer: the mechanism and its first message.
pub fn sasl_initial(mechanism: &str, first: &str) -> Vec<u8> {
    let length = i32::try_from(first.len()).unwrap_or(i32::MAX);
    let length = length.to_be_bytes();
    encode(b'p', &[mechanism.as_bytes(), &[0], &length, first.as_bytes()].concat())
}

/// Takes apart the answer to an offer: mechanism, first message.
pub fn read_sasl_initial(body: &[u8]) -> Option<(&str, &[u8])> {
    let end = body.iter().position(|b| *b == 0)?;
    let mechanism = std::str::from_utf8(&body[..end]).ok()?;
    let (length, first) = body[end + 1..].split_first_chunk()?;
    let length = usize::try_from(i32::from_be_bytes(*length)).ok()?;
    (length == first.len()).then_some((mechanism, first))
}

/// What a client is told when its session can't begin or can't go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fatal {
    /// SQLSTATE.
    pub code: &'static str,
    /// What happened.
    pub message: String,
    /// What to do about it.
    pub hint: Cow<'static, str>,
}

impl Fatal {
    /// The ErrorResponse.
    pub fn bytes(&self) -> Vec<u8> {
        error_response("FATAL", [self.code, &self.message, &self.hint])
    }
}

/// An ErrorResponse of this severity, with SQLSTATE, message and hint.
pub fn error_response(severity: &str, [code, message, hint]: [&str; 3]) -> Vec<u8> {
    let mut fields = Vec::new();
    let texts = [(b'S', severity), (b'V', severity), (b'C', code), (b'M', message), (b'H', hint)];
    for (field, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        fields.push(field);
        fields.extend(text.bytes().filter(|b| *b != 0));
        fields.push(0);
    }
    fields.push(0);
    encode(b'E', &fields)
}

/// The SQLSTATE and the text of an ErrorResponse.
pub fn error_texts(body: &[u8]) -> (String, String) {
    let field = |letter: u8| {
        let found = body.split(|b| *b == 0).find(|field| field.first() == Some(&letter));
        found.map(|field| String::from_utf8_lossy(&field[1..]).into_owned()).unwrap_or_default()
    };
    (field(b'C'), field(b'M'))
}

/// Reads a whole message; one that is longer than those of a login is an error.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Message> {
    let tag = stream.read_u8().await?;
    let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    let length = length.checked_sub(4).filter(|length| *length <= WHOLE).ok_or(io::ErrorKind::InvalidData)?;
    // What isn't there yet takes no memory.
    let mut body = Vec::new();
    let read = stream.take(length as u64).read_to_end(&mut body).await?;
    if read < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Message { tag, body })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fatal_error_has_what_clients_look_for() {
        let fatal = Fatal { code: "57P01", message: "the\0node is gone".into(), hint: "".into() };
        let bytes = fatal.bytes();
        assert_eq!(bytes, b"E\0\0\0\x2bSFATAL\0VFATAL\0C57P01\0Mthenode is gone\0\0".as_slice());
        assert_eq!(error_texts(&bytes[5..]), ("57P01".into(), "thenode is gone".into()));
    }

    #[tokio::test]
    async fn a_message_is_read_whole_or_not_at_all() {
        assert_eq!(read(&mut encode(b'p', b"abc").as_slice()).await.unwrap().body, b"abc");
        assert!(read(&mut b"p\0\0\0\x03".as_slice()).await.is_err());
        assert!(read(&mut b"p\x7f\0\0\0abc".as_slice()).await.is_err(), "too long");
        assert!(read(&mut b"p\0\0\0\x09abc".as_slice()).await.is_err(), "cut off");
    }

    #[test]
    fn the_answer_to_an_offer_is_taken_apart() {
        let message = sasl_initial("SCRAM-SHA-256", "n,,n=,r=x");
        assert_eq!(read_sasl_initial(&message[5..]), Some(("SCRAM-SHA-256", b"n,,n=,r=x".as_slice())));
        assert_eq!(read_sasl_initial(b"SCRAM-SHA-256\0\xff\xff\xff\xff"), None);
        assert_eq!(read_sasl_initial(b""), None);
    }

    proptest! {
        #[test]
        fn any_body_can_be_looked_at(body in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = read_sasl_initial(&body);
            let _ = error_texts(&body);
            let message = Message { tag: b'R', body };
            let _ = message.authentication();
        }
    }
}
