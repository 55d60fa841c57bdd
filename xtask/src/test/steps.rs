//! What each step does.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::Name;
use super::stage::Part;
use super::tally::Tally;
use super::wish::Chosen;
use crate::cargo::{self, SELECTION};
use crate::cluster::Cluster;
use crate::error::{Error, OnFile, Result, refused};
use crate::programs::{self, Programs};
use crate::progress::{print, say};
use crate::{host, paths, run};

/// Tests of one program that run at once: many of them wait most of the time.
const AT_ONCE: &str = "6";
/// Integration tests that need a cluster; each is a step of its own.
const INSIDE: [&str; 2] = ["api", "cluster"];
const CHART: &str = "charts/pgpool-operator";

/// Runs a step that needs no cluster.
pub fn run(chosen: &Chosen) -> Result<Tally> {
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
        Name::Api | Name::Cluster => refused(format!("step {} needs a cluster", chosen.part.text())),
    }
}

/// Runs a step whose test program must be in the cluster's network.
pub fn run_inside(part: &Part, cluster: &Cluster) -> Result<Tally> {
    let mut test = cargo::command("test");
    test.args(SELECTION).args(["--test", &part.name.text(), "--"]);
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
    counted(&mut test, &part.label)
}

/// A command that counts as one.
fn one(command: &mut Command) -> Result<Tally> {
    say(format!("   {}", run::shown(command)));
    run::visible(command).map(|()| Tally::SUCCESS)
}

/// A command whose tests are counted, while the user sees its output, each line behind the label.
fn counted(command: &mut Command, label: &str) -> Result<Tally> {
    say(format!("   {}", run::shown(command)));
    let child = command.stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|source| Error::Start { command: run::shown(command), source })?;
    let mut tally = Tally::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = line.on("read the output of", run::shown(command))?;
            let line = String::from_utf8_lossy(&line);
            print(format!("{label}{line}"));
            tally = tally + Tally::of_line(&line).unwrap_or_default();
        }
    }
    let status = child.wait().on("wait for", run::shown(command))?;
    Ok(tally.of_run(status.success()))
}

fn unit(filters: &[String]) -> Result<Tally> {
    let mut rest = cargo::command("test");
    rest.args(SELECTION).args(["--no-fail-fast", "--lib", "--bins"]).env("RUST_TEST_THREADS", AT_ONCE);
    for test in cargo::integration_tests()? {
        if !INSIDE.contains(&test.as_str()) {
            rest.args(["--test", &test]);
        }
    }
    if !filters.is_empty() {
        rest.env("PGPOOL_HELM", Programs::build()?.path("helm")?);
        return counted(rest.arg("--").args(filters), "");
    }
    let own = counted(cargo::command("test").args(["--package", "xtask"]), "")?;
    host::need_go()?;
    host::need_test_packages()?;
    rest.env("PGPOOL_HELM", Programs::build()?.path("helm")?);
    let go = one(&mut programs::go_test()).unwrap_or_else(|e| {
        say(format!("error: {e}"));
        Tally::FAILURE
    });
    Ok(counted(&mut rest, "")? + own + go)
}

/// The chart: `helm lint`, then a rendering with the default values, which must give something.
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
    Ok(if kinds > 0 { lint } else { Tally::FAILURE })
}
