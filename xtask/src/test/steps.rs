//! What each step does.

use std::io::{self, BufRead, BufReader, Read};
use std::ops::Add as _;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;

use rustix::process::Pid;

use super::stage::{OBSERVE, Part, UPGRADE};
use super::tally::Tally;
use super::wish::Chosen;
use super::{Name, demo};
use crate::cargo::{self, OPTIMISED, SELECTION};
use crate::cluster::Cluster;
use crate::error::{Error, OnFile, Result, refused};
use crate::programs::{self, LINEARIZABLE, Programs};
use crate::progress::{print, say, step};
use crate::{host, interrupt, paths, release, run};

/// Tests of one program that run at once: many of them wait most of the time.
const AT_ONCE: &str = "6";
/// Integration tests that need a cluster; each is a step of its own.
const INSIDE: [&str; 2] = ["api", "cluster"];
/// Integration tests that mostly wait, as those of the library do: they run beside those that need the processors.
const WAITING: [&str; 1] = ["selftest"];
/// Writes, reads and checks; tests of a cluster run it on the machine too.
const WORKLOAD: &str = "pgpool-workload";
const CHART: &str = "charts/pgpool-operator";
/// The chart's alerts, as a plain file, and what fires when.
const RULES: [&str; 2] = ["charts/pgpool-operator/files/rules.yaml", "tests/prometheus/alerts.yaml"];

/// Runs a step that needs no cluster of the tests.
pub fn run(chosen: &Chosen, keep: bool) -> Result<Tally> {
    match chosen.part {
        Name::Fmt => one(cargo::command("fmt").args(["--all", "--check"])),
        Name::Clippy => {
            let clippy = |targets: &[&str]| {
                one(cargo::command("clippy").arg("--workspace").args(targets).args(["--", "-D", "warnings"]))
            };
            // Tests that need a cluster aren't among all targets: cargo would run them with the others.
            let inside: Vec<&str> = INSIDE.iter().flat_map(|test| ["--test", test]).collect();
            Ok(clippy(&["--all-targets"])? + clippy(&inside)?)
        }
        Name::Unit => unit(&chosen.filters),
        Name::Helm => helm(),
        Name::Demo => demo::run(keep),
        Name::Api | Name::Cluster => refused(format!("step {} needs a cluster", chosen.part.text())),
    }
}

/// Runs a step whose test program must be in the cluster's network.
pub fn run_inside(part: &Part, cluster: &Cluster) -> Result<Tally> {
    let mut test = cargo::command("test");
    test.args(SELECTION).args(OPTIMISED).args(["--test", &part.name.text(), "--"]);
    if part.name == Name::Cluster {
        test.args(["--test-threads=1", "--nocapture"]);
    }
    test.args(&part.words);
    let architecture = std::env::consts::ARCH.to_uppercase();
    let xtask = cluster.xtask().display().to_string();
    test.env(
        format!("CARGO_TARGET_{architecture}_UNKNOWN_LINUX_GNU_RUNNER"),
        format!("{xtask} enter --name {} --", cluster.name()),
    );
    test.env("PGPOOL_XTASK", xtask).env("PGPOOL_CLUSTER", cluster.name());
    test.env("PGPOOL_AUDIT", cluster.audit_log()).env("PGPOOL_DISKS", cluster.disks());
    test.env("PGPOOL_LINEARIZABLE", Programs::build()?.path(LINEARIZABLE)?);
    test.env("PGPOOL_WORKLOAD", cargo::build_program(WORKLOAD)?);
    if part.wants(OBSERVE) {
        test.env("PGPOOL_PROMETHEUS", programs::prometheus()?);
    }
    if part.wants(UPGRADE) {
        test.env("PGPOOL_FIRST_RELEASE", release::sources()?);
    }
    counted(&mut test, &part.label)
}

/// Compiles the test programs that [`run_inside`] runs.
pub fn compile_for_clusters() -> Result<()> {
    let mut build = cargo::command("test");
    build.args(SELECTION).args(OPTIMISED).args(["--no-run", "--test", "api", "--test", "cluster"]);
    step("test programs for clusters", || run::visible(&mut build))
}

/// A command that counts as one.
fn one(command: &mut Command) -> Result<Tally> {
    say(format!("   {}", run::shown(command)));
    run::visible(command).map(|()| Tally::SUCCESS)
}

/// A command whose tests are counted, while the user sees its output, each line behind the label.
fn counted(command: &mut Command, label: &str) -> Result<Tally> {
    say(format!("   {}", run::shown(command)));
    let held = interrupt::is_held();
    if held {
        // So that all that it starts can be ended at once, and none of ours with it.
        command.process_group(0);
    }
    let child = command.stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|source| Error::Start { command: run::shown(command), source })?;
    let output = child.stdout.take();
    let read = || output.map_or(Ok(Tally::default()), |output| handed_on(output, label));
    let tally = if held { interrupt::ending(Pid::from_child(&child), read) } else { read() };
    let tally = tally.on("read the output of", run::shown(command))?;
    let status = child.wait().on("wait for", run::shown(command))?;
    if interrupt::check().is_err() {
        say("interrupted");
    }
    Ok(tally.of_run(status.success()))
}

/// Prints each line behind the label, and gives the sum of the tests.
fn handed_on(output: impl Read, label: &str) -> io::Result<Tally> {
    let mut tally = Tally::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        print(format!("{label}{line}"));
        tally = tally + Tally::of_line(&line).unwrap_or_default();
    }
    Ok(tally)
}

fn unit(filters: &[String]) -> Result<Tally> {
    let tests = cargo::integration_tests()?;
    let outside = tests.iter().map(String::as_str).filter(|test| !INSIDE.contains(test));
    let (waiting, busy): (Vec<&str>, Vec<&str>) = outside.partition(|test| WAITING.contains(test));
    let mut waits = unit_tests(&["--lib"], &waiting)?;
    let mut counts = unit_tests(&[&OPTIMISED[..], &["--bins"]].concat(), &busy)?;
    if !filters.is_empty() {
        let named = |some: &mut Command| counted(some.arg("--").args(filters), "");
        return Ok(named(&mut waits)? + named(&mut counts)?);
    }
    let own = counted(cargo::command("test").args(["--package", "xtask"]), "")?;
    host::need_go()?;
    host::need_test_packages()?;
    let go = programs::go_test().into_iter().map(|mut command| {
        one(&mut command).unwrap_or_else(|e| {
            say(format!("error: {e}"));
            Tally::FAILURE
        })
    });
    let go = go.fold(Tally::default(), Tally::add);
    let both = thread::scope(|scope| {
        let waits = scope.spawn(move || counted(&mut waits, "parts    │ "));
        let counts = counted(&mut counts, "whole    │ ");
        Ok::<Tally, Error>(waits.join().unwrap_or(Ok(Tally::FAILURE))? + counts?)
    })?;
    Ok(both + own + go)
}

/// Tests of which these words and names tell cargo, several at once.
fn unit_tests(words: &[&str], tests: &[&str]) -> Result<Command> {
    let mut command = cargo::command("test");
    command.args(SELECTION).arg("--no-fail-fast").args(words);
    command.args(tests.iter().flat_map(|test| ["--test", test]));
    let programs = Programs::build()?;
    command.env("RUST_TEST_THREADS", AT_ONCE).env("PGPOOL_HELM", programs.path("helm")?);
    command.env("PGPOOL_LINEARIZABLE", programs.path(LINEARIZABLE)?);
    Ok(command)
}

/// The chart: `helm lint`, a rendering with the default values, which must give something, and its alerts.
fn helm() -> Result<Tally> {
    let programs = Programs::build()?;
    let chart = paths::checkout().join(CHART);
    let helm = |args: &[&str]| {
        let mut helm = run::command(programs.path("helm")?, args);
        helm.arg(&chart);
        Ok::<Command, Error>(helm)
    };
    let lint = one(&mut helm(&["lint", "--strict"])?)?;
    let mut template = helm(&["template", "pgpool-operator"])?;
    say(format!("   {}", run::shown(&template)));
    let text = run::captured(&mut template)?;
    let kinds = text.lines().filter(|line| line.starts_with("kind: ")).count();
    say(format!("   {kinds} objects"));
    let rendered = if kinds > 0 { lint } else { Tally::FAILURE };
    Ok(rendered + alerts()?)
}

/// The chart's alerts: Prometheus reads them, and they fire when they should.
fn alerts() -> Result<Tally> {
    host::need_promtool()?;
    let [rules, tests] = RULES;
    let promtool = |args: &[&str]| one(run::command("promtool", args).current_dir(paths::checkout()));
    Ok(promtool(&["check", "rules", rules])? + promtool(&["test", "rules", tests])?)
}
