//! What a new primary says of how it came into office.
use super::Happening;
use super::draft::Draft;
use crate::api::v1alpha1::LastFailover;

pub(super) fn note(draft: &mut Draft<'_>) {
    let Some((index, report)) = draft.primary() else { return };
    let Some(office) = &report.office else { return };
    let Some(opening) = office.opening_ms else { return };
    if draft.seen.status.last_failover.as_ref().is_some_and(|last| last.timeline >= office.timeline) {
        return;
    }
    let spans = [office.detection_ms, office.election_ms, office.promotion_ms, opening];
    let millis = spans.iter().fold(0_u64, |sum, span| sum.saturating_add(*span));
    let [detection, election, promotion, opening] = spans;
    let note = format!(
        "node {index} is the primary after node {}: {}; {millis} ms without one (detection {detection}, election \
         {election}, promotion {promotion}, opening {opening})",
        office.from, office.reason
    );
    let at = draft.seen.now;
    draft.status().last_failover = Some(LastFailover {
        from: office.from,
        to: index,
        reason: office.reason.clone(),
        millis: i64::try_from(millis).unwrap_or(i64::MAX),
        timeline: office.timeline,
        at,
    });
    let wished = draft.seen.status.switchover.is_some();
    draft.tell(if wished {
        Happening::normal("PrimaryInOffice", note)
    } else {
        Happening::warning("PrimaryInOffice", note)
    });
}
