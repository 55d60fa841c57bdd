//! `cargo xtask drivers`: what programs use to talk to PostgreSQL, tried by the front of a pool, and at its primary.
//!
//! The drivers come from the registries of their languages, in the versions that tests/drivers names, and stay in the
//! cache.

mod languages;
mod login;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use crate::clock::Stopwatch;
use crate::cluster::{self, Cluster};
use crate::error::{Error, Result, refused};
use crate::progress::{print, say};
use crate::{cli, run};

use languages::{LANGUAGES, Language};
use login::{Environment, Pool};

/// Puts a command to where it is to run.
type Enter<'e> = dyn Fn(&[OsString]) -> Result<Command> + Sync + 'e;

/// Fetches all that isn't in the cache.
pub fn fetch() -> Result<Vec<PathBuf>> {
    LANGUAGES.iter().map(Language::fetched).collect()
}

/// Tries all of them by the front, and then at the primary where that is wanted.
pub fn run(options: &cli::Drivers) -> Result<()> {
    let dirs = fetch()?;
    let cluster = Cluster::named(&options.cluster.name)?;
    let pool = Pool { cluster: &cluster, namespace: &options.namespace };
    let front = |words: &[OsString]| cluster::enter::command(&cluster, words);
    let mut failed = tried("by the front", &dirs, &pool.by_the_front()?, &front)?;
    if options.directly {
        let (environment, process) = pool.directly()?;
        let primary = |words: &[OsString]| Ok(cluster::enter::in_pod(process, words));
        failed.extend(tried("directly", &dirs, &environment, &primary)?);
    }
    if failed.is_empty() {
        print("all drivers: ok");
        return Ok(());
    }
    refused(format!("not all passed: {}; see FAILED above", failed.join(", ")))
}

/// Runs the scripts of all languages side by side; gives those that failed.
fn tried(way: &str, dirs: &[PathBuf], environment: &Environment, enter: &Enter<'_>) -> Result<Vec<String>> {
    let watch = Stopwatch::start();
    let one = |language: &Language, dir: &PathBuf| {
        let mut command = enter(&language.command(dir))?;
        let output = run::output(command.envs(environment.iter().cloned()))?;
        let seconds = watch.elapsed().as_secs_f64();
        Ok::<_, Error>((output, seconds))
    };
    let ended: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = LANGUAGES
            .iter()
            .zip(dirs)
            .map(|(language, dir)| scope.spawn(move || one(language, dir)))
            .collect();
        running.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    let mut failed = Vec::new();
    for (language, ended) in LANGUAGES.iter().zip(ended) {
        let (output, seconds) = match ended {
            Ok(ended) => ended?,
            Err(_) => return refused(format!("the thread of {} panicked", language.name)),
        };
        say(format!("== {}, {way} ({seconds:.1} s)", language.name));
        print(String::from_utf8_lossy(&output.stdout).trim_end());
        if !output.status.success() {
            say(String::from_utf8_lossy(&output.stderr).trim_end());
            failed.push(format!("{} {way}", language.name));
        }
    }
    Ok(failed)
}
