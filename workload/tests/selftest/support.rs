//! A real PostgreSQL for tests: on loopback, in a temporary directory, always stopped and removed.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Looks before a server counts as not coming up, or not going down: 30 s.
const LOOKS: u32 = 1200;

const NOT_INSTALLED: &str =
    "PostgreSQL is not installed: apt-get install postgresql, or set PG_BINDIR to the folder of initdb";

/// What the tests run.
const PROGRAMS: [&str; 4] = ["initdb", "postgres", "pg_basebackup", "psql"];

/// The folder of PostgreSQL's programs: PG_BINDIR, else by PATH, else where Debian has it, the newest first.
pub fn bindir(pg_bindir: Option<&Path>, path: Option<&str>, debian: &Path) -> Result<PathBuf, String> {
    // A link to initdb alone, as packagers make them, leads to the folder that has them all.
    let real = |dir: PathBuf| Some(fs::canonicalize(dir.join("initdb")).ok()?.parent()?.to_owned());
    let whole = |dir: &PathBuf| PROGRAMS.iter().all(|name| dir.join(name).is_file());
    if let Some(dir) = pg_bindir {
        return real(dir.to_owned()).filter(whole).ok_or_else(|| NOT_INSTALLED.to_owned());
    }
    let mut dirs: Vec<PathBuf> = path.unwrap_or_default().split(':').map(PathBuf::from).collect();
    let mut versions: Vec<PathBuf> =
        fs::read_dir(debian).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    let number = |dir: &PathBuf| dir.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    versions.sort_by_key(|dir| std::cmp::Reverse(number(dir)));
    dirs.extend(versions.into_iter().map(|dir| dir.join("bin")));
    dirs.into_iter().filter_map(real).find(whole).ok_or_else(|| NOT_INSTALLED.to_owned())
}

fn program(name: &str) -> PathBuf {
    let pg_bindir = std::env::var_os("PG_BINDIR").map(PathBuf::from);
    let path = std::env::var("PATH").ok();
    match bindir(pg_bindir.as_deref(), path.as_deref(), Path::new("/usr/lib/postgresql")) {
        Ok(dir) => dir.join(name),
        Err(message) => panic!("{message}"),
    }
}

/// An account that isn't root, because PostgreSQL refuses root; none if we aren't root either.
fn other_user() -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let find = |name: &str| {
        passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find_map(|fields| {
            let ids = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
            (fields.first() == Some(&name)).then_some(ids)
        })
    };
    Some(find("postgres").or_else(|| find("nobody")).expect("an account called postgres or nobody"))
}

/// One of PostgreSQL's programs, to be run in `dir` as its owner.
fn postgres_command(dir: &Path, name: &str) -> Command {
    let program = program(name);
    let mut command = Command::new("setpriv");
    // Also a test that is killed leaves no server behind.
    command.arg("--pdeathsig=INT");
    if let Some((uid, gid)) = other_user() {
        command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()]);
    }
    command.arg(program);
    command.current_dir(dir).stdin(Stdio::null());
    command
}

fn must(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// A server.
pub struct Server {
    dir: TempDir,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    settings: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// A new cluster called `name` with database `app` of role `app`, running with these settings.
    pub fn primary(name: &str, settings: &[&str]) -> Self {
        let mut server = Self::empty(name, settings);
        // A collation unlike the order of bytes, as people have it.
        must(postgres_command(server.dir.path(), "initdb").args([
            "--pgdata=data",
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=icu",
            "--icu-locale=en",
            "--no-sync",
        ]));
        server.start();
        server.sql("postgres", "CREATE ROLE app LOGIN");
        server.sql("postgres", "CREATE DATABASE app OWNER app");
        server
    }

    /// A streaming standby of this server.
    pub fn standby(&self, name: &str, settings: &[&str]) -> Self {
        let mut standby = Self::empty(name, settings);
        must(postgres_command(standby.dir.path(), "pg_basebackup").args([
            "--pgdata=data",
            "--checkpoint=fast",
            "--no-sync",
            "--write-recovery-conf",
            &format!("--dbname=host=127.0.0.1 port={} user=postgres application_name={name}", self.port),
        ]));
        standby.start();
        standby
    }

    fn empty(name: &str, settings: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        if let Some((uid, gid)) = other_user() {
            chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut all: Vec<String> = [
            "listen_addresses=127.0.0.1",
            "shared_buffers=32MB",
            "max_connections=60",
            "fsync=off",
            "hot_standby_feedback=on",
            "log_min_messages=warning",
        ]
        .map(str::to_owned)
        .to_vec();
        all.push(format!("cluster_name={name}"));
        all.push(format!("port={port}"));
        all.push(format!("unix_socket_directories={}", dir.path().display()));
        all.extend(settings.iter().map(|setting| (*setting).to_owned()));
        Self { dir, port, settings: all, child: None }
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Copies a file into the folder so that the server, and nobody else, can read it.
    pub fn put(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        if let Some((uid, gid)) = other_user() {
            chown(&path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// Starts it and waits until it answers.
    pub fn start(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut command = postgres_command(self.dir.path(), "postgres");
        command.args(["-D", "data"]);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        self.child = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        for _ in 0..LOOKS {
            if self.psql("postgres", "postgres", "SELECT 1").status.success() {
                return;
            }
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "postgres ended: {}", self.log());
            sleep(LOOK_EVERY);
        }
        panic!("postgres doesn't answer: {}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Starts again with more settings, and returns when they hold. A reload would not do: whether commits wait
    /// for standbys is for the checkpointer to say, which reads a changed file some time later. A checkpoint
    /// that was asked for after the start shows that it has read its settings.
    pub fn restart_with(&mut self, settings: &[&str]) {
        self.stop("INT");
        self.settings.extend(settings.iter().map(|setting| (*setting).to_owned()));
        self.start();
        self.sql("app", "CHECKPOINT");
    }

    /// Ends it: INT cuts sessions off in good order, QUIT is a crash.
    pub fn stop(&mut self, signal: &str) {
        let Some(mut child) = self.child.take() else { return };
        let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        for _ in 0..LOOKS {
            if !sent.as_ref().is_ok_and(std::process::ExitStatus::success) {
                break;
            }
            if matches!(child.try_wait(), Ok(Some(_))) {
                return;
            }
            sleep(LOOK_EVERY);
        }
        // Nothing more can be done if even this fails.
        let _ = child.kill();
        let _ = child.wait();
    }

    fn psql(&self, user: &str, database: &str, sql: &str) -> Output {
        Command::new(program("psql"))
            .args([
                "-XAtq",
                "-h",
                "127.0.0.1",
                "-v",
                "ON_ERROR_STOP=1",
                "-U",
                user,
                "-d",
                database,
                "-c",
                sql,
            ])
            .env("PGPORT", self.port.to_string())
            .env("PGCONNECT_TIMEOUT", "20")
            .output()
            .unwrap()
    }

    /// Runs SQL as superuser.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let output = self.psql("postgres", database, sql);
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Waits until the SQL answers `wanted`.
    pub fn wait_for(&self, sql: &str, wanted: &str) {
        for _ in 0..LOOKS {
            if self.sql("app", sql) == wanted {
                return;
            }
            sleep(LOOK_EVERY);
        }
        panic!("never {wanted}: {sql}");
    }

    /// Runs a psql script on database `app` as superuser; what it prints.
    pub fn script(&self, script: &Path) -> Vec<u8> {
        let mut command = Command::new(program("psql"));
        command.args(["-X", "-h", "127.0.0.1", "-U", "postgres", "-d", "app", "-f"]).arg(script);
        must(command.env("PGPORT", self.port.to_string())).stdout
    }

    /// HOST:PORT.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop("INT");
    }
}
