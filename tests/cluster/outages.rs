//! Machines, their network and the API server fail, under load: writes go on where they may, nothing old is read where they
//! may not, and the pool is whole again without a hand.
use std::time::Duration;

use pgpool_operator::api::v1alpha1::Phase;
use rustix::process::Signal;
use tokio::time::{Instant, sleep_until};

use super::failover::{FROZEN, TAKEN_OVER, WITHOUT_OPERATOR, standby, taken_over};
use super::harness::{Outcome, ensure};
use super::processes::{agent, freeze, signal, thaw};
use super::witness::{Witness, now};
use super::world::{World, until};
use super::{load, machines, sessions};

/// How long nothing is written, while the set can't change and a node of it fails.
const STILL: Duration = Duration::from_secs(8);

/// The machine of the primary is lost, and comes back.
pub async fn machine_lost(world: &World) -> Outcome {
    let old = machines::primary_away_from_load(world).await?;
    let machine = machines::of_node(world, old).await?;
    machines::fault(&["kill", &machine]).await?;
    let taken = taken_over(world, old).await;
    let went_on = load::goes_on(world).await;
    machines::fault(&["start", &machine]).await?;
    taken?;
    went_on?;
    machines::ready(world, &machine).await?;
    load::unharmed(world).await
}

/// The machine of the primary can't reach anything, and nothing it; who reads there is told nothing old.
pub async fn primary_cut_off(world: &World) -> Outcome {
    let old = machines::primary_beside_front(world).await?;
    let machine = machines::of_node(world, old).await?;
    let witness = Witness::beside(world, &machine).await?;
    machines::fault(&["isolate", &machine]).await?;
    let cut = now();
    let taken = taken_over(world, old).await;
    let written = witness.write(world).await;
    let went_on = load::goes_on(world).await;
    machines::fault(&["heal", &machine]).await?;
    taken?;
    went_on?;
    machines::ready(world, &machine).await?;
    witness.judge(world, cut, written?).await?;
    load::unharmed(world).await
}

/// The machine of the primary reaches the API and no other machine: it keeps the record, and the pool is whole once the
/// network is. What it acknowledges alone is not missed by those who read elsewhere: by then they are told nothing.
pub async fn primary_cut_off_from_nodes(world: &World) -> Outcome {
    let old = machines::primary_away_from_load(world).await?;
    let machine = machines::of_node(world, old).await?;
    let elsewhere = machines::with_front_away_from(world, &machine).await?;
    let witness = Witness::beside(world, &elsewhere).await?;
    // Transactions whose front is cut off in the middle of them.
    sessions::hold_locks(world, &machines::front_on(world, &elsewhere).await?).await?;
    let begun = Instant::now();
    for other in machines::others(&machine) {
        machines::fault(&["part", &machine, other]).await?;
    }
    let cut = now();
    let written = witness.write_on(world, old).await;
    let kept = until("the primary to go on alone", TAKEN_OVER, || async {
        let record = world.record().await?;
        let alone = record.phase == Phase::Serving && record.primary == old && record.attached.len() == 1;
        ensure(alone, || format!("{record:?}"))
    })
    .await;
    sleep_until(begun + FROZEN).await;
    let after = world.record().await;
    let free = sessions::locks_are_free(world).await;
    machines::fault(&["heal", &machine]).await?;
    kept?;
    free?;
    let after = after?;
    ensure(after.primary == old && after.phase == Phase::Serving, || format!("deposed: {after:?}"))?;
    machines::ready(world, &machine).await?;
    witness.judge(world, cut, written?).await?;
    load::unharmed(world).await
}

/// The machine of the primary reaches the other machines and not the API: the pool doesn't notice. Then a standby falls silent:
/// it can't be removed, so writes wait until the network is whole.
pub async fn primary_cut_off_from_api(world: &World) -> Outcome {
    let old = machines::primary_away_from_load(world).await?;
    let machine = machines::of_node(world, old).await?;
    let (before, node) = (world.record().await?, standby(world).await?);
    machines::fault(&["part", &machine, machines::API]).await?;
    let went_on = load::keeps_on(world, FROZEN).await;
    let after = world.record().await;
    let frozen = freeze(world, node).await;
    let waited = load::stands_still(world, STILL).await;
    let healed = machines::fault(&["heal", &machine]).await;
    let goes_on = load::goes_on(world).await;
    thaw(&frozen?);
    went_on?;
    waited?;
    healed?;
    goes_on?;
    let after = after?;
    ensure(after.epoch == before.epoch, || format!("{before:?} became {after:?}"))?;
    machines::ready(world, &machine).await?;
    load::unharmed(world).await?;
    let last = world.record().await?;
    ensure(last.timeline == before.timeline, || format!("another primary: {before:?} became {last:?}"))
}

/// The machine of a standby is cut off; who reads there is told nothing old, and transactions of the front on it don't keep
/// their locks until it is back.
pub async fn standby_cut_off(world: &World) -> Outcome {
    let node = machines::standby_beside_front(world).await?;
    let machine = machines::of_node(world, node).await?;
    let witness = Witness::beside(world, &machine).await?;
    sessions::hold_locks(world, &machines::front_on(world, &machine).await?).await?;
    machines::fault(&["isolate", &machine]).await?;
    let cut = now();
    // The write is acknowledged only once the lost standby's lease is over.
    let written = witness.write(world).await;
    let went_on = load::goes_on(world).await;
    let free = sessions::locks_are_free(world).await;
    machines::fault(&["heal", &machine]).await?;
    went_on?;
    free?;
    machines::ready(world, &machine).await?;
    witness.judge(world, cut, written?).await?;
    load::unharmed(world).await
}

/// The API server is away for a minute, and the pool doesn't notice: neither who writes nor who reads.
pub async fn api_away(world: &World) -> Outcome {
    let before = world.record().await?;
    machines::fault(&["stop", machines::API, "apiserver"]).await?;
    let went_on = load::keeps_on(world, machines::API_AWAY).await;
    machines::fault(&["start", machines::API, "apiserver"]).await?;
    machines::api_back(world).await?;
    went_on?;
    load::goes_on(world).await?;
    let after = world.record().await?;
    ensure(after == before, || format!("{before:?} became {after:?}"))
}

/// The API server is away and a standby dies: writes wait rather than go on without it, and nobody reads once the leases are
/// over, until the API is back.
pub async fn api_away_and_a_standby_dies(world: &World) -> Outcome {
    let agent = agent(world, standby(world).await?).await?;
    machines::fault(&["stop", machines::API, "apiserver"]).await?;
    let outage = async {
        load::writes_go_on(world).await?;
        signal(agent, Signal::KILL)?;
        // Its container is started again, but serves nothing before it has read the record.
        load::stands_still(world, STILL).await
    }
    .await;
    machines::fault(&["start", machines::API, "apiserver"]).await?;
    machines::api_back(world).await?;
    outage?;
    load::goes_on(world).await?;
    world.when_record("three nodes", WITHOUT_OPERATOR, |record| record.attached.len() == 3).await?;
    machines::kubelets_anew(world).await?;
    load::unharmed(world).await
}
