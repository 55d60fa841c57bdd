//! `cargo xtask drivers`: what programs use to talk to PostgreSQL, tried by the front of a pool and at its primary, and what
//! they saw compared.
//!
//! The drivers come from the registries of their languages, in the versions that tests/drivers names, and stay in the
//! cache. A language that can't be had on a machine is left out, and named.

mod compare;
mod languages;
mod login;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::clock::Stopwatch;
use crate::cluster::{self, Cluster};
use crate::error::{Error, Result, refused};
use crate::progress::{print, say};
use crate::{cli, files, run};

use languages::{LANGUAGES, Language};
use login::{Environment, Pool};

/// Before the words of a script: the pool goes before it, and one that doesn't end by itself is ended.
const BEFORE: [&str; 6] = ["nice", "-n", "10", "timeout", "--kill-after=10", "240"];
/// Characters of a reason that are shown.
const REASON: usize = 240;

/// Puts a command to where it is to run.
type Enter<'e> = dyn Fn(&[OsString]) -> Result<Command> + Sync + 'e;

/// A language whose drivers are there.
struct Ready {
    language: &'static Language,
    dir: PathBuf,
}

/// What came of the script of a language.
struct Came {
    good: bool,
    said: String,
    seconds: f64,
}

/// Fetches all that isn't in the cache; says what can't be had.
pub fn fetch() {
    ready(Language::fetched);
}

/// Those whose drivers can be had this way; the others are named, each in a line.
fn ready(had: fn(&Language) -> Result<PathBuf>) -> Vec<Ready> {
    let one = |language: &'static Language| match had(language) {
        Ok(dir) => Some(Ready { language, dir }),
        Err(error) => {
            print(format!("drivers: {}: skipped, {}", language.name, short(&error)));
            None
        }
    };
    LANGUAGES.iter().filter_map(one).collect()
}

/// An error in a line.
fn short(error: &Error) -> String {
    let words: Vec<String> = error.to_string().split_whitespace().map(str::to_owned).collect();
    words.join(" ").chars().take(REASON).collect()
}

/// Tries all of them by the front, and then at the primary where that is wanted.
pub fn run(options: &cli::Drivers) -> Result<()> {
    let ready = ready(if options.cached { Language::cached } else { Language::fetched });
    let missing = |language: &&Language| {
        language.certain && !ready.iter().any(|ready| ready.language.name == language.name)
    };
    if let Some(missing) = LANGUAGES.iter().find(missing) {
        return refused(format!("drivers for {} have to be there", missing.name));
    }
    let cluster = Cluster::named(&options.cluster.name)?;
    let pool = Pool { cluster: &cluster, namespace: &options.namespace };
    let folder = cluster.run().join("drivers");
    let enter = |words: &[OsString]| cluster::enter::command(&cluster, words);
    let front = tried(("front", &folder), &ready, &pool.by_the_front()?, &enter)?;
    let directly = if options.directly {
        let (environment, process) = pool.directly()?;
        let enter = |words: &[OsString]| Ok(cluster::enter::in_pod(process, words));
        Some(tried(("directly", &folder), &ready, &environment, &enter)?)
    } else {
        None
    };
    say(format!("what they saw: {}", folder.display()));
    judge(&ready, &front, directly.as_deref())
}

/// Says of each language what came of it; fails where it isn't what it has to be.
fn judge(ready: &[Ready], front: &[Came], directly: Option<&[Came]>) -> Result<()> {
    let mut wrong = Vec::new();
    for (at, (Ready { language, .. }, front)) in ready.iter().zip(front).enumerate() {
        let name = language.name;
        let direct = directly.and_then(|all| all.get(at));
        let differences = direct.map(|direct| compare::differences(&front.said, &direct.said));
        let differences = differences.unwrap_or_default();
        let good = front.good && direct.is_none_or(|direct| direct.good) && differences.is_empty();
        for difference in &differences {
            say(format!("DIFFERENT: {difference}"));
        }
        let (cases, took) = (compare::cases(&front.said).len(), front.seconds);
        print(match direct {
            _ if !good => format!("drivers: {name}: FAILED, see above"),
            Some(direct) => format!(
                "drivers: {name}: {cases} cases, the same on both ways ({took:.1} s, directly {:.1} s)",
                direct.seconds
            ),
            None => format!("drivers: {name}: {cases} cases ({took:.1} s)"),
        });
        if !good {
            wrong.push(name);
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        refused(format!("not all is as it has to be: {}", wrong.join(", ")))
    }
}

/// Runs the scripts of all languages side by side; what they said is kept in the folder, as long as there is the cluster.
fn tried(
    (way, folder): (&str, &Path),
    ready: &[Ready],
    environment: &Environment,
    enter: &Enter<'_>,
) -> Result<Vec<Came>> {
    let watch = Stopwatch::start();
    let one = |Ready { language, dir }: &Ready| {
        let words: Vec<OsString> = BEFORE.iter().map(OsString::from).chain(language.command(dir)).collect();
        let output = run::output(enter(&words)?.envs(environment.iter().cloned()))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        files::write(&folder.join(format!("{}-{way}.txt", language.name)), &said)?;
        let good = output.status.success();
        if !good {
            let (ended, err) = (run::told(output.status), String::from_utf8_lossy(&output.stderr));
            let failures: Vec<&str> = said.lines().filter(|line| !line.starts_with("ok ")).collect();
            say(format!("== {} ({way}): {ended}\n{}\n{err}", language.name, failures.join("\n")));
        }
        Ok::<_, Error>(Came { good, said, seconds: watch.elapsed().as_secs_f64() })
    };
    let ended: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = ready.iter().map(|ready| scope.spawn(move || one(ready))).collect();
        running.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    let joined = ended.into_iter().map(|ended| ended.unwrap_or_else(|_| refused("a thread panicked")));
    joined.collect()
}
