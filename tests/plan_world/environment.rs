//! What Kubernetes, the agents and the Jobs do by themselves, and what can happen to them.
use pgpool_operator::api::v1alpha1::{Member, Phase, Record};
use pgpool_operator::model::{JobOutcome, PodSeen};
use pgpool_operator::names;

use super::{Data, NAMESPACE, POOL, World};

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
        let sets = self.sets();
        for index in 0..self.pool.nodes {
            let wanted = sets.get(&index).is_some_and(|replicas| *replicas == 1);
            let claim = self.claims.get(&index).is_some_and(|claim| !claim.deleting && claim.lost.is_none());
            if wanted && claim {
                self.counter += 1;
                let uid = format!("pod-{}", self.counter);
                self.pods.entry(index).or_insert(PodSeen {
                    uid,
                    has_address: true,
                    ready: true,
                    ..PodSeen::default()
                });
            } else if !wanted || self.claims.get(&index).is_none_or(|claim| claim.lost.is_some()) {
                self.pods.remove(&index);
            }
            if self.claims.get(&index).is_some_and(|claim| claim.deleting) && !self.pods.contains_key(&index)
            {
                self.claims.remove(&index);
                self.live.remove(&("PersistentVolumeClaim".to_owned(), names::claim(POOL, index)));
                self.data.insert(index, Data::default());
            }
        }
    }

    fn jobs_end(&mut self) {
        for name in self.running() {
            let Some(job) = self.jobs.get_mut(&name) else { continue };
            job.outcome = JobOutcome::Succeeded;
            let copy = Data { incarnation: self.job_orders.get(&name).cloned(), good: true };
            self.data.insert(job.node, copy);
        }
    }

    /// The bootstrap node writes the first record; the primary then keeps it in step with the spec.
    fn agents(&mut self) {
        let pods: Vec<u8> = self.pods.keys().copied().collect();
        let Some(membership) = &mut self.membership else { return };
        let Some(record) = &mut membership.record else {
            if pods.contains(&0) {
                let incarnation = "initdb000000".to_owned();
                self.data.insert(0, Data { incarnation: Some(incarnation.clone()), good: true });
                membership.record = Some(first(incarnation));
            }
            return;
        };
        if !pods.contains(&record.primary) {
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

    /// Something happens. The primary is spared: failover isn't the planner's matter.
    pub fn suffer(&mut self, fault: &Fault) {
        match fault {
            Fault::OperatorForgets => self.memory = pgpool_operator::model::Memory::default(),
            Fault::Diverges(index) => {
                if let Some(data) = self.data.get_mut(index).filter(|_| *index != 0) {
                    data.good = false;
                }
            }
            Fault::DataGone(index) if *index != 0 && *index < self.pool.nodes => {
                self.data.insert(*index, Data::default());
            }
            Fault::VolumeLost(index) if *index != 0 => {
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
            Fault::Time(seconds) => self.pass_time(i64::from(*seconds)),
        }
    }

    fn fail_jobs(&mut self, needs_destroy: bool) {
        for name in self.running() {
            if let Some(job) = self.jobs.get_mut(&name)
                && !(needs_destroy && job.may_destroy)
            {
                job.outcome = JobOutcome::Failed { message: "no room".to_owned(), needs_destroy };
            }
        }
    }
}

fn first(incarnation: String) -> Record {
    Record {
        epoch: 1,
        phase: Phase::Serving,
        primary: 0,
        attached: vec![Member { index: 0, incarnation }],
        timeline: 1,
        fork_lsn: "0/3000028".to_owned(),
        reason: format!("the first copy of {POOL} in {NAMESPACE}"),
    }
}
