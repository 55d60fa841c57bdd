//! The machines of the embedded cluster, and what can be done to them (`cargo xtask cluster node`).
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::ListParams;
use pgpool_operator::names;

use super::failover::{primary, standby, taken_over};
use super::harness::{Failure, Outcome, ensure, failed};
use super::load;
use super::pool::selector;
use super::world::{POOL, World, call_within, until};

/// The machine of etcd and the API server.
pub const API: &str = "cp";
/// How long the API server is away.
pub const API_AWAY: Duration = Duration::from_secs(60);
/// The machines that pods run on.
pub const MACHINES: [&str; 3] = ["n1", "n2", "n3"];
/// Longest time for a fault to be made or undone.
const FAULT: Duration = Duration::from_secs(120);
/// Time for a machine to be Ready again, and for the API to answer.
const BACK: Duration = Duration::from_secs(150);
/// How often a node is asked for as the primary.
const ASKED: u32 = 3;

/// Breaks or heals something; the arguments are those of `cargo xtask cluster node`.
pub async fn fault(args: &[&str]) -> Outcome {
    cluster_command(FAULT, "node", args).await
}

/// Runs a command of `cargo xtask cluster` on this cluster.
pub async fn cluster_command(limit: Duration, name: &str, args: &[&str]) -> Outcome {
    let set = |name: &str| std::env::var(name).map_err(|_| Failure(format!("{name} isn't set")));
    let (xtask, cluster) = (set("PGPOOL_XTASK")?, set("PGPOOL_CLUSTER")?);
    let words = [&["cluster", name, "--name", &cluster], args].concat();
    call_within(limit, &xtask, &words, None).await.map(drop)
}

/// The machine on which a pod runs.
async fn of_pod(world: &World, pod: &str) -> Outcome<String> {
    let pod = world.pods().get(pod).await?;
    let found = pod.spec.and_then(|spec| spec.node_name);
    found.ok_or_else(|| Failure("the pod runs nowhere".to_owned()))
}

/// The machine on which a node of the pool runs.
pub async fn of_node(world: &World, node: u8) -> Outcome<String> {
    of_pod(world, &names::node_pod(POOL, node)).await
}

/// The machines that pods run on, but for this one.
pub fn others(machine: &str) -> Vec<&'static str> {
    MACHINES.into_iter().filter(|other| *other != machine).collect()
}

/// The primary, on another machine than the load: where it isn't, it hands over to a standby that is.
pub async fn primary_away_from_load(world: &World) -> Outcome<u8> {
    let old = primary(world).await?;
    if of_node(world, old).await? != of_pod(world, load::POD).await? {
        return Ok(old);
    }
    hand_over(world, old, standby_away_from_load(world).await?).await
}

/// The primary hands over to this node. Asked of the operator and the agents, not of a kubelet: those are slow to see
/// anything after an outage. It is the beginning of a step, not what the step is about: a node whose machine is only just up may
/// be too late for the election, which passes it over then (R14), and is asked for once more.
pub async fn hand_over(world: &World, old: u8, to: u8) -> Outcome<u8> {
    // A node that has just come back is attached a moment before it serves: then the answer is to ask again later.
    let (node, mut from) = (to.to_string(), old);
    for _ in 0..ASKED {
        until("a node that may take over", BACK, || world.ask_for("switchover", &node)).await?;
        let new = taken_over(world, from).await?;
        load::unharmed(world).await?;
        if new == to {
            return Ok(new);
        }
        println!("    asked for node {to}, node {new} took over");
        from = new;
    }
    failed(format!("node {to} was asked for {ASKED} times, and others took over"))
}

/// An attached standby on another machine than the load.
pub async fn standby_away_from_load(world: &World) -> Outcome<u8> {
    let record = world.record().await?;
    let load = of_pod(world, load::POD).await?;
    for member in record.attached.iter().filter(|m| m.index != record.primary) {
        if of_node(world, member.index).await? != load {
            return Ok(member.index);
        }
    }
    failed("every attached standby runs beside the load")
}

/// The fronts: each with its machine and its address.
async fn fronts(world: &World) -> Outcome<Vec<(String, String)>> {
    let list = world.pods().list(&ListParams::default().labels(&selector("proxy"))).await?;
    let of = |pod: Pod| Some((pod.spec?.node_name?, pod.status?.pod_ip?));
    Ok(list.items.into_iter().filter_map(of).collect())
}

/// The machines of the fronts.
async fn machines_of_fronts(world: &World) -> Outcome<Vec<String>> {
    Ok(fronts(world).await?.into_iter().map(|(machine, _)| machine).collect())
}

/// The address of a front on this machine.
pub async fn front_on(world: &World, machine: &str) -> Outcome<String> {
    front_where(world, |its| its == machine).await
}

/// The address of a front on another machine than this one.
pub async fn front_away_from(world: &World, machine: &str) -> Outcome<String> {
    front_where(world, |its| its != machine).await
}

async fn front_where(world: &World, fits: impl Fn(&str) -> bool) -> Outcome<String> {
    let found = fronts(world).await?.into_iter().find(|(machine, _)| fits(machine));
    found.map(|(_, address)| address).ok_or_else(|| Failure("no front runs there".to_owned()))
}

/// The primary, on a machine with a front and without the load: it hands over to a standby that is there.
pub async fn primary_beside_front(world: &World) -> Outcome<u8> {
    let (old, fronts, load) =
        (primary(world).await?, machines_of_fronts(world).await?, of_pod(world, load::POD).await?);
    let machine = of_node(world, old).await?;
    if machine != load && fronts.contains(&machine) {
        return Ok(old);
    }
    hand_over(world, old, standby_beside_front(world).await?).await
}

/// An attached standby on a machine with a front and without the load. Fronts are spread over two of three machines,
/// so one is there, but the primary may be; then it goes elsewhere.
pub async fn standby_beside_front(world: &World) -> Outcome<u8> {
    for _ in 0..2 {
        let (record, fronts) = (world.record().await?, machines_of_fronts(world).await?);
        let load = of_pod(world, load::POD).await?;
        for member in record.attached.iter().filter(|m| m.index != record.primary) {
            let machine = of_node(world, member.index).await?;
            if machine != load && fronts.contains(&machine) {
                return Ok(member.index);
            }
        }
        hand_over(world, record.primary, standby(world).await?).await?;
    }
    failed("no standby runs beside a front and away from the load")
}

/// Waits until the cluster counts a machine as Ready.
pub async fn ready(world: &World, machine: &str) -> Outcome {
    let nodes: Api<Node> = Api::all(world.client.clone());
    until("the machine to be Ready", BACK, || async {
        let conditions = nodes.get(machine).await?.status.and_then(|status| status.conditions);
        let ready = conditions.unwrap_or_default().iter().any(|c| c.type_ == "Ready" && c.status == "True");
        ensure(ready, || format!("{machine} isn't Ready"))
    })
    .await
}

/// Ends the back-off in which an outage of the API leaves every kubelet, up to a minute in which it hears of no deleted
/// pod: that is Kubernetes's affair, and later steps delete pods. Running pods don't notice.
pub async fn kubelets_anew(world: &World) -> Outcome {
    kubelets_anew_on(world, &MACHINES).await
}

/// The same on these machines, for those that were cut off from the API alone, and for containers that were killed: a
/// kubelet waits longer each time before it starts one again.
pub async fn kubelets_anew_on(world: &World, machines: &[&str]) -> Outcome {
    for machine in machines {
        fault(&["restart", machine, "kubelet"]).await?;
    }
    for machine in machines {
        let path = format!("/api/v1/nodes/{machine}/proxy/healthz");
        until("a kubelet to answer", BACK, || async {
            world.kubectl(&["get", "--raw", &path]).await.map(drop)
        })
        .await?;
    }
    Ok(())
}

/// Waits until the API answers.
pub async fn api_back(world: &World) -> Outcome {
    until("the API server", BACK, || async { world.record().await.map(drop) }).await
}
