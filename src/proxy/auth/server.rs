//! The server's side: towards the client.
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq as _;

use super::{ClientKey, KEY, PLAIN, PLUS, ScramError, Verifier, hash, nonce, sign, take, xor};

/// The only kind of channel binding that PostgreSQL knows.
const END_POINT: &str = "p=tls-server-end-point";

/// What the exchange can be bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Nothing: no TLS, or a certificate whose signature has no hash that is agreed on.
    None,
    /// The hash of the certificate that the client sees (RFC 5929, section 4).
    EndPoint(Vec<u8>),
}

impl Binding {
    /// Whether the mechanism that binds is offered.
    pub fn offered(&self) -> bool {
        matches!(self, Self::EndPoint(_))
    }
}

/// One client's exchange.
pub struct Exchange {
    verifier: Verifier,
    binding: Binding,
    said: Option<Said>,
}

/// What both have said before the proof.
struct Said {
    header: String,
    client_first: String,
    server_first: String,
    nonce: String,
}

impl Exchange {
    /// For a client whose role has this verifier.
    pub fn new(verifier: Verifier, binding: Binding) -> Self {
        Self { verifier, binding, said: None }
    }

    /// Takes the client's first message and answers it.
    pub fn first(&mut self, mechanism: &str, message: &[u8]) -> Result<String, ScramError> {
        let message = text(message)?;
        let plus = match mechanism {
            PLAIN => false,
            PLUS if self.binding.offered() => true,
            _ => return Err(ScramError::Malformed("a mechanism that was not offered")),
        };
        let mut parts = message.splitn(3, ',');
        let (Some(flag), Some(authorize), Some(bare)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(ScramError::Malformed("the client's first message"));
        };
        match flag {
            END_POINT if plus => {}
            "n" if !plus => {}
            "y" if !plus && !self.binding.offered() => {}
            "y" if !plus => return Err(ScramError::Downgraded),
            _ => return Err(ScramError::Malformed("the flag of channel binding")),
        }
        if !authorize.is_empty() {
            return Err(ScramError::Malformed("another role is asked for"));
        }
        // The name of the role is that of the startup message (PostgreSQL docs, "SASL Authentication").
        let [_, theirs] = take(bare, ['n', 'r'])?;
        if theirs.is_empty() || !theirs.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ScramError::Malformed("the nonce"));
        }
        let nonce = format!("{theirs}{}", nonce()?);
        let server_first = format!("r={nonce},s={},i={}", self.verifier.salt, self.verifier.iterations);
        self.said = Some(Said {
            header: format!("{flag},,"),
            client_first: bare.to_owned(),
            server_first: server_first.clone(),
            nonce,
        });
        Ok(server_first)
    }

    /// Takes the client's proof; gives the last message and the client's key.
    pub fn last(&mut self, message: &[u8]) -> Result<(String, ClientKey), ScramError> {
        let message = text(message)?;
        let said = self.said.take().ok_or(ScramError::Malformed("the order of the messages"))?;
        let (without, proof) = message.rsplit_once(",p=").ok_or(ScramError::Malformed("no proof"))?;
        let [channel, nonce] = take(without, ['c', 'r'])?;
        let mut bound = said.header.clone().into_bytes();
        if let (Binding::EndPoint(hash), true) = (&self.binding, said.header.starts_with('p')) {
            bound.extend_from_slice(hash);
        }
        if STANDARD.decode(channel).ok() != Some(bound) {
            return Err(ScramError::OtherChannel);
        }
        if nonce != said.nonce {
            return Err(ScramError::Malformed("the nonce"));
        }
        let proof = STANDARD.decode(proof).ok().and_then(|bytes| <[u8; KEY]>::try_from(bytes).ok());
        let proof = proof.ok_or(ScramError::Malformed("the proof"))?;
        let exchange = [said.client_first.as_str(), &said.server_first, without].join(",");
        let key = xor(proof, &sign(&self.verifier.stored, &[exchange.as_bytes()]));
        if !bool::from(hash(&key).ct_eq(&self.verifier.stored)) {
            return Err(ScramError::WrongProof);
        }
        let signed = sign(&self.verifier.server, &[exchange.as_bytes()]);
        Ok((format!("v={}", STANDARD.encode(signed)), ClientKey(key)))
    }
}

fn text(message: &[u8]) -> Result<&str, ScramError> {
    std::str::from_utf8(message).map_err(|_| ScramError::Malformed("no UTF-8"))
}
