//! What a node stores of a password (RFC 5803; `pg_authid.rolpassword`).
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{KEY, ScramError};

/// A verifier: lets the front check a proof, and isn't enough to log in.
#[derive(Clone)]
pub struct Verifier {
    pub(super) iterations: u32,
    pub(super) salt: String,
    pub(super) stored: [u8; KEY],
    pub(super) server: [u8; KEY],
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl FromStr for Verifier {
    type Err = ScramError;

    /// Reads `SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY`.
    fn from_str(text: &str) -> Result<Self, ScramError> {
        let parse = || {
            let rest = text.strip_prefix("SCRAM-SHA-256$")?;
            let (head, keys) = rest.split_once('$')?;
            let (iterations, salt) = head.split_once(':')?;
            let (stored, server) = keys.split_once(':')?;
            STANDARD.decode(salt).ok().filter(|salt| !salt.is_empty())?;
            let key = |text: &str| STANDARD.decode(text).ok()?.try_into().ok();
            Some(Self {
                iterations: iterations.parse().ok().filter(|n| *n > 0)?,
                salt: salt.to_owned(),
                stored: key(stored)?,
                server: key(server)?,
            })
        };
        parse().ok_or(ScramError::Malformed("the verifier"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_scram_verifiers_are_read() {
        let key = STANDARD.encode([1; KEY]);
        assert!(format!("SCRAM-SHA-256$4096:c2FsdA==${key}:{key}").parse::<Verifier>().is_ok());
        for bad in [
            String::new(),
            "md5aa".to_owned(),
            format!("SCRAM-SHA-256$0:c2FsdA==${key}:{key}"),
            format!("SCRAM-SHA-256$4096:${key}:{key}"),
            format!("SCRAM-SHA-256$4096:c2FsdA==${key}:AAAA"),
            format!("SCRAM-SHA-1$4096:c2FsdA==${key}:{key}"),
        ] {
            assert!(bad.parse::<Verifier>().is_err(), "{bad}");
        }
    }
}
