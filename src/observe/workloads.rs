//! StatefulSets, pods, Jobs and the Deployment, reduced to what the planner asks.
use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;
use serde::Deserialize;

use super::kubernetes::Lists;
use crate::model::{DeploymentSeen, JobOutcome, JobSeen, PodSeen, SetSeen, ValidPool};
use crate::names;
use crate::resources::{ANNOTATION_MAY_DESTROY, ANNOTATION_TEMPLATE, Part};

/// Reasons for which a container waits that a person must look at.
const WAITING: [&str; 8] = [
    "ImagePullBackOff",
    "ErrImagePull",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "CrashLoopBackOff",
];

/// What the trouble of a pod begins with that has no machine.
const NO_MACHINE: &str = "its pod can't be scheduled";

/// The index in the label of something that belongs to a node.
pub(super) fn index<K: ResourceExt>(object: &K) -> Option<u8> {
    object.labels().get(names::LABEL_NODE)?.parse().ok()
}

/// Whether it is a pod of a node, and not of its recovery Job.
pub(super) fn is_node(pod: &Pod) -> bool {
    pod.labels().get(names::LABEL_PART).is_some_and(|part| part == Part::Node(0).as_str())
}

pub(super) fn set(pool: &ValidPool, lists: &Lists, index: u8) -> Option<SetSeen> {
    let name = names::stateful_set(pool.name(), index);
    let set = lists.sets.iter().find(|set| set.name_any() == name)?;
    Some(SetSeen { replicas: set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1) })
}

pub(super) fn pod(pool: &ValidPool, lists: &Lists, index: u8) -> Option<PodSeen> {
    let name = names::node_pod(pool.name(), index);
    let pod = lists.pods.iter().find(|pod| pod.name_any() == name)?;
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let is = |kind: &str, answer: &str| conditions.iter().any(|c| c.type_ == kind && c.status == answer);
    Some(PodSeen {
        uid: pod.uid().unwrap_or_default(),
        kubernetes_node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        role: pod.labels().get(names::LABEL_ROLE).cloned(),
        deleting: pod.metadata.deletion_timestamp.is_some(),
        address: status.and_then(|status| status.pod_ip.clone()),
        ready: is("Ready", "True"),
        trouble: trouble(pod).map(|text| with_field(pool, text)),
        unschedulable: is("PodScheduled", "False"),
        template: pod.annotations().get(ANNOTATION_TEMPLATE).cloned(),
    })
}

/// Why a pod doesn't run, where it is something that doesn't pass by itself.
fn trouble(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    if let Some(condition) =
        status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False")
    {
        let message = condition.message.clone().unwrap_or_default();
        return Some(format!("{NO_MACHINE}: {message}"));
    }
    let init = status.init_container_statuses.as_deref().unwrap_or_default();
    let main = status.container_statuses.as_deref().unwrap_or_default();
    init.iter().chain(main).find_map(waiting)
}

/// Where a person can mend it, of which Kubernetes says nothing: the storage class of a volume that is waited for, the wish for a
/// machine of its own, and what else a machine has to have.
fn with_field(pool: &ValidPool, text: String) -> String {
    match &pool.storage.storage_class_name {
        Some(class) if text.contains("PersistentVolumeClaim") => {
            format!("{text} Its claim asks for storage class {class}: see spec.storage.storageClassName")
        }
        None if text.contains("PersistentVolumeClaim") => {
            format!(
                "{text} Its claim asks for the cluster's default storage class: see spec.storage.storageClassName"
            )
        }
        _ if text.contains("topology spread") && pool.topology_spread.is_none() => {
            format!("{text} Each node of a pool wants a Kubernetes node of its own: see spec.topologySpread")
        }
        _ if text.starts_with(NO_MACHINE) => {
            format!(
                "{text} See spec.resources, spec.nodeSelector, spec.affinity and spec.tolerations, or add a machine"
            )
        }
        _ => text,
    }
}

fn waiting(container: &ContainerStatus) -> Option<String> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().filter(|reason| WAITING.contains(reason))?;
    let image = &container.image;
    Some(match reason {
        "ImagePullBackOff" | "ErrImagePull" | "ErrImageNeverPull" | "InvalidImageName" => {
            format!("the image {image} can't be pulled ({reason}): see spec.image and spec.imagePullSecrets")
        }
        _ => format!("container {} doesn't start ({reason})", container.name),
    })
}

pub(super) fn proxy(pool: &ValidPool, lists: &Lists) -> Option<DeploymentSeen> {
    let name = names::proxy(pool.name());
    let deployment = lists.deployments.iter().find(|deployment| deployment.name_any() == name)?;
    let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    Some(DeploymentSeen { ready })
}

pub(super) fn jobs(pool: &ValidPool, lists: &Lists) -> BTreeMap<String, JobSeen> {
    lists
        .jobs
        .iter()
        .filter_map(|job| {
            let node = index(job)?;
            let pod = lists
                .pods
                .iter()
                .find(|pod| pod.owner_references().iter().any(|o| Some(&o.uid) == job.uid().as_ref()));
            let seen = JobSeen {
                uid: job.uid().unwrap_or_default(),
                node,
                may_destroy: job
                    .annotations()
                    .get(ANNOTATION_MAY_DESTROY)
                    .is_some_and(|value| value == "true"),
                deleting: job.metadata.deletion_timestamp.is_some(),
                outcome: outcome(job, pod),
                bytes: pod.and_then(last_words).map_or(0, |words| words.bytes),
                trouble: pod.and_then(trouble).map(|text| with_field(pool, text)),
            };
            Some((job.name_any(), seen))
        })
        .collect()
}

/// What a recovery Job leaves as its termination message.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LastWords {
    message: String,
    #[serde(default)]
    bytes: i64,
    #[serde(default)]
    needs_destroy: bool,
}

fn outcome(job: &Job, pod: Option<&Pod>) -> JobOutcome {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let met = |kind: &str| conditions.iter().find(|c| c.type_ == kind && c.status == "True");
    if met("Complete").is_some() {
        return JobOutcome::Succeeded;
    }
    let Some(failed) = met("Failed") else { return JobOutcome::Running };
    let kubernetes = failed.message.clone().or_else(|| failed.reason.clone()).unwrap_or_default();
    match pod.and_then(last_words) {
        Some(words) => JobOutcome::Failed { message: words.message, needs_destroy: words.needs_destroy },
        None => JobOutcome::Failed { message: kubernetes, needs_destroy: false },
    }
}

fn last_words(pod: &Pod) -> Option<LastWords> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let terminated = statuses.iter().find_map(|status| status.state.as_ref()?.terminated.as_ref())?;
    serde_json::from_str(terminated.message.as_ref()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn why_a_container_waits_is_told_where_it_does_not_pass_by_itself() {
        let told = |reason: &str| {
            let container = json!({"name": "postgres", "image": "x:1", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": reason}}});
            let pod = json!({"metadata": {}, "status": {"containerStatuses": [container]}});
            trouble(&serde_json::from_value(pod).unwrap())
        };
        assert_eq!(told("ContainerCreating"), None);
        let image = told("ErrImagePull").unwrap();
        assert!(image.contains("x:1") && image.contains("spec.image"), "{image}");
        assert_eq!(
            told("RunContainerError").unwrap(),
            "container postgres doesn't start (RunContainerError)"
        );
    }
}
