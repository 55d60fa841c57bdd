//! The pool's own certificates, and the passwords of its users.
//!
//! Keys are ECDSA P-256: Ed25519 leaves a certificate without a hash, and SCRAM channel binding fails
//! on it (RFC 5929, `tls-server-end-point`). Nothing here reads the clock: the moment comes as an argument.
mod authority;
mod pair;
mod password;

use thiserror::Error;

pub use authority::{Authority, Issued, Leaf, expires, renew_at};
pub use pair::check_pair;
pub use password::{SaltKey, password, scram_verifier};

/// Why a certificate or a password could not be made or read. Holds no key and no password.
#[derive(Debug, Error)]
pub enum PkiError {
    /// The key or certificate of this name could not be made.
    #[error("certificate {name}: can't be made: {source}")]
    Make {
        /// Common name of the certificate.
        name: String,
        /// What the library says.
        source: rcgen::Error,
    },
    /// A name that stands in no certificate.
    #[error("certificate {name}: {value:?} can't stand in a certificate: only ASCII can")]
    Name {
        /// Common name of the certificate.
        name: String,
        /// The name that was refused.
        value: String,
    },
    /// A time that stands in no certificate.
    #[error("certificate {name}: its validity would not lie between the years 1970 and 9999")]
    Validity {
        /// Common name of the certificate.
        name: String,
    },
    /// A PEM text that holds no certificate.
    #[error("the text holds no certificate in PEM form: {reason}")]
    NoCertificate {
        /// What the parser says.
        reason: String,
    },
    /// A PEM text that holds no private key.
    #[error("the private key of the certificate authority can't be read: {source}")]
    NoKey {
        /// What the library says.
        source: rcgen::Error,
    },
    /// A certificate with which no server can be run.
    #[error("certificate and key can't be served: {reason}")]
    NoPair {
        /// What the library says.
        reason: String,
    },
    /// The certificate isn't one of an authority.
    #[error("the certificate {subject:?} isn't that of a certificate authority")]
    NoAuthority {
        /// Its subject.
        subject: String,
    },
    /// Certificate and key don't belong together.
    #[error("the private key doesn't belong to the certificate {subject:?}")]
    WrongKey {
        /// Subject of the certificate.
        subject: String,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes for a password: {reason}")]
    NoRandomness {
        /// What it says.
        reason: String,
    },
}
