//! Where the programs of PostgreSQL are in an image, and running the short ones.
use std::path::{Path, PathBuf};
use std::process::Stdio;

use thiserror::Error;
use tokio::process::Command;

/// Oldest and newest major version that the operator knows.
pub const MAJORS: std::ops::RangeInclusive<u32> = 15..=18;

/// Why a program of PostgreSQL could not be found or run.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// Not in any of the usual places.
    #[error(
        "no program {0} in PATH, /usr/lib/postgresql/*/bin, /usr/local/bin, /usr/pgsql-*/bin: is this an image of PostgreSQL 15 to 18?"
    )]
    Missing(&'static str),
    /// Could not be started.
    #[error("{program}: {source}")]
    Start {
        /// Path of the program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// Ended with an error.
    #[error("{program}: {output}")]
    Failed {
        /// Path of the program.
        program: String,
        /// What it said.
        output: String,
    },
    /// A version that isn't known.
    #[error("PostgreSQL {0:?} isn't supported: 15 to 18 are")]
    Version(String),
}

/// The folder with PostgreSQL's programs, and its major version.
#[derive(Clone, Debug)]
pub struct Programs {
    dir: PathBuf,
    /// Major version.
    pub major: u32,
}

/// Folders that match `parent/PREFIX*/bin`, the newest version first.
fn versioned(parent: &str, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix(prefix)?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, dir)| dir).collect()
}

fn candidates() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs = versioned("/usr/lib/postgresql", "");
    dirs.extend(std::env::split_paths(&path));
    dirs.push("/usr/local/bin".into());
    dirs.extend(versioned("/usr", "pgsql-"));
    dirs.push("/opt/bitnami/postgresql/bin".into());
    dirs
}

/// What a program has said.
#[derive(Debug)]
pub struct Said {
    /// On its standard output.
    pub printed: String,
    /// How it ended, and its standard error; none when it ended well.
    pub failure: Option<String>,
}

impl Programs {
    /// Looks for PostgreSQL in the usual places of an image.
    pub async fn find() -> Result<Self, ProgramError> {
        let dir = candidates()
            .into_iter()
            .find(|dir| dir.join("postgres").is_file() && dir.join("pg_controldata").is_file())
            .ok_or(ProgramError::Missing("postgres"))?;
        let mut programs = Self { dir, major: 0 };
        let text = programs.output("postgres", &["--version"]).await?;
        let major = text.split_whitespace().find_map(|word| {
            let digits: String = word.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u32>().ok()
        });
        programs.major = major
            .filter(|m| MAJORS.contains(m))
            .ok_or_else(|| ProgramError::Version(text.trim().to_owned()))?;
        Ok(programs)
    }

    /// Those of a folder; for tests.
    #[cfg(test)]
    pub(crate) fn in_folder(dir: PathBuf, major: u32) -> Self {
        Self { dir, major }
    }

    /// Path of a program.
    pub fn path(&self, program: &str) -> PathBuf {
        self.dir.join(program)
    }

    /// Runs a program and gives its standard output; what it wrote to standard error is in the error.
    pub async fn output(&self, program: &str, args: &[&str]) -> Result<String, ProgramError> {
        let said = self.said(program, args).await?;
        match said.failure {
            None => Ok(said.printed),
            Some(output) => {
                Err(ProgramError::Failed { program: self.path(program).display().to_string(), output })
            }
        }
    }

    /// Runs a program to its end, good or bad.
    async fn said(&self, program: &str, args: &[&str]) -> Result<Said, ProgramError> {
        let path = self.path(program);
        let output = Command::new(&path)
            .args(args)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|source| ProgramError::Start { program: path.display().to_string(), source })?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let failure =
            (!output.status.success()).then(|| format!("{}: {}", output.status, text(&output.stderr)));
        Ok(Said { printed: text(&output.stdout), failure })
    }

    /// What `pg_controldata` prints of a data directory.
    pub async fn control(&self, data: &Path) -> Result<String, ProgramError> {
        self.output("pg_controldata", &["-D", &data.display().to_string()]).await
    }

    /// What `pg_waldump` says of the WAL of a stopped server, from a position on: of these segments, named, since from a folder it
    /// would take the size of segments from whatever file it finds first.
    pub async fn wal_statistics(
        &self,
        data: &Path,
        from: &str,
        first: &str,
        last: &str,
    ) -> Result<Said, ProgramError> {
        let wal = data.join("pg_wal").display().to_string();
        self.said("pg_waldump", &["--stats", "-p", &wal, "-s", from, first, last]).await
    }
}
