//! The languages: what each needs on the machine, how its drivers are fetched, and how its script is run.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::cargo;
use crate::error::{OnFile, Result, refused};
use crate::files::{self, Hasher};
use crate::progress::step;
use crate::{host, paths, run};

/// The one driver for Java.
const JDBC: &str = "org.postgresql:postgresql:42.7.7";
const JDBC_JAR: &str = "postgresql-42.7.7.jar";
/// The program that tries those for Rust, a member of the workspace, and the feature by which it has all of them.
const RUST: &str = "pgpool-drivers";
const RUST_ALL: &str = "pgpool-drivers/sqlx";

/// A language.
pub struct Language {
    /// Its name, and that of its folder in tests/drivers.
    pub name: &'static str,
    /// Whether it is there wherever this program could be built.
    pub certain: bool,
    /// Programs, each with the Debian package that has it.
    needs: &'static [(&'static str, &'static str)],
    /// Files of the checkout that say which drivers these are, besides those in the folder.
    also: &'static [&'static str],
    fetch: fn(&Path, &Path) -> Result<()>,
    run: fn(&Path) -> Vec<OsString>,
}

/// All of them.
pub const LANGUAGES: [Language; 5] = [
    Language {
        name: "rust",
        certain: true,
        needs: &[],
        also: &["Cargo.lock"],
        fetch: fetch_rust,
        run: run_built,
    },
    Language { name: "go", certain: true, needs: &[], also: &[], fetch: fetch_go, run: run_built },
    Language {
        name: "python",
        certain: false,
        needs: &[("python3", "python3"), ("pip", "python3-pip")],
        also: &[],
        fetch: fetch_python,
        run: run_python,
    },
    Language {
        name: "node",
        certain: false,
        needs: &[("node", "nodejs"), ("npm", "npm")],
        also: &[],
        fetch: fetch_node,
        run: run_node,
    },
    Language {
        name: "java",
        certain: false,
        needs: &[("javac", "default-jdk-headless"), ("mvn", "maven")],
        also: &[],
        fetch: fetch_java,
        run: run_java,
    },
];

impl Language {
    fn own(&self) -> PathBuf {
        paths::checkout().join("tests/drivers").join(self.name)
    }

    /// Where its script is beside its drivers: a folder of the cache, named by what makes both.
    fn dir(&self) -> Result<PathBuf> {
        let mut key = Hasher::default().part(JDBC);
        let also = self.also.iter().map(|file| paths::checkout().join(file));
        for path in files::walk(&self.own())?.into_iter().chain(also) {
            key = key.file(&path)?;
        }
        Ok(paths::cache("drivers")?.join(format!("{}-{}", self.name, key.key())))
    }

    /// The folder, if the drivers are in it already.
    pub fn cached(&self) -> Result<PathBuf> {
        let dir = self.dir()?;
        if dir.join("fetched").exists() { Ok(dir) } else { refused("its drivers aren't in the cache") }
    }

    /// The folder, with the drivers.
    pub fn fetched(&self) -> Result<PathBuf> {
        let dir = self.dir()?;
        let _lock = paths::lock(&paths::cache("drivers")?)?;
        if !dir.join("fetched").exists() {
            host::need_programs(self.needs)?;
            step(&format!("drivers for {}", self.name), || self.fetch(&dir))?;
        }
        Ok(dir)
    }

    fn fetch(&self, dir: &Path) -> Result<()> {
        if dir.exists() {
            files::remove_dir(dir)?;
        }
        files::make_dir(dir)?;
        for path in files::walk(&self.own())? {
            let to = dir.join(path.file_name().unwrap_or_default());
            std::fs::copy(&path, &to).on("copy", &path)?;
        }
        (self.fetch)(&self.own(), dir)?;
        files::write(&dir.join("fetched"), "")
    }

    /// The words that run its script.
    pub fn command(&self, dir: &Path) -> Vec<OsString> {
        (self.run)(dir)
    }
}

/// Runs a program in the folder.
fn within(dir: &Path, program: &str, words: &[&str]) -> Result<()> {
    run::captured(run::command(program, words).current_dir(dir)).map(drop)
}

fn fetch_rust(_: &Path, dir: &Path) -> Result<()> {
    files::link_or_copy(&cargo::build_with(RUST_ALL, RUST)?, &dir.join("drivers"))
}

fn fetch_go(own: &Path, dir: &Path) -> Result<()> {
    host::need_go()?;
    let mut build = run::command("go", ["build", "-C"]);
    build.arg(own).arg("-o").arg(dir.join("drivers")).arg(".").env("CGO_ENABLED", "0");
    run::captured(&mut build).map(drop)
}

fn run_built(dir: &Path) -> Vec<OsString> {
    vec![dir.join("drivers").into()]
}

fn fetch_python(_: &Path, dir: &Path) -> Result<()> {
    let pip = ["-m", "pip", "install", "--quiet", "--root-user-action", "ignore"];
    within(dir, "python3", &[&pip[..], &["--target", "packages", "-r", "requirements.txt"]].concat())
}

fn run_python(dir: &Path) -> Vec<OsString> {
    let mut path = OsString::from("PYTHONPATH=");
    path.push(dir.join("packages"));
    vec!["env".into(), path, "python3".into(), dir.join("drivers.py").into()]
}

fn fetch_node(_: &Path, dir: &Path) -> Result<()> {
    within(dir, "npm", &["install", "--silent", "--no-audit", "--no-fund"])
}

fn run_node(dir: &Path) -> Vec<OsString> {
    vec!["node".into(), dir.join("drivers.mjs").into()]
}

fn fetch_java(_: &Path, dir: &Path) -> Result<()> {
    let artifact = format!("-Dartifact={JDBC}");
    within(dir, "mvn", &["--quiet", "dependency:copy", &artifact, "-DoutputDirectory=."])?;
    within(dir, "javac", &["-encoding", "UTF-8", "-cp", JDBC_JAR, "Logins.java", "Drivers.java"])
}

fn run_java(dir: &Path) -> Vec<OsString> {
    let mut path = dir.as_os_str().to_owned();
    path.push(":");
    path.push(dir.join(JDBC_JAR));
    // Before Java 19 the one counts, since then the other.
    let texts = ["java", "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-cp"];
    texts.into_iter().map(OsString::from).chain([path, "Drivers".into()]).collect()
}
