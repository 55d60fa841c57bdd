//! The PgPoolMembership of a pool: created once; from then on only its spec is written here.
use crate::api::v1alpha1::{MembershipSpec, PgPoolMembership};
use crate::model::ValidPool;

use super::labels::{Part, metadata};

/// The object, without a record.
pub fn membership(pool: &ValidPool, spec: &MembershipSpec) -> PgPoolMembership {
    PgPoolMembership { metadata: metadata(pool, pool.name(), Part::Pool), spec: spec.clone(), status: None }
}
