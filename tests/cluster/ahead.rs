//! A primary that starts again with a commit that no standby has applied: nobody is shown it before they have.
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use pgpool_operator::names;
use rustix::process::Signal;
use tokio::time::Instant;

use super::harness::{Outcome, ensure};
use super::inside::entered;
use super::install::{CLIENT, as_app};
use super::pool::{NODES, WHOLE};
use super::processes::{another_postmaster, postmaster, signal, startup_process, thaw};
use super::world::{CALL, POOL, World, ended, printed, until};
use super::{load, machines};

/// The commit, and what tells how much of it is seen.
const COMMIT: &str = "INSERT INTO ahead VALUES (1)";
const ROWS: &str = "SELECT count(*) FROM ahead";
/// How many sessions wait for the standbys in it.
const WAITING: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE 'INSERT INTO ahead%'";
/// How many rules of a node let users in.
const RULES: &str = "SELECT count(*) FROM pg_hba_file_rules WHERE auth_method = 'scram-sha-256'";
/// Time for a commit to wait, and for Postgres to be started again.
const STARTED: Duration = Duration::from_secs(60);
/// How long the row is looked for after that, while the API server is away.
const LOOKED_FOR: Duration = Duration::from_secs(20);

/// The pool as it was while the API server answered: all that is needed without it.
struct Before {
    /// The pod of the primary, and that of an application.
    primary: Pod,
    application: Pod,
    /// The primary's postmaster.
    postmaster: i32,
    /// The processes of the standbys that replay WAL.
    replays: Vec<i32>,
}

/// What psql prints in a pod. Needs no API server.
pub async fn psql(pod: &Pod, target: &str, sql: &str) -> Outcome<String> {
    let words = ["psql", "-XAtq", "-d", target, "-c", sql];
    let shown = format!("{}: {}", pod.name_any(), words.join(" "));
    printed(&shown, &ended(CALL, &shown, entered(pod, &words)?, None).await?)
}

impl Before {
    async fn of(world: &World) -> Outcome<Self> {
        let record = world.record().await?;
        let mut replays = Vec::new();
        for member in record.attached.iter().filter(|member| member.index != record.primary) {
            replays.push(startup_process(world, member.index).await?);
        }
        ensure(replays.len() + 1 == NODES.len(), || format!("not whole: {record:?}"))?;
        let pods = world.pods();
        Ok(Self {
            primary: pods.get(&names::node_pod(POOL, record.primary)).await?,
            application: pods.get(CLIENT).await?,
            postmaster: postmaster(world, record.primary).await?,
            replays,
        })
    }

    /// What the superuser sees at the primary itself, past its gate.
    async fn at_primary(&self, sql: &str) -> Outcome<String> {
        psql(&self.primary, "app", sql).await
    }

    /// What the application is told at a Service.
    async fn at(&self, host: &str, sql: &str) -> Outcome<String> {
        let target = format!("host={host} sslmode=verify-full connect_timeout=5");
        psql(&self.application, &target, sql).await
    }

    /// A commit waits for standbys that replay nothing when the primary's Postgres is killed: it comes back with that commit, and
    /// shows it to nobody.
    async fn without_api(&self) -> Outcome {
        self.replays.iter().try_for_each(|replay| signal(*replay, Signal::STOP))?;
        let killed = async {
            until("the commit to wait", STARTED, || async {
                let waiting = self.at_primary(WAITING).await?;
                ensure(waiting == "1", || format!("{waiting} sessions wait"))
            })
            .await?;
            signal(self.postmaster, Signal::KILL)
        };
        let (told, killed) = tokio::join!(self.at(POOL, COMMIT), killed);
        killed?;
        ensure(told.is_err(), || "a commit was acknowledged that no standby has applied".to_owned())?;
        let uid = self.primary.uid().unwrap_or_default();
        until("another postmaster", STARTED, || async { another_postmaster(&uid, self.postmaster) }).await?;
        until("the commit to be in the primary again", STARTED, || async {
            let rows = self.at_primary(ROWS).await?;
            ensure(rows == "1", || format!("{rows} rows"))
        })
        .await?;
        self.hidden().await
    }

    /// Neither Service shows the row, and the primary lets nobody in.
    async fn hidden(&self) -> Outcome {
        let (end, read, mut answers) = (Instant::now() + LOOKED_FOR, names::read_service(POOL), 0);
        while Instant::now() < end {
            let rules = self.at_primary(RULES).await?;
            ensure(rules == "0", || format!("{rules} rules of the primary let users in"))?;
            for host in [POOL, read.as_str()] {
                // That nobody answers is allowed: only the row must not be shown.
                let rows = self.at(host, ROWS).await;
                answers += u32::from(rows.is_ok());
                let shown = rows.as_ref().is_ok_and(|rows| rows != "0");
                ensure(!shown, || format!("{host} shows {rows:?}"))?;
            }
        }
        println!("    {answers} answers without the row, which the primary has");
        Ok(())
    }
}

/// The primary's Postgres is killed while a commit waits for standbys that receive it and apply nothing, and starts again with that
/// commit. While the record counts those standbys nobody is shown it; whoever is shown it afterwards, every node that counts has it.
pub async fn primary_starts_again(world: &World) -> Outcome {
    as_app(world, POOL, "DROP TABLE IF EXISTS ahead; CREATE TABLE ahead (n int)").await?;
    let before = Before::of(world).await?;
    let rules = before.at_primary(RULES).await?;
    ensure(rules == "1", || format!("{rules} rules of an open primary let users in"))?;
    machines::fault(&["stop", machines::API, "apiserver"]).await?;
    let outage = before.without_api().await;
    let answered = answered(world, outage).await;
    thaw(&before.replays);
    let rows = answered?;
    load::goes_on(world).await?;
    // Pods are ready again once their kubelets say so.
    machines::kubelets_anew(world).await?;
    load::unharmed(world).await?;
    all_have(world, NODES, &rows).await?;
    as_app(world, POOL, "DROP TABLE ahead").await.map(drop)
}

/// The API server is back, the standbys are as they were: the first that a client is told stands on every node that counts. Gives how
/// many rows that were.
async fn answered(world: &World, outage: Outcome) -> Outcome<String> {
    machines::fault(&["start", machines::API, "apiserver"]).await?;
    machines::api_back(world).await?;
    outage?;
    // The standbys are removed first, for not streaming; or another one has asked for an election.
    let rows = until("the pool to answer", WHOLE, || as_app(world, POOL, ROWS)).await?;
    let record = world.record().await?;
    println!("    {rows} rows are shown by node {}; {}", record.primary, record.reason);
    all_have(world, record.attached.iter().map(|member| member.index), &rows).await?;
    Ok(rows)
}

/// Fails unless each of these nodes has so many rows.
async fn all_have(world: &World, nodes: impl IntoIterator<Item = u8>, rows: &str) -> Outcome {
    for node in nodes {
        let there = world.psql(node, "app", ROWS).await?;
        ensure(there == rows, || format!("{rows} rows are shown, and node {node} has {there}"))?;
    }
    Ok(())
}
