//! The Postgres process of the node: started, watched, stopped by its pid.
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::reaper;

/// Why Postgres could not be started or stopped.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The program could not be started.
    #[error("{program}: {source}")]
    Start {
        /// Path of the program.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is gone.
    #[error("postgres has ended")]
    Gone,
}

/// How Postgres is stopped (PostgreSQL docs, "Shutting Down the Server").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Ends sessions, writes a checkpoint, waits for the standbys.
    Fast,
    /// At once; the next start replays.
    Immediate,
}

/// A running Postgres.
#[derive(Debug)]
pub struct Server {
    pid: Pid,
    ended: watch::Receiver<Option<ExitStatus>>,
    /// It said that another Postgres has the data.
    in_use: Arc<AtomicBool>,
    relays: Vec<JoinHandle<()>>,
}

/// The file in the data directory that [`Server::promote`] is about; PostgreSQL removes it.
pub const PROMOTE: &str = "promote";

/// Between two looks at a Postgres that stops; it tells nobody how far it is.
const POLL: Duration = Duration::from_millis(5);
/// An immediate stop takes no longer: after 5 s the postmaster kills its processes (PostgreSQL source, `postmaster.c`,
/// `SIGKILL_CHILDREN_AFTER_SECS`). One that hangs takes no signal but SIGKILL.
const AT_ONCE: Duration = Duration::from_secs(10);
/// How long its last words are waited for once it is dead: a program of its may still hold the pipe.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The files that it is started with.
#[derive(Clone, Debug)]
pub struct Files {
    /// The data directory.
    pub data: PathBuf,
    /// The folder with postgresql.conf, pg_hba.conf and pg_ident.conf.
    pub conf: PathBuf,
}

impl Files {
    /// Arguments of `postgres`.
    pub fn args(&self) -> Vec<String> {
        let setting = |name: &str, file: &str| format!("{name}={}", self.conf.join(file).display());
        vec![
            "-D".into(),
            self.data.display().to_string(),
            "-c".into(),
            setting("config_file", "postgresql.conf"),
            "-c".into(),
            setting("hba_file", "pg_hba.conf"),
            "-c".into(),
            setting("ident_file", "pg_ident.conf"),
        ]
    }
}

/// Whether it refuses to start because of what another Postgres has left (CreateLockFile in PostgreSQL's
/// miscinit.c): the data is as good as before.
fn says_in_use(line: &str) -> bool {
    let lock_file = line.contains("lock file \"") && line.contains("already exists");
    lock_file || line.contains("pre-existing shared memory block")
}

/// Hands each line of Postgres on to the log, as one field of a JSON line.
async fn relay(pipe: impl AsyncRead + Unpin, in_use: Arc<AtomicBool>) {
    let mut lines = BufReader::new(pipe).lines();
    loop {
        match lines.next_line().await {
            Ok(Some(line)) => {
                in_use.fetch_or(says_in_use(&line), Ordering::Relaxed);
                tracing::info!(target: "postgres", "{line}");
            }
            // A line that isn't UTF-8: the next one may be.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {}
            Ok(None) | Err(_) => break,
        }
    }
}

async fn watch_end(mut child: Child, ended: watch::Sender<Option<ExitStatus>>) {
    if let Ok(status) = child.wait().await {
        tracing::info!(%status, "postgres ended");
        ended.send_replace(Some(status));
    }
}

/// Checks a configuration file without starting a server; the error is PostgreSQL's own.
pub async fn check_config(program: &Path, data: &Path, file: &Path) -> Result<(), String> {
    let output = Command::new(program)
        .args(["-C", "max_connections", "-D"])
        .arg(data)
        .arg("-c")
        .arg(format!("config_file={}", file.display()))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| e.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

/// Whether the control file in the data directory says "shut down": `ControlFileData.state`, after the system's
/// identifier and two versions, is `DB_SHUTDOWNED` (PostgreSQL source, `catalog/pg_control.h`, the same in 15 to 18).
fn is_shut_down(data: &Path) -> bool {
    const STATE: std::ops::Range<usize> = 16..20;
    const DB_SHUTDOWNED: i32 = 1;
    let content = std::fs::read(data.join("global").join("pg_control")).unwrap_or_default();
    let state = content.get(STATE).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    state == Some(DB_SHUTDOWNED)
}

impl Server {
    /// Starts `postgres`; whether it gets ready is for the caller to see.
    pub fn start(program: &Path, files: &Files) -> Result<Self, ServerError> {
        let error = |source| ServerError::Start { program: program.to_owned(), source };
        let mut child = Command::new(program)
            .args(files.args())
            .env("LC_ALL", "C")
            .env_remove("PGHOST")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(error)?;
        let pid = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw)
            .ok_or(ServerError::Gone)?;
        let in_use = Arc::new(AtomicBool::new(false));
        let errors = child.stderr.take().map(|pipe| tokio::spawn(relay(pipe, Arc::clone(&in_use))));
        let output = child.stdout.take().map(|pipe| tokio::spawn(relay(pipe, Arc::clone(&in_use))));
        let (sender, ended) = watch::channel(None);
        tokio::spawn(watch_end(child, sender));
        Ok(Self { pid, ended, in_use, relays: errors.into_iter().chain(output).collect() })
    }

    /// Of a Postgres that has ended: whether it did because another one has the data.
    pub async fn found_in_use(self) -> bool {
        for relay in self.relays {
            // Late words are only missed; a panic in there can't matter any more.
            let _ = tokio::time::timeout(LAST_WORDS, relay).await;
        }
        self.in_use.load(Ordering::Relaxed)
    }

    /// True while the process is there.
    pub fn alive(&self) -> bool {
        self.ended.borrow().is_none()
    }

    /// Waits until the process is gone.
    pub async fn wait(&self) {
        let mut ended = self.ended.clone();
        // An error means that the watcher is gone, and so is the process.
        let _ = ended.wait_for(Option::is_some).await;
    }

    /// A handle for waiting that borrows nothing.
    pub fn ended(&self) -> watch::Receiver<Option<ExitStatus>> {
        self.ended.clone()
    }

    fn signal(&self, signal: Signal) -> Result<(), ServerError> {
        if !self.alive() {
            return Err(ServerError::Gone);
        }
        kill_process(self.pid, signal).map_err(|_| ServerError::Gone)
    }

    /// Has Postgres read its configuration again.
    pub fn reload(&self) -> Result<(), ServerError> {
        self.signal(Signal::HUP)
    }

    /// Has a standby look whether there is the file [`PROMOTE`], and promote itself then: needs no session (PostgreSQL source,
    /// `pg_ctl.c`, `do_promote`).
    pub fn promote(&self) -> Result<(), ServerError> {
        self.signal(Signal::USR1)
    }

    /// Asks Postgres to stop in order, and waits until nothing of it can serve anybody any more: its control file
    /// says that it is shut down, which comes after the last session has ended, and these walsenders are gone, so
    /// that their standbys have all there is. What may go on is the archiver (PostgreSQL source, `postmaster.c`,
    /// PM_SHUTDOWN_2; from 18 on PM_WAIT_XLOG_ARCHIVAL). False when it did not get there within `limit`.
    pub async fn wind_up(&self, data: &Path, senders: &[i32], limit: Duration) -> bool {
        if self.signal(Signal::INT).is_err() {
            return false;
        }
        let wound_up = async {
            while self.alive() && (!is_shut_down(data) || reaper::has_child(self.pid, senders)) {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(limit, wound_up).await.is_ok() && self.alive()
    }

    /// Stops Postgres: in order for at most `limit`, then at once.
    pub async fn stop(&self, how: Stop, limit: Duration) {
        let in_order = (how == Stop::Fast).then_some((Signal::INT, limit));
        let at_once = [(Signal::QUIT, limit.min(AT_ONCE)), (Signal::KILL, limit)];
        for (signal, limit) in in_order.into_iter().chain(at_once) {
            if self.signal(signal).is_err() || tokio::time::timeout(limit, self.wait()).await.is_ok() {
                return;
            }
            tracing::warn!(?signal, "postgres did not end in time");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_file_says_whether_it_is_shut_down() {
        let data = tempfile::tempdir().unwrap();
        assert!(!is_shut_down(data.path()), "there is none");
        std::fs::create_dir(data.path().join("global")).unwrap();
        let write = |state: i32| {
            let mut content = vec![0xff; 16];
            content.extend(state.to_ne_bytes());
            content.resize(8192, 0);
            std::fs::write(data.path().join("global/pg_control"), content).unwrap();
        };
        for (state, shut_down) in [(1, true), (2, false), (3, false), (6, false)] {
            write(state);
            assert_eq!(is_shut_down(data.path()), shut_down, "{state}");
        }
    }

    #[test]
    fn a_refusal_for_another_postgres_is_told_from_broken_data() {
        for line in [
            "2026-01-01 UTC [1] FATAL:  lock file \"postmaster.pid\" already exists",
            "FATAL:  pre-existing shared memory block (key 5432001, ID 3) is still in use",
        ] {
            assert!(says_in_use(line), "{line}");
        }
        for line in
            ["PANIC:  could not locate a valid checkpoint record", "ERROR:  relation \"x\" already exists"]
        {
            assert!(!says_in_use(line), "{line}");
        }
    }
}
