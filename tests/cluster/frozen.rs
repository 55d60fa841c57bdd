//! Processes of a node are stopped in their tracks, and go on when others have long done without it.
use std::time::Duration;

use pgpool_operator::api::v1alpha1::Record;
use tokio::time::Instant;

use super::failover::{TAKEN_OVER, primary, standby, taken_over};
use super::harness::{Outcome, ensure};
use super::load;
use super::processes::{another_postmaster, freeze, hang_postgres, postmaster, thaw, uid_of};
use super::world::{POOL, World, until};

/// How long processes are frozen, once the others have gone on.
const FROZEN: Duration = Duration::from_secs(20);
/// What a busy machine may take beside all that the spec sets a time for.
const BUSY: Duration = Duration::from_secs(10);

/// Lets those go on that were frozen; fails where they have ended instead.
fn thawed(all: &[i32]) -> Outcome {
    let there = thaw(all);
    ensure(there > 0, || format!("none of {} frozen processes was left to go on", all.len()))
}

/// All processes of the primary are frozen, and thaw when another has long been in office.
pub async fn primary_frozen(world: &World) -> Outcome {
    let old = primary(world).await?;
    let all = freeze(world, old).await?;
    let taken = taken_over(world, old).await;
    let went_on = load::goes_on(world).await;
    tokio::time::sleep(FROZEN).await;
    let thawed = thawed(&all);
    taken?;
    went_on?;
    thawed?;
    load::unharmed(world).await
}

/// The primary's Postgres hangs, and its agent doesn't: another takes over, and it is ended and follows.
pub async fn postgres_hangs(world: &World) -> Outcome {
    let old = primary(world).await?;
    let hung = postmaster(world, old).await?;
    let all = hang_postgres(world, old).await?;
    let done = async {
        taken_over(world, old).await?;
        load::unharmed(world).await?;
        another_postmaster(&uid_of(world, old).await?, hung).map(drop)
    };
    let done = done.await;
    // Those that were ended are gone.
    thaw(&all);
    done
}

/// All processes of a standby are frozen: it is removed, before commits have waited for longer than that may take, and comes
/// back without a copy when they thaw.
pub async fn standby_frozen(world: &World) -> Outcome {
    let (node, copies) = (standby(world).await?, world.incarnations().await?);
    let longest = longest_wait(world).await?;
    let since = Instant::now();
    let all = freeze(world, node).await?;
    let waited = done_without(world, node, since).await;
    let thawed = thawed(&all);
    let waited = waited?;
    thawed?;
    println!("    commits waited for {:.1} s at most", waited.as_secs_f64());
    ensure(waited <= longest, || format!("commits waited for {waited:?}, which may be {longest:?}"))?;
    load::unharmed(world).await?;
    world.same_copies(&copies).await
}

/// How long commits may wait for a node that is silent: until it is found to be so, and its lease is over (docs/limits.md).
async fn longest_wait(world: &World) -> Outcome<Duration> {
    let failure = world.pools().get(POOL).await?.spec.failure;
    Ok(2 * (failure.detach_after.get() + failure.lease.get()) + BUSY)
}

/// The pool does without a node that is frozen since then; gives for how long commits waited for it at most.
async fn done_without(world: &World, node: u8, since: Instant) -> Outcome<Duration> {
    let is_out = |record: &Record| record.attached.iter().all(|member| member.index != node);
    world.when_record("the frozen node to be removed", TAKEN_OVER, is_out).await?;
    let acknowledged = load::written(world).await?;
    until("another write to be acknowledged", TAKEN_OVER, || async {
        let now = load::written(world).await?;
        ensure(now > acknowledged, || format!("still {now} writes"))
    })
    .await?;
    let waited = since.elapsed();
    load::goes_on(world).await?;
    tokio::time::sleep(FROZEN).await;
    let record = world.record().await?;
    ensure(is_out(&record), || format!("it came back while it was frozen: {record:?}"))?;
    Ok(waited)
}
