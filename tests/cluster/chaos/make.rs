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
use super::fill::Fill;
use crate::harness::{Failure, Outcome, ensure, failed};
use crate::pool::selector;
use crate::processes::{Part, part_of, signal, thaw};
use crate::world::{POOL, SPACE, SYSTEM, World, until};
use crate::{changes, faults, machines};

/// Time for something to be undone, and for a request to be carried out once the fault is over.
const UNDONE: Duration = Duration::from_secs(150);
const CARRIED_OUT: Duration = Duration::from_secs(420);
/// Time for processes to be there that are to be hit: they may be about to start again.
const FOUND: Duration = Duration::from_secs(10);
/// Selects the operator's pods.
const OPERATOR: &str = "app.kubernetes.io/instance=pgpool-operator";

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

    /// The node that has this part.
    pub fn node(&self, role: Role) -> u8 {
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
    /// Whether another fault of the round may take away the pod that it hits, before it does.
    may_be_gone: bool,
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
    Delete { pod: Running, force: bool },
    /// Orders to `cargo xtask cluster node`, first to make it, then to undo it.
    Orders([Vec<String>; 2]),
    /// A node's claim, known by its uid, is deleted.
    LoseClaim(u8, String),
    /// A node's volume is filled.
    Fill(Fill),
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

    /// Whether there is no pod of that name any more, or it is another one.
    async fn is_another(&self, world: &World) -> Outcome {
        let pods: Api<Pod> = Api::namespaced(world.client.clone(), self.space);
        let now = pods.get_opt(&self.name).await?.and_then(|pod| pod.uid());
        ensure(now.as_ref() != Some(&self.uid), || format!("{} is the old one", self.name))
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

/// Looks up whom a fault of a round hits.
pub async fn aim(world: &World, fault: &Fault, round: &Round, cast: &Cast) -> Outcome<Act> {
    let may_be_gone = round.faults.iter().any(|other| other != fault && other.kind.takes_pods());
    Ok(Act { may_be_gone, ..aimed(world, fault, round, cast).await? })
}

async fn aimed(world: &World, fault: &Fault, round: &Round, cast: &Cast) -> Outcome<Act> {
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
            Ok(Act::of(What::LoseClaim(first()?, uid)))
        }
        Kind::Volume(_) => Ok(Act::of(What::Fill(Fill::of(world, first()?, round, cast).await?))),
        Kind::Changed(change) => change_of(world, change, nodes.first().copied()).await,
    }
}

fn at_pod(kind: Kind, pod: Running) -> Outcome<Act> {
    let machine = pod.machine.clone();
    let what = match kind {
        Kind::Killed(Process::Postgres) => What::Kill(pod.uid, Part::Postmaster),
        Kind::Killed(_) => What::Kill(pod.uid, Part::First),
        Kind::Frozen(Process::Postgres) => What::Freeze(pod.uid, Part::Postgres),
        Kind::Frozen(_) => What::Freeze(pod.uid, Part::All),
        Kind::Deleted(_) => What::Delete { pod, force: false },
        Kind::Forced(_) => What::Delete { pod, force: true },
        _ => return failed(format!("{kind} happens to no pod")),
    };
    // Else nothing would happen, and that would count.
    if let What::Kill(uid, part) | What::Freeze(uid, part) = &what {
        let found = part_of(uid, *part)?.len();
        ensure(found > 0, || format!("{kind}: the pod {uid} on {machine} has no process that is meant"))?;
    }
    let restarts =
        matches!(kind, Kind::Killed(process) | Kind::Frozen(process) if process != Process::Postgres);
    Ok(Act { kubelets: if restarts { vec![machine] } else { Vec::new() }, ..Act::of(what) })
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
    Act { kubelets, ..Act::of(What::Orders(orders)) }
}

fn at_api(service: Service) -> Act {
    let name = match service {
        Service::ApiServer => "apiserver",
        Service::Etcd => "etcd",
    };
    let order = |verb: &str| [verb, machines::API, name].map(str::to_owned).to_vec();
    let kubelets = machines::MACHINES.map(str::to_owned).to_vec();
    Act { kubelets, ..Act::of(What::Orders([order("stop"), order("start")])) }
}

async fn change_of(world: &World, change: Change, node: Option<u8>) -> Outcome<Act> {
    let (name, value) = match (change, node) {
        (Change::Switchover, Some(node)) => ("switchover", node.to_string()),
        (Change::Restart, _) => ("restart", "now".to_owned()),
        (Change::Scale | Change::Switchover, _) => return Ok(Act::of(What::Scale)),
    };
    let before = world.status().await?.last_request.map(|answer| answer.at);
    let pods = changes::uids(world).await?;
    Ok(Act::of(What::Ask(Request { name, value, before, pods })))
}

impl Act {
    fn of(what: What) -> Self {
        Self { what, may_be_gone: false, kubelets: Vec::new() }
    }

    /// Makes it, lets it last, and undoes it, also where it could only be made in part. False where it wasn't made, since
    /// another fault of the round had taken away whom it would have hit.
    pub async fn live(&self, world: &World, after: Duration, lasts: Duration) -> Outcome<bool> {
        tokio::time::sleep(after).await;
        let made = match self.make(world).await {
            Ok(()) => Ok(true),
            Err(_) if self.may_be_gone && self.hits_nobody(world).await => Ok(false),
            Err(failure) => Err(failure),
        };
        if matches!(made, Ok(true)) {
            tokio::time::sleep(lasts).await;
        }
        let undone = self.undo(world).await;
        made.and_then(|made| undone.map(|()| made))
    }

    async fn make(&self, world: &World) -> Outcome {
        match &self.what {
            What::Kill(uid, part) => hit(uid, *part, Signal::KILL).await,
            What::Freeze(uid, part) => hit(uid, *part, Signal::STOP).await,
            What::Delete { pod, force } => {
                let grace: &[&str] = if *force { &["--force", "--grace-period=0"] } else { &[] };
                let delete = ["-n", pod.space, "delete", "pod", &pod.name, "--wait=false"];
                world.kubectl(&[&delete[..], grace].concat()).await.map(drop)
            }
            What::Orders([make, _]) => ordered(make).await,
            What::LoseClaim(node, _) => faults::lose_claim(world, *node).await,
            What::Fill(fill) => fill.make(world).await,
            What::Scale => changes::patch(world, r#"{"nodes":2}"#).await,
            What::Ask(request) => world.annotate(&[(request.name, request.value.as_str())]).await,
        }
    }

    /// Whether it could not be made for want of the pod that was aimed at.
    async fn hits_nobody(&self, world: &World) -> bool {
        match &self.what {
            What::Kill(..) | What::Freeze(..) => true,
            What::Delete { pod, .. } => pod.is_another(world).await.is_ok(),
            _ => false,
        }
    }

    async fn undo(&self, world: &World) -> Outcome {
        match &self.what {
            What::Freeze(uid, _) => {
                thaw(&part_of(uid, Part::All)?);
                Ok(())
            }
            What::Orders([_, undo]) => until("an order to a machine", UNDONE, || ordered(undo)).await,
            What::Fill(fill) => until("room on a full volume", UNDONE, || async { fill.free() }).await,
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
                    let seen = pool.status.and_then(|status| status.observed_generation);
                    let is = pool.metadata.generation;
                    ensure(is == seen, || format!("generation {is:?} of the spec, seen {seen:?}"))
                })
                .await
            }
            What::Delete { pod, .. } => {
                until("the end of a deleted pod", CARRIED_OUT, || pod.is_another(world)).await
            }
            What::Ask(request) => request.carried_out(world).await,
            What::Kill(..) | What::Freeze(..) | What::Orders(_) | What::Fill(_) => Ok(()),
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

/// Sends a signal to those processes of a pod; fails where none of them runs.
async fn hit(uid: &str, part: Part, with: Signal) -> Outcome {
    until("processes to hit", FOUND, || async {
        // One that has ended meanwhile takes no signal.
        let hit = part_of(uid, part)?.into_iter().filter(|pid| signal(*pid, with).is_ok()).count();
        ensure(hit > 0, || format!("none of the pod {uid} that is meant runs"))
    })
    .await
}

async fn ordered(words: &[String]) -> Outcome {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    machines::fault(&words).await
}

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
