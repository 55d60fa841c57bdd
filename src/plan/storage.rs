//! Volumes grow where their storage class lets them; they never shrink.
use super::draft::Draft;
use super::{Happening, UNDER_WAY};
use crate::model::{ClaimSeen, bytes};
use crate::names;

/// The size that the claim of a node shall ask for.
pub(super) fn size(draft: &mut Draft<'_>, index: u8) -> String {
    let wanted = draft.pool.storage.size.clone();
    let Some(claim) = draft.node(index).and_then(|seen| seen.claim.as_ref()) else {
        // The next one is another volume.
        draft.untell(&growing(index));
        return wanted;
    };
    let has = claim.size.requested.clone();
    if bytes(&has).is_none_or(|has| has >= draft.pool.storage_bytes) {
        if !has.is_empty() {
            grows(draft, index, claim);
            return has;
        }
        return wanted;
    }
    if let Some(why) = &claim.size.fixed {
        let name = names::claim(draft.pool.name(), index);
        let message = format!(
            "claim {name} stays at {has} though spec.storage.size is {wanted}: {why}; to give the node a larger volume \
             annotate detach={index}, then replace-volume={index}, one node after the other"
        );
        draft.warn(&format!("fixed/{index}"), "VolumeNotExpandable", Some(message));
        return has;
    }
    // A claim without a volume can't be changed; it gets its size once it has one.
    if claim.size.capacity.is_none() {
        return has;
    }
    tell_growing(draft, index);
    wanted
}

/// What is told once for as long as the volume of a node grows.
fn growing(index: u8) -> String {
    format!("grows/{index}")
}

fn tell_growing(draft: &mut Draft<'_>, index: u8) {
    let note = format!("the volume of node {index} grows to {}", draft.pool.storage.size);
    draft.tell_once(growing(index), Happening::normal("VolumeGrows", note));
}

fn grows(draft: &mut Draft<'_>, index: u8, claim: &ClaimSeen) {
    draft.warn(&format!("fixed/{index}"), "VolumeNotExpandable", None);
    if claim.size.capacity.is_some_and(|has| has < draft.pool.storage_bytes) {
        // An operator that comes in the middle tells of it once more.
        tell_growing(draft, index);
        draft.changing("VolumeGrows", format!("the volume of node {index} grows"));
        draft.requeue(UNDER_WAY);
    } else if draft.plan.memory.told.remove(&growing(index)) {
        let note = format!("the volume of node {index} has grown to {}", draft.pool.storage.size);
        draft.tell(Happening::normal("VolumeGrown", note));
    }
}

/// Bytes that a node may count on.
pub(super) fn usable(draft: &Draft<'_>, index: u8) -> u64 {
    let wanted = draft.pool.storage_bytes;
    let Some(claim) = draft.node(index).and_then(|seen| seen.claim.as_ref()) else { return wanted };
    claim.size.capacity.or_else(|| bytes(&claim.size.requested)).map_or(wanted, |has| has.min(wanted))
}

/// Bytes of archive that fit on every node: less than wanted while a volume has still to grow.
pub(super) fn archive(draft: &Draft<'_>) -> i64 {
    let wanted = draft.pool.archive_max_bytes;
    let smallest = (0..draft.pool.nodes).map(|index| usable(draft, index)).min().unwrap_or_default();
    if smallest >= draft.pool.storage_bytes {
        return wanted;
    }
    let part = u128::from(smallest) * u128::try_from(wanted).unwrap_or_default();
    let part = part / u128::from(draft.pool.storage_bytes.max(1));
    i64::try_from(part).unwrap_or(wanted)
}
