//! Carries plans out in the world, and watches that no rule is broken.
use jiff::SignedDuration;
use pgpool_operator::api::v1alpha1::{MembershipSpec, annotations};
use pgpool_operator::model::{
    AuthoritySeen, ClaimSeen, ClaimSize, JobOutcome, JobSeen, LeafSeen, LiveObject, LoginSeen,
    MembershipSeen, Observed, Sensitive, bytes,
};
use pgpool_operator::names;
use pgpool_operator::plan::{Action, AuthorityStep, Plan};
use pgpool_operator::resources::{Manifest, ROLE_KEYS, incarnation, login_data};
use serde_json::Value;

use super::World;

impl World {
    /// Does the first `steps` steps of a plan: status, each object, each action. Events are no step.
    pub fn carry_out(&mut self, seen: &Observed, made: &Plan, steps: usize) {
        let mut left = steps;
        let mut go = || {
            let any = left > 0;
            left = left.saturating_sub(1);
            any
        };
        if !go() {
            return;
        }
        self.status = made.status.clone();
        self.memory = made.memory.clone();
        for manifest in &made.apply {
            if !go() {
                return;
            }
            self.apply(manifest);
        }
        if made.actions.iter().filter(|a| matches!(a, Action::Delete { kind: "Pod", .. })).count() > 1 {
            self.broken.push("two pods at once".to_owned());
        }
        for action in &made.actions {
            if !go() {
                return;
            }
            self.watch(seen, action);
            self.act(action);
        }
    }

    fn apply(&mut self, manifest: &Manifest) {
        let (kind, name) = manifest.key();
        if kind == "PersistentVolumeClaim" {
            self.apply_claim(&name, &manifest.value);
        }
        let live = LiveObject {
            owned: manifest.value["metadata"]["ownerReferences"][0]["uid"] == self.pool.object_uid.as_str(),
            kind: kind.clone(),
            name: name.clone(),
            deleting: false,
            value: manifest.value.clone(),
        };
        self.live.insert((kind, name), live);
    }

    fn apply_claim(&mut self, name: &str, value: &Value) {
        let index: u8 = name.split('-').nth(2).and_then(|index| index.parse().ok()).unwrap();
        let note = |key: &str| value["metadata"]["annotations"][key].as_str().map(str::to_owned);
        self.counter += 1;
        let fresh = ClaimSeen {
            uid: format!("claim-{}", self.counter),
            deleting: false,
            filled: false,
            given_up: None,
            last_record: None,
            on_one_machine: self.local,
            lost: None,
            size: ClaimSize::default(),
        };
        let fixed = self.fixed_volumes;
        let claim = self.claims.entry(index).or_insert(fresh);
        let asked = value["spec"]["resources"]["requests"]["storage"].as_str().unwrap().to_owned();
        let (before, after) = (bytes(&claim.size.requested), bytes(&asked));
        if before > after || (before.is_some() && before < after && fixed) {
            self.broken
                .push(format!("the claim of node {index} goes from {} to {asked}", claim.size.requested));
        }
        claim.size.requested = asked;
        claim.filled = note("pgpool-operator.dev/filled").is_some();
        claim.given_up = note("pgpool-operator.dev/given-up");
    }

    /// The rules that every action keeps, whatever led to it.
    fn watch(&mut self, seen: &Observed, action: &Action) {
        if let Action::CreateMembership(spec) = action {
            self.watch_beginning(spec);
        }
        let marked = seen.status.recovery.as_ref().is_some_and(|recovery| recovery.may_destroy);
        let removed = seen.status.removing.is_some_and(|index| {
            index >= self.pool.nodes && action.destroys_claim(&names::claim(super::POOL, index))
        });
        if action.destroys() && !self.pool.deleting && !marked && !removed {
            self.broken.push(format!("{action:?} without its mark in the status that was read"));
        }
        match action {
            Action::Delete { kind: "PersistentVolumeClaim", name, .. } if !self.pool.deleting => {
                let index: u8 = name.split('-').nth(2).and_then(|index| index.parse().ok()).unwrap();
                if self.is_attached(index) {
                    self.broken.push(format!("the claim of attached node {index} is deleted"));
                }
            }
            Action::Delete { kind: "Pod", name, .. } => self.watch_restart(name),
            Action::Delete { kind: "StatefulSet", name, .. } if !self.pool.deleting => {
                let index: u8 = name.rsplit('-').next().and_then(|index| index.parse().ok()).unwrap();
                if index < self.pool.nodes || self.is_attached(index) || self.pods.contains_key(&index) {
                    self.broken.push(format!("node {index} is taken apart though it is wanted or runs"));
                }
            }
            Action::Ensure(_) => self.watch_roles(),
            Action::CreateJob(order) => {
                if self.is_attached(order.node) {
                    self.broken.push(format!("attached node {} is copied over", order.node));
                }
                if self.claims.get(&order.node).is_some_and(|claim| claim.last_record.is_some()) {
                    self.broken
                        .push(format!("what is noted of node {}'s volume outlives its data", order.node));
                }
                let runs = self.pods.get(&order.node).is_some_and(|pod| !pod.deleting);
                let there = self.pods.contains_key(&order.node);
                if (runs && !self.is_unused(order.node)) || (there && !self.local) {
                    self.broken.push(format!("node {} is copied over while its pod runs", order.node));
                }
                if order.donor == order.node {
                    self.broken.push(format!("node {} is its own donor", order.node));
                }
                let name = names::recovery_job(self.pool.name(), order.node, &order.id);
                if self.running().iter().any(|running| *running != name) {
                    self.broken.push("two recoveries at once".to_owned());
                }
            }
            Action::UpdateMembership(spec) => self.watch_membership(seen, spec),
            _ => {}
        }
    }

    /// What the primary is told, and what the API server refuses.
    fn watch_membership(&mut self, seen: &Observed, spec: &MembershipSpec) {
        let record = self.record();
        let told = |node: u8| seen.membership.as_ref().is_some_and(|m| m.spec.attach.contains(&node));
        if record.is_some_and(|r| told(r.primary) && !spec.attach.contains(&r.primary)) {
            self.broken.push("the primary shall leave".to_owned());
        } else if record.is_some_and(|r| r.attached.iter().any(|m| m.index >= spec.nodes)) {
            self.broken.push("the API server refuses: an attached node is beyond spec.nodes".to_owned());
        } else if record.is_none() && spec.bootstrap >= spec.nodes {
            self.broken.push("the API server refuses: the bootstrap node is beyond spec.nodes".to_owned());
        }
    }

    /// Over old volumes a pool begins only with the data of a node that somebody has named.
    fn watch_beginning(&mut self, spec: &MembershipSpec) {
        let named = self.pool.requests.get(annotations::RELEASE) == Some(&spec.bootstrap.to_string());
        let asked = self.pool.requests.contains_key(annotations::RELEASE);
        let wrong = if spec.adopts { !named } else { asked };
        if wrong || spec.adopts == self.claims.is_empty() {
            self.broken.push(format!("a pool begins with node {} over {:?}", spec.bootstrap, self.claims));
        }
    }

    /// Roles are made only where their commits needn't wait for nodes that are missing.
    fn watch_roles(&mut self) {
        let attached = self.record().map_or(0, |record| record.attached.len());
        if attached < usize::from(self.pool.min_attached) {
            self.broken.push("roles are made whose commits would wait for nodes that are missing".to_owned());
        }
    }

    /// A pod that serves is deleted only where everybody else serves, and never the primary's.
    fn watch_restart(&mut self, name: &str) {
        let Some(index) = (0..15).find(|index| names::node_pod(super::POOL, *index) == name) else { return };
        if !self.is_attached(index) || !self.runs(index) {
            return;
        }
        let Some(record) = self.record() else { return };
        let (primary, attached) = (record.primary, record.attached.len());
        if index == primary && attached > 1 {
            self.broken.push(format!("the primary {index} is restarted without a switchover"));
        }
        if attached > 1 && attached <= usize::from(self.pool.min_attached) {
            self.broken.push(format!("node {index} is restarted below minAttached"));
        }
        let away = self.wished().into_iter().find(|other| !self.is_attached(*other) || !self.runs(*other));
        if let Some(away) = away {
            self.broken.push(format!("node {index} is restarted while node {away} is away"));
        }
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Guard => self.pool.guarded = true,
            Action::Unguard => self.pool.guarded = false,
            Action::CreateMembership(spec) => {
                self.membership.get_or_insert(MembershipSeen {
                    spec: spec.clone(),
                    record: None,
                    deleting: false,
                });
            }
            Action::UpdateMembership(spec) => {
                if let Some(membership) = self.membership.as_mut().filter(|_| !self.conflicts) {
                    membership.spec = spec.clone();
                }
            }
            Action::DeleteMembership => self.membership = None,
            Action::Authority(AuthorityStep::Generate) => {
                let renew_at = self.now.checked_add(SignedDuration::from_hours(10_000)).unwrap();
                self.secrets.authority = Some(AuthoritySeen {
                    cert_pem: "ca".to_owned(),
                    bundle: "ca".to_owned(),
                    renew_at,
                    next_since: None,
                    previous_since: None,
                });
            }
            Action::Authority(_) | Action::LabelPod { .. } => self.label(action),
            Action::Issue(order) => {
                let leaf = LeafSeen {
                    renew_at: self.now.checked_add(SignedDuration::from_hours(10_000)).unwrap(),
                    bundle: "ca".to_owned(),
                    issued_for: order.issued_for("ca"),
                };
                self.secrets.leaves.insert(order.secret.clone(), leaf);
            }
            Action::CreateLogin(_) | Action::UpdateLogin { .. } | Action::Ensure(_) => {
                self.act_on_logins(action);
            }
            Action::CreateJob(_) | Action::Delete { .. } => self.act_on_objects(action),
            Action::NoteClaim { claim, text } if !self.fixed_notes => {
                let found =
                    self.claims.iter_mut().find(|(index, _)| names::claim(super::POOL, **index) == *claim);
                if let Some((_, claim)) = found {
                    claim.last_record.clone_from(text);
                }
            }
            Action::NoteClaim { .. } => {}
            Action::RemoveAnnotations(annotations) => {
                self.pool.requests.retain(|name, _| !annotations.contains(&name.as_str()));
            }
        }
    }

    fn label(&mut self, action: &Action) {
        if let Action::LabelPod { pod, role } = action {
            let found = self.pods.iter_mut().find(|(index, _)| names::node_pod(super::POOL, **index) == *pod);
            if let Some((_, pod)) = found {
                pod.role = Some((*role).to_owned());
            }
        }
    }

    fn act_on_logins(&mut self, action: &Action) {
        match action {
            Action::CreateLogin(login) => {
                let password = Sensitive::new("s3cret");
                let mut derived = login_data(&self.pool, login, &password);
                derived.retain(|key, _| !ROLE_KEYS.contains(&key.as_str()));
                self.secrets
                    .logins
                    .insert(login.secret.clone(), Ok(LoginSeen { password, derived, ours: true }));
            }
            Action::Ensure(order) => {
                self.bootstrapped = true;
                self.memory.ensured = Some(order.fingerprint.clone());
            }
            _ => {}
        }
    }

    fn act_on_objects(&mut self, action: &Action) {
        match action {
            Action::CreateJob(order) => {
                let name = names::recovery_job(self.pool.name(), order.node, &order.id);
                let uid = self.membership.as_ref().map(|m| m.spec.pool_uid.clone()).unwrap_or_default();
                self.job_orders.insert(name.clone(), incarnation(&uid, &order.id));
                self.counter += 1;
                self.jobs.entry(name).or_insert(JobSeen {
                    uid: format!("job-{}", self.counter),
                    node: order.node,
                    may_destroy: order.may_destroy,
                    deleting: false,
                    outcome: JobOutcome::Running,
                    bytes: 0,
                    trouble: None,
                });
            }
            Action::Delete { kind: "Job", name, uid } => {
                self.begun.remove(name);
                self.jobs
                    .retain(|there, job| there != name || uid.as_ref().is_some_and(|uid| *uid != job.uid));
            }
            Action::Delete { kind: "PersistentVolumeClaim", name, uid } => {
                let found =
                    self.claims.iter_mut().find(|(index, _)| names::claim(super::POOL, **index) == *name);
                if let Some((_, claim)) = found.filter(|(_, claim)| Some(&claim.uid) == uid.as_ref()) {
                    claim.deleting = true;
                }
            }
            Action::Delete { kind: "Pod", name, uid } => {
                let found =
                    self.pods.iter_mut().find(|(index, _)| names::node_pod(super::POOL, **index) == *name);
                if let Some((_, pod)) = found.filter(|(_, pod)| Some(&pod.uid) == uid.as_ref()) {
                    pod.deleting = true;
                }
            }
            Action::Delete { kind, name, .. } => {
                self.live.remove(&((*kind).to_owned(), name.clone()));
            }
            _ => {}
        }
    }
}
