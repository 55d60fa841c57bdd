//! The hold of a switchover (R14): sessions wait for the next primary. A transaction that is open is given its time and no more, and a
//! standby that is lost meanwhile calls the switchover off.
use std::time::Duration;

use pgpool_operator::api::v1alpha1::{Phase, Record};
use rustix::process::Signal;
use tokio::time::Instant;

use super::failover::{TAKEN_OVER, primary, standby, taken_over};
use super::front::{figures, let_go, open, says};
use super::harness::{Failure, Outcome, ensure, failed};
use super::install::as_app;
use super::load;
use super::processes::{agent, another_postmaster, postmaster, signal, thaw, uid_of};
use super::world::{POOL, World, until};

/// So long a transaction that is open may go on (docs/membership.md, R14).
const ITS_TIME: Duration = Duration::from_secs(2);
/// How often a standby is lost, until that is within a hold.
const TRIES: u32 = 3;
/// What is told of a switchover that was called off.
const CALLED_OFF: &str = "an attached standby was lost, or did not apply everything in time";

/// A transaction that stays open doesn't stop a switchover: it has its time, and then its session ends with 57P01. One that would begin
/// in the hold waits, and goes on at the next primary. Whoever comes again finds all that was committed, and nothing of what wasn't.
pub async fn open_transaction(world: &World) -> Outcome {
    let (old, to) = (primary(world).await?, standby(world).await?);
    begin(world).await?;
    let waits = "INSERT INTO held VALUES ('waited'); SELECT 'moved' WHERE NOT pg_is_in_recovery();";
    open(world, "waiting", "SELECT 'ready';", waits).await?;
    let before = held(world, old).await?;
    let since = Instant::now();
    world.ask_for("switchover", &to.to_string()).await?;
    holds(world, old, before).await?;
    let_go(world, "waiting").await?;
    let new = taken_over(world, old).await?;
    let took = since.elapsed();
    ensure(new == to, || format!("node {new} took over, not node {to}"))?;
    println!("    another primary {:.1} s after it was asked for", took.as_secs_f64());
    ensure(took >= ITS_TIME, || format!("the open transaction had {took:?}, not {ITS_TIME:?}"))?;
    says(world, "waiting", "moved").await?;
    ended(world).await?;
    as_app(world, POOL, "INSERT INTO held VALUES ('again')").await?;
    let kept = as_app(world, POOL, "SELECT string_agg(who, ' ' ORDER BY who) FROM held").await?;
    ensure(kept == "again before waited", || format!("the table has {kept:?}"))?;
    as_app(world, POOL, "DROP TABLE held").await?;
    load::unharmed(world).await
}

/// A standby that is lost in the hold calls the switchover off: the primary opens again in the same office, and goes on without it. Where
/// it was lost too late for that, another one is in office, which is as good, and it is tried once more.
pub async fn standby_lost(world: &World) -> Outcome {
    for _ in 0..TRIES {
        let before = world.record().await?;
        if Box::pin(lost(world, &before)).await? {
            return as_app(world, POOL, "DROP TABLE held").await.map(drop);
        }
        println!("    the switchover was over before the standby was lost");
    }
    failed(format!("{TRIES} switchovers were over before a standby could be lost in them"))
}

/// Loses the standby that is to take over, in the hold; true where the switchover was called off for it. An open transaction makes the
/// hold as long as it may be.
async fn lost(world: &World, before: &Record) -> Outcome<bool> {
    let to = standby(world).await?;
    let (its_agent, killed) = (agent(world, to).await?, postmaster(world, to).await?);
    begin(world).await?;
    let known = called_off(world).await?;
    let waiting = held(world, before.primary).await?;
    let seen = async {
        world.ask_for("switchover", &to.to_string()).await?;
        holds(world, before.primary, waiting).await?;
        // Else it would start PostgreSQL again within the hold.
        signal(its_agent, Signal::STOP)?;
        signal(killed, Signal::KILL)?;
        let called_off = is_over(world, before, known).await?;
        // While that node is still away.
        load::goes_on(world).await?;
        Ok::<_, Failure>((called_off, world.record().await?))
    }
    .await;
    thaw(&[its_agent]);
    let (called_off, record) = seen?;
    let same = (record.primary, record.timeline) == (before.primary, before.timeline);
    ensure(same == called_off && record.phase == Phase::Serving, || format!("{before:?} became {record:?}"))?;
    ended(world).await?;
    load::unharmed(world).await?;
    another_postmaster(&uid_of(world, to).await?, killed)?;
    Ok(called_off)
}

/// Waits for the end of the switchover; true where it was called off, and more events than these tell so.
async fn is_over(world: &World, before: &Record, known: usize) -> Outcome<bool> {
    until("the end of the switchover", TAKEN_OVER, || async {
        let (record, told) = (world.record().await?, called_off(world).await?);
        let another = record.phase == Phase::Serving && record.primary != before.primary;
        ensure(another || told > known, || format!("{record:?}"))?;
        Ok(!another)
    })
    .await
}

/// How many events tell of a switchover that was called off for a standby.
async fn called_off(world: &World) -> Outcome<usize> {
    let events = world.events("SwitchoverFailed").await?;
    Ok(events.iter().filter(|note| note.contains(CALLED_OFF)).count())
}

/// A table with a row that is committed, and a session with a transaction that stays open, by which it would have another.
async fn begin(world: &World) -> Outcome {
    let table =
        "CREATE TABLE IF NOT EXISTS held (who text); TRUNCATE held; INSERT INTO held VALUES ('before')";
    as_app(world, POOL, table).await?;
    let first = "\\set VERBOSITY verbose\nBEGIN; INSERT INTO held VALUES ('open'); SELECT 'ready';";
    open(world, "open", first, "COMMIT; SELECT 'went on';").await
}

/// That session was ended in its transaction, and is told so; nothing of the transaction stayed.
async fn ended(world: &World) -> Outcome {
    let_go(world, "open").await?;
    let told = says(world, "open", "HINT").await?;
    let words = ["57P01", "its node has left its office or the pool"];
    let all = words.iter().all(|words| told.contains(words));
    ensure(all && !told.contains("went on"), || told.clone())?;
    let left = as_app(world, POOL, "SELECT count(*) FROM held WHERE who = 'open'").await?;
    ensure(left == "0", || format!("{left} rows of a transaction that was never committed"))
}

/// How often a session at this primary was held since it hands over, at all fronts.
async fn held(world: &World, node: u8) -> Outcome<f64> {
    let labels = format!("{{route=\"primary\",node=\"{node}\",reason=\"leaving\"}}");
    let all = figures(world, &format!("pgpool_front_sessions_held_total{labels}")).await?;
    Ok(all.iter().sum())
}

/// Waits until more sessions than that were held: the hold has begun. It is looked at without a pause, since it is over in seconds.
async fn holds(world: &World, node: u8, before: f64) -> Outcome {
    let seen = async {
        while held(world, node).await? <= before {}
        Ok::<_, Failure>(())
    };
    tokio::time::timeout(TAKEN_OVER, seen).await?
}
