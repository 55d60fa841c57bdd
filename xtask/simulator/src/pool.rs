//! What is known of a pool, and what its agents would say of it and write. Pure.
//!
//! No data moves: a copy is there once the pod that would have made it is, or has ended well.
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use pgpool_operator::api::v1alpha1::{Member, PgPoolMembership, Record};
use pgpool_operator::membership::record::{Illegal, first, grow, shrink};
use pgpool_operator::messages::{Join, NodeReport, Replica, Role};
use pgpool_operator::names;
use pgpool_operator::resources::{Part, incarnation};

/// Bytes of a node's volume; a tenth must be free, or the operator warns of it.
const VOLUME: u64 = 1 << 30;
/// Bytes that are free on it.
const FREE: u64 = VOLUME / 4 * 3;
/// Where the WAL of every node ends, in bytes: nobody writes.
const LSN: u64 = 0x300_0148;
/// The only timeline: nobody is elected.
const TIMELINE: u32 = 1;
/// Major version of PostgreSQL, as the image that the pools name would have it.
const POSTGRES: u32 = 17;
/// Milliseconds since a standby's last reply.
const REPLY_AGE: u64 = 100;
/// What the first copy of a pool's data is named after, in place of a recovery.
const FIRST_COPY: &str = "initdb";
/// Variable of a recovery's pod with the id of the copy that it makes.
const INCARNATION: &str = "PGPOOL_INCARNATION";

/// A pool.
#[derive(Debug, Default)]
pub struct Pool {
    /// The record and what the operator wants of it, as seen last.
    pub membership: Option<PgPoolMembership>,
    /// Its pods by name, as seen last.
    pub pods: BTreeMap<String, Pod>,
    /// Ids of the copies on its volumes, by node.
    pub copies: BTreeMap<u8, String>,
    /// Whether the operator has had roles and databases made.
    pub bootstrapped: bool,
}

/// The pool that a pod belongs to.
pub fn pool_of(pod: &Pod) -> Option<String> {
    pod.labels().get(names::LABEL_POOL).cloned()
}

/// Which part of it a pod is.
pub fn part_of(pod: &Pod) -> Option<Part> {
    let index = || -> Option<u8> { pod.labels().get(names::LABEL_NODE)?.parse().ok() };
    match pod.labels().get(names::LABEL_PART)?.as_str() {
        "node" => Some(Part::Node(index()?)),
        "recovery" => Some(Part::Recovery(index()?)),
        "proxy" => Some(Part::Proxy),
        _ => None,
    }
}

/// Its phase, as the API has it; empty before there is one.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The copy that a recovery's pod is told to make.
fn ordered(pod: &Pod) -> Option<String> {
    let environment = pod.spec.as_ref()?.containers.first()?.env.as_ref()?;
    environment.iter().find(|entry| entry.name == INCARNATION)?.value.clone()
}

impl Pool {
    fn record(&self) -> Option<&Record> {
        self.membership.as_ref()?.status.as_ref()
    }

    /// Whether the pod of a node runs.
    fn runs(&self, index: u8) -> bool {
        let is_its = |pod: &&Pod| part_of(pod) == Some(Part::Node(index));
        let runs = |pod: &Pod| phase(pod) == "Running" && pod.metadata.deletion_timestamp.is_none();
        self.pods.values().filter(is_its).any(runs)
    }

    /// A node with the copy that it has.
    fn member(&self, index: u8) -> Option<Member> {
        Some(Member { index, incarnation: self.copies.get(&index)?.clone() })
    }

    /// Whether the record counts a node with the copy that it has: then clients would be let in.
    pub fn is_attached(&self, index: u8) -> bool {
        let Some(member) = self.member(index) else { return false };
        self.record().is_some_and(|record| record.attached.contains(&member))
    }

    /// Takes note of the copies that were made: by the node that begins the pool, and by the recoveries that are done.
    pub fn learn(&mut self) {
        for pod in self.pods.values().filter(|pod| phase(pod) == "Succeeded") {
            if let (Some(Part::Recovery(index)), Some(copy)) = (part_of(pod), ordered(pod)) {
                self.copies.insert(index, copy);
            }
        }
        let Some(membership) = &self.membership else { return };
        let bootstrap = membership.spec.bootstrap;
        if membership.status.is_none() && self.runs(bootstrap) {
            let copy = incarnation(&membership.spec.pool_uid, FIRST_COPY);
            self.copies.entry(bootstrap).or_insert(copy);
        }
    }

    /// The next record that its agents would write; none where all is as the operator wants it. One step at a time, each by
    /// the functions that agents use, so that the API server takes it.
    pub fn next_record(&self) -> Result<Option<Record>, Illegal> {
        let Some(membership) = &self.membership else { return Ok(None) };
        if membership.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let spec = &membership.spec;
        let Some(record) = &membership.status else {
            let begins = self.member(spec.bootstrap).filter(|member| self.runs(member.index));
            return Ok(begins.map(|member| first(member, TIMELINE, 0)));
        };
        let counted: Vec<u8> = record.attached.iter().map(|member| member.index).collect();
        let leaves = counted.iter().find(|index| **index != record.primary && !spec.attach.contains(index));
        if let Some(index) = leaves {
            return shrink(record, *index, "it is wished out (simulated)").map(Some);
        }
        let mut wanted = spec.attach.iter().filter(|index| !counted.contains(index) && self.runs(**index));
        let comes = wanted.find_map(|index| self.member(*index));
        comes.map(|member| grow(record, member, "its copy is whole (simulated)")).transpose()
    }

    /// What the agent of a node says; none before the pool has a membership. `boot` names the start of its PostgreSQL.
    pub fn report(&self, index: u8, boot: &str) -> Option<NodeReport> {
        let spec = &self.membership.as_ref()?.spec;
        let (record, copy) = (self.record(), self.copies.get(&index));
        let attached = self.is_attached(index);
        let role = match record {
            Some(record) if attached && record.primary == index => Role::Primary,
            Some(_) if copy.is_some() => Role::Standby,
            _ => Role::Stopped,
        };
        let primary = role == Role::Primary;
        let runs = role != Role::Stopped;
        let epoch = record.map_or(0, |record| record.epoch);
        Some(NodeReport {
            pool_uid: spec.pool_uid.clone(),
            incarnation: copy.cloned(),
            epoch,
            seen: epoch,
            role,
            open: attached,
            lease_ms: if attached { u64::from(spec.timings.lease_ms) } else { 0 },
            streaming: role == Role::Standby,
            timeline: runs.then_some(TIMELINE),
            lsn: runs.then_some(LSN),
            weight: spec.load_balancing.weight(index, primary),
            join: if copy.is_some() {
                Join::Proved
            } else {
                Join::NeedsCopy("its volume is empty".to_owned())
            },
            replicas: if primary { self.replicas(index) } else { Vec::new() },
            synchronous: if primary { self.synchronous(index) } else { Vec::new() },
            bootstrapped: primary && self.bootstrapped,
            ..quiet(index, boot)
        })
    }

    /// The standbys, as a primary's walsenders would have them.
    fn replicas(&self, primary: u8) -> Vec<Replica> {
        let others = self.copies.iter().filter(|(index, _)| **index != primary);
        let replica = |(index, copy): (&u8, &String)| Replica {
            index: *index,
            incarnation: copy.clone(),
            state: "streaming".to_owned(),
            priority: i32::from(self.is_attached(*index)),
            replay_lsn: Some(LSN),
            reply_age_ms: Some(REPLY_AGE),
            lag_ms: Some(0),
            address: None,
        };
        others.map(replica).collect()
    }

    fn synchronous(&self, primary: u8) -> Vec<u8> {
        let attached = self.record().into_iter().flat_map(|record| &record.attached);
        attached.map(|member| member.index).filter(|index| *index != primary).collect()
    }
}

/// Of a node where nothing is the matter.
fn quiet(index: u8, boot: &str) -> NodeReport {
    NodeReport {
        message: "simulated".to_owned(),
        postgres_version: Some(POSTGRES),
        volume_bytes: VOLUME,
        volume_free: FREE,
        ..NodeReport::unknown(index, boot)
    }
}

#[cfg(test)]
mod tests {
    use pgpool_operator::membership::record::check;
    use serde_json::{Value, json};

    use super::*;

    fn pod(part: &str, index: Option<u8>, phase: &str, environment: &Value) -> Pod {
        let mut labels = json!({ names::LABEL_POOL: "heron", names::LABEL_PART: part });
        if let Some(index) = index {
            labels[names::LABEL_NODE] = json!(index.to_string());
        }
        let container = json!({ "name": "one", "env": environment });
        serde_json::from_value(json!({ "metadata": { "name": "p", "labels": labels },
            "spec": { "containers": [container] }, "status": { "phase": phase } }))
        .unwrap()
    }

    fn membership(attach: &[u8]) -> PgPoolMembership {
        let timings = json!({ "heartbeatMs": 250, "detachAfterMs": 1500, "leaseMs": 2000, "graceMs": 3000,
            "detachLagMs": 30000 });
        let spec = json!({ "poolUid": "heron-uid", "nodes": 3, "attach": attach, "domain": "d", "timings": timings,
            "archiveMaxBytes": 1, "archiveRetentionSeconds": 1 });
        PgPoolMembership::new("heron", serde_json::from_value(spec).unwrap())
    }

    /// A pool whose nodes have pods that run, and nothing else.
    fn pool() -> Pool {
        let node = |index: u8| (format!("heron-{index}-0"), pod("node", Some(index), "Running", &json!([])));
        Pool { membership: Some(membership(&[0])), pods: (0..3).map(node).collect(), ..Pool::default() }
    }

    fn recover(pool: &mut Pool, index: u8, copy: &str) {
        let environment = json!([{ "name": INCARNATION, "value": copy }]);
        pool.pods.insert(format!("job-{index}"), pod("recovery", Some(index), "Succeeded", &environment));
        pool.learn();
    }

    /// Writes the next record, as the API server would take it.
    fn step(pool: &mut Pool) -> Record {
        let next = pool.next_record().unwrap().unwrap();
        let membership = pool.membership.as_mut().unwrap();
        check(membership.status.as_ref(), &next, membership.spec.bootstrap, false).unwrap();
        membership.status = Some(next.clone());
        next
    }

    fn attach(pool: &mut Pool, nodes: &[u8]) {
        pool.membership.as_mut().unwrap().spec.attach = nodes.to_vec();
    }

    #[test]
    fn parts_are_read_from_the_labels() {
        let none = json!([]);
        assert_eq!(part_of(&pod("node", Some(2), "", &none)), Some(Part::Node(2)));
        assert_eq!(part_of(&pod("recovery", Some(1), "", &none)), Some(Part::Recovery(1)));
        assert_eq!(part_of(&pod("proxy", None, "", &none)), Some(Part::Proxy));
        assert_eq!(part_of(&pod("node", None, "", &none)), None);
        assert_eq!(part_of(&Pod::default()), None);
        assert_eq!(pool_of(&pod("proxy", None, "", &none)).as_deref(), Some("heron"));
    }

    #[test]
    fn records_follow_each_other_by_legal_steps() {
        let mut pool = pool();
        assert_eq!(pool.next_record(), Ok(None), "nobody has data");
        pool.learn();
        assert_eq!(step(&mut pool).attached.len(), 1);
        assert_eq!(pool.next_record(), Ok(None), "the operator wants no more");
        attach(&mut pool, &[0, 1, 2]);
        assert_eq!(pool.next_record(), Ok(None), "the others have no copy");
        recover(&mut pool, 1, "copy1");
        recover(&mut pool, 2, "copy2");
        assert_eq!(step(&mut pool).attached.len(), 2, "one at a time");
        assert_eq!(step(&mut pool).attached.len(), 3);
        assert_eq!(pool.next_record(), Ok(None));
        attach(&mut pool, &[0, 2]);
        let less = step(&mut pool);
        assert_eq!((less.epoch, less.attached.len()), (4, 2));
        assert!(!pool.is_attached(1) && pool.is_attached(2));
        attach(&mut pool, &[]);
        step(&mut pool);
        assert_eq!(pool.next_record(), Ok(None), "the primary stays");
    }

    #[test]
    fn a_node_without_a_pod_neither_begins_a_pool_nor_joins_one() {
        let mut pool = pool();
        let pods = std::mem::take(&mut pool.pods);
        pool.learn();
        assert_eq!(pool.next_record(), Ok(None));
        pool.pods = pods;
        pool.learn();
        step(&mut pool);
        recover(&mut pool, 1, "copy1");
        attach(&mut pool, &[0, 1]);
        pool.pods.remove("heron-1-0");
        assert_eq!(pool.next_record(), Ok(None));
    }

    #[test]
    fn a_report_says_what_the_operator_waits_for() {
        let mut pool = pool();
        let empty = pool.report(1, "b").unwrap();
        assert_eq!((empty.role, empty.open, empty.incarnation), (Role::Stopped, false, None));
        assert!(matches!(empty.join, Join::NeedsCopy(_)));
        pool.learn();
        step(&mut pool);
        let first = pool.report(0, "b").unwrap();
        assert_eq!((first.role, first.open, first.epoch, first.seen), (Role::Primary, true, 1, 1));
        assert!(!first.bootstrapped);
        recover(&mut pool, 1, "copy1");
        let copied = pool.report(1, "b").unwrap();
        assert_eq!((copied.role, copied.open, copied.streaming), (Role::Standby, false, true));
        assert_eq!((copied.incarnation.as_deref(), copied.join), (Some("copy1"), Join::Proved));
        attach(&mut pool, &[0, 1]);
        step(&mut pool);
        pool.bootstrapped = true;
        let (primary, standby) = (pool.report(0, "b").unwrap(), pool.report(1, "b").unwrap());
        assert!(primary.bootstrapped && standby.open && !standby.bootstrapped);
        assert_eq!((primary.synchronous, primary.replicas.len()), (vec![1], 1));
        assert_eq!(primary.lsn, standby.lsn, "at rest nobody is behind");
        assert!(primary.volume_free > primary.volume_bytes / 10, "the operator would warn of it");
        assert!(Pool::default().report(0, "b").is_none());
    }
}
