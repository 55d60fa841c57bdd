//! Which attached node a recovery copies from.
use crate::api::v1alpha1::Record;
use crate::messages::{NodeReport, Role};

/// An attached standby that is up, or else the primary; never the node itself, never one that is not attached.
pub fn choose<'r>(record: &Record, node: u8, report: impl Fn(u8) -> Option<&'r NodeReport>) -> Option<u8> {
    let usable =
        |index: u8| index != node && report(index).is_some_and(|r| r.open && r.role != Role::Stopped);
    let attached = record.attached.iter().map(|member| member.index);
    attached
        .filter(|index| *index != record.primary && usable(*index))
        .find(|index| report(*index).is_some_and(|r| r.role == Role::Standby && r.streaming))
        .or_else(|| usable(record.primary).then_some(record.primary))
}
