//! The tests themselves, from the sources of Debian's package: of the same version as the image's.
//!
//! apt looks for them with lists of its own and checks what came by the signed index. The one library that the tests
//! bring is compiled against Debian's headers; the rest of PostgreSQL isn't built.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::{OnFile, Result, refused};
use crate::progress::step;
use crate::{files, images, paths, run};

/// The majors that there are images of, each with the Debian release that it comes from.
const RELEASES: [(u32, &str); 2] = [(15, "bookworm"), (17, "trixie")];
/// Parts of the tests that the pod gets.
const PARTS: [&str; 3] = ["sql", "data", "lib"];

/// The tests of one version, ready to run.
pub struct Tests {
    /// Debian's version of PostgreSQL.
    pub version: String,
    /// SHA-256 of PostgreSQL's own archive of sources.
    pub sha256: String,
    /// Names of the files, in the order of the schedule.
    pub names: Vec<String>,
    /// What the pod gets.
    pub tar: PathBuf,
    /// What PostgreSQL's own run prints.
    pub expected: PathBuf,
}

/// Reads a major version on the command line.
pub fn major(text: &str) -> std::result::Result<u32, String> {
    let known = RELEASES.iter().find(|(major, _)| major.to_string() == text);
    known.map(|(major, _)| *major).ok_or_else(|| "there is no image of it: 15 or 17".to_owned())
}

/// Fetches what isn't in the cache.
pub fn fetch(major: u32, version: &str) -> Result<Tests> {
    let cache = paths::cache("regress")?;
    let _lock = paths::lock(&cache)?;
    let dir = cache.join(format!("postgresql-{major}-{version}"));
    let done = dir.join("sha256");
    if !done.exists() {
        if dir.exists() {
            files::remove_dir(&dir)?;
        }
        let archive = step("download", || download(major, version, &dir))?;
        step("unpack, and compile regress.so", || unpack(major, version, &dir))?;
        files::write(&done, files::sha256_of(&archive)?.0)?;
        files::remove_dir(&dir.join("apt"))?;
    }
    let schedule = dir.join("tests/parallel_schedule");
    let names = scheduled(&std::fs::read_to_string(&schedule).on("read", &schedule)?);
    if names.is_empty() {
        return refused(format!("{} names no tests", schedule.display()));
    }
    Ok(Tests {
        version: version.to_owned(),
        sha256: std::fs::read_to_string(&done).on("read", &done)?,
        names,
        tar: dir.join("tests.tar"),
        expected: dir.join("tests/expected"),
    })
}

/// Names of tests in PostgreSQL's schedule; those of one line could run side by side.
fn scheduled(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("test:"));
    lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

/// Gives PostgreSQL's archive of sources; the headers come beside it.
fn download(major: u32, version: &str, dir: &Path) -> Result<PathBuf> {
    let Some((_, suite)) = RELEASES.iter().find(|(known, _)| *known == major) else {
        return refused(format!("there is no image of PostgreSQL {major}"));
    };
    let at = dir.join("apt");
    for folder in ["sources", "lists/partial", "cache/archives/partial"] {
        files::make_dir(&at.join(folder))?;
    }
    let sources = format!(
        "Types: deb deb-src\nURIs: {}\nSuites: {suite}\nComponents: main\n\
         Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n",
        images::mirror()?
    );
    files::write(&at.join("sources/debian.sources"), sources)?;
    let apt =
        |words: &[&str]| run::captured(run::command("apt-get", options(&at)).args(words).current_dir(&at));
    apt(&["update"])?;
    let package = format!("postgresql-{major}={version}");
    apt(&["source", "--download-only", "--only-source", &package])?;
    apt(&["download", &format!("postgresql-server-dev-{major}={version}")])?;
    found(&at, ".orig.tar.bz2")
}

/// apt with sources, lists and cache of its own: the machine's stay as they are.
fn options(at: &Path) -> Vec<OsString> {
    let set = |name: &str, value: OsString| {
        let mut option = OsString::from(format!("{name}="));
        option.push(value);
        ["-o".into(), option]
    };
    [
        set("Dir::Etc::SourceList", "/dev/null".into()),
        set("Dir::Etc::SourceParts", at.join("sources").into()),
        set("Dir::State::Lists", at.join("lists").into()),
        set("Dir::Cache", at.join("cache").into()),
        // The cache may be where no other user gets to.
        set("APT::Sandbox::User", "root".into()),
        ["--quiet".into(), "--quiet".into()],
    ]
    .concat()
}

fn found(dir: &Path, end: &str) -> Result<PathBuf> {
    let mut all = files::walk(dir)?.into_iter();
    match all.find(|path| path.parent() == Some(dir) && path.to_string_lossy().ends_with(end)) {
        Some(path) => Ok(path),
        None => refused(format!("apt left no file *{end} in {}", dir.display())),
    }
}

fn unpack(major: u32, version: &str, dir: &Path) -> Result<()> {
    let (at, tests) = (dir.join("apt"), dir.join("tests"));
    files::make_dir(&tests.join("lib"))?;
    let upstream = version.split(['-', '+']).next().unwrap_or(version);
    let mut tar = run::command("tar", ["--extract", "--bzip2", "--strip-components=4", "--file"]);
    tar.arg(found(&at, ".orig.tar.bz2")?).arg("--directory").arg(&tests);
    run::captured(tar.arg(format!("postgresql-{upstream}/src/test/regress")))?;
    let headers = at.join("dev");
    run::captured(run::command("dpkg-deb", ["--extract"]).arg(found(&at, ".deb")?).arg(&headers))?;
    let mut compile =
        run::command("cc", ["-shared", "-fPIC", "-O1", "-fwrapv", "-fno-strict-aliasing", "-I"]);
    compile.arg(headers.join(format!("usr/include/postgresql/{major}/server")));
    run::captured(compile.arg("-o").arg(tests.join("lib/regress.so")).arg(tests.join("regress.c")))?;
    let mut pack = run::command("tar", ["--create", "--file"]);
    run::captured(pack.arg(dir.join("tests.tar")).arg("--directory").arg(&tests).args(PARTS)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_is_read_in_its_order() {
        let text = "# a comment: test: x\n\ntest: setup\n# two\ntest: b a\n";
        assert_eq!(scheduled(text), ["setup", "b", "a"]);
    }

    #[test]
    fn only_majors_with_an_image_are_taken() {
        assert_eq!(major("17"), Ok(17));
        assert!(major("16").is_err() && major("x").is_err());
    }
}
