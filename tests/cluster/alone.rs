//! Nodes are lost while the operator is away, or the API server, without which nobody can be chosen in their place.
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use pgpool_operator::api::v1alpha1::{Phase, Record};
use pgpool_operator::names;
use rustix::process::Signal;
use tokio::time::Instant;

use super::ahead::psql;
use super::failover::{TAKEN_OVER, primary, standby, taken_over};
use super::harness::{Failure, Outcome, ensure, failed};
use super::install::CLIENT;
use super::pool::{NODES, WHOLE};
use super::processes::{
    Part, agent, another_agent, another_postmaster, freeze, kill_agent, kill_postgres, next_agent, part_of,
    postmaster, signal, thaw, uid_of,
};
use super::world::{POOL, SYSTEM, World, until};
use super::{load, machines};

/// After that time commits that have to wait do, and no answer of a Postgres that was killed is under way any more.
const STANDS_STILL: Duration = Duration::from_secs(5);
/// Time for the agent to start Postgres again, or for its kubelet to start the agent.
const STARTED: Duration = Duration::from_secs(60);
/// How much longer the API is away then.
const WITHOUT_API: Duration = Duration::from_secs(20);
/// Time for a node to come back by itself.
const WITHOUT_OPERATOR: Duration = Duration::from_secs(60);
/// Selects the operator.
const OPERATOR: &str = "app.kubernetes.io/instance=pgpool-operator";
/// Tells who answers.
const WHO: &str = "SELECT current_setting('cluster_name')";

/// Sets how many operators there are.
pub async fn scale_operator(world: &World, count: &str) -> Outcome {
    let args = ["-n", SYSTEM, "scale", "deployment", "-l", OPERATOR, "--replicas", count];
    world.kubectl(&args).await.map(drop)
}

async fn operator_is_gone(world: &World) -> Outcome {
    let left = world.kubectl(&["-n", SYSTEM, "get", "pods", "-l", OPERATOR, "-o", "name"]).await?;
    ensure(left.is_empty(), || format!("an operator is there: {left}"))
}

/// The operator is away while a standby freezes and thaws, an agent is killed, and the primary dies. It comes back only once
/// the pool serves again.
pub async fn operator_away(world: &World) -> Outcome {
    scale_operator(world, "0").await?;
    let alone = without_operator(world).await;
    scale_operator(world, "1").await?;
    alone?;
    load::unharmed(world).await
}

async fn without_operator(world: &World) -> Outcome {
    until("the operator to be gone", TAKEN_OVER, || operator_is_gone(world)).await?;
    thawed_is_back(world).await?;
    killed_is_back(world).await?;
    // The last: who comes back without a copy needs no operator, but a primary's WAL may go past the fork.
    let old = primary(world).await?;
    kill_postgres(world, old).await?;
    taken_over(world, old).await?;
    load::goes_on(world).await?;
    operator_is_gone(world).await
}

fn all_serve(record: &Record) -> bool {
    record.phase == Phase::Serving && record.attached.len() == NODES.len()
}

/// A standby that is frozen is removed, and is back when it thaws.
async fn thawed_is_back(world: &World) -> Outcome {
    let all = freeze(world, standby(world).await?).await?;
    let removed =
        world.when_record("a standby to be removed", TAKEN_OVER, |record| record.attached.len() == 2).await;
    thaw(&all);
    removed?;
    world.when_record("it to be back", WITHOUT_OPERATOR, all_serve).await.map(drop)
}

/// A standby whose agent is killed is done without, and is back with the next one.
async fn killed_is_back(world: &World) -> Outcome {
    let record = world.record().await?;
    // Other steps kill the agent of the first: a kubelet waits longer each time before it starts a container again.
    let Some(node) = record.attached.iter().map(|m| m.index).rfind(|index| *index != record.primary) else {
        return failed(format!("no standby is attached: {record:?}"));
    };
    let killed = kill_agent(world, node).await?;
    load::goes_on(world).await?;
    until("another agent", WHOLE, || another_agent(world, node, killed)).await?;
    world.when_record("every node to serve", WITHOUT_OPERATOR, all_serve).await.map(drop)
}

/// The API server is away for a minute, and the pool doesn't notice. Then a standby dies: writes wait, rather than go on
/// without it, until the API is back.
pub async fn standby_dies(world: &World) -> Outcome {
    let node = standby(world).await?;
    let killed = agent(world, node).await?;
    machines::fault(&["stop", machines::API, "apiserver"]).await?;
    let outage = async {
        // Again and again: reads, too, since leases need no API server.
        load::goes_on_for(world, machines::API_AWAY).await?;
        signal(killed, Signal::KILL)?;
        // Its container is started again, but serves nothing before it has read the record.
        tokio::time::sleep(STANDS_STILL).await;
        let still = load::written(world).await?;
        tokio::time::sleep(WITHOUT_API).await;
        Ok::<_, Failure>((still, load::written(world).await?))
    }
    .await;
    machines::fault(&["start", machines::API, "apiserver"]).await?;
    machines::api_back(world).await?;
    let (still, after) = outage?;
    ensure(still == after, || format!("{} writes were acknowledged without the standby", after - still))?;
    load::goes_on(world).await?;
    world.when_record("three nodes", WITHOUT_OPERATOR, all_serve).await?;
    machines::kubelets_anew(world).await?;
    load::unharmed(world).await?;
    another_agent(world, node, killed).await
}

/// The primary's Postgres dies while the API server is away: its agent can't leave its office, and starts it again where it was. It lets nobody in before it has read
/// the record: until then no write is acknowledged. Once the API is back it opens, or another one has asked for an election
/// first.
pub async fn primary_dies(world: &World) -> Outcome {
    let before = world.record().await?;
    let uid = uid_of(world, before.primary).await?;
    let killed = postmaster(world, before.primary).await?;
    machines::fault(&["stop", machines::API, "apiserver"]).await?;
    let outage = async {
        load::writes_go_on(world).await?;
        signal(killed, Signal::KILL)?;
        tokio::time::sleep(STANDS_STILL).await;
        let still = load::written(world).await?;
        let started =
            until("another postmaster", STARTED, || async { another_postmaster(&uid, killed) }).await?;
        tokio::time::sleep(WITHOUT_API).await;
        Ok::<_, Failure>((still, load::written(world).await?, started))
    }
    .await;
    api_again(world, killed, outage).await?;
    let now = back_by_themselves(world, &before).await?;
    println!(
        "    node {} was the primary on timeline {}, node {} is on {}",
        before.primary, before.timeline, now.primary, now.timeline
    );
    // Pods are ready again once their kubelets say so.
    machines::kubelets_anew(world).await?;
    load::unharmed(world).await
}

/// The API is back. Nothing was acknowledged without it, by the counts of the outage: after the process was killed, and at the end, when
/// there was another one; and writes go on.
async fn api_again(world: &World, killed: i32, outage: Outcome<(u64, u64, i32)>) -> Outcome {
    machines::fault(&["start", machines::API, "apiserver"]).await?;
    machines::api_back(world).await?;
    let (still, after, next) = outage?;
    println!("    without the API process {next} came after {killed}, and {} writes", after - still);
    ensure(still == after, || format!("{} writes were acknowledged without the API", after - still))?;
    load::goes_on(world).await
}

/// The primary's agent dies while the API server is away, and with it its Postgres. The next one can't know who is in office, and
/// starts nothing (R7): nobody is answered there and no write is acknowledged until the API is back.
pub async fn primarys_agent_dies(world: &World) -> Outcome {
    let before = world.record().await?;
    let killed = agent(world, before.primary).await?;
    let gone = Gone::of(world, before.primary).await?;
    machines::fault(&["stop", machines::API, "apiserver"]).await?;
    let outage = async {
        load::writes_go_on(world).await?;
        signal(killed, Signal::KILL)?;
        tokio::time::sleep(STANDS_STILL).await;
        let still = load::written(world).await?;
        let next = until("another agent", STARTED, || async { next_agent(&gone.uid, killed) }).await?;
        gone.answers_nobody().await?;
        Ok::<_, Failure>((still, load::written(world).await?, next))
    }
    .await;
    api_again(world, killed, outage).await?;
    back_by_themselves(world, &before).await?;
    // Pods are ready again once their kubelets say so.
    machines::kubelets_anew(world).await?;
    load::unharmed(world).await
}

/// A node whose agent is killed, and who asks for it: all that is needed without the API server.
struct Gone {
    /// The uid of its pod.
    uid: String,
    /// What it answers when it is asked who it is.
    name: String,
    /// The pod of an application.
    application: Pod,
}

impl Gone {
    /// The primary, which answers the application as yet.
    async fn of(world: &World, primary: u8) -> Outcome<Self> {
        let pod = world.pods().get(&names::node_pod(POOL, primary)).await?;
        let application = world.pods().get(CLIENT).await?;
        let gone =
            Self { uid: pod.uid().unwrap_or_default(), name: psql(&pod, "app", WHO).await?, application };
        let who = gone.who_answers(POOL).await?;
        ensure(who == gone.name, || format!("{who} answers by {POOL}, not {}", gone.name))?;
        Ok(gone)
    }

    /// Who answers the application at a Service.
    async fn who_answers(&self, host: &str) -> Outcome<String> {
        let target = format!("host={host} sslmode=verify-full connect_timeout=5");
        psql(&self.application, &target, WHO).await
    }

    /// Its agent runs no Postgres, and by neither Service it is the one that answers.
    async fn answers_nobody(&self) -> Outcome {
        let (end, read, mut others) = (Instant::now() + WITHOUT_API, names::read_service(POOL), 0);
        while Instant::now() < end {
            let postmasters = part_of(&self.uid, Part::Postmaster)?;
            ensure(postmasters.is_empty(), || format!("its Postgres was started: {postmasters:?}"))?;
            for host in [POOL, read.as_str()] {
                // That nobody answers is allowed.
                let who = self.who_answers(host).await;
                others += u32::from(who.is_ok());
                let own = who.as_ref().is_ok_and(|who| *who == self.name);
                ensure(!own, || format!("{} answers by {host}", self.name))?;
            }
        }
        println!("    {others} answers, and none of {}", self.name);
        Ok(())
    }
}

/// All nodes are in the record before a kubelet has had a part in it. Only one that was deposed may wait for one: its WAL may go
/// past the fork, and a copy takes a pod.
async fn back_by_themselves(world: &World, before: &Record) -> Outcome<Record> {
    let is_back = |record: &Record, node: u8| record.attached.iter().any(|member| member.index == node);
    let all = |record: &Record| {
        let deposed = record.primary != before.primary;
        let excused = |node: u8| deposed && node == before.primary;
        record.phase == Phase::Serving && NODES.iter().all(|node| is_back(record, *node) || excused(*node))
    };
    world.when_record("all nodes that need no copy", WHOLE, all).await
}
