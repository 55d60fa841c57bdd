//! Runs `pg_basebackup` and reads what it says of its progress (PostgreSQL documentation,
//! "pg_basebackup").
use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::RecoverError;
use crate::names;

/// Time that pg_basebackup gets to end after SIGTERM.
const END: Duration = Duration::from_secs(10);
/// Lines kept of what it says.
const KEPT: usize = 12;
/// Bounds of its option --max-rate, in KiB/s.
const RATES: (u32, u32) = (32, 1 << 20);

/// Where the copy comes from and how it is made.
#[derive(Clone, Debug)]
pub struct Source {
    /// Path of pg_basebackup.
    pub program: PathBuf,
    /// Host name of the donor; its certificate must name it.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Folder with tls.crt, ca.crt and a tls.key that nobody else may read.
    pub tls: PathBuf,
    /// Name that the donor shows for it.
    pub application: String,
    /// Limit in KiB a second.
    pub max_rate: Option<u32>,
}

/// What a line of progress says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that came.
    pub bytes: u64,
    /// Bytes that will come, estimated by the donor.
    pub total: u64,
    /// Tablespaces besides the data directory.
    pub tablespaces: u32,
}

/// How a copy ended that didn't fail.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended<T> {
    /// It is whole; so many bytes came.
    Whole(u64),
    /// It was given up by the watcher.
    Given(T),
}

impl Source {
    /// A connection string (PostgreSQL documentation, "Connection Strings"). It holds no secret: the key
    /// is a file.
    fn conninfo(&self) -> String {
        let file = |name: &str| self.tls.join(name).display().to_string();
        let port = self.port.to_string();
        let mut text = String::new();
        for (key, value) in [
            ("host", self.host.as_str()),
            ("port", &port),
            ("user", names::REPLICATION_ROLE),
            ("application_name", &self.application),
            ("sslmode", "verify-full"),
            ("sslrootcert", &file("ca.crt")),
            ("sslcert", &file("tls.crt")),
            ("sslkey", &file("tls.key")),
            ("gssencmode", "disable"),
            ("connect_timeout", "10"),
            ("keepalives_idle", "5"),
            ("keepalives_interval", "5"),
            ("keepalives_count", "3"),
            ("tcp_user_timeout", "20000"),
            // The nodes' own is short, since a standby that is late stops commits; a copy that is late stops nobody.
            ("options", "-c wal_sender_timeout=60s"),
        ] {
            let value = value.replace('\\', "\\\\").replace('\'', "\\'");
            // Writing to a string doesn't fail.
            write!(text, "{key}='{value}' ").ok();
        }
        text
    }

    fn command(&self, target: &Path, compressed: bool) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("-D").arg(target).arg("-d").arg(self.conninfo());
        command.args(["-X", "stream", "--checkpoint=fast", "--no-password", "--progress"]);
        if compressed {
            command.arg("--compress=server-lz4");
        }
        if let Some(rate) = self.max_rate {
            command.arg(format!("--max-rate={}", rate.clamp(RATES.0, RATES.1)));
        }
        // No password and no setting of somebody else's is taken from the environment.
        // The file of passwords isn't there, which libpq takes without a word.
        command.env_clear().env("LC_ALL", "C").env("PGPASSFILE", self.tls.join("no-passwords"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // A group of its own: the process that receives WAL is a child of pg_basebackup and ends with it.
        command.process_group(0).kill_on_drop(true);
        command
    }

    /// Copies into `target`, which must not be there. `watch` sees the progress about once a second and may
    /// give the copy up. Where PostgreSQL was built without lz4 it comes uncompressed.
    pub async fn copy<T>(
        &self,
        target: &Path,
        stop: &CancellationToken,
        mut watch: impl FnMut(Progress) -> Option<T>,
    ) -> Result<Ended<T>, RecoverError> {
        let first = self.attempt(target, true, stop, &mut watch).await;
        match first {
            Err(RecoverError::Copy { said, .. }) if lacks_lz4(&said) => {
                tracing::info!(said, "no lz4 here or at the donor: copying uncompressed");
                self.attempt(target, false, stop, &mut watch).await
            }
            other => other,
        }
    }

    async fn attempt<T>(
        &self,
        target: &Path,
        compressed: bool,
        stop: &CancellationToken,
        watch: &mut impl FnMut(Progress) -> Option<T>,
    ) -> Result<Ended<T>, RecoverError> {
        let mut child = self.command(target, compressed).spawn().map_err(RecoverError::io(&self.program))?;
        let said = child.stderr.take().ok_or_else(|| self.failed("it has no standard error"))?;
        let mut listener = Listener { watch, last: Progress::default(), kept: Vec::new() };
        let heard = tokio::select! {
            heard = listener.listen(said) => heard,
            () = stop.cancelled() => {
                end(child).await;
                return Err(RecoverError::Stopped);
            }
        };
        if let Some(given) = heard.map_err(RecoverError::io(&self.program))? {
            end(child).await;
            return Ok(Ended::Given(given));
        }
        let status = child.wait().await.map_err(RecoverError::io(&self.program))?;
        if status.success() {
            return Ok(Ended::Whole(listener.last.bytes));
        }
        Err(self.why(target, status, &listener.kept))
    }

    fn failed(&self, said: &str) -> RecoverError {
        RecoverError::Copy { donor: self.host.clone(), said: said.to_owned() }
    }

    fn why(&self, target: &Path, status: ExitStatus, kept: &[String]) -> RecoverError {
        // A tablespace is copied to the very path that it has on the donor: that is where it fails.
        let foreign = kept.iter().find_map(|line| foreign_folder(line, target));
        match foreign {
            Some(folder) => RecoverError::Tablespaces(folder),
            None if kept.is_empty() => self.failed(&status.to_string()),
            None => self.failed(&kept.join("; ")),
        }
    }
}

fn lacks_lz4(said: &str) -> bool {
    let said = said.to_lowercase();
    said.contains("lz4") && (said.contains("not support") || said.contains("unrecognized compression"))
}

fn foreign_folder(line: &str, target: &Path) -> Option<String> {
    let (_, rest) = line.split_once("directory \"")?;
    let (folder, _) = rest.split_once('"')?;
    (!Path::new(folder).starts_with(target)).then(|| folder.to_owned())
}

/// SIGTERM to it and to its child, then the end by force.
async fn end(mut child: Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        for signal in [Signal::TERM, Signal::KILL] {
            if let Err(error) = kill_process_group(pid, signal) {
                tracing::debug!(%error, "pg_basebackup was gone already");
            }
            if timeout(END, child.wait()).await.is_ok() {
                return;
            }
        }
    }
}

struct Listener<'a, W> {
    watch: &'a mut W,
    last: Progress,
    kept: Vec<String>,
}

impl<T, W: FnMut(Progress) -> Option<T>> Listener<'_, W> {
    /// Reads until it ends, or until the watcher gives it up. Progress comes in lines that end with a
    /// newline, or with a carriage return on a terminal.
    async fn listen(&mut self, said: impl AsyncRead + Unpin) -> std::io::Result<Option<T>> {
        let mut lines = BufReader::new(said);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).await? > 0 {
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            line.clear();
            if let Some(progress) = parse(&text) {
                self.last = progress;
                if let Some(given) = (self.watch)(progress) {
                    return Ok(Some(given));
                }
            } else if !text.is_empty() {
                tracing::info!(said = text, "pg_basebackup");
                self.kept.push(text);
                let surplus = self.kept.len().saturating_sub(KEPT);
                self.kept.drain(..surplus);
            }
        }
        Ok(None)
    }
}

/// Reads `  1234/56789 kB (2%), 0/1 tablespace`.
fn parse(line: &str) -> Option<Progress> {
    let line = line.rsplit('\r').find(|part| !part.trim().is_empty())?;
    let (sizes, rest) = line.trim().split_once(" kB (")?;
    let (done, total) = sizes.split_once('/')?;
    let (_, spaces) = rest.split_once("), ")?;
    let (_, spaces) = spaces.split_once('/')?;
    let all: u32 = spaces.split_whitespace().next()?.parse().ok()?;
    let bytes = |number: &str| Some(number.trim().parse::<u64>().ok()?.saturating_mul(1024));
    Some(Progress { bytes: bytes(done)?, total: bytes(total)?, tablespaces: all.saturating_sub(1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_as_pg_basebackup_writes_it() {
        let expected = Progress { bytes: 31_457_280, total: 62_914_560, tablespaces: 0 };
        assert_eq!(parse("30720/61440 kB (50%), 0/1 tablespace"), Some(expected));
        assert_eq!(
            parse("    0/61440 kB (0%), 0/1 tablespace\r30720/61440 kB (50%), 0/1 tablespace\r"),
            Some(expected)
        );
        let more = parse("30720/61440 kB (50%), 1/3 tablespaces").unwrap();
        assert_eq!(more.tablespaces, 2);
        for other in
            ["", "waiting for checkpoint", "pg_basebackup: error: no", "1/2 MB (50%), 0/1 tablespace"]
        {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_folder_elsewhere_is_a_tablespace() {
        let target = Path::new("/volume/pgdata.new");
        let line = "pg_basebackup: error: could not create directory \"/srv/fast\": Permission denied";
        assert_eq!(foreign_folder(line, target), Some("/srv/fast".into()));
        let line = "pg_basebackup: error: directory \"/srv/fast\" exists but is not empty";
        assert_eq!(foreign_folder(line, target), Some("/srv/fast".into()));
        let own = "pg_basebackup: error: could not create directory \"/volume/pgdata.new/base\": No space";
        assert_eq!(foreign_folder(own, target), None);
    }

    #[test]
    fn a_build_without_lz4_is_told_from_other_failures() {
        for said in [
            "pg_basebackup: error: this build does not support compression with LZ4",
            "ERROR:  lz4 compression is not supported by this build",
        ] {
            assert!(lacks_lz4(said), "{said}");
        }
        assert!(!lacks_lz4("pg_basebackup: error: could not decompress data: LZ4 frame"));
    }

    #[test]
    fn a_connection_string_is_quoted() {
        let source = Source {
            program: "pg_basebackup".into(),
            host: "it's".into(),
            port: 5432,
            tls: "/a b".into(),
            application: "demo-1-recovery-x".into(),
            max_rate: None,
        };
        let text = source.conninfo();
        assert!(text.contains("host='it\\'s' ") && text.contains("sslkey='/a b/tls.key' "), "{text}");
        assert!(text.contains("sslmode='verify-full' "), "{text}");
        assert!(text.contains("options='-c wal_sender_timeout=60s' "), "{text}");
    }
}
