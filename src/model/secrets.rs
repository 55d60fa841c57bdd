//! What was seen of the pool's Secrets. Certificates are seen by what decides about them, never by their keys.
use std::collections::BTreeMap;

use jiff::Timestamp;

use super::Sensitive;

/// The certificate authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthoritySeen {
    /// The certificate that signs now.
    pub cert_pem: String,
    /// All certificates that are trusted: while the authority is changed, the one before or after it too.
    pub bundle: String,
    /// When the signing certificate is to be replaced.
    pub renew_at: Timestamp,
    /// A successor that is trusted but doesn't sign yet, and since when.
    pub next_since: Option<Timestamp>,
    /// When a predecessor, still trusted, ceased to sign.
    pub previous_since: Option<Timestamp>,
}

/// The certificate of one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafSeen {
    /// When it is to be replaced.
    pub renew_at: Timestamp,
    /// What stands in `ca.crt` beside it.
    pub bundle: String,
    /// Fingerprint of the authority and of the names that it was issued for.
    pub issued_for: String,
}

/// Name and password of a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginSeen {
    /// The password.
    pub password: Sensitive,
    /// Every other key that the operator keeps in step, as it stands.
    pub derived: BTreeMap<String, Sensitive>,
    /// Whether the operator made the Secret.
    pub ours: bool,
}

/// Why a Secret or ConfigMap can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretProblem {
    /// What stands in a condition: the object, the key and what to do.
    pub message: String,
    /// Whether it is only missing.
    pub missing: bool,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretsSeen {
    /// The certificate authority, once it is there.
    pub authority: Option<AuthoritySeen>,
    /// A Secret of the authority that can't be read.
    pub authority_problem: Option<String>,
    /// Certificates by name of the Secret; those that can't be read are left out and so made anew.
    pub leaves: BTreeMap<String, LeafSeen>,
    /// The user's own certificate for clients, if one is named: when it ends.
    pub server: Option<Result<Timestamp, SecretProblem>>,
    /// Logins by name of the Secret.
    pub logins: BTreeMap<String, Result<LoginSeen, SecretProblem>>,
    /// The bootstrap SQL.
    pub sql: Option<Result<String, SecretProblem>>,
}
