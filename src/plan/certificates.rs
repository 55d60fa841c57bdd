//! Certificates: made before the first pod, renewed in time, the authority changed without a gap.
//!
//! The authority goes generate -> (two thirds of its life) -> a successor is trusted everywhere ->
//! the successor signs, all leaves are issued anew -> the predecessor is no longer trusted.
use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::draft::Draft;
use super::{AT_ONCE, Action, AuthorityStep, Happening};
use crate::model::AuthoritySeen;
use crate::names;
use crate::resources::{LeafOrder, leaf_orders};

/// Until a changed Secret is surely in every pod: the kubelet's sync period and cache come to two minutes at most.
const SPREAD: SignedDuration = SignedDuration::from_mins(5);

pub(super) fn plan(draft: &mut Draft<'_>) {
    look_at_the_users_own(draft);
    draft.keep("Secret", names::ca_secret(draft.pool.name()));
    let orders = leaf_orders(draft.pool, &draft.pool_uid());
    for order in &orders {
        draft.keep("Secret", order.secret.clone());
    }
    tell_new(draft, &orders);
    let problem = draft.seen.secrets.authority_problem.clone();
    draft.warn("authority", "AuthorityUnreadable", problem.clone());
    if problem.is_some() {
        return;
    }
    let Some(authority) = &draft.seen.secrets.authority else {
        draft.act(Action::Authority(AuthorityStep::Generate));
        draft.requeue(AT_ONCE);
        return;
    };
    let stale: Vec<LeafOrder> =
        orders.into_iter().filter(|order| !is_current(draft, authority, order)).collect();
    if stale.is_empty() {
        if let Some(step) = step(authority, draft.seen.now) {
            draft.tell(Happening::normal("AuthorityRenewed", said(step)));
            draft.act(Action::Authority(step));
            draft.requeue(AT_ONCE);
        }
        return;
    }
    for order in stale {
        draft.act(Action::Issue(order));
    }
    draft.requeue(AT_ONCE);
}

/// A certificate of the user's that can't be served is told of; the fronts go on with the one that they have.
fn look_at_the_users_own(draft: &mut Draft<'_>) {
    const KEY: &str = "server-certificate";
    let problem = match &draft.seen.secrets.server {
        Some(Err(problem)) => problem.message.clone(),
        Some(Ok(end)) if *end <= draft.seen.now => {
            "spec.tls.serverSecret: its certificate has expired: clients refuse it; renew it in the Secret"
                .to_owned()
        }
        Some(Ok(_)) | None => return draft.untell(KEY),
    };
    draft.tell_once(KEY.to_owned(), Happening::warning("ServerSecretUnusable", problem.clone()));
    draft.troubles.push(("ServerSecretUnusable", problem));
}

/// Tells of certificates that stand in the place of others: the pool's own, and the user's. What was there before this
/// operator's first look is none of them.
fn tell_new(draft: &mut Draft<'_>, orders: &[LeafOrder]) {
    let (seen, pool) = (draft.seen, draft.pool);
    let before = std::mem::take(&mut draft.plan.memory.certificates);
    let known = &mut draft.plan.memory.certificates;
    let mut issued = Vec::new();
    for order in orders {
        let due = seen.secrets.leaves.get(&order.secret).map(|leaf| leaf.renew_at);
        if is_new(&before, known, order.secret.clone(), due) {
            issued.push(order.secret.as_str());
        }
    }
    let own = pool.server_secret.as_ref().and_then(|name| {
        let end = seen.secrets.server.as_ref().and_then(|server| server.as_ref().ok().copied());
        let new = is_new(&before, known, format!("spec.tls.serverSecret/{name}"), end);
        end.filter(|_| new).map(|end| (name, end))
    });
    if !issued.is_empty() {
        let note = format!("new certificates were issued: Secrets {}", issued.join(", "));
        draft.tell(Happening::normal("CertificatesRenewed", note));
    }
    if let Some((name, end)) = own {
        let note = format!(
            "spec.tls.serverSecret: Secret {name} has another certificate, which ends at {end}; the fronts show it to new \
             sessions within two minutes"
        );
        draft.tell(Happening::normal("CertificatesRenewed", note));
    }
}

/// Takes down what is there, and says whether it was another one before. What is gone for a while is kept in mind.
fn is_new(
    before: &BTreeMap<String, Timestamp>,
    known: &mut BTreeMap<String, Timestamp>,
    key: String,
    now: Option<Timestamp>,
) -> bool {
    let old = before.get(&key).copied();
    known.extend(now.or(old).map(|at| (key, at)));
    old.zip(now).is_some_and(|(old, now)| old != now)
}

fn is_current(draft: &Draft<'_>, authority: &AuthoritySeen, order: &LeafOrder) -> bool {
    draft.seen.secrets.leaves.get(&order.secret).is_some_and(|leaf| {
        leaf.issued_for == order.issued_for(&authority.cert_pem)
            && leaf.bundle == authority.bundle
            && draft.seen.now < leaf.renew_at
    })
}

/// What the authority needs next, once all leaves are as they should be.
fn step(authority: &AuthoritySeen, now: Timestamp) -> Option<AuthorityStep> {
    let spread = |since: Timestamp| now.duration_since(since) >= SPREAD;
    if let Some(since) = authority.previous_since {
        return spread(since).then_some(AuthorityStep::DropPrevious);
    }
    if let Some(since) = authority.next_since {
        return spread(since).then_some(AuthorityStep::Switch);
    }
    (now >= authority.renew_at).then_some(AuthorityStep::AddNext)
}

fn said(step: AuthorityStep) -> &'static str {
    match step {
        AuthorityStep::Generate => "the pool's certificate authority was made",
        AuthorityStep::AddNext => "a new certificate authority was made and is trusted beside the old one",
        AuthorityStep::Switch => "the new certificate authority signs from now on",
        AuthorityStep::DropPrevious => "the old certificate authority is no longer trusted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(next: Option<i64>, previous: Option<i64>) -> AuthoritySeen {
        let at = |second| Timestamp::from_second(second).unwrap();
        AuthoritySeen {
            cert_pem: String::new(),
            bundle: String::new(),
            renew_at: at(1000),
            next_since: next.map(at),
            previous_since: previous.map(at),
        }
    }

    #[test]
    fn the_authority_is_changed_in_three_steps_each_given_time_to_spread() {
        let step =
            |authority: &AuthoritySeen, second| step(authority, Timestamp::from_second(second).unwrap());
        assert_eq!(step(&authority(None, None), 999), None);
        assert_eq!(step(&authority(None, None), 1000), Some(AuthorityStep::AddNext));
        assert_eq!(step(&authority(Some(1000), None), 1299), None);
        assert_eq!(step(&authority(Some(1000), None), 1300), Some(AuthorityStep::Switch));
        assert_eq!(step(&authority(None, Some(1300)), 1599), None);
        assert_eq!(step(&authority(None, Some(1300)), 1600), Some(AuthorityStep::DropPrevious));
    }
}
