//! Runs the steps of the scenario in order and reports them the way cargo's harness does.
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::join_all;
use tokio::time::Instant;

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

/// When a step runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// When all before it have ended.
    Alone,
    /// When the step before it has; what runs beside that goes on.
    Along,
    /// It has pools of its own and runs beside the steps before it, which mostly wait: with the first of those that follow one
    /// another along. Steps of one module follow one another.
    Beside,
}

/// One step of the scenario.
pub struct Step {
    /// Its name, by which it can be asked for.
    pub name: &'static str,
    /// Later steps can't do without it: it runs whatever was asked for, and when it fails the rest is given up.
    pub groundwork: bool,
    /// When it runs.
    pub place: Place,
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

/// Runs the steps that were asked for; true when all passed.
pub async fn run(world: &World, steps: &[Step], wishes: &Wishes) -> bool {
    let chosen: Vec<&Step> = steps.iter().filter(|step| wishes.want(step)).collect();
    println!("\nrunning {} tests", chosen.len());
    let began = Instant::now();
    let (mut passed, mut broken) = (0, Vec::new());
    let mut given_up: Option<&str> = None;
    for steps in chosen.chunk_by(|step, next| next.place != Place::Alone && !step.groundwork) {
        if let Some(name) = given_up {
            for step in steps {
                println!("test {} ... FAILED (not tried: {name} failed)", step.name);
                broken.push(step.name);
            }
            continue;
        }
        let outcomes = join_all(lanes(steps).iter().map(|lane| one_by_one(world, lane))).await;
        for (step, good) in outcomes.into_iter().flatten() {
            if good {
                passed += 1;
            } else {
                broken.push(step.name);
                given_up = given_up.or(step.groundwork.then_some(step.name));
            }
        }
    }
    let verdict = if broken.is_empty() { "ok" } else { "FAILED" };
    if !broken.is_empty() {
        println!("\nfailures:\n    {}", broken.join("\n    "));
    }
    println!(
        "\ntest result: {verdict}. {passed} passed; {} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s",
        broken.len(),
        steps.len() - chosen.len(),
        began.elapsed().as_secs_f64()
    );
    broken.is_empty()
}

/// What runs at the same time: in each lane one step after the other.
fn lanes<'s>(steps: &[&'s Step]) -> Vec<Vec<&'s Step>> {
    let (beside, main): (Vec<&Step>, Vec<&Step>) =
        steps.iter().copied().partition(|step| step.place == Place::Beside);
    let module = |step: &Step| step.name.split("::").next().unwrap_or_default();
    let beside = beside.chunk_by(|one, next| module(one) == module(next)).map(<[&Step]>::to_vec);
    std::iter::once(main).filter(|main| !main.is_empty()).chain(beside).collect()
}

async fn one_by_one<'s>(world: &World, steps: &[&'s Step]) -> Vec<(&'s Step, bool)> {
    let mut outcomes = Vec::new();
    for step in steps {
        outcomes.push((*step, reported(world, step).await));
    }
    outcomes
}

/// Runs one step and says how it went; true when it passed.
async fn reported(world: &World, step: &Step) -> bool {
    let since = Instant::now();
    let outcome = one(world, step).await;
    let seconds = since.elapsed().as_secs_f64();
    match outcome {
        Ok(()) => println!("test {} ... ok ({seconds:.1} s)", step.name),
        Err(failure) => {
            println!("test {} ... FAILED ({seconds:.1} s)\n    {failure}", step.name);
            world.describe().await;
            return false;
        }
    }
    true
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
