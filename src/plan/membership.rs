//! The spec of the PgPoolMembership: what the agents shall bring about.
use std::collections::BTreeSet;

use super::draft::Draft;
use super::{AT_ONCE, Action, Happening};
use crate::api::v1alpha1::MembershipSpec;
use crate::model::ValidPool;

/// The node that makes the first copy of the data.
pub(super) const BOOTSTRAP: u8 = 0;

/// Sees to it that there is a membership object; false while there is none.
///
/// It is made only where no claim of a pool of this name is left: over old volumes a new record
/// would begin at epoch 1 and could take the wrong data for the right one.
pub(super) fn ensure(draft: &mut Draft<'_>) -> bool {
    if draft.seen.membership.is_some() {
        draft.untell("old-volumes");
        return true;
    }
    if draft.seen.claims.is_empty() {
        let attach = BTreeSet::from([BOOTSTRAP]);
        let spec = spec(draft.pool, draft.seen.fresh_uid.clone(), &attach);
        draft.act(Action::CreateMembership(spec));
        draft.requeue(AT_ONCE);
        return false;
    }
    let message = format!(
        "volumes of a pool of this name are still there ({}) and hold data that no record speaks for: \
         delete these claims if the data may go, or give the new pool another name",
        draft.seen.claims.join(", ")
    );
    draft.tell_once("old-volumes".to_owned(), Happening::warning("OldVolumesFound", message.clone()));
    draft.troubles.push(("OldVolumesFound", message));
    false
}

/// Brings the membership's spec in step.
pub(super) fn plan(draft: &mut Draft<'_>) {
    let Some(membership) = &draft.seen.membership else { return };
    // Whatever was interrupted: who was detached by wish stays out.
    draft.attach.retain(|index| !draft.plan.status.detached_by_wish.contains(index));
    let wanted = spec(draft.pool, membership.spec.pool_uid.clone(), &draft.attach);
    if wanted != membership.spec {
        draft.act(Action::UpdateMembership(wanted));
        draft.requeue(AT_ONCE);
    }
}

fn spec(pool: &ValidPool, pool_uid: String, attach: &BTreeSet<u8>) -> MembershipSpec {
    MembershipSpec {
        pool_uid,
        clustering_mode: pool.mode,
        bootstrap: BOOTSTRAP,
        nodes: pool.nodes,
        attach: attach.iter().copied().collect(),
        min_attached: pool.min_attached,
        timings: pool.timings,
        parameters: pool.parameters.clone(),
        domain: pool.domain(),
        archive_max_bytes: pool.archive_max_bytes,
        archive_retention_seconds: pool.archive_retention_seconds,
        suspend: false,
    }
}
