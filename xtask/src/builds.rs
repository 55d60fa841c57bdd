//! What the compiler has left, outside of the checkout (`build-dir` in `.cargo/config.toml`).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::cargo;
use crate::clock;
use crate::error::{Error, OnFile, Result};
use crate::files;
use crate::run;

/// How long the builds of a checkout stay in which nothing is compiled any more: it may be gone, and nobody knows.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Removes what other checkouts have left long ago.
pub fn prune() -> Result<()> {
    let mut metadata = cargo::command("metadata");
    let text = run::captured(metadata.args(["--no-deps", "--format-version=1"]))?;
    let metadata: Value = serde_json::from_str(&text)
        .map_err(|source| Error::Json { what: "the answer of cargo metadata".to_owned(), source })?;
    match own(&metadata) {
        Some(own) => prune_beside(&own, clock::timestamp().into()),
        None => Ok(()),
    }
}

/// The folder of this checkout's builds, unless a person has put it elsewhere: what stands beside it is somebody else's then.
fn own(metadata: &Value) -> Option<PathBuf> {
    let own = PathBuf::from(metadata["build_directory"].as_str()?);
    let is_ours = own.ancestors().skip(1).any(|dir| dir.ends_with("build/pgpool-operator"));
    is_ours.then_some(own)
}

/// Removes the builds beside `own` that nothing was compiled in for long. Cargo spreads the hash of a checkout's path over two
/// folders, one in the other.
fn prune_beside(own: &Path, now: SystemTime) -> Result<()> {
    let Some(all) = own.ancestors().find(|dir| dir.ends_with("build/pgpool-operator")) else { return Ok(()) };
    for builds in folders(all)?.iter().map(|dir| folders(dir)).collect::<Result<Vec<_>>>()?.concat() {
        let age = now.duration_since(last_compiled(&builds)?).unwrap_or_default();
        if builds != own && age > KEPT {
            files::remove_dir(&builds)?;
        }
    }
    Ok(())
}

/// When a file was last made there by a compiler: then the folder that it is in changes.
fn last_compiled(builds: &Path) -> Result<SystemTime> {
    let mut times = vec![modified(builds)?];
    for profile in folders(builds)? {
        let deps = profile.join("deps");
        times.push(modified(if deps.is_dir() { &deps } else { &profile })?);
    }
    Ok(times.into_iter().max().unwrap_or(SystemTime::UNIX_EPOCH))
}

fn modified(path: &Path) -> Result<SystemTime> {
    fs::metadata(path).and_then(|m| m.modified()).on("look at", path)
}

fn folders(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).on("list", dir)? {
        let path = entry.on("list", dir)?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_of_checkouts_that_nobody_compiles_go() {
        let dir = tempfile::tempdir().unwrap();
        let all = dir.path().join("build/pgpool-operator");
        let (own, other) = (all.join("0a/1b2c"), all.join("ff/0123"));
        for builds in [&own, &other] {
            fs::create_dir_all(builds.join("debug/deps")).unwrap();
        }
        let metadata = serde_json::json!({"build_directory": own});
        assert_eq!(self::own(&metadata), Some(own.clone()));
        let now = SystemTime::from(clock::timestamp());
        prune_beside(&own, now).unwrap();
        assert!(own.is_dir() && other.is_dir());
        prune_beside(&own, now + KEPT + Duration::from_secs(60)).unwrap();
        assert!(own.is_dir() && !other.exists());
    }

    #[test]
    fn a_folder_that_a_person_chose_has_no_builds_of_ours_beside_it() {
        assert_eq!(own(&serde_json::json!({"build_directory": "/srv/builds/of-all"})), None);
        assert_eq!(own(&serde_json::json!({})), None);
    }
}
