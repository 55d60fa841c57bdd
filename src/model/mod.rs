//! What the planner works on: the spec parsed once ([`ValidPool`]) and the world as it was seen ([`Observed`]).
mod memory;
mod newtypes;
mod observed;
mod secrets;
mod valid;

pub use memory::{Backoff, CopySeen, Memory, ParametersChanged, PodTrouble, Restarted};
pub use newtypes::{PoolKey, Sensitive, amount, bytes};
pub use observed::{
    ClaimSeen, ClaimSize, DeploymentSeen, JobOutcome, JobSeen, LiveObject, MembershipSeen, NodeSeen,
    Observed, PodSeen, SetSeen,
};
pub use secrets::{AuthoritySeen, LeafSeen, LoginSeen, SecretProblem, SecretsSeen};
pub use valid::{FINALIZER, InvalidSpec, Login, SqlSource, ValidPool};
