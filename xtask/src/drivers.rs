//! `cargo xtask drivers`: what programs use to talk to PostgreSQL, tried through the front of the demonstration's pool.
//!
//! The drivers come from the registries of their languages, in the versions that tests/drivers names, and stay in the
//! cache.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::cluster::{self, Cluster};
use crate::error::{OnFile, Result, refused};
use crate::files::{self, Hasher};
use crate::progress::{print, say, step};
use crate::{demo, paths, run};

/// The one driver for Java.
const JDBC: &str = "org.postgresql:postgresql:42.7.7";
const JDBC_JAR: &str = "postgresql-42.7.7.jar";

/// A language: what it needs on the machine, how its drivers are fetched, and how its script is run.
struct Language {
    name: &'static str,
    needs: &'static [&'static str],
    fetch: fn(&Path, &Path) -> Vec<Command>,
    run: fn(&Path) -> Vec<OsString>,
}

const LANGUAGES: [Language; 4] = [
    Language { name: "python", needs: &["python3"], fetch: fetch_python, run: run_python },
    Language { name: "node", needs: &["node", "npm"], fetch: fetch_node, run: run_node },
    Language { name: "go", needs: &["go"], fetch: fetch_go, run: run_go },
    Language { name: "java", needs: &["javac", "mvn"], fetch: fetch_java, run: run_java },
];

/// Tries all of them on a cluster where the demonstration is up.
pub fn run(cluster: &Cluster) -> Result<()> {
    let sources = paths::checkout().join("tests/drivers");
    let login = login(cluster)?;
    let mut failed = Vec::new();
    for language in &LANGUAGES {
        if let Some(missing) = language.needs.iter().find(|program| !is_there(program)) {
            return refused(format!("{missing} is missing: the drivers for {} need it", language.name));
        }
        let dir = step(&format!("drivers for {}", language.name), || fetched(language, &sources))?;
        say(format!("== {}", language.name));
        let mut command = cluster::enter::command(cluster, &(language.run)(&dir))?;
        command.envs(login.iter().cloned());
        if run::visible(&mut command).is_err() {
            failed.push(language.name);
        }
    }
    if failed.is_empty() {
        print("all drivers: ok");
        return Ok(());
    }
    refused(format!("not all of {} passed: see FAILED above", failed.join(", ")))
}

fn is_there(program: &str) -> bool {
    run::output(&mut run::command("sh", ["-c", &format!("command -v {program}")]))
        .is_ok_and(|out| out.status.success())
}

/// The script of a language beside its drivers, in a folder named by what makes both.
fn fetched(language: &Language, sources: &Path) -> Result<PathBuf> {
    let own = sources.join(language.name);
    let mut key = Hasher::default().part(JDBC);
    let sources = files::walk(&own)?;
    for path in &sources {
        key = key.file(path)?;
    }
    let cache = paths::cache("drivers")?;
    let _lock = paths::lock(&cache)?;
    let dir = cache.join(format!("{}-{}", language.name, key.key()));
    let done = dir.join("fetched");
    if done.exists() {
        return Ok(dir);
    }
    if dir.exists() {
        std::fs::remove_dir_all(&dir).on("remove", &dir)?;
    }
    files::make_dir(&dir)?;
    for path in &sources {
        let to = dir.join(path.file_name().unwrap_or_default());
        std::fs::copy(path, &to).on("copy", path)?;
    }
    for mut command in (language.fetch)(&own, &dir) {
        run::captured(command.current_dir(&dir))?;
    }
    files::write(&done, "")?;
    Ok(dir)
}

fn fetch_python(_: &Path, _: &Path) -> Vec<Command> {
    let pip = ["-m", "pip", "install", "--quiet", "--root-user-action", "ignore"];
    vec![run::command("python3", pip.into_iter().chain(["--target", "packages", "-r", "requirements.txt"]))]
}

fn run_python(dir: &Path) -> Vec<OsString> {
    let mut path = OsString::from("PYTHONPATH=");
    path.push(dir.join("packages"));
    vec!["env".into(), path, "python3".into(), dir.join("drivers.py").into()]
}

fn fetch_node(_: &Path, _: &Path) -> Vec<Command> {
    vec![run::command("npm", ["install", "--silent", "--no-audit", "--no-fund"])]
}

fn run_node(dir: &Path) -> Vec<OsString> {
    vec!["node".into(), dir.join("drivers.mjs").into()]
}

fn fetch_go(own: &Path, dir: &Path) -> Vec<Command> {
    let mut build = run::command("go", ["build", "-C"]);
    build.arg(own).arg("-o").arg(dir.join("drivers")).arg(".").env("CGO_ENABLED", "0");
    vec![build]
}

fn run_go(dir: &Path) -> Vec<OsString> {
    vec![dir.join("drivers").into()]
}

fn fetch_java(_: &Path, _: &Path) -> Vec<Command> {
    let artifact = format!("-Dartifact={JDBC}");
    vec![
        run::command("mvn", ["--quiet", "dependency:copy", &artifact, "-DoutputDirectory=."]),
        run::command("javac", ["-cp", JDBC_JAR, "Drivers.java"]),
    ]
}

fn run_java(dir: &Path) -> Vec<OsString> {
    let mut path = dir.as_os_str().to_owned();
    path.push(":");
    path.push(dir.join(JDBC_JAR));
    vec!["java".into(), "-cp".into(), path, "Drivers".into()]
}

/// How the pool's application logs in, for the environment: nothing of it stands in an argument.
fn login(cluster: &Cluster) -> Result<Vec<(&'static str, OsString)>> {
    let secret = |name: &str, key: &str| -> Result<String> {
        let mut kubectl = cluster::enter::kubectl(cluster)?;
        kubectl.args(["-n", demo::SPACE, "get", "secret", name, "-o", "json"]);
        let object: Value = serde_json::from_str(&run::captured(&mut kubectl)?).unwrap_or_default();
        let Some(text) = object["data"][key].as_str() else {
            return refused(format!(
                "Secret {name} has no key {key}: is the demonstration up (cargo xtask demo)?"
            ));
        };
        run::fed(&mut run::command("base64", ["--decode"]), text)
    };
    let authority = paths::cache("drivers")?.join(format!("{}-ca.crt", cluster.name()));
    files::write(&authority, secret("demo-ca", "ca.crt")?)?;
    let host = format!("demo.{}.svc", demo::SPACE);
    Ok(vec![
        ("PGHOST", host.into()),
        ("PGUSER", secret("demo-app", "username")?.into()),
        ("PGPASSWORD", secret("demo-app", "password")?.into()),
        ("PGDATABASE", secret("demo-app", "dbname")?.into()),
        ("PGSSLMODE", "verify-full".into()),
        ("PGSSLROOTCERT", authority.into()),
    ])
}
