//! The first release, from which a step of the cluster test upgrades: its sources and its program, in the cache.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use tar::Archive;

use crate::error::{OnFile, Result, refused};
use crate::progress::step;
use crate::{cargo, files, paths, run};

/// None was published yet. This commit stands for it: the first of the main line, with definitions made from its own
/// sources, whose parts read what today's say. Before 3d8bbd8 none took a node's report without its `protocol`, which is
/// no longer sent.
const COMMIT: &str = "f64390a9a1bd922c2736ad140de53814746b2516";
/// Its program.
pub const PROGRAM: &str = "pgpool-operator";
/// What is kept of it in the cache.
const KIND: &str = "first-release";

/// The folder of its sources, with its chart and its examples.
pub fn sources() -> Result<PathBuf> {
    let dir = paths::cache(KIND)?;
    let _lock = paths::lock(&dir)?;
    let sources = dir.join(COMMIT);
    if !sources.exists() {
        step("sources of the first release", || unpack(&paths::checkout(), COMMIT, &sources))?;
    }
    Ok(sources)
}

/// Its program, compiled with the profile of tests.
pub fn program() -> Result<PathBuf> {
    let sources = sources()?;
    let dir = paths::cache(KIND)?;
    let _lock = paths::lock(&dir)?;
    let program = dir.join(format!("{PROGRAM}-{}-{COMMIT}", std::env::consts::ARCH));
    if !program.exists() {
        step("program of the first release", || build(&sources, &dir.join("target"), &program))?;
    }
    Ok(program)
}

/// Unpacks a commit of a repository. The folder is there once it is whole.
fn unpack(repository: &Path, commit: &str, to: &Path) -> Result<()> {
    let git = |args: &[&str]| {
        let mut git = run::command("git", ["-C"]);
        git.arg(repository).args(args);
        git
    };
    let object = format!("{commit}^{{commit}}");
    let known = run::output(&mut git(&["rev-parse", "--quiet", "--verify", &object]))?;
    // Without a word where there is no such commit; other failures have their own.
    if !known.status.success() && known.stderr.is_empty() {
        return refused(format!(
            "this checkout has no commit {commit:.12}, the first release: get its whole history (git fetch --unshallow)"
        ));
    }
    let (tar, fresh) = (to.with_extension("tar"), to.with_extension("new"));
    if fresh.exists() {
        files::remove_dir(&fresh)?;
    }
    run::captured(git(&["archive", "--format=tar", "--output"]).arg(&tar).arg(commit))?;
    let file = File::open(&tar).on("open", &tar)?;
    Archive::new(file).unpack(&fresh).on("unpack", &tar)?;
    fs::remove_file(&tar).on("remove", &tar)?;
    fs::rename(&fresh, to).on("rename to", to)
}

/// Builds the program. That is done once: what the compiler has left besides goes.
fn build(sources: &Path, target: &Path, program: &Path) -> Result<()> {
    let built = cargo::build_elsewhere(sources, target, PROGRAM)?;
    let fresh = program.with_extension("new");
    fs::copy(&built, &fresh).on("copy", &built)?;
    fs::rename(&fresh, program).on("rename to", program)?;
    files::remove_dir(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repository without a commit, and who may make one.
    fn repository() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        git(dir.path(), &["init", "--quiet"]);
        dir
    }

    fn git(repository: &Path, args: &[&str]) -> String {
        let mut git = run::command("git", ["-C"]);
        git.arg(repository).args(["-c", "user.name=somebody", "-c", "user.email=somebody@example.com"]);
        run::captured(git.args(["-c", "commit.gpgsign=false"]).args(args)).unwrap()
    }

    #[test]
    fn a_commit_is_unpacked_as_it_was() {
        let repository = repository();
        let file = repository.path().join("charts/values.yaml");
        files::write(&file, "then").unwrap();
        git(repository.path(), &["add", "."]);
        git(repository.path(), &["commit", "--quiet", "--message", "first"]);
        let commit = git(repository.path(), &["rev-parse", "HEAD"]);
        files::write(&file, "now").unwrap();
        let cache = tempfile::tempdir().unwrap();
        // What a command that was killed has left.
        files::write(&cache.path().join("commit.new/half"), "").unwrap();
        unpack(repository.path(), commit.trim(), &cache.path().join("commit")).unwrap();
        let files = files::walk(cache.path()).unwrap();
        assert_eq!(files, [cache.path().join("commit/charts/values.yaml")]);
        assert_eq!(fs::read_to_string(&files[0]).unwrap(), "then");
    }

    #[test]
    fn a_checkout_without_that_part_of_the_history_is_told_in_one_line() {
        let (repository, cache) = (repository(), tempfile::tempdir().unwrap());
        let said = unpack(repository.path(), COMMIT, &cache.path().join("commit")).unwrap_err().to_string();
        assert!(said.contains("f64390a9a1bd,") && said.contains("git fetch --unshallow"), "{said}");
        assert!(!said.contains('\n') && files::walk(cache.path()).unwrap().is_empty(), "{said}");
    }

    #[test]
    fn what_is_no_repository_is_told_in_the_words_of_git() {
        let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let said = unpack(dir.path(), COMMIT, &cache.path().join("commit")).unwrap_err().to_string();
        assert!(!said.contains("--unshallow"), "{said}");
    }
}
