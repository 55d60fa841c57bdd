//! The pool under test: what its status says, and waiting for it.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::ListParams;
use kube::runtime::wait::await_condition;
use kube::{Api, ResourceExt as _};
use pgpool_operator::api::v1alpha1::{
    Health, PgPool, PgPoolMembership, PgPoolStatus, Phase, Record, RecoveryStage, RequestAnswer, annotations,
};
use pgpool_operator::names;

use super::harness::{Failure, Outcome, ensure, failed};
use super::world::{POOL, SPACE, World, until};

/// Nodes of the pool.
pub const NODES: [u8; 3] = [0, 1, 2];
/// Time for a pool to be whole again after a fault, copies included, on a busy machine.
pub const WHOLE: Duration = Duration::from_secs(150);
/// Time for the operator to answer an annotation.
const ANSWER: Duration = Duration::from_secs(30);

impl World {
    /// The pools of the namespace.
    pub fn pools(&self) -> Api<PgPool> {
        Api::namespaced(self.client.clone(), SPACE)
    }

    /// The pods of the namespace.
    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), SPACE)
    }

    /// The pods of a part of the pool that don't go.
    pub async fn alive(&self, part: &str) -> Outcome<Vec<Pod>> {
        let labels = selector_of(self.pool, part);
        let mut pods = self.pods().list(&ListParams::default().labels(&labels)).await?.items;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(pods)
    }

    /// What the pool says of itself.
    pub async fn status(&self) -> Outcome<PgPoolStatus> {
        Ok(self.pools().get(self.pool).await?.status.unwrap_or_default())
    }

    /// The record of who counts.
    pub async fn record(&self) -> Outcome<Record> {
        let api: Api<PgPoolMembership> = Api::namespaced(self.client.clone(), SPACE);
        api.get(self.pool).await?.status.ok_or_else(|| Failure("the pool has no record".to_owned()))
    }

    /// Which copy of the data stands on each attached node.
    pub async fn incarnations(&self) -> Outcome<BTreeMap<u8, String>> {
        Ok(self.record().await?.attached.into_iter().map(|m| (m.index, m.incarnation)).collect())
    }

    /// Fails unless the same copies of the data as before are attached.
    pub async fn same_copies(&self, before: &BTreeMap<u8, String>) -> Outcome {
        let after = self.incarnations().await?;
        ensure(*before == after, || format!("copied without need: {before:?} became {after:?}"))
    }

    /// Fails unless each of these nodes has another pod than the one with this uid.
    pub async fn other_pods(&self, before: &BTreeMap<u8, String>) -> Outcome {
        for (node, uid) in before {
            let now = self.pods().get(&names::node_pod(self.pool, *node)).await?.uid();
            ensure(now.as_ref() != Some(uid), || format!("the pod of node {node} is the old one"))?;
        }
        Ok(())
    }

    /// Watches the pool until its status is as wished.
    pub async fn when(
        &self,
        what: &str,
        limit: Duration,
        wish: impl Fn(&PgPoolStatus) -> bool + Send,
    ) -> Outcome<PgPoolStatus> {
        let seen = Arc::new(Mutex::new(PgPoolStatus::default()));
        let last = Arc::clone(&seen);
        let holds = move |pool: Option<&PgPool>| {
            let Some(status) = pool.and_then(|pool| pool.status.as_ref()) else { return false };
            if let Ok(mut seen) = last.lock() {
                seen.clone_from(status);
            }
            wish(status)
        };
        let waited = tokio::time::timeout(limit, await_condition(self.pools(), self.pool, holds)).await;
        let seen = seen.lock().map(|seen| seen.clone()).unwrap_or_default();
        match waited {
            Ok(Ok(_)) => Ok(seen),
            Ok(Err(error)) => failed(format!("watching for {what}: {error}")),
            Err(_) => {
                failed(format!("waited {} s for {what}; seen at last: {}", limit.as_secs(), told(&seen)))
            }
        }
    }

    /// Watches the record until it is as wished; sees it as soon as an agent does.
    pub async fn when_record(
        &self,
        what: &str,
        limit: Duration,
        wish: impl Fn(&Record) -> bool + Send,
    ) -> Outcome<Record> {
        let api: Api<PgPoolMembership> = Api::namespaced(self.client.clone(), SPACE);
        let holds = move |object: Option<&PgPoolMembership>| {
            object.and_then(|object| object.status.as_ref()).is_some_and(&wish)
        };
        let found = tokio::time::timeout(limit, await_condition(api, self.pool, holds)).await;
        match found {
            Ok(Ok(object)) => object
                .and_then(|object| object.status)
                .ok_or_else(|| Failure("the pool has no record".to_owned())),
            Ok(Err(error)) => failed(format!("watching for {what}: {error}")),
            Err(_) => failed(format!("waited {} s for {what}: {:?}", limit.as_secs(), self.record().await?)),
        }
    }

    /// Waits until the pool is Ready, every node attached, nothing under way and every node's pod ready. The record
    /// is asked too: a status says nothing new while the operator's own machine is lost.
    pub async fn whole(&self, limit: Duration) -> Outcome<PgPoolStatus> {
        let status = until("a whole pool", limit, || async {
            let (record, status) = (self.record().await?, self.status().await?);
            let all = record.phase == Phase::Serving && record.attached.len() == self.nodes.len();
            let told = status.membership.as_ref().is_some_and(|view| view.epoch == record.epoch);
            ensure(all && told && is_whole(&status, self.nodes), || {
                let last = status.last_recovery.as_ref();
                let last = last.map(|last| (last.node, last.succeeded, last.failures, &last.message));
                format!("{record:?}, {:?}, last recovery {last:?}", status.phase)
            })?;
            Ok(status)
        })
        .await?;
        let pods = self.pods();
        until("ready pods of nodes", limit, || async {
            let list = pods.list(&ListParams::default().labels(&selector_of(self.pool, "node"))).await?;
            let ready = list.items.iter().filter(|pod| is_ready(pod)).count();
            ensure(ready == self.nodes.len(), || format!("{ready} pods of nodes are ready"))
        })
        .await?;
        Ok(status)
    }

    /// Puts an annotation on the pool as a person would, and waits for its answer.
    pub async fn ask(&self, request: &str, value: &str) -> Outcome<RequestAnswer> {
        let before = self.status().await?.last_request.map(|answer| answer.at);
        self.annotate(&[(request, value)]).await?;
        let what = format!("the answer to {request}={value}");
        let status = self
            .when(&what, ANSWER, |status| {
                status.last_request.as_ref().is_some_and(|answer| {
                    answer.request == request && answer.value == value && Some(answer.at) != before
                })
            })
            .await?;
        status.last_request.ok_or_else(|| Failure(format!("{what} went away")))
    }

    /// Asks, and fails unless that is taken on.
    pub async fn ask_for(&self, request: &str, value: &str) -> Outcome {
        let answer = self.ask(request, value).await?;
        ensure(answer.accepted, || format!("{request}={value} was refused: {}", answer.message))
    }

    /// Puts several annotations on the pool at once.
    pub async fn annotate(&self, requests: &[(&str, &str)]) -> Outcome {
        let words: Vec<String> =
            requests.iter().map(|(request, value)| format!("{}={value}", annotation(request))).collect();
        let target = format!("pgpool/{}", self.pool);
        let mut args = vec!["annotate", "--overwrite", &target];
        args.extend(words.iter().map(String::as_str));
        self.here(&args).await.map(drop)
    }

    /// Waits for the end of a recovery of this node that ended after `before`.
    pub async fn recovered(&self, node: u8, before: &PgPoolStatus) -> Outcome<PgPoolStatus> {
        let old = before.last_recovery.as_ref().map(|last| last.id.clone());
        self.when(&format!("the end of a recovery of node {node}"), WHOLE, |status| {
            status
                .last_recovery
                .as_ref()
                .is_some_and(|last| last.node == node && last.succeeded && Some(&last.id) != old.as_ref())
                && is_whole(status, self.nodes)
        })
        .await
    }

    /// Waits until a recovery of this node is in this stage.
    pub async fn in_stage(&self, node: u8, stage: RecoveryStage) -> Outcome<PgPoolStatus> {
        self.when(&format!("stage {stage:?} of a recovery of node {node}"), WHOLE, |status| {
            status.recovery.as_ref().is_some_and(|running| running.node == node && running.stage == stage)
        })
        .await
    }

    /// The Kubernetes node that a node's pod runs on.
    pub async fn machine_of(&self, node: u8) -> Outcome<String> {
        let pod = self.pods().get(&names::node_pod(self.pool, node)).await?;
        pod.spec
            .and_then(|spec| spec.node_name)
            .ok_or_else(|| Failure(format!("the pod of node {node} runs nowhere")))
    }

    /// The notes of the pool's events with this reason.
    pub async fn events(&self, reason: &str) -> Outcome<Vec<String>> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), SPACE);
        let fields = format!("reason={reason}");
        let list = api.list(&ListParams::default().fields(&fields)).await?;
        Ok(list.items.into_iter().filter_map(|event| event.message).collect())
    }
}

/// Whether every node is attached and nothing is under way.
pub fn is_whole(status: &PgPoolStatus, nodes: &[u8]) -> bool {
    status.phase == Some(Health::Ready)
        && status.recovery.is_none()
        && status.membership.as_ref().is_some_and(|view| view.attached == nodes)
}

/// Whether a pod's own probe says that it serves.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// Selects the pods of a part of the pool that the scenario is about.
pub fn selector(part: &str) -> String {
    selector_of(POOL, part)
}

fn selector_of(pool: &str, part: &str) -> String {
    format!("{}={pool},{}={part}", names::LABEL_POOL, names::LABEL_PART)
}

/// The role label of a pod.
pub fn role(pod: &Pod) -> String {
    pod.labels().get(names::LABEL_ROLE).cloned().unwrap_or_default()
}

/// The attached nodes.
pub fn attached(status: &PgPoolStatus) -> Vec<u8> {
    status.membership.as_ref().map(|view| view.attached.clone()).unwrap_or_default()
}

/// The epoch of the record.
pub fn epoch(status: &PgPoolStatus) -> i64 {
    status.membership.as_ref().map_or(0, |view| view.epoch)
}

/// A status in one line.
pub fn told(status: &PgPoolStatus) -> String {
    let nodes: Vec<String> =
        status.nodes.iter().map(|n| format!("{}:{:?} {}", n.index, n.state, n.reason)).collect();
    format!(
        "phase {:?}, membership {:?}, nodes [{}], recovery {:?}, last recovery {:?}, last request {:?}",
        status.phase,
        status.membership,
        nodes.join(", "),
        status.recovery,
        status.last_recovery,
        status.last_request
    )
}

fn annotation(request: &str) -> &'static str {
    let found = annotations::REQUESTS.into_iter().find(|name| name.ends_with(&format!("/{request}")));
    found.unwrap_or_else(|| panic!("there is no request {request}"))
}
