//! PURE: (ValidPool, Observed) -> [`Plan`]. No clock, no randomness, no client: all of that is in Observed.
//!
//! One pass looks at the whole pool and says what to do next; whatever interrupts the doing, the next
//! pass looks again. What is destroyed was first marked in a status that this pass has read back.
mod action;
mod certificates;
mod conditions;
mod deletion;
mod draft;
mod events;
mod last_words;
mod logins;
mod membership;
mod nodes;
mod office;
mod parameters;
mod pods;
pub mod recovery;
mod requests;
mod rest;
mod restart;
mod rolling;
mod scale;
mod status;
mod storage;
mod sweep;
mod switchover;

use std::time::Duration;

pub use action::{Action, AuthorityStep, EnsureOrder};
pub use events::{Happening, Severity};
pub use status::invalid as invalid_status;

use crate::api::v1alpha1::PgPoolStatus;
use crate::model::{Memory, Observed, ValidPool};
use crate::resources::{BuildError, Manifest, Runtime};
use draft::Draft;

/// At rest: how often the agents are asked.
pub const AT_REST: Duration = Duration::from_secs(10);
/// While something is under way.
pub const UNDER_WAY: Duration = Duration::from_secs(1);
/// When the next step only waits for this one to be seen.
pub const AT_ONCE: Duration = Duration::from_millis(50);

/// What one pass does: first the status is written, since what is done next rests on it; then apply and actions.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Objects that aren't there or differ.
    pub apply: Vec<Manifest>,
    /// Everything that isn't "make it look like this"; one that fails doesn't hold up the others.
    pub actions: Vec<Action>,
    /// The status; written only where it differs from what was seen.
    pub status: PgPoolStatus,
    /// What to tell people.
    pub events: Vec<Happening>,
    /// When to look again without being called.
    pub requeue: Duration,
    /// What to remember.
    pub memory: Memory,
}

impl Plan {
    /// Whether nothing in the cluster would be changed.
    pub fn is_empty(&self) -> bool {
        self.apply.is_empty() && self.actions.is_empty()
    }

    /// Whether all stays as it is: the cluster, this status, what people know, and this memory, but for when positions were looked at
    /// last: that they were, and are where they were, changes nothing.
    pub fn rests(&self, status: &PgPoolStatus, memory: &Memory) -> bool {
        let looked = Memory { positions_at: self.memory.positions_at, ..memory.clone() };
        self.is_empty() && self.events.is_empty() && self.status == *status && self.memory == looked
    }
}

/// Decides.
pub fn plan(pool: &ValidPool, runtime: &Runtime, seen: &Observed) -> Result<Plan, BuildError> {
    let mut draft = Draft::new(pool, runtime, seen);
    recovery::remember(&mut draft);
    if pool.deleting {
        deletion::plan(&mut draft);
        return Ok(draft.finish());
    }
    if pool.suspend {
        status::suspended(&mut draft);
        return Ok(draft.finish());
    }
    if !pool.guarded {
        draft.act(Action::Guard);
        draft.requeue(AT_ONCE);
        return Ok(draft.finish());
    }
    if !membership::ensure(&mut draft) {
        status::summarise(&mut draft);
        return Ok(draft.finish());
    }
    fixed(&mut draft)?;
    certificates::plan(&mut draft);
    logins::plan(&mut draft);
    requests::answer(&mut draft);
    recovery::plan(&mut draft);
    switchover::plan(&mut draft);
    scale::plan(&mut draft);
    nodes::plan(&mut draft)?;
    rolling::plan(&mut draft);
    parameters::plan(&mut draft);
    membership::plan(&mut draft);
    sweep::plan(&mut draft);
    status::summarise(&mut draft);
    Ok(draft.finish())
}

/// What depends on the spec alone.
fn fixed(draft: &mut Draft<'_>) -> Result<(), BuildError> {
    use crate::resources as r;
    let (pool, runtime) = (draft.pool, draft.runtime);
    let uid = draft.pool_uid();
    draft.want(&r::service_account(pool))?;
    draft.want(&r::role(pool))?;
    draft.want(&r::role_binding(pool))?;
    draft.want(&r::passwd(pool))?;
    // Policies come before pods, which aren't made where one of them can't be: nothing runs unprotected.
    draft.want(&r::node_policy(pool, runtime))?;
    draft.want(&r::proxy_policy(pool, runtime))?;
    draft.want(&r::recovery_policy(pool))?;
    draft.want(&r::nodes_service(pool))?;
    draft.want(&r::peers_service(pool))?;
    draft.want(&r::primary_service(pool))?;
    draft.want(&r::read_service(pool))?;
    draft.want(&r::node_budget(pool))?;
    draft.want(&r::proxy_budget(pool))?;
    if draft.has_certificate(&crate::names::part_tls_secret(pool.name(), "proxy")) {
        draft.want(&r::deployment(pool, runtime, &uid))?;
    }
    Ok(())
}
