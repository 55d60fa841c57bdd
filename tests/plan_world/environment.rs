//! What Kubernetes, the agents and the Jobs do by themselves, and what can happen to them.
use std::collections::BTreeSet;

use pgpool_operator::api::v1alpha1::{Member, MembershipSpec, Phase, Record};
use pgpool_operator::messages::RefusedHandover;
use pgpool_operator::model::{JobOutcome, PodSeen, bytes};
use pgpool_operator::names;

use super::{Data, NAMESPACE, POOL, World};

/// Machines of the cluster: some pools have more nodes.
const MACHINES: u8 = 3;

/// Something that goes wrong, or that somebody wants.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The operator starts anew: it remembers nothing.
    OperatorForgets,
    /// The copy of a node parts from the primary's history.
    Diverges(u8),
    /// The data of a node is gone.
    DataGone(u8),
    /// The volume of a node is lost.
    VolumeLost(u8),
    /// The agent of a node falls silent; the primary goes on as before, unseen by the operator.
    Silent(u8),
    /// It speaks again.
    Speaks(u8),
    /// The Job that runs fails.
    JobFails,
    /// The Job that runs finds no room beside the old data.
    JobNeedsRoom,
    /// Somebody annotates the pool.
    Asks(&'static str, String),
    /// The spec has another image; its end is the tag.
    Image(&'static str),
    /// The spec has another number of nodes.
    Nodes(u8),
    /// The spec wants larger volumes.
    Size(u64),
    /// Parameters change that take a restart.
    Parameters,
    /// The same of limits that become lower.
    Limits,
    /// A pod is deleted by somebody else.
    PodDies(u8),
    /// Primaries refuse to hand over, or no longer.
    Refuses(bool),
    /// Time passes.
    Time(u16),
}

impl World {
    /// Everything that can go on goes on.
    pub fn environment(&mut self) {
        self.kubernetes();
        self.jobs_end();
        self.agents();
    }

    fn kubernetes(&mut self) {
        let gone: Vec<u8> =
            self.pods.iter().filter(|(_, pod)| pod.deleting).map(|(index, _)| *index).collect();
        self.pods.retain(|_, pod| !pod.deleting);
        let sets = self.sets();
        let mut all: BTreeSet<u8> = (0..self.pool.nodes).chain(sets.keys().copied()).collect();
        all.extend(self.pods.keys().chain(self.claims.keys()));
        for index in all {
            let wanted = sets.get(&index).is_some_and(|replicas| *replicas == 1);
            let claim = self.claims.get(&index).is_some_and(|claim| !claim.deleting && claim.lost.is_none());
            if wanted && claim && !gone.contains(&index) {
                self.watch_start(index);
                self.start_pod(index);
            } else if !wanted || self.claims.get(&index).is_none_or(|claim| claim.lost.is_some()) {
                self.end_pod(index);
            }
            if self.claims.get(&index).is_some_and(|claim| claim.deleting) && !self.pods.contains_key(&index)
            {
                self.claims.remove(&index);
                self.live.remove(&("PersistentVolumeClaim".to_owned(), names::claim(POOL, index)));
                self.data.insert(index, Data::default());
            }
        }
        self.grow_volumes();
    }

    fn start_pod(&mut self, index: u8) {
        if self.pods.contains_key(&index) {
            return;
        }
        let set = &self.live[&("StatefulSet".to_owned(), names::stateful_set(POOL, index))].value;
        let template = &set["spec"]["template"];
        let image = template["spec"]["containers"][0]["image"].as_str().unwrap().to_owned();
        let bad = image.contains("absent");
        self.counter += 1;
        let pod = PodSeen {
            uid: format!("pod-{}", self.counter),
            address: Some("10.0.0.1".to_owned()),
            kubernetes_node: Some(format!("n{}", index % MACHINES)),
            ready: !bad,
            trouble: bad.then(|| format!("the image {image} can't be pulled: see spec.image")),
            template: template["metadata"]["annotations"]["pgpool-operator.dev/template"]
                .as_str()
                .map(str::to_owned),
            ..PodSeen::default()
        };
        self.pods.insert(index, pod);
        self.images.insert(index, image);
        self.started(index);
    }

    fn started(&mut self, index: u8) {
        *self.boots.entry(index).or_default() += 1;
        self.pending.remove(&index);
    }

    /// A volume follows its claim once it is bound, that is, once a pod or Job has used it.
    fn grow_volumes(&mut self) {
        for (index, claim) in &mut self.claims {
            let asked = bytes(&claim.size.requested);
            let used = self.pods.contains_key(index) || self.data[index].incarnation.is_some();
            if used && (claim.size.capacity.is_none() || !self.fixed_volumes) {
                claim.size.capacity = asked;
            }
            claim.size.fixed = self.fixed_volumes.then(|| "its class doesn't allow it".to_owned());
        }
    }

    /// A pod ends in two steps, so that the planner sees it end.
    fn end_pod(&mut self, index: u8) {
        match self.pods.get_mut(&index) {
            Some(pod) if !pod.deleting => pod.deleting = true,
            _ => drop(self.pods.remove(&index)),
        }
    }

    /// A pod that starts beside a Job waits for it: it must not have the lock first, and only a lock on one
    /// machine keeps the two apart.
    fn watch_start(&mut self, index: u8) {
        let job = self.running().into_iter().find(|name| self.jobs[name].node == index);
        if let Some(name) = job.filter(|_| !self.pods.contains_key(&index))
            && !(self.local && (self.begun.contains_key(&name) || self.is_unused(index)))
        {
            self.broken.push(format!("the pod of node {index} starts before Job {name} has the volume"));
        }
    }

    /// Whether an agent leaves the volume to a Job.
    pub fn is_unused(&self, index: u8) -> bool {
        let new = self.claims.get(&index).is_some_and(|claim| !claim.filled);
        ![0, self.bootstrap()].contains(&index) && new && self.data[&index].incarnation.is_none()
    }

    /// A Job takes the volume once the node's pod is gone or leaves it alone, works, and ends.
    fn jobs_end(&mut self) {
        for name in self.running() {
            let Some(node) = self.jobs.get(&name).map(|job| job.node) else { continue };
            if !self.begun.contains_key(&name) {
                let beside = self.local && self.is_unused(node) && !self.starving;
                if beside || !self.pods.contains_key(&node) {
                    self.begun.insert(name, self.now);
                }
                continue;
            }
            let Some(job) = self.jobs.get_mut(&name) else { continue };
            self.begun.remove(&name);
            job.outcome = JobOutcome::Succeeded;
            let copy = Data { incarnation: self.job_orders.get(&name).cloned(), good: true };
            self.data.insert(job.node, copy);
        }
    }

    /// The bootstrap node writes the first record; the primary then keeps it in step with the spec.
    fn agents(&mut self) {
        // An agent that waits for its volume has nothing that could be attached.
        let running: Vec<u8> = (0..15).filter(|index| self.runs(*index) && !self.is_locked(*index)).collect();
        let Some(membership) = self.membership.clone() else { return };
        let Some(record) = membership.record else {
            self.begin(&membership.spec, &running);
            return;
        };
        if let Some(restart) = &membership.spec.restart
            && restart.boot == self.boot(restart.node)
            && running.contains(&restart.node)
        {
            self.started(restart.node);
        }
        if !running.contains(&record.primary) {
            self.elect(None, &running);
            return;
        }
        if let Some(wish) = membership.spec.switchover.filter(|wish| wish.timeline == record.timeline) {
            if self.refuses || !self.elect(wish.to, &running) {
                self.refused = Some(RefusedHandover { id: wish.id, why: "it is busy".to_owned() });
            } else {
                // The old one starts anew, as a standby.
                self.started(record.primary);
            }
            return;
        }
        self.keep_record(&running);
    }

    /// The first record, over a copy that is made, or over that of an earlier pool; those on other nodes are of no use then.
    fn begin(&mut self, spec: &MembershipSpec, running: &[u8]) {
        let node = spec.bootstrap;
        if !running.contains(&node) || self.data[&node].incarnation.is_some() != spec.adopts {
            return;
        }
        self.data.values_mut().for_each(|data| data.good = false);
        let (incarnation, epoch) = if spec.adopts { ("takenup00000", 40) } else { ("initdb000000", 1) };
        self.data.insert(node, Data { incarnation: Some(incarnation.to_owned()), good: true });
        self.membership.as_mut().unwrap().record = Some(first(node, incarnation.to_owned(), epoch));
    }

    /// Another primary takes over; the one before is left out.
    fn elect(&mut self, wished: Option<u8>, running: &[u8]) -> bool {
        let data = &self.data;
        let Some(record) = self.membership.as_mut().and_then(|m| m.record.as_mut()) else { return false };
        let before = record.primary;
        let fit = |member: &&Member| {
            member.index != before
                && running.contains(&member.index)
                && data[&member.index].good
                && data[&member.index].incarnation.as_ref() == Some(&member.incarnation)
                && wished.is_none_or(|to| to == member.index)
        };
        let Some(next) = record.attached.iter().find(fit).map(|member| member.index) else { return false };
        record.primary = next;
        record.attached.retain(|member| member.index != before);
        record.timeline += 1;
        record.epoch += 2;
        true
    }

    fn keep_record(&mut self, pods: &[u8]) {
        let Some(membership) = &mut self.membership else { return };
        let Some(record) = &mut membership.record else { return };
        if membership.spec.suspend {
            return;
        }
        let primary = record.primary;
        let data = &self.data;
        let fits = |member: &Member| {
            member.index == primary
                || (membership.spec.attach.contains(&member.index)
                    && pods.contains(&member.index)
                    && data[&member.index].good
                    && data[&member.index].incarnation.as_ref() == Some(&member.incarnation))
        };
        if let Some(gone) = record.attached.iter().position(|member| !fits(member)) {
            record.attached.remove(gone);
            record.epoch += 1;
            return;
        }
        let next = membership.spec.attach.iter().find(|index| {
            pods.contains(index)
                && data[index].good
                && !record.attached.iter().any(|member| member.index == **index)
        });
        if let Some(index) = next {
            let incarnation = data[index].incarnation.clone().unwrap_or_default();
            record.attached.push(Member { index: *index, incarnation });
            record.attached.sort();
            record.epoch += 1;
        }
    }

    /// Something happens. The primary's data is spared: whoever is the only one with it can't lose it.
    pub fn suffer(&mut self, fault: &Fault) {
        let primary = self.record().map_or(self.bootstrap(), |record| record.primary);
        match fault {
            Fault::OperatorForgets => self.memory = pgpool_operator::model::Memory::default(),
            Fault::Diverges(index) => {
                if let Some(data) = self.data.get_mut(index).filter(|_| *index != primary) {
                    data.good = false;
                }
            }
            Fault::DataGone(index) if *index != primary => {
                self.data.insert(*index, Data::default());
            }
            Fault::VolumeLost(index) if *index != primary => {
                if let Some(claim) = self.claims.get_mut(index) {
                    claim.lost = Some("its machine is gone".to_owned());
                }
            }
            Fault::DataGone(_) | Fault::VolumeLost(_) => {}
            Fault::Silent(index) => {
                self.silent.insert(*index);
            }
            Fault::Speaks(index) => {
                self.silent.remove(index);
            }
            Fault::JobFails => self.fail_jobs(false),
            Fault::JobNeedsRoom => self.fail_jobs(true),
            Fault::Asks(annotation, value) => {
                self.pool.requests.insert((*annotation).to_owned(), value.clone());
            }
            Fault::Image(image) => self.pool.image = format!("registry.example/database:{image}"),
            Fault::Nodes(nodes) => self.pool.nodes = *nodes,
            Fault::Size(gigabytes) => self.grow(*gigabytes),
            Fault::Parameters | Fault::Limits => {
                self.lowers = matches!(fault, Fault::Limits);
                self.pending.extend(self.pods.keys());
            }
            Fault::PodDies(index) => {
                if let Some(pod) = self.pods.get_mut(index) {
                    pod.deleting = true;
                }
            }
            Fault::Refuses(refuses) => self.refuses = *refuses,
            Fault::Time(seconds) => self.pass_time(i64::from(*seconds)),
        }
    }

    fn grow(&mut self, gigabytes: u64) {
        if gigabytes << 30 > self.pool.storage_bytes {
            self.pool.storage_bytes = gigabytes << 30;
            self.pool.storage.size = format!("{gigabytes}Gi");
        }
    }

    fn fail_jobs(&mut self, needs_destroy: bool) {
        for name in self.running() {
            if let Some(job) = self.jobs.get_mut(&name)
                && !(needs_destroy && job.may_destroy)
            {
                self.begun.remove(&name);
                job.outcome = JobOutcome::Failed { message: "no room".to_owned(), needs_destroy };
            }
        }
    }
}

fn first(index: u8, incarnation: String, epoch: i64) -> Record {
    Record {
        epoch,
        phase: Phase::Serving,
        primary: index,
        attached: vec![Member { index, incarnation }],
        timeline: 1,
        fork_lsn: "0/3000028".to_owned(),
        successor: None,
        stopped: false,
        reason: format!("the first copy of {POOL} in {NAMESPACE}"),
    }
}
