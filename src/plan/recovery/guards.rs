//! What is refused, and why: the last good copy is never touched.
use super::donor;
use crate::names;
use crate::plan::draft::Draft;
use crate::plan::last_words;
use crate::plan::rest::other_major;
use crate::plan::switchover;
use crate::resources::ANNOTATION_GIVEN_UP;

/// One recovery at a time.
pub fn no_recovery(draft: &Draft<'_>) -> Result<(), String> {
    match &draft.plan.status.recovery {
        Some(running) => Err(format!(
            "node {} is being recovered (stage {:?}); one recovery at a time: ask again when it has ended",
            running.node, running.stage
        )),
        None => Ok(()),
    }
}

/// The node may be taken out: it isn't the last, nor the primary.
fn may_leave(draft: &Draft<'_>, node: u8) -> Result<(), String> {
    let Some(record) = draft.record() else {
        return Err("the pool has no record yet: wait until its first node is up".to_owned());
    };
    if draft.is_attached(node) && record.attached.len() == 1 {
        return Err(format!(
            "node {node} is the only attached node: it holds the last good copy of the data"
        ));
    }
    if record.primary == node {
        return Err(format!("node {node} is the primary: hand over first (switchover=K, K a standby)"));
    }
    Ok(())
}

/// Nothing that takes nodes away one at a time is under way.
pub fn nothing_under_way(draft: &Draft<'_>) -> Result<(), String> {
    no_recovery(draft)?;
    no_switchover(draft)?;
    let restarting = draft.seen.membership.as_ref().is_some_and(|m| m.spec.restart.is_some());
    if !draft.plan.memory.rolled.is_empty() || draft.plan.memory.told.contains("rolling") || restarting {
        return Err("nodes are being restarted, one at a time: ask again when that has ended".to_owned());
    }
    // Between two restarts the nodes differ in limits that a standby must have as high as its primary.
    let asks = |index: u8| draft.report(index).is_some_and(|report| !report.pending_restart.is_empty());
    if let Some(node) = draft.wished().find(|index| asks(*index)) {
        return Err(format!("PostgreSQL of node {node} is to be restarted: ask again when that has ended"));
    }
    if let Some(extra) = draft.extras().last() {
        return Err(format!("node {extra} is being removed: ask again when that has ended"));
    }
    Ok(())
}

/// One switchover at a time, and nothing beside it.
pub fn no_switchover(draft: &Draft<'_>) -> Result<(), String> {
    match &draft.plan.status.switchover {
        Some(going) => {
            Err(format!("node {} hands over to node {}: ask again when that has ended", going.from, going.to))
        }
        None => Ok(()),
    }
}

/// A fenced node stays out until its fence is lifted.
pub fn not_fenced(draft: &Draft<'_>, node: u8) -> Result<(), String> {
    if draft.plan.status.fenced.contains(&node) {
        return Err(format!("node {node} is fenced: lift that first (fence=off)"));
    }
    Ok(())
}

/// The pool keeps `spec.failure.minAttached` nodes without this one.
fn enough_without(draft: &Draft<'_>, node: u8) -> Result<(), String> {
    let left = draft.record().map_or(0, |record| record.attached.iter().filter(|m| m.index != node).count());
    if draft.is_attached(node) && left < usize::from(draft.pool.min_attached) {
        return Err(format!(
            "only {left} nodes would stay attached, fewer than spec.failure.minAttached ({})",
            draft.pool.min_attached
        ));
    }
    Ok(())
}

/// Whether the primary may hand over to a node because a person wants it.
pub fn may_switch_over(draft: &Draft<'_>, to: u8) -> Result<(), String> {
    nothing_under_way(draft)?;
    let Some(record) = draft.record() else {
        return Err("the pool has no record yet: wait until its first node is up".to_owned());
    };
    if record.primary == to {
        return Err(format!("node {to} is the primary already"));
    }
    if !draft.is_attached(to) {
        return Err(format!("node {to} isn't attached, so it may have missed something"));
    }
    if draft.primary().is_none() {
        return Err("the primary isn't in office at the moment: ask again when it is".to_owned());
    }
    if !draft.report(to).is_some_and(|report| report.open) {
        return Err(format!("node {to} doesn't serve at the moment: ask again later"));
    }
    // The old primary is left out by the election and comes back afterwards.
    enough_without(draft, record.primary)
}

/// Whether a person may have a node fenced.
pub fn may_fence(draft: &Draft<'_>, node: u8) -> Result<(), String> {
    if draft.plan.status.fenced.contains(&node) {
        return Err(format!("node {node} is fenced already"));
    }
    not_being_recovered(draft, node)?;
    no_switchover(draft)?;
    may_leave(draft, node)?;
    enough_without(draft, node)
}

fn not_being_recovered(draft: &Draft<'_>, node: u8) -> Result<(), String> {
    if draft.plan.status.recovery.as_ref().is_some_and(|running| running.node == node) {
        return Err(format!("node {node} is being recovered; ask again when that has ended"));
    }
    Ok(())
}

/// Whether a person may have a node recovered.
pub fn may_recover(draft: &Draft<'_>, node: u8) -> Result<(), String> {
    no_recovery(draft)?;
    no_switchover(draft)?;
    not_fenced(draft, node)?;
    if let Some(why) = other_major(draft, node) {
        return Err(why);
    }
    may_leave(draft, node)?;
    if draft.primary().is_none() {
        return Err("the primary isn't in office at the moment: ask again when it is".to_owned());
    }
    let donor = draft.record().and_then(|record| donor::choose(record, node, |index| draft.report(index)));
    if donor.is_none() {
        return Err(
            "no attached node that could be copied from answers at the moment: ask again later".to_owned()
        );
    }
    Ok(())
}

/// Whether a person may have a node detached.
pub fn may_detach(draft: &Draft<'_>, node: u8) -> Result<(), String> {
    not_being_recovered(draft, node)?;
    no_switchover(draft)?;
    may_leave(draft, node)?;
    if draft.seen.status.detached_by_wish.contains(&node) {
        return Err(format!("node {node} was detached by wish already"));
    }
    enough_without(draft, node)
}

/// The node that takes over when the primary is to be detached; none when the node isn't the primary.
pub fn detaches_primary(draft: &Draft<'_>, node: u8) -> Result<Option<u8>, String> {
    let record = draft.record().filter(|record| record.primary == node && record.attached.len() > 1);
    if record.is_none() {
        return Ok(None);
    }
    nothing_under_way(draft)?;
    enough_without(draft, node)?;
    match switchover::successor(draft).filter(|_| draft.primary().is_some()) {
        Some(to) => Ok(Some(to)),
        None => Err(format!("node {node} is the primary, and no node can take over now: ask again later")),
    }
}

/// Whether a pool that is to be made may go on with the data of a node of an earlier one; what is to be said of it.
pub fn may_release(draft: &Draft<'_>, node: u8) -> Result<String, String> {
    let name = names::claim(draft.pool.name(), node);
    let claim = draft.node(node).and_then(|seen| seen.claim.as_ref());
    let Some(claim) = claim else { return Err(format!("there is no claim {name}")) };
    if claim.deleting {
        return Err(format!("claim {name} is being deleted"));
    }
    if let Some(lost) = &claim.lost {
        return Err(format!("the volume of claim {name} is lost: {lost}"));
    }
    if claim.given_up.is_some() {
        return Err(format!(
            "a person gave claim {name} up (replace-volume), and the pool was deleted before it was replaced: take away its \
             annotation {ANNOTATION_GIVEN_UP} if its data shall be used all the same"
        ));
    }
    if !claim.filled {
        return Err(format!("claim {name} never had a whole copy of the data"));
    }
    let doubt = last_words::doubt(&draft.seen.claims, &name);
    Ok(doubt
        .map_or_else(String::new, |why| format!("; {why}: commits that were acknowledged may be missing")))
}

/// Whether a person may give up a node's volume.
pub fn may_replace(draft: &Draft<'_>, node: u8) -> Result<(), String> {
    may_recover(draft, node)?;
    if draft.is_attached(node) {
        return Err(format!(
            "node {node} is attached, so its volume works: detach={node} first if it shall be replaced all the same"
        ));
    }
    Ok(())
}
