//! All attached nodes are compared after each step under load: a later copy of a node would hide what it lacked.
//!
//! For a moment the primary's tables are locked against writers. A transaction keeps its locks until its commit was waited
//! for (PostgreSQL source, `CommitTransaction`), and each waits for all attached nodes: all have the same rows then.
use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures::future::{try_join, try_join_all};
use pgpool_operator::api::v1alpha1::Phase;
use pgpool_operator::names;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::{sleep, timeout};

use super::harness::{Outcome, ensure, failed};
use super::inside::entered;
use super::pool::WHOLE;
use super::world::{World, until};

/// Longest time for a comparison.
const LIMIT: Duration = Duration::from_secs(20);
/// Time within which nodes can be compared after a step: each leaves the pool whole.
const COMPARED: Duration = Duration::from_secs(60);
/// Writers have the tables to themselves for at least so long before the next try.
const PAUSE: Duration = Duration::from_secs(3);
/// Writers are never kept waiting for long, whatever becomes of this program. An autovacuum gives way after a second.
const BOUNDS: &str = "-c lock_timeout=3s -c statement_timeout=10s -c idle_in_transaction_session_timeout=15s \
                      -c max_parallel_workers_per_gather=0";
/// What psql prints once it has done what it was asked for.
const DONE: &str = "=done=";
/// The application's tables, as far as they are replicated; none of PostgreSQL's own or the operator's.
const TABLES: &str = "FROM pg_class c WHERE c.relkind = 'r' AND c.relpersistence = 'p' \
                      AND c.relnamespace::regnamespace::text !~ '^(pg_|information_schema|pgpool_)'";
/// Tables of the load; they have no type that can't be hashed, and are the large ones.
const LOAD: &str = "workload";

/// How often nodes were compared.
#[derive(Default)]
pub struct Tally {
    under_load: AtomicBool,
    tried: AtomicU32,
    made: AtomicU32,
}

impl Tally {
    /// Whether the load writes from now on.
    pub fn under_load(&self, writes: bool) {
        self.under_load.store(writes, Ordering::Relaxed);
    }
}

/// Compares the attached nodes while the load writes. That they differ is a failure, and so is that they can't be compared: a
/// primary may just be going, but whatever a step or a round does, it leaves a pool that serves.
pub async fn after(world: &World) -> Outcome {
    let tally = &world.compared;
    if !tally.under_load.load(Ordering::Relaxed) {
        return Ok(());
    }
    tally.tried.fetch_add(1, Ordering::Relaxed);
    let difference = found(world, COMPARED).await?;
    tally.made.fetch_add(1, Ordering::Relaxed);
    same(difference.as_deref())
}

/// Compares them once more behind the load, and looks whether that was done after each step while it wrote.
pub async fn judge(world: &World) -> Outcome {
    same(found(world, WHOLE).await?.as_deref())?;
    seeded(world).await?;
    let count = |counter: &AtomicU32| counter.load(Ordering::Relaxed);
    let (made, tried) = (count(&world.compared.made), count(&world.compared.tried));
    let told = format!("attached nodes were compared after {made} of {tried} steps and rounds under load");
    println!("    {told}");
    ensure(made > 0 && made == tried, || told)
}

/// What attached nodes hold differently, once they can be compared.
async fn found(world: &World, limit: Duration) -> Outcome<Option<String>> {
    until("attached nodes to be compared", limit, || async {
        let found = difference(world).await;
        if found.is_err() {
            sleep(PAUSE).await;
        }
        found
    })
    .await
}

fn same(difference: Option<&str>) -> Outcome {
    match difference {
        None => Ok(()),
        Some(words) => failed(format!("ATTACHED NODES DIFFER (table|rows|hash): {words}")),
    }
}

/// A row less must be found: a check that can't fail is none.
async fn seeded(world: &World) -> Outcome {
    let mut primary = Session::open(world, world.record().await?.primary).await?;
    primary.lock().await?;
    let all = primary.digest().await?;
    let one = format!("(SELECT ctid FROM {LOAD}.ids LIMIT 1)");
    primary.ask(&format!("DELETE FROM {LOAD}.ids WHERE ctid = {one};")).await?;
    let poorer = primary.digest().await?;
    primary.ask("ROLLBACK;").await?;
    let found = differing(&[all, poorer]);
    let named = found.as_ref().is_some_and(|words| words.contains(&format!("{LOAD}.ids|")));
    ensure(named, || format!("a row less isn't missed: {found:?}"))
}

/// What attached nodes hold differently; an error where they can't be compared just now.
async fn difference(world: &World) -> Outcome<Option<String>> {
    let found = timeout(LIMIT, compared(world)).await;
    found.unwrap_or_else(|_| failed(format!("no end within {} s", LIMIT.as_secs())))
}

async fn compared(world: &World) -> Outcome<Option<String>> {
    let record = world.record().await?;
    ensure(record.phase == Phase::Serving && record.attached.len() > 1, || {
        format!("phase {:?}, attached nodes: {}", record.phase, record.attached.len())
    })?;
    let mut primary = Session::open(world, record.primary).await?;
    let standbys = record.attached.iter().map(|member| member.index).filter(|node| *node != record.primary);
    let mut standbys = try_join_all(standbys.map(|node| Session::open(world, node))).await?;
    let position = primary.lock().await?;
    let theirs = try_join_all(standbys.iter_mut().map(|standby| standby.digest_at(&position)));
    let (own, mut digests) = try_join(primary.digest(), theirs).await?;
    primary.ask("ROLLBACK;").await?;
    digests.push(own);
    // By then nobody else had been made the primary, who writes whatever is locked here.
    let now = world.record().await?;
    ensure(now.epoch == record.epoch, || format!("epoch {} became {}", record.epoch, now.epoch))?;
    Ok(differing(&digests))
}

/// A node, and a line for each of its tables.
type Digest = (u8, Vec<String>);

/// The lines that don't stand on every node, and where they do.
fn differing(digests: &[Digest]) -> Option<String> {
    let all: BTreeSet<&String> = digests.iter().flat_map(|(_, lines)| lines).collect();
    let mut told = Vec::new();
    for line in all {
        let on = digests.iter().filter(|(_, lines)| lines.contains(line)).map(|(node, _)| *node);
        let on: Vec<u8> = on.collect();
        if on.len() < digests.len() {
            told.push(format!("{line} on {on:?}"));
        }
    }
    (!told.is_empty()).then(|| told.join("; "))
}

/// psql of a node's own container, as superuser by its socket.
struct Session {
    node: u8,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Session {
    async fn open(world: &World, node: u8) -> Outcome<Self> {
        let pod = world.pods().get(&names::node_pod(world.pool, node)).await?;
        let mut command = entered(&pod, &["psql", "-XAtqw", "-v", "ON_ERROR_STOP=1", "-d", "app"])?;
        command.env("PGOPTIONS", BOUNDS).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return failed("psql has no pipes");
        };
        Ok(Self { node, child, input, output: BufReader::new(output).lines() })
    }

    /// The lines that psql prints of these commands.
    async fn ask(&mut self, commands: &str) -> Outcome<Vec<String>> {
        let commands = format!("{commands}\n\\echo {DONE}\n");
        // One that ended before it had read them says why by itself.
        let _ = self.input.write_all(commands.as_bytes()).await;
        let mut said = Vec::new();
        while let Some(line) = self.output.next_line().await? {
            if line == DONE {
                return Ok(said);
            }
            said.push(line);
        }
        let mut why = String::new();
        if let Some(mut errors) = self.child.stderr.take() {
            errors.read_to_string(&mut why).await?;
        }
        failed(format!("node {}: {}", self.node, why.trim()))
    }

    /// Keeps writers out of all tables until the transaction ends; gives the end of what was written before.
    async fn lock(&mut self) -> Outcome<String> {
        // In the order in which they were made, and writers of the load come by them: so nobody waits in a circle.
        let list = "string_agg('ONLY ' || c.oid::regclass::text, ', ' ORDER BY c.oid)";
        let lock = format!("SELECT 'LOCK TABLE ' || {list} || ' IN SHARE MODE' {TABLES}");
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED;";
        let commands =
            format!("{begin} DO $$ BEGIN EXECUTE ({lock}); END $$; SELECT pg_current_wal_flush_lsn();");
        Ok(self.ask(&commands).await?.concat())
    }

    /// What a standby holds once it has replayed what was written before this position. Nearly always it has: a commit that
    /// was not waited for to the end, since its session was ended or its primary restarted, shows there a little later.
    async fn digest_at(&mut self, position: &str) -> Outcome<Digest> {
        let behind = format!("pg_last_wal_replay_lsn() < '{position}'::pg_lsn");
        let wait = format!("DO $$ BEGIN WHILE {behind} LOOP PERFORM pg_sleep(0.02); END LOOP; END $$;");
        self.ask(&wait).await?;
        self.digest().await
    }

    /// How many rows each table has, and the sum of their hashes, which is the same wherever a scan begins.
    async fn digest(&mut self) -> Outcome<Digest> {
        let hash = format!(
            r#"CASE c.relnamespace::regnamespace::text WHEN '{LOAD}' THEN 'hash_record_extended("~row", 0)'
               ELSE 'hashtextextended("~row"::text, 0)' END"#
        );
        let each = format!(
            r#"SELECT format('SELECT %L, count(*), sum(%s) FROM ONLY %s AS "~row"', c.oid::regclass, {hash}, c.oid::regclass)"#
        );
        let lines = self.ask(&format!("{each} {TABLES} ORDER BY c.oid \\gexec")).await?;
        let load = format!("{LOAD}.");
        ensure(lines.iter().any(|line| line.starts_with(&load)), || format!("tables: {lines:?}"))?;
        Ok((self.node, lines))
    }
}
