//! Running other programs, with errors that show the command line.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitStatus, Output, Stdio};

use crate::error::{Error, Result};

/// Builds a command from a program and its arguments.
pub fn command<S: AsRef<std::ffi::OsStr>>(
    program: impl AsRef<std::ffi::OsStr>,
    args: impl IntoIterator<Item = S>,
) -> Command {
    let mut c = Command::new(program);
    c.args(args);
    c
}

/// The command line as a person would type it.
pub fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// How a program ended, in words.
pub fn told(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn ended(command: &Command, status: ExitStatus, stderr: &[u8]) -> Error {
    Error::Ended {
        command: shown(command),
        status: told(status),
        output: String::from_utf8_lossy(stderr).into_owned(),
    }
}

fn start<T>(command: &Command, result: std::io::Result<T>) -> Result<T> {
    result.map_err(|source| Error::Start { command: shown(command), source })
}

/// Runs a command whose output the user sees; it must succeed.
pub fn visible(command: &mut Command) -> Result<()> {
    let status = command.status();
    let status = start(command, status)?;
    if status.success() { Ok(()) } else { Err(ended(command, status, b"")) }
}

/// Runs a command and hands on what it prints, line by line; it must succeed.
pub fn lines(command: &mut Command, mut each: impl FnMut(&str)) -> Result<()> {
    let child = command.stdout(Stdio::piped()).spawn();
    let mut child = start(command, child)?;
    if let Some(pipe) = child.stdout.take() {
        for line in BufReader::new(pipe).lines() {
            each(&start(command, line)?);
        }
    }
    let status = child.wait();
    let status = start(command, status)?;
    if status.success() { Ok(()) } else { Err(ended(command, status, b"")) }
}

/// Runs a command silently and gives all of its result, for commands that may fail.
pub fn output(command: &mut Command) -> Result<Output> {
    let output = command.stdin(Stdio::null()).output();
    start(command, output)
}

/// Runs a command silently and gives its standard output; it must succeed.
pub fn captured(command: &mut Command) -> Result<String> {
    let out = output(command)?;
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    } else {
        Err(ended(command, out.status, &out.stderr))
    }
}

/// Like [`captured`], with a text as the command's standard input.
pub fn fed(command: &mut Command, input: &str) -> Result<String> {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = start(command, child)?;
    if let Some(mut pipe) = child.stdin.take() {
        let written = pipe.write_all(input.as_bytes());
        start(command, written)?;
    }
    let out = child.wait_with_output();
    let out = start(command, out)?;
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    } else {
        Err(ended(command, out.status, &out.stderr))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_the_command_and_what_it_said() {
        let error =
            captured(&mut command("sh", ["-c", "echo bad luck >&2; exit 3"])).unwrap_err().to_string();
        assert_eq!(error, "`sh -c echo bad luck >&2; exit 3` ended with code 3\n  bad luck");
    }

    #[test]
    fn lines_are_handed_on_as_they_come() {
        let mut seen = Vec::new();
        let print = &mut command("sh", ["-c", "echo one; echo two; exit 3"]);
        let error = lines(print, |line| seen.push(line.to_owned())).unwrap_err().to_string();
        assert_eq!(seen, ["one", "two"]);
        assert!(error.contains("code 3"), "{error}");
    }

    #[test]
    fn a_program_reads_what_it_is_fed() {
        assert_eq!(fed(&mut command("cat", ["-"]), "x").unwrap(), "x");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = captured(&mut command("no-such-program", ["-x"])).unwrap_err().to_string();
        assert!(error.starts_with("cannot start `no-such-program -x`:"), "{error}");
    }
}
