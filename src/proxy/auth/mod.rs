//! Logging in: SCRAM-SHA-256 (RFC 5802, RFC 7677; PostgreSQL documentation, "SASL Authentication"), on both sides.
//!
//! The front knows no password. A node's agent gives it what the node has stored of a role's password, the verifier.
//! With it the front checks the client's proof, and the proof gives away the client's key: with that the front logs in
//! to the node in the client's place. The key is in memory as long as the session, which may have to log in to another node,
//! and is wiped then.
mod client;
mod server;
mod verifier;

use ring::{digest, hmac};
use zeroize::Zeroize as _;

pub use client::Login;
pub use server::{Binding, Exchange};
pub use verifier::Verifier;

/// Bytes of every key and signature.
const KEY: usize = digest::SHA256_OUTPUT_LEN;
/// Random bytes of a nonce, as many as PostgreSQL's own (`SCRAM_RAW_NONCE_LEN`).
const NONCE: usize = 18;

/// The mechanism without channel binding.
pub const PLAIN: &str = "SCRAM-SHA-256";
/// The mechanism that binds the exchange to the TLS connection below it.
pub const PLUS: &str = "SCRAM-SHA-256-PLUS";

/// What a client proves to have: with it one can log in wherever the verifier is the same.
#[derive(Clone)]
pub struct ClientKey([u8; KEY]);

#[cfg(any(test, fuzzing))]
impl ClientKey {
    /// Made up.
    pub fn of(key: [u8; KEY]) -> Self {
        Self(key)
    }
}

impl Drop for ClientKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientKey(…)")
    }
}

/// Why an exchange fails. What the client is told is less: that its password is wrong, or its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// A message isn't what the protocol wants.
    #[error("a message of the exchange is malformed: {0}")]
    Malformed(&'static str),
    /// The client believes that the server can't bind the channel, though it offered to (RFC 5802, section 6).
    #[error("the client takes the server for one that can't bind the channel: somebody is in between")]
    Downgraded,
    /// The client is bound to another TLS connection than the one that it came by.
    #[error("the exchange is bound to another TLS connection")]
    OtherChannel,
    /// The proof is wrong.
    #[error("wrong password")]
    WrongProof,
    /// The server doesn't know the verifier: it is none that the client logged in to.
    #[error("the node doesn't prove to know the password's verifier")]
    WrongServer,
    /// No random numbers.
    #[error("the operating system gives no random numbers")]
    NoRandomness,
}

fn sign(key: &[u8], parts: &[&[u8]]) -> [u8; KEY] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let mut context = hmac::Context::with_key(&key);
    for part in parts {
        context.update(part);
    }
    fixed(context.sign().as_ref())
}

fn hash(bytes: &[u8]) -> [u8; KEY] {
    fixed(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// Outputs of SHA-256 are of that length; anything else would be zeros and match nothing.
fn fixed(bytes: &[u8]) -> [u8; KEY] {
    bytes.try_into().unwrap_or_default()
}

fn xor(mut one: [u8; KEY], other: &[u8; KEY]) -> [u8; KEY] {
    one.iter_mut().zip(other).for_each(|(to, with)| *to ^= with);
    one
}

/// A nonce: printable, without a comma.
fn nonce() -> Result<String, ScramError> {
    use base64::Engine as _;
    use rand::TryRngCore as _;
    let mut bytes = [0_u8; NONCE];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(|_| ScramError::NoRandomness)?;
    Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
}

/// The attributes of a message, each `letter=value`, in their order.
fn attributes(message: &str) -> impl Iterator<Item = Option<(char, &str)>> {
    message.split(',').map(|part| {
        let (name, value) = part.split_once('=')?;
        let mut letters = name.chars();
        Some((letters.next()?, value)).filter(|_| letters.next().is_none())
    })
}

/// Takes the attributes that must stand first, in this order.
fn take<const N: usize>(message: &str, names: [char; N]) -> Result<[&str; N], ScramError> {
    let mut found = [""; N];
    let mut all = attributes(message);
    for (place, name) in found.iter_mut().zip(names) {
        match all.next().flatten() {
            Some((letter, value)) if letter == name => *place = value,
            _ => return Err(ScramError::Malformed("an attribute is missing")),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
    use proptest::prelude::*;

    use super::*;
    use crate::pki::{SaltKey, scram_verifier};

    fn verifier(password: &str) -> Verifier {
        scram_verifier(&SaltKey::of("a key"), "app", password).parse().unwrap()
    }

    /// A client that is not ours logs in; gives its key.
    fn client(password: &str, binding: &Binding, theirs: ChannelBinding) -> Result<ClientKey, ScramError> {
        let mechanism = if binding.offered() { PLUS } else { PLAIN };
        let mut client = ScramSha256::new(password.as_bytes(), theirs);
        let mut server = Exchange::new(verifier("secret"), binding.clone());
        let first = server.first(mechanism, client.message())?;
        client.update(first.as_bytes()).unwrap();
        let (last, key) = server.last(client.message())?;
        client.finish(last.as_bytes()).unwrap();
        Ok(key)
    }

    #[test]
    fn a_client_logs_in_and_its_key_logs_in_at_the_node() {
        let key = client("secret", &Binding::None, ChannelBinding::unsupported()).unwrap();
        let mut node = Exchange::new(verifier("secret"), Binding::None);
        let mut login = Login::new(key).unwrap();
        let challenge = node.first(PLAIN, login.first().as_bytes()).unwrap();
        let proof = login.answer(challenge.as_bytes(), &verifier("secret")).unwrap();
        let (last, _) = node.last(proof.as_bytes()).unwrap();
        login.finish(last.as_bytes()).unwrap();
        assert_eq!(login.finish(b"v=AAAA").unwrap_err(), ScramError::WrongServer);
    }

    #[test]
    fn a_wrong_password_gives_nothing() {
        let wrong = client("secret ", &Binding::None, ChannelBinding::unsupported());
        assert_eq!(wrong.unwrap_err(), ScramError::WrongProof);
    }

    #[test]
    fn the_channel_is_bound_where_it_is_offered() {
        let offered = Binding::EndPoint(vec![7; 32]);
        let right = ChannelBinding::tls_server_end_point(vec![7; 32]);
        assert!(client("secret", &offered, right).is_ok());
        let wrong = ChannelBinding::tls_server_end_point(vec![8; 32]);
        assert_eq!(client("secret", &offered, wrong).unwrap_err(), ScramError::OtherChannel);
        // It says that it could bind and that the server doesn't offer it.
        let blind = ScramSha256::new(b"secret", ChannelBinding::unrequested());
        let mut server = Exchange::new(verifier("secret"), offered.clone());
        assert_eq!(server.first(PLAIN, blind.message()).unwrap_err(), ScramError::Downgraded);
        // It can't bind: that is its right.
        let plain = ScramSha256::new(b"secret", ChannelBinding::unsupported());
        assert!(Exchange::new(verifier("secret"), offered).first(PLAIN, plain.message()).is_ok());
    }

    #[test]
    fn what_is_no_exchange_is_refused() {
        let first = |mechanism, text: &str| {
            Exchange::new(verifier("secret"), Binding::None).first(mechanism, text.as_bytes())
        };
        assert!(first(PLAIN, "n,,n=,r=abc").is_ok());
        for bad in [
            "",
            "n",
            "n,,",
            "n,,n=",
            "n,a=me,n=,r=abc",
            "n,,m=x,n=,r=abc",
            "x,,n=,r=abc",
            "n,,n=,r=",
            "p=tls-unique,,n=,r=abc",
            "n,,n=,r=a\u{7f}",
            "n,,r=abc,n=",
        ] {
            assert!(first(PLAIN, bad).is_err(), "{bad}");
        }
        assert!(first(PLUS, "n,,n=,r=abc").is_err(), "not offered");
        assert!(first("SCRAM-SHA-1", "n,,n=,r=abc").is_err());
        let mut server = Exchange::new(verifier("secret"), Binding::None);
        assert!(server.last(b"c=biws,r=abc,p=AAAA").is_err(), "nothing came before");
    }

    proptest! {
        #[test]
        fn no_message_is_too_strange(first in ".{0,80}", last in ".{0,120}", bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut server = Exchange::new(verifier("secret"), Binding::EndPoint(vec![1; 32]));
            let _ = server.first(PLUS, first.as_bytes());
            let _ = server.first(PLAIN, &bytes);
            server.first(PLAIN, b"n,,n=,r=abc").unwrap();
            prop_assert!(server.last(last.as_bytes()).is_err());
            prop_assert!(server.last(&bytes).is_err());
            let mut login = Login::new(ClientKey([1; KEY])).unwrap();
            let _ = login.first();
            prop_assert!(login.answer(&bytes, &verifier("secret")).is_err());
            prop_assert!(login.finish(&bytes).is_err());
        }

        #[test]
        fn the_right_password_is_the_only_one(password in "\\PC{1,20}", other in "\\PC{1,20}") {
            let prepared = |text: &str| stringprep::saslprep(text).map_or(text.to_owned(), Into::into);
            prop_assume!(prepared(&password) != prepared(&other));
            let try_it = |given: &str| {
                let mut client = ScramSha256::new(given.as_bytes(), ChannelBinding::unsupported());
                let mut server = Exchange::new(verifier(&password), Binding::None);
                let first = server.first(PLAIN, client.message()).unwrap();
                client.update(first.as_bytes()).unwrap();
                server.last(client.message()).map(drop)
            };
            prop_assert_eq!(try_it(&password), Ok(()));
            prop_assert_eq!(try_it(&other), Err(ScramError::WrongProof));
        }
    }
}
