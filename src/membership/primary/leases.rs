//! The primary's side of the leases (R3, R4).
use std::time::Duration;

use super::{PrimaryView, in_office};
use crate::api::v1alpha1::Member;
use crate::clock::Moment;
use crate::membership::lease::{self, OwnLease, waited};
use crate::membership::rules::{Rule, Rules};
use crate::messages::{Role, Stamp};

/// The primary's own lease.
pub fn own_lease(view: &PrimaryView) -> OwnLease {
    own_lease_with(view, Rules::ALL)
}

/// [`own_lease`] under other rules; for tests.
pub fn own_lease_with(view: &PrimaryView, rules: Rules) -> OwnLease {
    if !rules.has(Rule::OwnLease) {
        return OwnLease::Alone;
    }
    let counting = view.counting().filter(|member| {
        rules.has(Rule::OwnLeaseNeedsNames) || view.attached_others().any(|m| m.index == member.index)
    });
    let counted = counting.map(|member| answered(view, member));
    lease::own(view.now, counted, view.wish.lease())
}

/// When the newest beat was sent that this very copy answered: the office after this one counts from its own answers, and
/// another copy in the node's place will not be asked for them.
fn answered(view: &PrimaryView, member: &Member) -> Option<Moment> {
    let contact = &view.other(member.index)?.contact;
    contact.counted.filter(|_| contact.counted_copy.as_ref() == Some(&member.incarnation))
}

/// The stamp that the next beat to node `index` echoes: with it the primary grants a lease of
/// `timings.lease`. None when it grants none: the node isn't attached with the copy of the data that
/// it has, isn't a standby or doesn't know this epoch, its name isn't in use in N, the primary's own
/// lease isn't good, or a restart would not know how long the lease is.
///
/// The flush position that goes with it has to be read after the answer came in whose stamp is echoed.
pub fn grants(view: &PrimaryView, index: u8) -> Option<Stamp> {
    grants_with(view, index, Rules::ALL)
}

/// [`grants`] under other rules; for tests.
pub fn grants_with(view: &PrimaryView, index: u8, rules: Rules) -> Option<Stamp> {
    let member = view.attached_others().find(|m| m.index == index)?;
    let contact = &view.other(index)?.contact;
    let answer = contact.answer.as_ref()?;
    let known = answer.incarnation.as_ref() == Some(&member.incarnation)
        && answer.epoch == view.record.epoch
        && answer.role == Role::Standby;
    let covered = view.names.holds(member) && view.loaded.is_some();
    let remembered = view.names.lease_ms >= view.wish.timings.lease_ms;
    let good = own_lease_with(view, rules).is_good() || !rules.has(Rule::GrantUnderOwnLease);
    let wished = known && covered && remembered && in_office(&view.record, &view.me) && good;
    wished.then(|| answer.stamp.clone())
}

/// What [`crate::membership::names::Names::lease_ms`] has to be: raised before a longer lease is given,
/// lowered once no longer one can be alive.
pub(super) fn longest(view: &PrimaryView) -> u32 {
    let (stored, now) = (view.names.lease_ms, view.wish.timings.lease_ms);
    if now >= stored {
        return now;
    }
    let longer = Duration::from_millis(u64::from(stored));
    let inherited_over = view.now.since(view.started) > waited(longer);
    let given_over =
        view.others.values().all(|o| o.contact.lease_rest(view.now) <= waited(view.wish.lease()));
    if inherited_over && given_over { now } else { stored }
}
