//! Recoveries that nobody asked for: the first copies of a new pool, and nodes that failed.
use jiff::{SignedDuration, Timestamp};

use super::{backoff, begin, is_proved};
use crate::messages::Join;
use crate::plan::draft::Draft;
use crate::plan::rest::other_major;
use crate::plan::{Happening, UNDER_WAY};

/// How long a node must have needed a copy before it gets one: agents that start say so for a moment.
const SETTLE: SignedDuration = SignedDuration::from_secs(5);

/// Begins the recovery of the first node that needs one and is due.
pub(super) fn plan(draft: &mut Draft<'_>) {
    let mut due = Vec::new();
    for node in 0..draft.pool.nodes {
        match need(draft, node) {
            None => {
                draft.plan.memory.needs_copy_since.remove(&node);
                if draft.is_attached(node) {
                    draft.untell(&format!("needed/{node}"));
                }
            }
            Some(need) => {
                if is_due(draft, node, &need) {
                    due.push((node, need));
                }
            }
        }
    }
    // A node without any copy goes first: the pool is smaller than was ever asked for.
    due.sort_by_key(|(node, need)| (!need.first, *node));
    if let Some((node, need)) = due.first() {
        begin(draft, *node, &need.why, false);
    }
}

/// Why a node needs a recovery.
struct Need {
    why: String,
    /// It never had a copy.
    first: bool,
}

fn need(draft: &Draft<'_>, node: u8) -> Option<Need> {
    let (primary, _) = draft.primary()?;
    if node == primary || draft.is_attached(node) || draft.is_wished_out(node) {
        return None;
    }
    // A copy wouldn't help: its PostgreSQL can't read the data.
    if other_major(draft, node).is_some() {
        return None;
    }
    let failed = |why: String| Some(Need { why, first: false });
    let seen = draft.node(node)?;
    let claim = seen.claim.as_ref();
    if let Some(lost) = claim.and_then(|claim| claim.lost.as_ref()) {
        return failed(format!("its volume is lost: {lost}"));
    }
    if !claim.is_some_and(|claim| claim.filled) {
        return Some(Need { why: "its first copy of the data".to_owned(), first: true });
    }
    if let Some(report) = seen.report() {
        if let Join::NeedsCopy(why) = &report.join {
            return failed(why.clone());
        }
        if report.incarnation.is_none() {
            return failed("its data is gone".to_owned());
        }
    }
    if !draft.attach.contains(&node) {
        let proved = is_proved(seen.report().map(|report| &report.join));
        return failed(
            if proved { "it may come back without a copy" } else { "an earlier recovery ended early" }
                .to_owned(),
        );
    }
    None
}

fn is_due(draft: &mut Draft<'_>, node: u8, need: &Need) -> bool {
    let now: Timestamp = draft.seen.now;
    let since = *draft.plan.memory.needs_copy_since.entry(node).or_insert(now);
    let settled = need.first || now.duration_since(since) >= SETTLE;
    if !settled {
        draft.requeue(UNDER_WAY);
        return false;
    }
    if !need.first && !draft.pool.automatic_recovery {
        let message = format!(
            "node {node} needs a recovery ({}), and spec.recovery.automatic is off: annotate recover={node}",
            need.why
        );
        draft.tell_once(format!("needed/{node}"), Happening::warning("RecoveryNeeded", message.clone()));
        draft.troubles.push(("RecoveryNeeded", message));
        return false;
    }
    let history = draft.plan.memory.backoff.get(&node).copied();
    if history.is_some_and(|history| backoff::delay(history.failures).is_none()) {
        let message = format!(
            "node {node} could not be recovered {} times in a row: look at status.lastRecovery and the Job's log, then annotate recover={node}",
            backoff::GIVE_UP_AFTER
        );
        draft.tell_once(format!("gave-up/{node}"), Happening::warning("RecoveryGivenUp", message.clone()));
        draft.troubles.push(("RecoveryGivenUp", message));
        return false;
    }
    draft.untell(&format!("gave-up/{node}"));
    draft.requeue(UNDER_WAY);
    backoff::is_due(history.as_ref(), now)
}
