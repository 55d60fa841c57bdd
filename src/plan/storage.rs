//! Volumes grow where their storage class lets them; they never shrink.
use super::UNDER_WAY;
use super::draft::Draft;
use crate::model::{ClaimSeen, bytes};
use crate::names;

/// The size that the claim of a node shall ask for.
pub(super) fn size(draft: &mut Draft<'_>, index: u8) -> String {
    let wanted = draft.pool.storage.size.clone();
    let Some(claim) = draft.node(index).and_then(|seen| seen.claim.as_ref()) else { return wanted };
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
    if claim.size.capacity.is_none() { has } else { wanted }
}

fn grows(draft: &mut Draft<'_>, index: u8, claim: &ClaimSeen) {
    draft.warn(&format!("fixed/{index}"), "VolumeNotExpandable", None);
    if claim.size.capacity.is_some_and(|has| has < draft.pool.storage_bytes) {
        draft.changing("VolumeGrows", format!("the volume of node {index} grows"));
        draft.requeue(UNDER_WAY);
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
