//! Running cargo from a program that cargo runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::ValueEnum;
use serde_json::Value;

use crate::error::{Error, Result, refused};
use crate::{paths, run};

/// What cargo tells the program that it runs about that program. Build scripts look at some of it: handed on,
/// it would make every dependency with such a script stale, again and again.
const TOLD: [&str; 5] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];

/// The packages of this workspace that run in the cluster, as arguments of cargo. Always the same selection:
/// another one would unify features differently, and build dependencies a second time. This program is not
/// among them, since a build would replace it while it runs.
pub const SELECTION: [&str; 3] = ["--workspace", "--exclude", "xtask"];

/// As the profile of the images' programs compiles tests: those that compute, and those that link much of what the images
/// have anyway. Unit tests are compiled sooner without it.
pub const OPTIMISED: [&str; 2] = ["--profile", "dev"];

/// A cargo command at the root of the checkout.
pub fn command(subcommand: &str) -> Command {
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    prepared(run::command(program, [subcommand]))
}

/// The same of the nightly toolchain, which rustup finds.
pub fn nightly(subcommand: &str) -> Command {
    prepared(run::command("cargo", ["+nightly", subcommand]))
}

fn prepared(mut cargo: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        let told = name.to_str().is_some_and(|n| TOLD.iter().any(|prefix| n.starts_with(prefix)));
        if told {
            cargo.env_remove(name);
        }
    }
    cargo.current_dir(paths::checkout()).stdin(Stdio::null());
    cargo
}

/// How programs are compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// As the tests are: built soon, and once for all of them.
    Dev,
    /// As users run them: takes longer to build, and less of the processors.
    Release,
}

/// Builds the programs of [`SELECTION`]; gives the name and the file of each.
pub fn build_programs(profile: Profile) -> Result<Vec<(String, PathBuf)>> {
    let mut cargo = command("build");
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    built(cargo.args(SELECTION).arg("--bins"))
}

/// Builds the programs of [`SELECTION`] with [`Profile::Dev`]; gives the file of one of them.
pub fn build_program(program: &str) -> Result<PathBuf> {
    one_of(build_programs(Profile::Dev)?, program)
}

/// The same with a feature of a package, as `package/feature`: what needs it is built with it, and what it needs.
pub fn build_with(feature: &str, program: &str) -> Result<PathBuf> {
    let mut cargo = command("build");
    one_of(built(cargo.args(SELECTION).args(["--bins", "--features", feature]))?, program)
}

/// Builds a program of other sources of this workspace as they build it with [`Profile::Dev`], in a target folder of its
/// own; gives its file.
pub fn build_elsewhere(sources: &Path, target: &Path, program: &str) -> Result<PathBuf> {
    let mut cargo = command("build");
    cargo.args(SELECTION).args(["--locked", "--bin", program, "--target-dir"]).arg(target);
    one_of(built(cargo.current_dir(sources))?, program)
}

fn one_of(built: Vec<(String, PathBuf)>, program: &str) -> Result<PathBuf> {
    match built.into_iter().find(|(name, _)| name == program) {
        Some((_, path)) => Ok(path),
        None => refused(format!("cargo built no program named {program}")),
    }
}

/// Runs a build; gives the name and the file of each program.
fn built(cargo: &mut Command) -> Result<Vec<(String, PathBuf)>> {
    cargo.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let out = cargo.output().map_err(|source| Error::Start { command: run::shown(cargo), source })?;
    if !out.status.success() {
        return refused("the workspace does not build; see above");
    }
    executables(&String::from_utf8_lossy(&out.stdout))
}

fn executables(messages: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Value = serde_json::from_str(line)
            .map_err(|source| Error::Json { what: "a message of cargo build".to_owned(), source })?;
        if let (Some(name), Some(path)) = (message["target"]["name"].as_str(), message["executable"].as_str())
        {
            found.push((name.to_owned(), PathBuf::from(path)));
        }
    }
    Ok(found)
}

/// Names of the integration tests of [`SELECTION`].
pub fn integration_tests() -> Result<Vec<String>> {
    let mut cargo = command("metadata");
    let text = run::captured(cargo.args(["--no-deps", "--format-version=1"]))?;
    let metadata: Value = serde_json::from_str(&text)
        .map_err(|source| Error::Json { what: "the answer of cargo metadata".to_owned(), source })?;
    Ok(tests_in(&metadata))
}

fn tests_in(metadata: &Value) -> Vec<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let packages = list(&metadata["packages"]);
    let ours = packages.iter().filter(|package| package["name"] != "xtask");
    ours.flat_map(|package| list(&package["targets"]))
        .filter(|target| list(&target["kind"]).contains(&Value::from("test")))
        .filter_map(|target| target["name"].as_str().map(String::from))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_read_from_the_messages_of_cargo() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"lib"},"executable":null}
warning: not json
{"reason":"compiler-artifact","target":{"name":"tool"},"executable":"/t/debug/tool"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executables(messages).unwrap(), [("tool".to_owned(), PathBuf::from("/t/debug/tool"))]);
    }

    #[test]
    fn integration_tests_are_those_of_the_other_packages() {
        let target = |name: &str, kind: &str| serde_json::json!({ "name": name, "kind": [kind] });
        let metadata = serde_json::json!({ "packages": [
            { "name": "operator", "targets": [target("operator", "lib"), target("api", "test")] },
            { "name": "xtask", "targets": [target("xtask", "bin"), target("self", "test")] },
        ] });
        assert_eq!(tests_in(&metadata), ["api"]);
    }
}
