//! What a kubelet would say of a pod, and the address that it would give it. Pure.
use std::collections::HashMap;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use pgpool_operator::recover::Outcome;
use pgpool_operator::resources::Part;
use serde_json::{Value, json};

use crate::pool::phase;

/// Bytes that a recovery says it has copied: about what a new PostgreSQL has.
const COPIED: u64 = 24 << 20;

/// Addresses of pods, counted up: each pod keeps its own, and none is given twice.
#[derive(Debug)]
pub struct Addresses {
    next: u32,
    given: HashMap<String, Ipv4Addr>,
}

impl Addresses {
    /// The first of them.
    pub fn starting_at(first: Ipv4Addr) -> Self {
        Self { next: first.into(), given: HashMap::new() }
    }

    /// That of the pod with this uid.
    pub fn of(&mut self, uid: &str) -> Ipv4Addr {
        if let Some(address) = self.given.get(uid) {
            return *address;
        }
        let address = Ipv4Addr::from(self.next);
        self.next += 1;
        self.given.insert(uid.to_owned(), address);
        address
    }
}

/// What is said of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Its containers run, and answer their probes or don't.
    Running {
        /// Whether the readiness probe is answered.
        ready: bool,
    },
    /// Its work is done.
    Succeeded,
}

impl Said {
    /// Of a part of a pool. An agent is ready while clients are let in, so while its node is attached.
    pub fn of(part: Part, attached: bool) -> Option<Self> {
        match part {
            Part::Node(_) => Some(Self::Running { ready: attached }),
            Part::Proxy => Some(Self::Running { ready: true }),
            Part::Recovery(_) => Some(Self::Succeeded),
            Part::Pool => None,
        }
    }

    /// Whether that stands in the pod already.
    pub fn stands_in(self, pod: &Pod) -> bool {
        match self {
            Self::Succeeded => phase(pod) == "Succeeded",
            Self::Running { ready } => phase(pod) == "Running" && is_ready(pod) == ready,
        }
    }

    fn phase(self) -> &'static str {
        match self {
            Self::Running { .. } => "Running",
            Self::Succeeded => "Succeeded",
        }
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Where a pod is.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Address of its machine.
    pub machine: Ipv4Addr,
    /// Its own.
    pub pod: Ipv4Addr,
}

/// The change of a pod that says it.
pub fn change(pod: &Pod, said: Said, place: Place, now: Timestamp) -> Value {
    let status = pod.status.as_ref();
    let begun = status.and_then(|status| status.start_time.clone()).unwrap_or(Time(now));
    let containers = |which: Option<&Vec<Container>>, state: &Value, ready: bool| -> Vec<Value> {
        which.into_iter().flatten().map(|container| container_status(container, state, ready)).collect()
    };
    let spec = pod.spec.as_ref();
    let done = terminated(&begun, now, None);
    let state = match said {
        Said::Running { .. } => json!({ "running": { "startedAt": begun } }),
        Said::Succeeded => terminated(&begun, now, Some(&last_words())),
    };
    let first = spec.and_then(|spec| spec.init_containers.as_ref());
    let ready = said == (Said::Running { ready: true });
    json!({ "status": {
        "phase": said.phase(),
        "conditions": conditions(said, now),
        "startTime": begun,
        "hostIP": place.machine,
        "hostIPs": [{ "ip": place.machine }],
        "podIP": place.pod,
        "podIPs": [{ "ip": place.pod }],
        "initContainerStatuses": containers(first, &done, true),
        "containerStatuses": containers(spec.map(|spec| &spec.containers), &state, ready),
    } })
}

/// All of them: a change replaces the list, the scheduler's entry too.
fn conditions(said: Said, now: Timestamp) -> Vec<Value> {
    let ready = said == (Said::Running { ready: true });
    let all = [
        ("PodScheduled", true),
        ("PodReadyToStartContainers", said != Said::Succeeded),
        ("Initialized", true),
        ("ContainersReady", ready),
        ("Ready", ready),
    ];
    let condition = |(kind, holds): (&str, bool)| {
        let status = if holds { "True" } else { "False" };
        // As the Job controller and others know pods that have ended.
        let reason = (!holds && said == Said::Succeeded).then_some("PodCompleted");
        json!({ "type": kind, "status": status, "reason": reason, "lastTransitionTime": Time(now) })
    };
    all.into_iter().map(condition).collect()
}

fn container_status(container: &Container, state: &Value, ready: bool) -> Value {
    let started = state.get("running").is_some();
    json!({ "name": container.name, "image": container.image.as_deref().unwrap_or_default(), "imageID": "",
        "ready": ready, "started": started, "restartCount": 0, "state": state })
}

fn terminated(begun: &Time, now: Timestamp, message: Option<&str>) -> Value {
    json!({ "terminated": { "exitCode": 0, "reason": "Completed", "message": message, "startedAt": begun,
        "finishedAt": Time(now) } })
}

/// What a recovery leaves for the operator.
fn last_words() -> String {
    let outcome =
        Outcome { message: "simulated".to_owned(), bytes: COPIED, seconds: 0, needs_destroy: false };
    serde_json::to_string(&outcome).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "p" }, "spec": {
            "initContainers": [{ "name": "bootstrap", "image": "a" }],
            "containers": [{ "name": "postgres", "image": "b" }] } }))
        .unwrap()
    }

    /// The pod after a change, as the API server would have it.
    fn told(pod: &Pod, said: Said, second: i64) -> Pod {
        let place = Place { machine: [10, 0, 0, 1].into(), pod: [10, 1, 0, 1].into() };
        let change = change(pod, said, place, Timestamp::from_second(second).unwrap());
        Pod { status: Some(serde_json::from_value(change["status"].clone()).unwrap()), ..pod.clone() }
    }

    #[test]
    fn each_pod_keeps_an_address_of_its_own() {
        let mut addresses = Addresses::starting_at([10, 245, 0, 255].into());
        let one = addresses.of("one");
        assert_eq!((one, addresses.of("two")), ([10, 245, 0, 255].into(), [10, 245, 1, 0].into()));
        assert_eq!(addresses.of("one"), one);
        let all: std::collections::HashSet<_> =
            (0..2000).map(|number| addresses.of(&number.to_string())).collect();
        assert_eq!(all.len(), 2000);
    }

    #[test]
    fn parts_are_told_of_as_they_would_be() {
        assert_eq!(Said::of(Part::Node(1), false), Some(Said::Running { ready: false }));
        assert_eq!(Said::of(Part::Node(1), true), Some(Said::Running { ready: true }));
        assert_eq!(Said::of(Part::Proxy, false), Some(Said::Running { ready: true }));
        assert_eq!(Said::of(Part::Recovery(1), false), Some(Said::Succeeded));
        assert_eq!(Said::of(Part::Pool, true), None);
    }

    #[test]
    fn what_was_said_stands_in_the_pod() {
        let (waits, serves) = (Said::Running { ready: false }, Said::Running { ready: true });
        let new = pod();
        assert!(![waits, serves, Said::Succeeded].iter().any(|said| said.stands_in(&new)));
        let waiting = told(&new, waits, 1);
        assert!(waits.stands_in(&waiting) && !serves.stands_in(&waiting));
        let serving = told(&waiting, serves, 9);
        assert!(serves.stands_in(&serving) && !waits.stands_in(&serving));
        let status = serving.status.unwrap();
        assert_eq!(status.start_time, waiting.status.unwrap().start_time, "it began once");
        assert_eq!(
            (status.pod_ip.as_deref(), status.host_ip.as_deref()),
            (Some("10.1.0.1"), Some("10.0.0.1"))
        );
        let containers = [status.init_container_statuses.unwrap(), status.container_statuses.unwrap()];
        assert_eq!(containers.map(|list| (list.len(), list[0].ready)), [(1, true), (1, true)]);
    }

    #[test]
    fn a_recovery_leaves_the_words_that_the_operator_reads() {
        let done = told(&pod(), Said::Succeeded, 1);
        assert!(Said::Succeeded.stands_in(&done));
        let status = done.status.unwrap().container_statuses.unwrap().remove(0);
        let words = status.state.unwrap().terminated.unwrap().message.unwrap();
        let words: Outcome = serde_json::from_str(&words).unwrap();
        assert_eq!((words.bytes, words.needs_destroy), (COPIED, false));
    }
}
