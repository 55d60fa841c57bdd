//! Passwords, and the verifiers that a node gets in their place.
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRngCore as _;
use rand::rngs::OsRng;

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

/// The SCRAM-SHA-256 verifier of a password, as `pg_authid.rolpassword` has it (RFC 5803): salt of 16
/// bytes, 4096 iterations, SASLprep as PostgreSQL applies it. Salted anew at each call.
pub fn scram_verifier(password: &str) -> String {
    postgres_protocol::password::scram_sha_256(password.as_bytes())
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

    use super::*;

    #[test]
    fn passwords_need_no_escaping_and_differ() {
        let one = password().unwrap();
        assert_eq!(one.len(), 32);
        assert!(one.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'), "{one}");
        assert_ne!(one, password().unwrap());
    }

    #[test]
    fn verifiers_have_the_form_that_postgres_stores() {
        let text = scram_verifier("secret");
        let rest = text.strip_prefix("SCRAM-SHA-256$4096:").unwrap();
        let (salt, keys) = rest.split_once('$').unwrap();
        let (stored, server) = keys.split_once(':').unwrap();
        assert_eq!(STANDARD.decode(salt).unwrap().len(), 16);
        assert_eq!(STANDARD.decode(stored).unwrap().len(), 32);
        assert_eq!(STANDARD.decode(server).unwrap().len(), 32);
        assert_ne!(text, scram_verifier("secret"), "the salt is new each time");
    }

    /// A login as a server that knows the verifier alone would check it: its ServerKey signs the
    /// exchange, and the client accepts that signature only if both come from the same password.
    fn login(verifier: &str, password: &str) -> bool {
        use hmac_of as hmac;
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
        let signed = hmac(&server_key, format!("{bare},{challenge},{without_proof}").as_bytes());
        client.finish(format!("v={}", STANDARD.encode(signed)).as_bytes()).is_ok()
    }

    /// HMAC-SHA-256 (RFC 2104) of keys no longer than a block.
    fn hmac_of(key: &[u8], message: &[u8]) -> Vec<u8> {
        use sha2::{Digest as _, Sha256};
        let pad =
            |with: u8| -> Vec<u8> { (0..64).map(|i| key.get(i).copied().unwrap_or(0) ^ with).collect() };
        let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
        Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
    }

    #[test]
    fn a_verifier_lets_its_own_password_in_and_no_other() {
        let verifier = scram_verifier("correct horse");
        assert!(login(&verifier, "correct horse"));
        assert!(!login(&verifier, "correct horsf"));
    }

    #[test]
    fn passwords_are_normalised_as_postgres_does() {
        // U+00AA is mapped to `a` by SASLprep (RFC 4013, section 3).
        assert!(login(&scram_verifier("\u{aa}bc"), "abc"));
    }
}
