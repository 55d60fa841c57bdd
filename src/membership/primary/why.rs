//! Why an agent waits, for people.
use std::fmt;
use std::time::Duration;

/// Why an agent waits, or does not do what is wished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is nothing to do.
    Settled,
    /// The record does not name this node, with this copy of the data, as the primary.
    NotPrimary,
    /// A primary is being chosen.
    Electing,
    /// Leases of the office before have to run out.
    Handover {
        /// How long at most.
        rest: Duration,
    },
    /// The lease of a removed node has to run out.
    Lease {
        /// Index of the node.
        index: u8,
        /// How long at most.
        rest: Duration,
    },
    /// An attached node hasn't yet applied what the primary had at its start.
    Applying {
        /// Index of the node.
        index: u8,
    },
    /// A wished detach would leave too few nodes.
    TooFew {
        /// Index of the node.
        index: u8,
        /// `minAttached`.
        min: u8,
    },
    /// The primary can't be detached.
    DetachPrimary {
        /// Index of the primary.
        index: u8,
    },
    /// A node isn't added, or isn't added yet.
    NotAttached {
        /// Index of the node.
        index: u8,
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settled => write!(f, "nothing to do"),
            Self::NotPrimary => write!(f, "the record does not name this copy of the data as the primary"),
            Self::Electing => write!(f, "a primary is being chosen"),
            Self::Handover { rest } => {
                write!(f, "leases of the office before may run for {} ms more", rest.as_millis())
            }
            Self::Lease { index, rest } => {
                write!(f, "node {index} was removed; its read lease may run for {} ms more", rest.as_millis())
            }
            Self::Applying { index } => {
                write!(f, "node {index} has not yet applied all that this node had at its start")
            }
            Self::TooFew { index, min } => {
                write!(f, "node {index} is not detached: fewer than minAttached ({min}) would stay")
            }
            Self::DetachPrimary { index } => {
                write!(f, "node {index} is not detached: it is the primary")
            }
            Self::NotAttached { index, reason } => write!(f, "node {index} is not attached: {reason}"),
        }
    }
}
