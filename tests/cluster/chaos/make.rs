//! Faults as they are made in the cluster, undone, and got over.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use pgpool_operator::names;
use rustix::process::Signal;

use super::draw::{self, Change, Fault, Harm, Kind, Loss, Process, Role, Round, Service};
use crate::harness::{Failure, Outcome, ensure, failed};
use crate::pool::selector;
use crate::processes::{Part, freeze_part, part_of, signal, thaw};
use crate::world::{POOL, SPACE, SYSTEM, World, call_within, until};
use crate::{changes, faults, machines};

/// Time for something to be undone, and for a request to be carried out once the fault is over.
const UNDONE: Duration = Duration::from_secs(150);
const CARRIED_OUT: Duration = Duration::from_secs(420);
/// Selects the operator's pods.
const OPERATOR: &str = "app.kubernetes.io/instance=pgpool-operator";
/// MiB of the largest file system that is ever filled: a larger one is a disk that others use.
const LARGEST: u32 = 4096;

/// Who has which part in a round.
pub struct Cast([u8; 3]);

impl Cast {
    /// The parts as they are now, in a whole pool. What the load remembers is in its pod, so its machine is never
    /// without power: the primary hands over where it would be, and of the standbys the other one is taken.
    pub async fn of(world: &World, round: &Round) -> Outcome<Self> {
        let cut = round.faults.iter().find(|fault| fault.kind == Kind::Machine(Harm::Killed));
        let cut = cut.and_then(|fault| fault.roles.first().copied());
        if cut == Some(Role::Primary) {
            machines::primary_away_from_load(world).await?;
        }
        let record = world.record().await?;
        let standbys = record.attached.iter().map(|member| member.index).filter(|i| *i != record.primary);
        let standbys: Vec<u8> = standbys.collect();
        let [mut first, mut second] = standbys[..] else { return failed(format!("not whole: {record:?}")) };
        if let Some(role) = cut.filter(|role| *role != Role::Primary) {
            let away = machines::standby_away_from_load(world).await?;
            if (role == Role::First) != (first == away) {
                (first, second) = (second, first);
            }
        }
        Ok(Self([record.primary, first, second]))
    }

    fn node(&self, role: Role) -> u8 {
        self.0[role as usize]
    }

    /// Which node has which part, for a person.
    pub fn told(&self) -> String {
        let [primary, first, second] = self.0;
        format!("primary {primary}, A {first}, B {second}")
    }
}

/// A fault with all that it takes to make and undo it, looked up while everything answers.
pub struct Act {
    what: What,
    /// Machines whose kubelets are started anew once all is undone: those wait for longer and longer before they start
    /// a container again, or listen to the API again. That is Kubernetes's affair.
    kubelets: Vec<String>,
}

enum What {
    /// Processes of the pod with this uid are killed.
    Kill(String, Part),
    /// They are stopped in their tracks.
    Freeze(String, Part),
    /// A pod is deleted.
    Delete { space: &'static str, pod: String, force: bool },
    /// Orders to `cargo xtask cluster node`, first to make it, then to undo it.
    Orders([Vec<String>; 2]),
    /// A node's claim, known by its uid, is deleted.
    LoseClaim(u8, String),
    /// A node's volume is filled, and the primary made to need more of it.
    Fill { node: u8, primary: u8 },
    /// A node less.
    Scale,
    /// A request by annotation.
    Ask(Request),
}

struct Request {
    name: &'static str,
    value: String,
    /// When the one before was answered.
    before: Option<Timestamp>,
    /// The pods of the nodes at that time.
    pods: BTreeMap<u8, String>,
}

/// A pod, and where it runs.
struct Running {
    space: &'static str,
    name: String,
    uid: String,
    machine: String,
}

impl Running {
    fn of(space: &'static str, pod: Pod) -> Option<Self> {
        let (name, uid) = (pod.name_any(), pod.uid()?);
        Some(Self { space, name, uid, machine: pod.spec?.node_name? })
    }

    async fn node(world: &World, node: u8) -> Outcome<Self> {
        let pod = world.pods().get(&names::node_pod(POOL, node)).await?;
        Self::of(SPACE, pod).ok_or_else(|| Failure(format!("the pod of node {node} runs nowhere")))
    }

    /// One of those with this label that nobody deletes; counted on from the first one where there are fewer.
    async fn labelled(world: &World, space: &'static str, label: &str, which: u16) -> Outcome<Self> {
        let pods: Api<Pod> = Api::namespaced(world.client.clone(), space);
        let list = pods.list(&ListParams::default().labels(label)).await?.items.into_iter();
        let list = list.filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let mut running: Vec<Self> = list.filter_map(|pod| Self::of(space, pod)).collect();
        if running.is_empty() {
            return failed(format!("no pod with {label} runs in {space}"));
        }
        running.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(running.swap_remove(usize::from(which) % running.len()))
    }
}

/// Looks up whom a fault hits.
pub async fn aim(world: &World, fault: &Fault, cast: &Cast) -> Outcome<Act> {
    let nodes: Vec<u8> = fault.roles.iter().map(|role| cast.node(*role)).collect();
    let first = || nodes.first().copied().ok_or_else(|| Failure(format!("{fault} hits nobody")));
    match fault.kind {
        Kind::Killed(Process::Front)
        | Kind::Frozen(Process::Front)
        | Kind::Deleted(draw::Pod::Front)
        | Kind::Forced(draw::Pod::Front) => {
            at_pod(fault.kind, Running::labelled(world, SPACE, &selector("proxy"), fault.grade).await?)
        }
        Kind::Killed(Process::Operator)
        | Kind::Frozen(Process::Operator)
        | Kind::Deleted(draw::Pod::Operator)
        | Kind::Forced(draw::Pod::Operator) => {
            at_pod(fault.kind, Running::labelled(world, SYSTEM, OPERATOR, 0).await?)
        }
        Kind::Killed(_) | Kind::Frozen(_) | Kind::Deleted(_) | Kind::Forced(_) => {
            at_pod(fault.kind, Running::node(world, first()?).await?)
        }
        Kind::Machine(harm) => {
            let machine = machines::of_node(world, first()?).await?;
            let other = match nodes.get(1) {
                Some(other) => machines::of_node(world, *other).await?,
                None => machines::API.to_owned(),
            };
            Ok(at_machine(harm, &machine, &other, fault.grade))
        }
        Kind::Stopped(service) => Ok(at_api(service)),
        Kind::Volume(Loss::Lost) => {
            let (uid, _) = faults::claim(world, first()?).await?;
            Ok(Act { what: What::LoseClaim(first()?, uid), kubelets: Vec::new() })
        }
        Kind::Volume(_) => {
            let (node, primary) = (first()?, cast.node(Role::Primary));
            Ok(Act { what: What::Fill { node, primary }, kubelets: Vec::new() })
        }
        Kind::Changed(change) => change_of(world, change, nodes.first().copied()).await,
    }
}

fn at_pod(kind: Kind, pod: Running) -> Outcome<Act> {
    let Running { space, name, uid, machine } = pod;
    let what = match kind {
        Kind::Killed(Process::Postgres) => What::Kill(uid, Part::Postmaster),
        Kind::Killed(_) => What::Kill(uid, Part::First),
        Kind::Frozen(Process::Postgres) => What::Freeze(uid, Part::Postgres),
        Kind::Frozen(_) => What::Freeze(uid, Part::All),
        Kind::Deleted(_) => What::Delete { space, pod: name, force: false },
        Kind::Forced(_) => What::Delete { space, pod: name, force: true },
        _ => return failed(format!("{kind} happens to no pod")),
    };
    // Else nothing would happen, and that would count.
    if let What::Kill(uid, part) | What::Freeze(uid, part) = &what {
        let found = part_of(uid, *part)?.len();
        ensure(found > 0, || format!("{kind}: the pod {uid} on {machine} has no process that is meant"))?;
    }
    let restarts =
        matches!(kind, Kind::Killed(process) | Kind::Frozen(process) if process != Process::Postgres);
    Ok(Act { what, kubelets: if restarts { vec![machine] } else { Vec::new() } })
}

/// What is done to a machine, and to another one or that of the API; and how it is undone.
fn at_machine(harm: Harm, machine: &str, other: &str, grade: u16) -> Act {
    let (delay, jitter, percent) = (format!("{grade}ms"), format!("{}ms", grade / 4), grade.to_string());
    let order = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    let heal = ["heal", machine];
    let orders = match harm {
        Harm::Killed => [order(&["kill", machine]), order(&["start", machine])],
        Harm::Cut => [order(&["isolate", machine]), order(&heal)],
        Harm::Mute => [order(&["mute", machine]), order(&heal)],
        Harm::Deaf => [order(&["deaf", machine]), order(&heal)],
        Harm::Parted | Harm::WithoutApi => [order(&["part", machine, other]), order(&heal)],
        Harm::Delayed => [order(&["delay", machine, &delay, &jitter]), order(&heal)],
        Harm::Lossy => [order(&["loss", machine, &percent]), order(&heal)],
        Harm::KubeletKilled => [order(&["stop", machine, "kubelet"]), order(&["start", machine, "kubelet"])],
        Harm::ContainerdKilled => {
            [order(&["stop", machine, "containerd"]), order(&["start", machine, "containerd"])]
        }
    };
    let deaf_to_api = matches!(harm, Harm::Cut | Harm::Mute | Harm::Deaf | Harm::WithoutApi);
    let kubelets = if deaf_to_api { order(&[machine]) } else { Vec::new() };
    Act { what: What::Orders(orders), kubelets }
}

fn at_api(service: Service) -> Act {
    let name = match service {
        Service::ApiServer => "apiserver",
        Service::Etcd => "etcd",
    };
    let order = |verb: &str| [verb, machines::API, name].map(str::to_owned).to_vec();
    let kubelets = machines::MACHINES.map(str::to_owned).to_vec();
    Act { what: What::Orders([order("stop"), order("start")]), kubelets }
}

async fn change_of(world: &World, change: Change, node: Option<u8>) -> Outcome<Act> {
    let (name, value) = match (change, node) {
        (Change::Switchover, Some(node)) => ("switchover", node.to_string()),
        (Change::Restart, _) => ("restart", "now".to_owned()),
        (Change::Scale | Change::Switchover, _) => {
            return Ok(Act { what: What::Scale, kubelets: Vec::new() });
        }
    };
    let before = world.status().await?.last_request.map(|answer| answer.at);
    let pods = changes::uids(world).await?;
    Ok(Act { what: What::Ask(Request { name, value, before, pods }), kubelets: Vec::new() })
}

impl Act {
    /// Makes it, lets it last, and undoes it, also where it could only be made in part.
    pub async fn live(&self, world: &World, after: Duration, lasts: Duration) -> Outcome {
        tokio::time::sleep(after).await;
        let made = self.make(world).await;
        if made.is_ok() {
            tokio::time::sleep(lasts).await;
        }
        let undone = self.undo(world).await;
        made.and(undone)
    }

    async fn make(&self, world: &World) -> Outcome {
        match &self.what {
            What::Kill(uid, part) => {
                for pid in part_of(uid, *part)? {
                    // One that has ended meanwhile needs no killing.
                    let _ = signal(pid, Signal::KILL);
                }
                Ok(())
            }
            What::Freeze(uid, part) => freeze_part(uid, *part).map(drop),
            What::Delete { space, pod, force } => {
                let grace: &[&str] = if *force { &["--force", "--grace-period=0"] } else { &[] };
                let delete = ["-n", space, "delete", "pod", pod, "--wait=false", "--ignore-not-found"];
                world.kubectl(&[&delete[..], grace].concat()).await.map(drop)
            }
            What::Orders([make, _]) => ordered(make).await,
            What::LoseClaim(node, _) => faults::lose_claim(world, *node).await,
            What::Fill { node, primary } => {
                world.shell(*node, &filling()).await?;
                // Segments of WAL that are there already would do for minutes. Where the primary is lost meanwhile, by
                // this or by another fault, enough has happened.
                let pod = names::node_pod(POOL, *primary);
                let words = ["-n", SPACE, "exec", &pod, "-c", "postgres", "--", "sh", "-c", NEEDING_WAL];
                let _ = call_within(NEEDS_WAL, "kubectl", &words, None).await;
                Ok(())
            }
            What::Scale => changes::patch(world, r#"{"nodes":2}"#).await,
            What::Ask(request) => world.annotate(&[(request.name, request.value.as_str())]).await,
        }
    }

    async fn undo(&self, world: &World) -> Outcome {
        match &self.what {
            What::Freeze(uid, _) => {
                thaw(&part_of(uid, Part::All)?);
                Ok(())
            }
            What::Orders([_, undo]) => until("an order to a machine", UNDONE, || ordered(undo)).await,
            What::Fill { node, .. } => {
                until("room on a full volume", UNDONE, || async {
                    world.shell(*node, &format!("rm -f {FILLER} {FILLER}.rest")).await.map(drop)
                })
                .await
            }
            What::Scale => {
                until("the old number of nodes", UNDONE, || changes::patch(world, r#"{"nodes":3}"#)).await
            }
            What::Kill(..) | What::Delete { .. } | What::LoseClaim(..) | What::Ask(_) => Ok(()),
        }
    }

    /// Waits until what it has begun has ended, which a pool can look whole before.
    async fn carried_out(&self, world: &World) -> Outcome {
        match &self.what {
            What::LoseClaim(node, old) => {
                until("another claim", CARRIED_OUT, || async {
                    let (uid, _) = faults::claim(world, *node).await?;
                    ensure(uid != *old && !uid.is_empty(), || format!("node {node} has its old claim"))
                })
                .await
            }
            What::Scale => {
                until("a look at the old number of nodes", CARRIED_OUT, || async {
                    let pool = world.pools().get(POOL).await?;
                    let (is, seen) = (pool.metadata.generation, pool.status.and_then(|s| s.observed_generation));
                    ensure(is == seen, || format!("generation {is:?} of the spec, seen {seen:?}"))
                })
                .await
            }
            What::Ask(request) => request.carried_out(world).await,
            What::Kill(..) | What::Freeze(..) | What::Delete { .. } | What::Orders(_) | What::Fill { .. } => Ok(()),
        }
    }
}

impl Request {
    /// It was answered, either way, and where it was taken on it has ended.
    async fn carried_out(&self, world: &World) -> Outcome {
        let accepted = until("an answer to a request", CARRIED_OUT, || async {
            let status = world.status().await?;
            let answer = status.last_request.filter(|answer| Some(answer.at) != self.before);
            let answer = answer.filter(|answer| answer.request == self.name && answer.value == self.value);
            let answer = answer.ok_or_else(|| Failure(format!("{} isn't answered", self.name)))?;
            ensure(status.switchover.is_none(), || format!("{:?}", status.switchover))?;
            Ok(answer.accepted)
        })
        .await?;
        if !accepted || self.name != "restart" {
            return Ok(());
        }
        until("every pod to be another", CARRIED_OUT, || async {
            let now = changes::uids(world).await?;
            let old = self.pods.iter().filter(|(node, uid)| now.get(node) == Some(uid));
            let old: Vec<&u8> = old.map(|(node, _)| node).collect();
            ensure(old.is_empty(), || format!("the pods of {old:?} are the old ones"))
        })
        .await
    }
}

async fn ordered(words: &[String]) -> Outcome {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    machines::fault(&words).await
}

/// What takes all the room of a volume, beside the data.
const FILLER: &str = "/var/lib/pgpool/filler";

/// Takes all the room that a volume has left, if that is a file system of a size of its own. The first program takes it
/// at once, the second one what is left over.
fn filling() -> String {
    format!(
        "set -e; cd {}; size=$(df --output=size -BM . | tail -n 1 | tr -dc 0-9); if [ $size -gt {LARGEST} ]; then \
         echo \"this volume has $size MiB and is no file system of its own: cargo xtask chaos makes such\" >&2; exit 1; fi; \
         fallocate -l ${{size}}M {FILLER} 2>/dev/null || true; \
         dd if=/dev/zero of={FILLER}.rest bs=4096 2>/dev/null || true",
        names::VOLUME_DIR
    )
}

/// Ends segment after segment of WAL, until PostgreSQL has none left that it could write again.
const NEEDING_WAL: &str = "for i in $(seq 20); do timeout 3 psql -XAtqd postgres -c \
    \"SELECT pg_logical_emit_message(false, 'chaos', 'x'), pg_switch_wal()\" || exit 0; done";
/// Longest time for that.
const NEEDS_WAL: Duration = Duration::from_secs(20);

/// Waits until Kubernetes is as it was before the faults, and what they have begun has ended.
pub async fn over(world: &World, acts: &[Act]) -> Outcome {
    machines::api_back(world).await?;
    let kubelets: BTreeSet<&str> = acts.iter().flat_map(|act| &act.kubelets).map(String::as_str).collect();
    machines::kubelets_anew_on(world, &kubelets.into_iter().collect::<Vec<_>>()).await?;
    for machine in machines::MACHINES {
        machines::ready(world, machine).await?;
    }
    for act in acts {
        act.carried_out(world).await?;
    }
    Ok(())
}
