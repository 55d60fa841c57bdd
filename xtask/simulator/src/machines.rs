//! Kubernetes nodes without a machine, and the volumes on them: objects of the API, and their heartbeat.
//!
//! All carry the label [`SIMULATED`], by which whoever started this takes them away.
use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, PersistentVolume};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use pgpool_operator::clock;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use crate::error::SimulatorError;

/// The machines: as many as a pool has nodes, each of which wants one of its own.
const NAMES: [&str; 3] = ["simulated-1", "simulated-2", "simulated-3"];
/// Label of all that is made here, and taint of the machines.
const SIMULATED: &str = "pgpool-operator.dev/simulated";
/// Storage class of the volumes; nobody makes any more of them.
const CLASS: &str = "simulated";
/// Size of each volume.
const SIZE: &str = "1Gi";
/// Field manager of all that is made here.
const MANAGER: &str = "pgpool-simulator";
/// Where heartbeats are.
const LEASES: &str = "kube-node-lease";
/// Between two heartbeats: Kubernetes here gives a node up after eight seconds.
const BEAT: Duration = Duration::from_secs(2);
/// What a lease says that it lasts, in seconds.
const LASTS: i32 = 8;

/// Whether a machine is one of these.
pub fn is_ours(machine: &str) -> bool {
    NAMES.contains(&machine)
}

/// Makes the storage class, so many volumes for each machine, and the machines, which live from now on.
pub async fn make(client: &Client, address: Ipv4Addr, volumes: u32) -> Result<(), SimulatorError> {
    let classes: Api<StorageClass> = Api::all(client.clone());
    apply(&classes, "StorageClass", CLASS, &class()).await?;
    let api: Api<PersistentVolume> = Api::all(client.clone());
    for machine in NAMES {
        for number in 1..=volumes {
            let name = format!("{machine}-{number}");
            apply(&api, "PersistentVolume", &name, &volume(machine, &name)).await?;
        }
    }
    // A machine counts as lost when it is there before its heartbeat.
    tokio::spawn(beat(client.clone()));
    let machines: Api<Node> = Api::all(client.clone());
    for machine in NAMES {
        apply(&machines, "Node", machine, &node(machine)).await?;
        let status = Patch::Merge(status(machine, address, clock::timestamp()));
        let done = machines.patch_status(machine, &PatchParams::default(), &status).await;
        done.map_err(SimulatorError::api("Node", machine))?;
    }
    Ok(())
}

async fn apply<K>(
    api: &Api<K>,
    kind: &'static str,
    name: &str,
    object: &(impl Serialize + Debug + Sync),
) -> Result<(), SimulatorError>
where
    K: Clone + DeserializeOwned + Debug,
{
    let params = PatchParams::apply(MANAGER).force();
    api.patch(name, &params, &Patch::Apply(object)).await.map(drop).map_err(SimulatorError::api(kind, name))
}

/// Renews the leases of the machines for ever.
async fn beat(client: Client) {
    let leases: Api<Lease> = Api::namespaced(client, LEASES);
    let mut ticks = interval(BEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for machine in NAMES {
            let lease = lease(machine, clock::timestamp());
            if let Err(error) = apply(&leases, "Lease", machine, &lease).await {
                tracing::warn!(%error, "no heartbeat");
            }
        }
    }
}

fn lease(machine: &str, now: Timestamp) -> Lease {
    let mut metadata = ObjectMeta { name: Some(machine.to_owned()), ..ObjectMeta::default() };
    metadata.labels.get_or_insert_default().insert(SIMULATED.to_owned(), "true".to_owned());
    let spec = LeaseSpec {
        holder_identity: Some(machine.to_owned()),
        lease_duration_seconds: Some(LASTS),
        renew_time: Some(MicroTime(now)),
        ..LeaseSpec::default()
    };
    Lease { metadata, spec: Some(spec) }
}

/// Volumes are bound where their pods are placed, as those of a machine's own disk are.
fn class() -> Value {
    json!({ "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": { "name": CLASS, "labels": { SIMULATED: "true" } },
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer" })
}

fn volume(machine: &str, name: &str) -> Value {
    let here = json!({ "key": "kubernetes.io/hostname", "operator": "In", "values": [machine] });
    let affinity = json!({ "required": { "nodeSelectorTerms": [{ "matchExpressions": [here] }] } });
    json!({ "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": { "name": name, "labels": { SIMULATED: "true" } },
        "spec": { "capacity": { "storage": SIZE }, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain", "storageClassName": CLASS,
            "local": { "path": format!("/simulated/{name}") }, "nodeAffinity": affinity } })
}

fn node(machine: &str) -> Value {
    let labels = json!({ SIMULATED: "true", "kubernetes.io/hostname": machine, "kubernetes.io/os": "linux" });
    let taint = json!({ "key": SIMULATED, "value": "true", "effect": "NoSchedule" });
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": machine, "labels": labels },
        "spec": { "taints": [taint] } })
}

/// Ready, and with room for everything.
fn status(machine: &str, address: Ipv4Addr, now: Timestamp) -> Value {
    let room = json!({ "cpu": "1000", "memory": "4Ti", "ephemeral-storage": "4Ti", "pods": "10000" });
    let condition = |kind: &str, status: &str| {
        json!({ "type": kind, "status": status, "reason": "Simulated", "message": "", "lastHeartbeatTime": Time(now),
            "lastTransitionTime": Time(now) })
    };
    let conditions = [
        condition("Ready", "True"),
        condition("MemoryPressure", "False"),
        condition("DiskPressure", "False"),
        condition("PIDPressure", "False"),
    ];
    let addresses =
        json!([{ "type": "InternalIP", "address": address }, { "type": "Hostname", "address": machine }]);
    json!({ "status": { "capacity": room, "allocatable": room, "conditions": conditions, "addresses": addresses } })
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt as _;

    use super::*;

    #[test]
    fn a_volume_is_reached_from_its_machine_alone() {
        let volume: PersistentVolume =
            serde_json::from_value(volume("simulated-2", "simulated-2-7")).unwrap();
        assert_eq!(volume.name_any(), "simulated-2-7");
        let spec = volume.spec.unwrap();
        assert_eq!(spec.storage_class_name.as_deref(), Some(CLASS));
        let terms = spec.node_affinity.unwrap().required.unwrap().node_selector_terms;
        let [only] = &terms[..] else { panic!("{terms:?}") };
        let place = &only.match_expressions.as_ref().unwrap()[0];
        assert_eq!(place.values.as_deref(), Some(&["simulated-2".to_owned()][..]));
    }

    #[test]
    fn a_machine_is_ready_and_takes_nobody_who_does_not_tolerate_it() {
        let now = Timestamp::from_second(9).unwrap();
        let mut machine: Node = serde_json::from_value(node("simulated-1")).unwrap();
        assert_eq!(machine.spec.unwrap().taints.unwrap()[0].effect, "NoSchedule");
        let status = status("simulated-1", [10, 0, 0, 1].into(), now);
        machine.status = serde_json::from_value(status["status"].clone()).unwrap();
        let conditions = machine.status.unwrap().conditions.unwrap();
        assert!(conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
        assert!(is_ours("simulated-1") && !is_ours("n1"));
        let lease = lease("simulated-1", now).spec.unwrap();
        assert_eq!(lease.renew_time, Some(MicroTime(now)));
    }
}
