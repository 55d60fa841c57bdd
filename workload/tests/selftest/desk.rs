//! What the tests do with the program: running it, reading what it says.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::Server;

/// The program, told who it is, without anything that the environment says.
pub fn workload() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgpool-workload"));
    command.env_clear().env("PGUSER", "app").env("PGDATABASE", "app");
    command
}

pub fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// A place for journals and dumps.
pub struct Desk(pub TempDir);

impl Desk {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn journal(&self) -> PathBuf {
        self.0.path().join("journal")
    }

    pub fn write(&self, server: &Server, extra: &[&str]) -> Command {
        let mut command = workload();
        command.args(["write", "--insecure", "--prepare", "--writers=4", "--write-host", &server.endpoint()]);
        command.arg("--journal").arg(self.journal()).args(extra);
        command
    }

    pub fn check(&self, servers: &[(&str, &Server)]) -> Output {
        let mut command = workload();
        command.args(["check", "--insecure", "--wait-seconds=30", "--journal"]).arg(self.journal());
        for (name, server) in servers {
            command.arg("--node").arg(format!("{name}=host=127.0.0.1 port={}", server.port));
        }
        command.output().unwrap()
    }

    /// Dumps each server with psql, as it is done on a node, and checks the dumps.
    pub fn check_dumps(&self, servers: &[(&str, &Server)], damage: impl Fn(Vec<u8>) -> Vec<u8>) -> Output {
        let script = self.0.path().join("dump.sql");
        fs::write(&script, workload().arg("dump-sql").output().unwrap().stdout).unwrap();
        let mut command = workload();
        command.args(["check", "--journal"]).arg(self.journal());
        for (name, server) in servers {
            let file = self.0.path().join(name);
            fs::write(&file, damage(server.script(&script))).unwrap();
            command.arg("--dump").arg(format!("{name}={}", file.display()));
        }
        command.output().unwrap()
    }

    /// The id of some acknowledged write of a kind.
    pub fn acked(&self, kind: &str) -> String {
        let text = fs::read_to_string(self.journal()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let found = lines
            .map(|line| line["write"].clone())
            .filter(|write| write["outcome"] == "acked")
            .find(|write| write["action"] == kind || write["action"].get(kind).is_some());
        found.unwrap()["id"].as_str().unwrap().to_owned()
    }
}

pub fn assert_good(output: &Output) -> Value {
    let report = json(output);
    assert!(output.status.success() && report["good"] == true, "{report:#}");
    report
}

/// Not good, with exactly these findings.
pub fn assert_found(output: &Output, findings: &[&str]) -> Value {
    let report = json(output);
    let verdict: Vec<&str> =
        report["verdict"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect();
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    assert_eq!(verdict.len(), findings.len(), "{verdict:#?}");
    for (line, finding) in verdict.iter().zip(findings) {
        assert!(line.starts_with(finding), "{line:?} isn't {finding:?}");
    }
    report
}

pub fn wrote(server: &Server, desk: &Desk) {
    let output = desk.write(server, &["--max-writes=800"]).output().unwrap();
    let summary = json(&output);
    assert!(output.status.success(), "{summary:#}");
    assert_eq!(summary["writes"]["acked"], 800, "{summary:#}");
}

pub fn http(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A run in the background, ended when it is dropped.
pub struct Running(pub Child);

impl Running {
    pub fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Reads standard error up to a line that begins like this; the rest of that line.
    pub fn line(&mut self, start: &str) -> String {
        self.lines(|line| line.strip_prefix(start).map(|rest| rest.trim().to_owned()))
    }

    /// Waits until the progress lines have come to this second.
    pub fn seconds(&mut self, second: u64) {
        self.lines(|line| {
            let at: u64 = line.trim_start().split_once(" s  ")?.0.parse().ok()?;
            (at >= second).then_some(())
        });
    }

    fn lines<T>(&mut self, wanted: impl Fn(&str) -> Option<T>) -> T {
        let stderr = self.0.stderr.as_mut().unwrap();
        let (mut line, mut byte) = (String::new(), [0]);
        loop {
            assert_eq!(stderr.read(&mut byte).unwrap(), 1, "it ended too early, after {line:?}");
            if byte[0] != b'\n' {
                line.push(char::from(byte[0]));
            } else if let Some(found) = wanted(&line) {
                return found;
            } else {
                line.clear();
            }
        }
    }

    pub fn term(&self) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
    }

    pub fn output(mut self) -> Output {
        let mut output = Vec::new();
        let mut errors = Vec::new();
        self.0.stdout.take().unwrap().read_to_end(&mut output).unwrap();
        self.0.stderr.take().unwrap().read_to_end(&mut errors).unwrap();
        Output { status: self.0.wait().unwrap(), stdout: output, stderr: errors }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone in the good case.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
