//! The plan while it is being made.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::Resource;
use serde::Serialize;

use super::{AT_REST, Action, Happening, Plan};
use crate::api::v1alpha1::{PgPoolStatus, Record, Restart};
use crate::messages::{NodeReport, Role};
use crate::model::{NodeSeen, Observed, ValidPool};
use crate::names;
use crate::resources::{BuildError, Manifest, Runtime};

/// What the parts of the planner work on together.
pub(super) struct Draft<'a> {
    /// The pool.
    pub pool: &'a ValidPool,
    /// The operator itself.
    pub runtime: &'a Runtime,
    /// The world.
    pub seen: &'a Observed,
    /// What has come together so far.
    pub plan: Plan,
    /// Nodes that shall be attached.
    pub attach: BTreeSet<u8>,
    /// Kind and name of everything that belongs to the pool.
    pub wanted: BTreeSet<(String, String)>,
    /// What a person must act on, for the Degraded condition: reason and message.
    pub troubles: Vec<(&'static str, String)>,
    /// What of a change of all nodes is under way, or what it waits for.
    pub change: Option<Change>,
    /// The restart in place that the agents are told of.
    pub restart: Option<Restart>,
    /// Nodes beyond the spec whose pods shall go.
    pub stopping: BTreeSet<u8>,
    /// Fingerprint of the template that each node's pod shall be made from.
    pub templates: BTreeMap<u8, String>,
}

/// A change that goes through the nodes one at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// One word, in CamelCase.
    pub reason: &'static str,
    /// What is done, or what it waits for.
    pub message: String,
    /// True when it can't go on until a person acts.
    pub stopped: bool,
}

impl<'a> Draft<'a> {
    pub fn new(pool: &'a ValidPool, runtime: &'a Runtime, seen: &'a Observed) -> Self {
        let mut memory = seen.memory.clone();
        memory.seen_before = true;
        let plan = Plan {
            apply: Vec::new(),
            actions: Vec::new(),
            status: seen.status.clone(),
            events: Vec::new(),
            requeue: AT_REST,
            memory,
        };
        let troubles = memory_trouble(seen);
        let attach =
            seen.membership.as_ref().map(|m| m.spec.attach.iter().copied().collect()).unwrap_or_default();
        Self {
            pool,
            runtime,
            seen,
            plan,
            attach,
            wanted: BTreeSet::new(),
            troubles,
            change: None,
            restart: None,
            stopping: BTreeSet::new(),
            templates: BTreeMap::new(),
        }
    }

    pub fn finish(self) -> Plan {
        self.plan
    }

    pub fn act(&mut self, action: Action) {
        self.plan.actions.push(action);
    }

    pub fn tell(&mut self, happening: Happening) {
        self.plan.events.push(happening);
    }

    /// Tells something once for as long as it stays true; `key` says what it is about.
    pub fn tell_once(&mut self, key: String, happening: Happening) {
        if self.plan.memory.told.insert(key) {
            self.tell(happening);
        }
    }

    /// Lets something be told again, since it is no longer true.
    pub fn untell(&mut self, key: &str) {
        self.plan.memory.told.remove(key);
    }

    /// Something that a person should know of: told once for as long as it is so.
    pub fn warn(&mut self, key: &str, reason: &'static str, message: Option<String>) {
        match message {
            Some(message) => {
                self.tell_once(key.to_owned(), Happening::warning(reason, message.clone()));
                self.troubles.push((reason, message));
            }
            None => self.untell(key),
        }
    }

    /// Asks for the next pass no later than that.
    pub fn requeue(&mut self, after: Duration) {
        self.plan.requeue = self.plan.requeue.min(after);
    }

    /// An object as it shall be; planned only where it isn't so already.
    pub fn want<K: Resource<DynamicType = ()> + Serialize>(&mut self, object: &K) -> Result<(), BuildError> {
        let manifest = Manifest::of(object)?;
        let key = manifest.key();
        let live = self.seen.live.get(&key);
        if !live.is_some_and(|live| manifest.fulfilled_by(&live.value)) {
            self.plan.apply.push(manifest);
        }
        self.wanted.insert(key);
        Ok(())
    }

    /// An object that is kept as it is.
    pub fn keep(&mut self, kind: &str, name: String) {
        self.wanted.insert((kind.to_owned(), name));
    }

    pub fn status(&mut self) -> &mut PgPoolStatus {
        &mut self.plan.status
    }

    pub fn pool_uid(&self) -> String {
        self.seen.membership.as_ref().map(|m| m.spec.pool_uid.clone()).unwrap_or_default()
    }

    /// The node that begins the pool.
    pub fn bootstrap(&self) -> u8 {
        self.seen.membership.as_ref().map_or(names::BOOTSTRAP, |m| m.spec.bootstrap)
    }

    /// Whether the pool goes on with the data of an earlier one.
    pub fn adopts(&self) -> bool {
        self.seen.membership.as_ref().is_some_and(|m| m.spec.adopts)
    }

    pub fn record(&self) -> Option<&'a Record> {
        self.seen.membership.as_ref().and_then(|m| m.record.as_ref())
    }

    /// How many nodes the record counts.
    pub fn attached(&self) -> usize {
        self.record().map_or(0, |record| record.attached.len())
    }

    pub fn is_attached(&self, index: u8) -> bool {
        self.record().is_some_and(|record| record.attached.iter().any(|member| member.index == index))
    }

    pub fn node(&self, index: u8) -> Option<&'a NodeSeen> {
        self.seen.nodes.get(&index)
    }

    pub fn report(&self, index: u8) -> Option<&'a NodeReport> {
        self.node(index).and_then(NodeSeen::report)
    }

    /// The primary in office, as its own agent says.
    pub fn primary(&self) -> Option<(u8, &'a NodeReport)> {
        let record = self.record()?;
        let report = self.report(record.primary)?;
        // The report and the record are read one after the other, and the record may have changed in between. A
        // primary that another has deposed is two epochs behind at least: one for the election, one for its end.
        let in_office = report.role == Role::Primary && report.open && report.epoch + 1 >= record.epoch;
        in_office.then_some((record.primary, report))
    }

    /// Whether a person wants the node out, for whatever reason.
    pub fn is_wished_out(&self, index: u8) -> bool {
        let status = &self.plan.status;
        status.detached_by_wish.contains(&index) || status.fenced.contains(&index)
    }

    /// The nodes that shall be attached, whatever they are.
    pub fn wished(&self) -> impl Iterator<Item = u8> + '_ {
        (0..self.pool.nodes).filter(|index| !self.is_wished_out(*index))
    }

    /// Nodes beyond the spec that are still there, in the order of their indices.
    pub fn extras(&self) -> Vec<u8> {
        self.seen.nodes.keys().copied().filter(|index| *index >= self.pool.nodes).collect()
    }

    /// Goes on with a change, or says what it waits for; the first that says so counts.
    pub fn changing(&mut self, reason: &'static str, message: impl Into<String>) {
        let message = message.into();
        self.change.get_or_insert(Change { reason, message, stopped: false });
    }

    /// A change that goes on only when a person has acted.
    pub fn stuck(&mut self, reason: &'static str, message: impl Into<String>) {
        let message = message.into();
        self.tell_once(reason.to_owned(), Happening::warning(reason, message.clone()));
        self.troubles.push((reason, message.clone()));
        self.change.get_or_insert(Change { reason, message, stopped: true });
    }

    pub fn has_certificate(&self, secret: &str) -> bool {
        self.seen.secrets.leaves.contains_key(secret)
    }
}

/// What the last pass could not do stays in the conditions until a pass has done it.
fn memory_trouble(seen: &Observed) -> Vec<(&'static str, String)> {
    seen.memory.last_error.clone().into_iter().collect()
}
