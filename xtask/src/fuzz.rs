//! `cargo xtask fuzz`: bytes that nobody thought of, for whatever the front reads (`src/proxy/fuzzing`).

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{OnFile, Result, refused};
use crate::progress::{print, say, step};
use crate::{cargo, files, paths, run};

/// What libFuzzer needs of the compiler: to be told of each branch and each comparison. No sanitizer: there is no unsafe
/// code to be watched, and without one it is several times as fast.
const FLAGS: [&str; 6] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// Longest input, in bytes; most seconds for one; most memory, in MiB.
const LIMITS: [&str; 3] = ["-max_len=4096", "-timeout=20", "-rss_limit_mb=1024"];
/// Lines of a crash that are shown; the first ones tell of it.
const SHOWN: usize = 25;

/// Runs each of these targets, or all, for so many minutes. True when nothing broke. The sum is the very last line.
pub fn run(wishes: &[String], minutes: u64) -> Result<bool> {
    let root = paths::checkout().join("fuzz");
    let targets = chosen(&all(&root)?, wishes)?;
    let nightly = run::output(&mut cargo::nightly("version"));
    if !nightly.is_ok_and(|out| out.status.success()) {
        return refused(
            "fuzzing needs a nightly compiler: rustup toolchain install nightly --profile minimal",
        );
    }
    let programs = build(&root)?;
    let cache = paths::cache("fuzz")?;
    let _lock = paths::lock(&cache)?;
    let mut crashes = 0;
    for target in &targets {
        let feed =
            Feed { target, programs: &programs, cache: &cache, dictionary: &root.join("protocol.dict") };
        let name = format!("fuzz {target} ({minutes} min)");
        crashes += u32::from(!step(&name, || feed.run(minutes))?);
    }
    print(format!("{} targets, {crashes} crashes", targets.len()));
    Ok(crashes == 0)
}

/// The names of the targets.
fn all(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).on("read", &folder)? {
        let path = entry.on("read", &folder)?.path();
        names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

fn chosen(all: &[String], wishes: &[String]) -> Result<Vec<String>> {
    if let Some(unknown) = wishes.iter().find(|wish| !all.contains(wish)) {
        return refused(format!("there is no target {unknown}: {}", all.join(", ")));
    }
    Ok(if wishes.is_empty() { all.to_vec() } else { wishes.to_vec() })
}

/// Builds the targets; gives the folder of their programs.
fn build(root: &Path) -> Result<PathBuf> {
    let (triple, out) =
        (format!("{}-unknown-linux-gnu", std::env::consts::ARCH), paths::checkout().join("target/fuzz"));
    let mut build = cargo::nightly("build");
    // With a target of their own the flags stay away from build scripts.
    build.args(["--release", "--target", &triple]).env("RUSTFLAGS", FLAGS.join(" "));
    build.arg("--manifest-path").arg(root.join("Cargo.toml")).arg("--target-dir").arg(&out);
    step("fuzz targets", || run::visible(&mut build))?;
    Ok(out.join(triple).join("release"))
}

/// One target and where its things are.
struct Feed<'a> {
    target: &'a str,
    programs: &'a Path,
    cache: &'a Path,
    dictionary: &'a Path,
}

impl Feed<'_> {
    /// False where it broke: then it is said how, and the bytes are in a file.
    fn run(&self, minutes: u64) -> Result<bool> {
        // Inputs that led somewhere new are kept for the next time.
        let (corpus, crashes) =
            (self.cache.join("corpus").join(self.target), self.cache.join("crashes").join(self.target));
        files::make_dir(&corpus)?;
        files::make_dir(&crashes)?;
        let mut command = run::command(self.programs.join(self.target), LIMITS);
        command.args([format!("-max_total_time={}", minutes * 60), "-print_final_stats=1".to_owned()]);
        command.arg(format!("-dict={}", self.dictionary.display()));
        command.arg(format!("-artifact_prefix={}/", crashes.display())).arg(corpus);
        let out = run::output(&mut command)?;
        let said = String::from_utf8_lossy(&out.stderr);
        if out.status.success() {
            say(format!("   {} inputs", inputs(&said).unwrap_or("?")));
            return Ok(true);
        }
        breach(&said).for_each(|line| say(format!("   {line}")));
        say(format!("   {} ended with {}", self.target, run::told(out.status)));
        Ok(false)
    }
}

/// How many inputs were tried, from libFuzzer's last words.
fn inputs(said: &str) -> Option<&str> {
    said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:")).map(str::trim)
}

/// What is said of a breach: the panic, and the file with the bytes.
fn breach(said: &str) -> impl Iterator<Item = &str> {
    let noise = |line: &&str| line.starts_with('#') || line.starts_with("INFO:") || line.trim().is_empty();
    said.lines().filter(move |line| !noise(line)).take(SHOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_those_of_the_folder_and_of_the_manifest() {
        let root = paths::checkout().join("fuzz");
        let found = all(&root).unwrap();
        let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
        let named = manifest.lines().filter_map(|line| line.strip_prefix("path = \"fuzz_targets/"));
        let mut named: Vec<&str> = named.filter_map(|file| file.strip_suffix(".rs\"")).collect();
        named.sort_unstable();
        assert_eq!(found, named);
        assert_eq!(chosen(&found, &[]).unwrap(), found);
        assert_eq!(chosen(&found, &["relay".to_owned()]).unwrap(), ["relay"]);
        let unknown = chosen(&found, &["nonsense".to_owned()]).unwrap_err().to_string();
        assert!(unknown.contains("nonsense") && unknown.contains("startup"), "{unknown}");
    }

    #[test]
    fn the_words_of_a_run_are_read() {
        let said = "INFO: Seed: 1\n#2 INITED cov: 3\nthread panicked at x\n\nTest unit written to /c/crash-1\n\
            stat::number_of_executed_units: 1234\n";
        assert_eq!(inputs(said), Some("1234"));
        let shown: Vec<&str> = breach(said).collect();
        assert_eq!(shown[..2], ["thread panicked at x", "Test unit written to /c/crash-1"]);
    }
}
