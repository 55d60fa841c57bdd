//! What a plan does besides applying manifests.
use std::collections::BTreeMap;

use crate::api::v1alpha1::{Database, MembershipSpec};
use crate::model::{Login, Sensitive};
use crate::resources::{JobOrder, LeafOrder};

/// A step of the certificate authority's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityStep {
    /// The first authority.
    Generate,
    /// A successor is made and trusted; it doesn't sign yet.
    AddNext,
    /// The successor signs; the predecessor stays trusted.
    Switch,
    /// The predecessor is no longer trusted.
    DropPrevious,
}

/// Roles and databases that the primary shall have.
#[derive(Clone, Debug, PartialEq)]
pub struct EnsureOrder {
    /// The primary.
    pub primary: u8,
    /// Roles and their passwords; what travels are verifiers.
    pub logins: Vec<(Login, Sensitive)>,
    /// Databases.
    pub databases: Vec<Database>,
    /// SQL of the bootstrap.
    pub sql: Option<Sensitive>,
    /// Fingerprint of all this, remembered once the primary has confirmed it.
    pub fingerprint: String,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Put the finalizer on the PgPool.
    Guard,
    /// Take it off: the last thing that is done for a pool.
    Unguard,
    /// Create the membership object, unless it is there.
    CreateMembership(MembershipSpec),
    /// Replace its spec.
    UpdateMembership(MembershipSpec),
    /// Delete it.
    DeleteMembership,
    /// Go one step with the certificate authority.
    Authority(AuthorityStep),
    /// Issue a certificate.
    Issue(LeafOrder),
    /// Make the Secret of a login, unless it is there.
    CreateLogin(Login),
    /// Bring the keys that follow from the password in step with it.
    UpdateLogin {
        /// Name of the Secret.
        secret: String,
        /// The keys.
        data: BTreeMap<String, Sensitive>,
    },
    /// Tell the primary which roles and databases there shall be.
    Ensure(EnsureOrder),
    /// Create the Job of a recovery; that it is there already is fine.
    CreateJob(JobOrder),
    /// Delete an object, if it still is the one that was seen.
    Delete {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Its uid, where it matters that no namesake is hit.
        uid: Option<String>,
    },
    /// Set the role label of a node's pod.
    LabelPod {
        /// Name of the pod.
        pod: String,
        /// The role.
        role: &'static str,
    },
    /// Write on a claim that stays what the last record said of its node.
    NoteClaim {
        /// Name of the claim.
        claim: String,
        /// What it said; none takes away what an earlier pool's record said, whose data it was.
        text: Option<String>,
    },
    /// Remove annotations that were answered, unless the pool has changed since it was seen: another value may stand there.
    RemoveAnnotations(Vec<&'static str>),
}

impl Action {
    /// Whether data is lost by it.
    pub fn destroys(&self) -> bool {
        match self {
            Self::Delete { kind, .. } => *kind == "PersistentVolumeClaim",
            Self::CreateJob(order) => order.may_destroy,
            _ => false,
        }
    }
}

impl Action {
    /// Whether this very claim is deleted by it.
    pub fn destroys_claim(&self, claim: &str) -> bool {
        matches!(self, Self::Delete { kind: "PersistentVolumeClaim", name, .. } if name == claim)
    }
}
