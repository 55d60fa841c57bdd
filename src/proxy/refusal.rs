//! Why the front itself turns a client away or ends its session, and what the client is told (PostgreSQL
//! documentation, "PostgreSQL Error Codes").
use std::borrow::Cow;

use super::{metrics::Reason, state::Kept, wire::message::Fatal};

/// The reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No node serves it.
    NoPrimary,
    /// No node may be read from.
    NoNode,
    /// The front has as many sessions as it may have.
    Full,
    /// The role has as many sessions as one may have.
    UserFull,
    /// As many are logging in as may at once.
    Crowd,
    /// The password is stored in a form that the front can't check.
    Md5,
    /// The node of a session is no longer what the session came for.
    NodeLeft,
    /// The node of a session broke off without a word.
    NodeLost,
    /// The node of an idle session is not there any more, and no other one took the session: for this, or none did in
    /// time.
    Stranded(Option<Kept>),
    /// The front is being shut down, and nothing was under way.
    Drained,
    /// The front is being shut down, and what was under way has been broken off.
    Interrupted,
    /// What came is not PostgreSQL's protocol.
    Protocol,
    /// A lower `synchronous_commit`, in a text that is too long to answer it with an error.
    Setting,
    /// It isn't known whether what was cancelled counts on every node.
    Doubtful,
}

/// SQLSTATE, message and hint for a `synchronous_commit` of a client's own.
pub const SETTING: [&str; 3] = [
    "0A000",
    "the setting synchronous_commit belongs to the pool",
    "With less than remote_apply a commit would be acknowledged before other nodes have it.",
];

/// The hint where a COMMIT may have been under way.
const IN_DOUBT: &str =
    "Connect again. A transaction whose COMMIT was not answered may have been committed or not.";

/// 57P01 for a session that ends.
const fn ended(message: &'static str, hint: &'static str) -> [&'static str; 3] {
    ["57P01", message, hint]
}

impl Refusal {
    /// What is counted where a login is turned away for it; none where it ends a session.
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::NoPrimary => Some(Reason::NoPrimary),
            Self::NoNode => Some(Reason::NoNode),
            Self::Full => Some(Reason::Full),
            Self::UserFull => Some(Reason::UserFull),
            Self::Crowd => Some(Reason::Crowd),
            Self::Md5 => Some(Reason::Md5),
            Self::Drained => Some(Reason::Drained),
            Self::NodeLeft
            | Self::NodeLost
            | Self::Stranded(_)
            | Self::Interrupted
            | Self::Protocol
            | Self::Setting
            | Self::Doubtful => None,
        }
    }

    /// SQLSTATE, message, hint.
    fn texts(self) -> [&'static str; 3] {
        match self {
            Self::NoPrimary => [
                "57P03",
                "no primary",
                "No node of the pool takes writes at the moment. Try again; kubectl describe pgpool says why.",
            ],
            Self::NoNode => [
                "57P03",
                "no node to read from",
                "No node of the pool may be read from at the moment. Try again; kubectl describe pgpool says why.",
            ],
            Self::Full => [
                "53300",
                "too many connections for the front of this pool",
                "Use fewer connections, or raise spec.proxy.maxConnections or spec.proxy.replicas.",
            ],
            Self::UserFull => [
                "53300",
                "too many connections for this role",
                "Use fewer connections, or raise spec.proxy.maxConnectionsPerUser or spec.proxy.replicas.",
            ],
            Self::Crowd => [
                "53300",
                "too many clients are logging in to the front of this pool",
                "Try again. Use fewer connections, or raise spec.proxy.maxConnections or spec.proxy.replicas.",
            ],
            Self::Md5 => [
                "28000",
                "the password of this role is stored as md5, which the front can't check",
                "Set the password anew with password_encryption = 'scram-sha-256'.",
            ],
            Self::NodeLeft => {
                ended("terminating connection: its node has left its office or the pool", IN_DOUBT)
            }
            Self::NodeLost => ended("terminating connection: its node is lost", IN_DOUBT),
            Self::Stranded(_) => [
                "57P01",
                "terminating connection: its node has left its office or the pool, or is lost",
                "Connect again: nothing was under way. No other node took the session in time.",
            ],
            Self::Drained => [
                "57P01",
                "terminating connection: this front is being shut down",
                "Connect again: another one is there.",
            ],
            Self::Interrupted => ended("terminating connection: this front is being shut down", IN_DOUBT),
            Self::Setting => SETTING,
            Self::Doubtful => [
                "57P01",
                "terminating connection: a statement was cancelled, and may have been committed on this node alone",
                "Connect again, and look whether it counts.",
            ],
            Self::Protocol => ["08P01", "a message that is none of PostgreSQL's protocol", ""],
        }
    }

    /// What the client is told.
    pub fn fatal(self) -> Fatal {
        let [code, message, hint] = self.texts();
        let hint = match self {
            Self::Stranded(Some(kept)) => Cow::Owned(format!(
                "Connect again: nothing was under way. The session could not go on at another node, since it has {}.",
                kept.text()
            )),
            _ => Cow::Borrowed(hint),
        };
        Fatal { code, message: message.to_owned(), hint }
    }
}
