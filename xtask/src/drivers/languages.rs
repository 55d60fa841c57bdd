//! The languages: what each needs on the machine, how its drivers are fetched, and how its script is run.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{OnFile, Result};
use crate::files::{self, Hasher};
use crate::progress::step;
use crate::{host, paths, run};

/// The one driver for Java.
const JDBC: &str = "org.postgresql:postgresql:42.7.7";
const JDBC_JAR: &str = "postgresql-42.7.7.jar";

/// A language.
pub struct Language {
    /// Its name, and that of its folder in tests/drivers.
    pub name: &'static str,
    /// Programs, each with the Debian package that has it.
    needs: &'static [(&'static str, &'static str)],
    fetch: fn(&Path, &Path) -> Vec<Command>,
    run: fn(&Path) -> Vec<OsString>,
}

/// All of them.
pub const LANGUAGES: [Language; 4] = [
    Language {
        name: "python",
        needs: &[("python3", "python3"), ("pip", "python3-pip")],
        fetch: fetch_python,
        run: run_python,
    },
    Language { name: "node", needs: &[("node", "nodejs"), ("npm", "npm")], fetch: fetch_node, run: run_node },
    Language { name: "go", needs: &[], fetch: fetch_go, run: run_go },
    Language {
        name: "java",
        needs: &[("javac", "default-jdk-headless"), ("mvn", "maven")],
        fetch: fetch_java,
        run: run_java,
    },
];

impl Language {
    /// Its script beside its drivers, in a folder of the cache named by what makes both.
    pub fn fetched(&self) -> Result<PathBuf> {
        let own = paths::checkout().join("tests/drivers").join(self.name);
        let mut key = Hasher::default().part(JDBC);
        let sources = files::walk(&own)?;
        for path in &sources {
            key = key.file(path)?;
        }
        let cache = paths::cache("drivers")?;
        let _lock = paths::lock(&cache)?;
        let dir = cache.join(format!("{}-{}", self.name, key.key()));
        if !dir.join("fetched").exists() {
            host::need_programs(self.needs)?;
            host::need_go()?;
            step(&format!("drivers for {}", self.name), || self.fetch(&own, &sources, &dir))?;
        }
        Ok(dir)
    }

    fn fetch(&self, own: &Path, sources: &[PathBuf], dir: &Path) -> Result<()> {
        if dir.exists() {
            std::fs::remove_dir_all(dir).on("remove", dir)?;
        }
        files::make_dir(dir)?;
        for path in sources {
            let to = dir.join(path.file_name().unwrap_or_default());
            std::fs::copy(path, &to).on("copy", path)?;
        }
        for mut command in (self.fetch)(own, dir) {
            run::captured(command.current_dir(dir))?;
        }
        files::write(&dir.join("fetched"), "")
    }

    /// The words that run its script.
    pub fn command(&self, dir: &Path) -> Vec<OsString> {
        (self.run)(dir)
    }
}

fn fetch_python(_: &Path, _: &Path) -> Vec<Command> {
    let pip = ["-m", "pip", "install", "--quiet", "--root-user-action", "ignore"];
    let packages = ["--target", "packages", "-r", "requirements.txt"];
    vec![run::command("python3", pip.into_iter().chain(packages))]
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
