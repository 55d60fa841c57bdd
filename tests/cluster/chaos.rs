//! Faults at random, under load: after each round the pool is whole again without a hand (`cargo xtask chaos`).
mod draw;
mod fill;
mod make;
mod tally;

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use pgpool_operator::names;
use rand::Rng as _;
use tokio::time::Instant;

use super::harness::{Failure, Outcome, ensure, failed};
use super::pool::is_ready;
use super::world::{POOL, SPACE, SYSTEM, World, until};
use super::{compare, load};
use draw::{Kind, Round, rounds};
use make::{Act, Cast, aim, over};
use tally::Tally;

/// Faults where no number is asked for.
const FAULTS: usize = 30;
/// Seeds that are made up are below this, so that they can be read out.
const SEEDS: u64 = 1_000_000;
/// Time for the pool to be whole again after a round: a recovery that was disturbed, its pause, and another one.
const WHOLE: Duration = Duration::from_secs(420);
/// Time for all that has to be so again.
const OVER: Duration = Duration::from_secs(600);

/// What is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Orders {
    /// How many faults.
    pub faults: Option<usize>,
    /// What they are drawn from; made up where none is given.
    pub seed: Option<u64>,
    /// No round begins after so many minutes.
    pub minutes: Option<u64>,
    /// Of the rounds this one alone, counted from 1.
    pub only: Option<usize>,
}

/// Time that a fault takes, with all that comes after it: more than the median of all kinds.
const EACH: Duration = Duration::from_secs(120);

impl Orders {
    /// How long it all takes, as far as that can be told before.
    pub fn longest(&self) -> Duration {
        let faults = if self.only.is_some() { 2 } else { self.faults.unwrap_or(FAULTS) };
        let all = EACH * u32::try_from(faults).unwrap_or(u32::MAX);
        // The last round begins within the minutes.
        self.minutes.map_or(all, |minutes| all.min(Duration::from_secs(60 * minutes) + OVER))
    }
}

/// Makes faults, round by round, and has the pool become whole after each.
pub async fn faults(world: &World) -> Outcome {
    let orders = world.chaos;
    let count = orders.faults.unwrap_or(FAULTS);
    let seed = orders.seed.unwrap_or_else(|| rand::rng().random_range(0..SEEDS));
    let list = rounds(seed, count);
    println!("    seed {seed}: {count} faults in {} rounds", list.len());
    let mut tally = Tally::default();
    let outcome = all(world, orders, &list, &mut tally).await;
    tally.lines().iter().for_each(|line| println!("    {line}"));
    outcome.map_err(|(number, Failure(why))| {
        let again = format!("cargo xtask chaos --seed {seed} --faults {count}");
        let round = number.checked_sub(1).and_then(|place| list.get(place)).map(Round::to_string);
        let round = round.unwrap_or_default();
        Failure(format!("round {number}: {round}\n    {why}\n    again: {again}, or with --only {number}"))
    })
}

/// Goes through the rounds; of one that fails the number, counted from 1, and why.
async fn all(
    world: &World,
    orders: Orders,
    list: &[Round],
    tally: &mut Tally,
) -> Result<(), (usize, Failure)> {
    let begun = Instant::now();
    let end = orders.minutes.map(|minutes| Duration::from_secs(60 * minutes));
    if let Some(only) = orders.only.filter(|only| !(1..=list.len()).contains(only)) {
        return Err((only, Failure(format!("there are rounds 1 to {}", list.len()))));
    }
    let numbered = list.iter().enumerate().map(|(place, round)| (place + 1, round));
    for (number, round) in numbered.filter(|(number, _)| orders.only.is_none_or(|only| only == *number)) {
        if end.is_some_and(|end| begun.elapsed() >= end) {
            println!("    the time is up before round {number} of {}", list.len());
            return Ok(());
        }
        let (made, took) =
            one(world, number, list.len(), round).await.map_err(|failure| (number, failure))?;
        tally.add(&made, took);
    }
    Ok(())
}

/// One round; gives what was made, and the time from the end of its last fault until the pool was whole again.
async fn one(world: &World, number: usize, of: usize, round: &Round) -> Outcome<(Vec<Kind>, Duration)> {
    // It was so a moment ago, as far as anybody had noticed.
    world.whole(WHOLE).await?;
    let cast = Cast::of(world, round).await?;
    let mut acts: Vec<Act> = Vec::new();
    for fault in &round.faults {
        acts.push(aim(world, fault, round, &cast).await?);
    }
    let places = [Duration::ZERO, round.apart];
    let lives = acts.iter().zip(&round.faults).zip(places);
    let lives = lives.map(|((act, fault), after)| act.live(world, after, fault.lasts));
    let outcomes = join_all(lives).await;
    let since = Instant::now();
    let again = tokio::time::timeout(OVER, async {
        over(world, &acts).await?;
        whole(world).await
    });
    let again = again.await;
    // What went wrong first says more than what came of it.
    let made = outcomes.into_iter().collect::<Outcome<Vec<bool>>>()?;
    again.unwrap_or_else(|_| failed(format!("not whole within {} s", OVER.as_secs())))?;
    let took = since.elapsed();
    let seconds = took.as_secs_f64();
    println!("    {number:>3} of {of}: {round} [{}]: whole after {seconds:.1} s", cast.told());
    compare::after(world).await?;
    let (made, not): (Vec<_>, Vec<_>) = round.faults.iter().zip(made).partition(|(_, made)| *made);
    for (fault, _) in not {
        println!("    not made, since the other one had taken away whom it would have hit: {fault}");
    }
    Ok((made.into_iter().map(|(fault, _)| fault.kind).collect(), took))
}

/// Every node attached and ready, every front and the operator too, and writes go on; still so after them, since a node
/// that has just died is listed as attached until they have to go on without it.
async fn whole(world: &World) -> Outcome {
    world.whole(WHOLE).await?;
    load::goes_on(world).await?;
    world.whole(WHOLE).await?;
    for space in [SPACE, SYSTEM] {
        until("ready fronts and a ready operator", WHOLE, || deployed(world, space)).await?;
    }
    Ok(())
}

/// Whether every Deployment of a namespace has all the pods that it shall have. They are looked at themselves: the
/// Deployment may not know yet of one that was just deleted, and one that is being deleted serves no more.
async fn deployed(world: &World, space: &str) -> Outcome {
    let deployments: Api<Deployment> = Api::namespaced(world.client.clone(), space);
    let list = deployments.list(&ListParams::default()).await?.items;
    ensure(space != SPACE || list.iter().any(|one| one.name_any() == names::proxy(POOL)), || {
        format!("no front among {} Deployments", list.len())
    })?;
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), space);
    for one in list {
        let (name, spec) = (one.name_any(), one.spec.unwrap_or_default());
        let labels = spec.selector.match_labels.unwrap_or_default();
        let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
        let own = pods.list(&ListParams::default().labels(&labels.join(","))).await?.items;
        let (ready, wanted) = (own.iter().filter(|pod| is_ready(pod)).count(), spec.replicas.unwrap_or(1));
        ensure(i32::try_from(ready) == Ok(wanted), || format!("{name}: {ready} of {wanted} pods are ready"))?;
    }
    Ok(())
}
