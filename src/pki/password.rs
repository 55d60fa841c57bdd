//! Passwords, and the verifiers that a node gets in their place.
use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use ring::{digest, hmac, pbkdf2};

use super::PkiError;

/// Random bytes in a password: 192 bits, which are 32 characters.
const PASSWORD_BYTES: usize = 24;

/// A new password: 32 characters of A-Z, a-z, 0-9, `-` and `_`, so that it needs no escaping in a URI,
/// from the operating system's random numbers.
pub fn password() -> Result<String, PkiError> {
    let mut bytes = [0_u8; PASSWORD_BYTES];
    OsRng.try_fill_bytes(&mut bytes).map_err(|error| PkiError::NoRandomness { reason: error.to_string() })?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// Rounds of PBKDF2, as many as PostgreSQL's own (`scram_iterations`).
const ITERATIONS: NonZeroU32 = NonZeroU32::MIN.saturating_add(4095);
/// Bytes of a salt, as many as PostgreSQL's own.
const SALT_BYTES: usize = 16;
/// Sets the key of salts apart from any other that may be derived from the same secret.
const SALT_LABEL: &[u8] = b"pgpool-operator: salts of SCRAM verifiers";

/// From what salts are made: a secret of the pool, so that nobody else can tell by the salt, which a server gives
/// to whoever asks, whether a password is the one that he guesses.
#[derive(Clone, Debug)]
pub struct SaltKey(hmac::Key);

impl SaltKey {
    /// The key of a pool whose authority has this private key.
    pub fn of(authority_key_pem: &str) -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, authority_key_pem.as_bytes());
        Self(hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&secret, SALT_LABEL).as_ref()))
    }

    fn salt(&self, role: &str, password: &str) -> [u8; SALT_BYTES] {
        let mut context = hmac::Context::with_key(&self.0);
        // No name of a role holds a zero byte.
        for part in [role.as_bytes(), &[0], password.as_bytes()] {
            context.update(part);
        }
        let mut salt = [0; SALT_BYTES];
        salt.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
        salt
    }
}

/// The SCRAM-SHA-256 verifier of a role's password, as `pg_authid.rolpassword` has it (RFC 5803): salt of 16
/// bytes, 4096 iterations, SASLprep as PostgreSQL applies it. It follows from key, role and password alone, so
/// that the same password never looks like a change.
pub fn scram_verifier(key: &SaltKey, role: &str, password: &str) -> String {
    let salt = key.salt(role, password);
    // PostgreSQL takes a password as it is where it can't be prepared.
    let prepared = stringprep::saslprep(password).unwrap_or(password.into());
    let mut salted = [0; digest::SHA256_OUTPUT_LEN];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, &salt, prepared.as_bytes(), &mut salted);
    let salted = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let stored = digest::digest(&digest::SHA256, hmac::sign(&salted, b"Client Key").as_ref());
    let server = hmac::sign(&salted, b"Server Key");
    let text = |bytes: &[u8]| STANDARD.encode(bytes);
    format!("SCRAM-SHA-256${ITERATIONS}:{}${}:{}", text(&salt), text(stored.as_ref()), text(server.as_ref()))
}

#[cfg(test)]
mod tests {
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

    use super::*;

    #[test]
    fn passwords_need_no_escaping_and_differ() {
        let one = password().unwrap();
        assert_eq!(one.len(), 32);
        assert!(one.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'), "{one}");
        assert_ne!(one, password().unwrap());
    }

    fn verifier(password: &str) -> String {
        scram_verifier(&SaltKey::of("a key"), "app", password)
    }

    #[test]
    fn verifiers_have_the_form_that_postgres_stores() {
        let text = verifier("secret");
        let rest = text.strip_prefix("SCRAM-SHA-256$4096:").unwrap();
        let (salt, keys) = rest.split_once('$').unwrap();
        let (stored, server) = keys.split_once(':').unwrap();
        assert_eq!(STANDARD.decode(salt).unwrap().len(), 16);
        assert_eq!(STANDARD.decode(stored).unwrap().len(), 32);
        assert_eq!(STANDARD.decode(server).unwrap().len(), 32);
    }

    #[test]
    fn the_same_password_has_the_same_verifier_and_salts_are_shared_by_nobody() {
        let salt = |key: &str, role: &str, password: &str| {
            let text = scram_verifier(&SaltKey::of(key), role, password);
            text.split('$').nth(1).unwrap().split_once(':').unwrap().1.to_owned()
        };
        assert_eq!(verifier("secret"), verifier("secret"));
        let of = salt("a key", "app", "secret");
        assert_ne!(of, salt("a key", "app", "secret2"));
        assert_ne!(of, salt("a key", "admin", "secret"));
        assert_ne!(of, salt("another key", "app", "secret"));
        assert_ne!(salt("a key", "ap", "psecret"), of);
    }

    /// A login as a server that knows the verifier alone would check it: its ServerKey signs the
    /// exchange, and the client accepts that signature only if both come from the same password.
    fn login(verifier: &str, password: &str) -> bool {
        let rest = verifier.strip_prefix("SCRAM-SHA-256$4096:").unwrap();
        let (salt, keys) = rest.split_once('$').unwrap();
        let server_key = STANDARD.decode(keys.split_once(':').unwrap().1).unwrap();
        let mut client = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let first = String::from_utf8(client.message().to_vec()).unwrap();
        let bare = first.strip_prefix("n,,").unwrap();
        let nonce = bare.split_once("r=").unwrap().1;
        let challenge = format!("r={nonce}server,s={salt},i=4096");
        client.update(challenge.as_bytes()).unwrap();
        let last = String::from_utf8(client.message().to_vec()).unwrap();
        let without_proof = last.rsplit_once(",p=").unwrap().0;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &server_key);
        let signed = hmac::sign(&key, format!("{bare},{challenge},{without_proof}").as_bytes());
        client.finish(format!("v={}", STANDARD.encode(signed)).as_bytes()).is_ok()
    }

    #[test]
    fn a_verifier_lets_its_own_password_in_and_no_other() {
        let verifier = verifier("correct horse");
        assert!(login(&verifier, "correct horse"));
        assert!(!login(&verifier, "correct horsf"));
    }

    #[test]
    fn passwords_are_normalised_as_postgres_does() {
        // U+00AA is mapped to `a` by SASLprep (RFC 4013, section 3).
        assert!(login(&verifier("\u{aa}bc"), "abc"));
    }
}
