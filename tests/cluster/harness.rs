//! Runs the steps of the scenario in order and reports them the way cargo's harness does.
use std::fmt;
use std::future::Future;
use std::mem;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::str::FromStr;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::join_all;
use tokio::time::Instant;

use super::chaos::Orders;
use super::compare;
use super::world::World;

/// Why a step failed, for a person.
#[derive(Debug)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// What a helper of a step gives.
pub type Outcome<T = ()> = Result<T, Failure>;

/// A failure with these words.
pub fn failed<T>(words: impl Into<String>) -> Outcome<T> {
    Err(Failure(words.into()))
}

/// Fails with `words` unless it holds.
pub fn ensure(holds: bool, words: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { failed(words()) }
}

/// The work of a step.
pub type Work = for<'w> fn(&'w World) -> Pin<Box<dyn Future<Output = Outcome> + 'w>>;

/// One step of the scenario.
pub struct Step {
    /// Its name, by which it can be asked for.
    pub name: &'static str,
    /// Later steps can't do without it: it runs whatever was asked for, and when it fails the rest is given up.
    pub groundwork: bool,
    /// It and the step before it are about pools of their own, or other things: it runs beside that one, which mostly waits.
    pub beside: bool,
    /// Longest time that it may take.
    pub limit: Duration,
    /// What it does.
    pub work: Work,
}

/// What the command line asks for.
#[derive(Default)]
pub struct Wishes {
    /// Parts of names; all steps when there are none.
    names: Vec<String>,
    /// The act; the whole scenario when there is none.
    pub act: Option<String>,
    /// Leave everything as it is at the end.
    pub keep: bool,
    /// Only print the names.
    pub list: bool,
    /// Faults at random.
    pub chaos: Orders,
}

impl Wishes {
    /// Reads the arguments; flags of cargo's own harness are taken and change nothing.
    pub fn read(mut args: impl Iterator<Item = String>) -> Self {
        let mut wishes = Self::default();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--act" => wishes.act = args.next(),
                "--keep" => wishes.keep = true,
                "--list" => wishes.list = true,
                "--faults" => wishes.chaos.faults = Some(number(&arg, args.next())),
                "--seed" => wishes.chaos.seed = Some(number(&arg, args.next())),
                "--minutes" => wishes.chaos.minutes = Some(number(&arg, args.next())),
                "--only" => wishes.chaos.only = Some(number(&arg, args.next())),
                flag if flag.starts_with('-') => {}
                name => wishes.names.push(name.to_owned()),
            }
        }
        wishes
    }

    /// Whether the step was asked for.
    pub fn want(&self, step: &Step) -> bool {
        step.groundwork || self.names.is_empty() || self.names.iter().any(|name| step.name.contains(name))
    }
}

/// The number behind a flag.
fn number<N: FromStr>(flag: &str, word: Option<String>) -> N {
    let Some(number) = word.as_deref().and_then(|word| word.parse().ok()) else {
        panic!("{flag} takes a number, not {}", word.unwrap_or_default());
    };
    number
}

/// Runs the steps that were asked for; true when all passed.
pub async fn run(world: &World, steps: &[Step], wishes: &Wishes) -> bool {
    let chosen: Vec<(usize, &Step)> =
        steps.iter().enumerate().filter(|(_, step)| wishes.want(step)).collect();
    println!("\nrunning {} tests", chosen.len());
    let began = Instant::now();
    let mut broken: Vec<(&str, Failure)> = Vec::new();
    let mut given_up: Option<&str> = None;
    // Beside no other than the one that it was put beside.
    for steps in chosen.chunk_by(|(at, _), (after, next)| next.beside && *after == at + 1) {
        let steps: Vec<&Step> = steps.iter().map(|(_, step)| *step).collect();
        if let Some(name) = given_up {
            for step in steps {
                let why = format!("not tried: {name} failed");
                println!("test {} ... FAILED ({why})", step.name);
                broken.push((step.name, Failure(why)));
            }
            continue;
        }
        for (step, outcome) in steps.iter().zip(together(world, &steps).await) {
            if let Err(failure) = outcome {
                broken.push((step.name, failure));
                given_up = given_up.or(step.groundwork.then_some(step.name));
            }
        }
    }
    let verdict = if broken.is_empty() { "ok" } else { "FAILED" };
    if !broken.is_empty() {
        println!("\nfailures:");
    }
    for (name, failure) in &broken {
        println!("    {name}{}", indented(&shortened(&failure.0)));
    }
    println!(
        "\ntest result: {verdict}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s",
        chosen.len() - broken.len(),
        broken.len(),
        steps.len() - chosen.len(),
        began.elapsed().as_secs_f64()
    );
    broken.is_empty()
}

/// Most characters of a failure in the list at the end of the run.
const SHOWN: usize = 1500;

/// Of a long failure its beginning and its end: CI shows the last lines alone.
fn shortened(words: &str) -> String {
    let all: Vec<char> = words.chars().collect();
    if all.len() <= SHOWN {
        return words.to_owned();
    }
    let (first, rest) = all.split_at(SHOWN * 2 / 3);
    let last = rest.iter().skip(rest.len() - SHOWN / 3);
    first.iter().chain(&[' ', '…', ' ']).chain(last).collect()
}

/// Each line on a line of its own below a name.
fn indented(words: &str) -> String {
    words.lines().flat_map(|line| ["\n        ", line]).collect()
}

/// Runs steps beside one another, has the nodes compared once all have passed, and says how each went.
async fn together(world: &World, steps: &[&Step]) -> Vec<Outcome> {
    let outcomes = join_all(steps.iter().map(|step| tried(world, step))).await;
    let passed = outcomes.iter().all(Result::is_ok);
    let mut compared = if passed { compare::after(world).await } else { Ok(()) };
    let mut all = Vec::new();
    for (step, outcome) in steps.iter().zip(outcomes) {
        // The first is about the pool under load, those beside it are about others.
        let outcome = match (outcome, mem::replace(&mut compared, Ok(()))) {
            (Ok(seconds), Ok(())) => {
                println!("test {} ... ok ({seconds:.1} s)", step.name);
                Ok(())
            }
            (Ok(seconds), Err(failure)) => {
                describe(world, step, seconds, &failure).await;
                Err(failure)
            }
            (Err(failure), _) => Err(failure),
        };
        all.push(outcome);
    }
    all
}

/// Runs one step; the seconds that it took. What a failure left is described at once.
async fn tried(world: &World, step: &Step) -> Outcome<f64> {
    let since = Instant::now();
    let outcome = one(world, step).await;
    let seconds = since.elapsed().as_secs_f64();
    if let Err(failure) = &outcome {
        describe(world, step, seconds, failure).await;
    }
    outcome.map(|()| seconds)
}

/// Says that a step failed, and what the cluster looks like.
async fn describe(world: &World, step: &Step, seconds: f64, failure: &Failure) {
    println!("test {} ... FAILED ({seconds:.1} s)\n    {failure}", step.name);
    world.describe().await;
}

/// Runs one step: a panic and a step without an end are failures like any other.
async fn one(world: &World, step: &Step) -> Outcome {
    let work = AssertUnwindSafe((step.work)(world)).catch_unwind();
    match tokio::time::timeout(step.limit, work).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => {
            let words = panic.downcast_ref::<String>().cloned();
            let words = words.or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()));
            failed(format!("panic: {}", words.unwrap_or_default()))
        }
        Err(_) => failed(format!("no end within {} s", step.limit.as_secs())),
    }
}
