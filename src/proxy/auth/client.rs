//! The client's side: towards a node, in the client's place.
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq as _;

use super::{ClientKey, ScramError, Verifier, hash, nonce, sign, take, xor};

/// No channel binding: the front knows the node by its certificate, and shows one of its own.
const HEADER: &str = "n,,";
/// The header in base64.
const CHANNEL: &str = "biws";

/// A login with the key that a client's proof gave away.
pub struct Login {
    key: ClientKey,
    nonce: String,
    /// What the server must sign, and with what.
    due: Option<[u8; 32]>,
}

impl Login {
    /// With this key.
    pub fn new(key: ClientKey) -> Result<Self, ScramError> {
        Ok(Self { key, nonce: nonce()?, due: None })
    }

    fn bare(&self) -> String {
        // The name stands in the startup message.
        format!("n=,r={}", self.nonce)
    }

    /// The first message.
    pub fn first(&self) -> String {
        format!("{HEADER}{}", self.bare())
    }

    /// The proof, in answer to the server's first message.
    pub fn answer(&mut self, challenge: &[u8], verifier: &Verifier) -> Result<String, ScramError> {
        let malformed = ScramError::Malformed("the node's challenge");
        let challenge = std::str::from_utf8(challenge).map_err(|_| malformed)?;
        let [theirs, _, _] = take(challenge, ['r', 's', 'i'])?;
        if !theirs.starts_with(&self.nonce) || theirs.len() == self.nonce.len() {
            return Err(malformed);
        }
        let without = format!("c={CHANNEL},r={theirs}");
        let exchange = [self.bare().as_str(), challenge, &without].join(",");
        let proof = xor(self.key.0, &sign(&hash(&self.key.0), &[exchange.as_bytes()]));
        self.due = Some(sign(&verifier.server, &[exchange.as_bytes()]));
        Ok(format!("{without},p={}", STANDARD.encode(proof)))
    }

    /// Checks that the server knows the verifier too.
    pub fn finish(&mut self, message: &[u8]) -> Result<(), ScramError> {
        let due = self.due.take().ok_or(ScramError::WrongServer)?;
        let said = message.strip_prefix(b"v=").and_then(|text| STANDARD.decode(text).ok());
        let said = said.ok_or(ScramError::WrongServer)?;
        if said.ct_eq(&due).into() { Ok(()) } else { Err(ScramError::WrongServer) }
    }
}
