//! The primary's Postgres dies while the API server is away, so that nobody can be chosen in its place.
use std::time::Duration;

use rustix::process::Signal;

use super::harness::{Failure, Outcome, ensure};
use super::processes::{another_postmaster, postmaster, signal, uid_of};
use super::world::{World, until};
use super::{load, machines};

/// After that time no answer of a Postgres that was killed is under way any more.
const STANDS_STILL: Duration = Duration::from_secs(5);
/// Time for the agent to start Postgres again.
const STARTED: Duration = Duration::from_secs(60);
/// How much longer the API is away then.
const WITHOUT_API: Duration = Duration::from_secs(20);

/// The agent can't leave its office, and starts Postgres again where it was. It lets nobody in before it has read the record:
/// until then no write is acknowledged. Once the API is back it opens, or another one has asked for an election first.
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
    machines::fault(&["start", machines::API, "apiserver"]).await?;
    machines::api_back(world).await?;
    let (still, after, started) = outage?;
    println!("    without the API process {started} came after {killed}, and {} writes", after - still);
    ensure(still == after, || format!("{} writes were acknowledged without the API", after - still))?;
    // Pods are ready again once their kubelets say so.
    machines::kubelets_anew(world).await?;
    load::unharmed(world).await?;
    let now = world.record().await?;
    println!(
        "    node {} was the primary on timeline {}, node {} is on {}",
        before.primary, before.timeline, now.primary, now.timeline
    );
    Ok(())
}
