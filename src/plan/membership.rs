//! The spec of the PgPoolMembership: what the agents shall bring about.
use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::draft::Draft;
use super::{AT_ONCE, Action, Happening, UNDER_WAY, requests};
use crate::api::v1alpha1::{CopyKind, MembershipSpec, annotations};
use crate::names::BOOTSTRAP;

/// How far the clocks of two machines may be apart: archives go by their own.
const CLOCKS_APART: SignedDuration = SignedDuration::from_secs(120);

/// Sees to it that there is a membership object; false while there is none.
///
/// Where a claim of a pool of this name is left it is made only once a person has said with whose data to go on: a new
/// record could take the wrong data for the right one. Where a person has said so and no claim is seen, claims may still
/// be on their way: a pool that began empty could take none of them up any more.
pub(super) fn ensure(draft: &mut Draft<'_>) -> bool {
    if draft.seen.membership.is_some() {
        draft.untell("old-volumes");
        return true;
    }
    let nothing_to_release = requests::release_over_nothing(draft).map(|why| {
        format!("{why}; nothing is begun while that stands: take it away if the pool shall begin empty")
    });
    draft.warn("nothing-to-release", "NothingToRelease", nothing_to_release.clone());
    if nothing_to_release.is_some() {
        return false;
    }
    if draft.seen.claims.is_empty() {
        create(draft, BOOTSTRAP, false);
        return false;
    }
    match requests::answer_over_old_volumes(draft) {
        Some(node) => create(draft, node, true),
        None => tell_old_volumes(draft),
    }
    false
}

fn create(draft: &mut Draft<'_>, bootstrap: u8, adopts: bool) {
    let made = Made { pool_uid: draft.seen.fresh_uid.clone(), bootstrap, adopts };
    let spec = spec(draft, made, &BTreeSet::from([bootstrap]));
    draft.act(Action::CreateMembership(spec));
    draft.requeue(AT_ONCE);
}

fn tell_old_volumes(draft: &mut Draft<'_>) {
    let claims = draft.seen.claims.iter().map(|(name, last)| match last {
        Some(last) => format!("{name} ({last})"),
        None => format!("{name} (nothing is noted)"),
    });
    let message = format!(
        "volumes of a pool of this name are still there, and hold data that no record speaks for: {}; annotate the pool \
         with {}=K to go on with the data of node K (the others are copied from it), delete these claims if the data may \
         go, or give the new pool another name",
        claims.collect::<Vec<_>>().join(", "),
        annotations::RELEASE
    );
    draft.tell_once("old-volumes".to_owned(), Happening::warning("OldVolumesFound", message.clone()));
    draft.troubles.push(("OldVolumesFound", message));
}

/// Brings the membership's spec in step.
pub(super) fn plan(draft: &mut Draft<'_>) {
    look_whether_enough(draft);
    draft.warn("left-out", "FirstNodeLeftOut", left_out(draft));
    let Some(membership) = &draft.seen.membership else { return };
    // Whatever was interrupted: who was detached by wish stays out, and so does who isn't there any more.
    let nodes = nodes(draft);
    let (plan, attach) = (&draft.plan, &mut draft.attach);
    let out = |index: &u8| plan.status.detached_by_wish.contains(index) || plan.status.fenced.contains(index);
    attach.retain(|index| *index < nodes && !out(index));
    let MembershipSpec { pool_uid, bootstrap, adopts, .. } = membership.spec.clone();
    let wanted = spec(draft, Made { pool_uid, bootstrap, adopts }, &draft.attach);
    if wanted != membership.spec {
        // A definition of an earlier release drops what it doesn't know: that must not be written without a pause.
        let known = MembershipSpec { keep_wal_since: wanted.keep_wal_since, ..membership.spec.clone() };
        draft.requeue(if known == wanted { UNDER_WAY } else { AT_ONCE });
        draft.act(Action::UpdateMembership(wanted));
    }
}

/// Where fewer nodes are attached than there shall be, commits wait (R15): that is to be seen.
fn look_whether_enough(draft: &mut Draft<'_>) {
    const KEY: &str = "commits-wait";
    let least = usize::from(draft.pool.min_attached);
    let attached = draft.attached();
    // A pool that is being made has never had more.
    if attached >= least || !draft.plan.status.bootstrapped || draft.record().is_none() {
        return draft.untell(KEY);
    }
    let message = format!(
        "commits wait: {attached} of the {least} nodes are attached that spec.failure.minAttached asks for; bring one \
         back, or lower it"
    );
    draft.tell_once(KEY.to_owned(), Happening::warning("CommitsWait", message.clone()));
    draft.troubles.push(("CommitsWait", message));
}

/// Why the pool doesn't begin, where the node that has to is none of the spec's any more, and hasn't been made.
pub(super) fn left_out(draft: &Draft<'_>) -> Option<String> {
    let (first, nodes) = (draft.bootstrap(), draft.pool.nodes);
    let made = draft.node(first).is_some_and(|seen| seen.set.is_some());
    let waits = draft.record().is_none() && first >= nodes && !made;
    waits.then(|| {
        format!(
            "the pool begins with the data of node {first}, which spec.nodes ({nodes}) leaves out: set it to {} or more; \
             once the pool is whole it may be lowered",
            first.saturating_add(1)
        )
    })
}

/// Agents count the nodes that are being removed until these are gone.
fn nodes(draft: &Draft<'_>) -> u8 {
    let nodes = draft.extras().last().map_or(draft.pool.nodes, |last| last.saturating_add(1));
    // Nor is there a pool without the node that has still to begin it.
    if draft.record().is_none() { nodes.max(draft.bootstrap().saturating_add(1)) } else { nodes }
}

/// From when on archives keep what they get: a copy brings the WAL up to its own end with it, which comes after the
/// recovery's beginning, and its standby may need all that was archived after that.
fn keep_wal_since(draft: &Draft<'_>) -> Option<Timestamp> {
    let recovery = draft.plan.status.recovery.as_ref()?;
    let since = recovery.started_at.checked_sub(CLOCKS_APART).unwrap_or(recovery.started_at);
    (recovery.copy == CopyKind::BaseBackup).then_some(since)
}

/// What never changes.
struct Made {
    pool_uid: String,
    bootstrap: u8,
    adopts: bool,
}

fn spec(draft: &Draft<'_>, made: Made, attach: &BTreeSet<u8>) -> MembershipSpec {
    let pool = draft.pool;
    MembershipSpec {
        pool_uid: made.pool_uid,
        clustering_mode: pool.mode,
        bootstrap: made.bootstrap,
        adopts: made.adopts,
        nodes: nodes(draft),
        attach: attach.iter().copied().collect(),
        min_attached: pool.min_attached,
        timings: pool.timings,
        parameters: pool.parameters.clone(),
        domain: pool.domain(),
        archive_max_bytes: super::storage::archive(draft),
        archive_retention_seconds: pool.archive_retention_seconds,
        keep_wal_since: keep_wal_since(draft),
        suspend: false,
        switchover: super::switchover::wish(draft),
        fenced: draft.plan.status.fenced.clone(),
        restart: draft.restart.clone(),
        load_balancing: pool.load_balancing.clone(),
    }
}
