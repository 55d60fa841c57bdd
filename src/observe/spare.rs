//! Objects without what nobody here looks at, which is the larger part of many.
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::Resource;

/// What `kubectl apply` writes down: the whole manifest once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Takes out who wrote which field, a tree as large as the object itself, and what `kubectl apply` wrote down.
pub fn slim<K: Resource>(object: &mut K) {
    let metadata = object.meta_mut();
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

/// The same of a pod. Of its spec only the place is looked at: whether it is as it should be is seen by the mark of its
/// template.
pub fn slim_pod(pod: &mut Pod) {
    slim(pod);
    if let Some(spec) = &mut pod.spec {
        *spec = PodSpec { node_name: spec.node_name.take(), ..PodSpec::default() };
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
    use serde_json::{Value, json};

    use super::*;

    fn pod(more: &Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": "birch-0-0", "labels": {"a": "b"}, "annotations": {"c": "d"}},
            "spec": {"containers": [], "nodeName": "n1"},
            "status": {"podIP": "10.0.0.1", "containerStatuses": [
                {"name": "postgres", "image": "postgres:17", "imageID": "", "ready": true, "restartCount": 0},
            ]},
        });
        for (path, value) in more.as_object().into_iter().flatten() {
            *pod.pointer_mut(path).unwrap() = value.clone();
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn of_a_pod_its_place_and_what_others_say_of_it_stay() {
        let mut full = pod(&json!({
            "/metadata/annotations": {"c": "d", LAST_APPLIED: "{}"},
            "/spec": {"nodeName": "n1", "containers": [{"name": "postgres", "image": "postgres:17"}], "tolerations": []},
        }));
        full.metadata.managed_fields = Some(vec![ManagedFieldsEntry::default()]);
        slim_pod(&mut full);
        assert_eq!(full, pod(&json!({})));
    }
}
