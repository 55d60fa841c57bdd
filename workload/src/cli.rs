//! The command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tokio_postgres::Config;

use crate::db::tls::Verified;
use crate::db::{Target, Transport};
use crate::error::WorkloadError;
use crate::ops::Sizes;
use crate::stall::StallArgs;

/// Writes to a pool, records what was acknowledged, and proves that it is there: on every node, at once, the
/// same. Exit status: 0 good, 1 a promise was broken or nothing could be checked, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "pgpool-workload", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create schema `workload` where it is missing
    Prepare(PrepareArgs),
    /// Write only
    Write(WriteArgs),
    /// Look for the writes of a finished journal, as often as time allows
    Read(ReadArgs),
    /// Write, and look for each acknowledged write through the read endpoints meanwhile
    Run(RunArgs),
    /// After the writers have stopped: look for every acknowledged write on every node and compare all nodes
    Check(CheckArgs),
    /// Compare the snapshots of registers that a run recorded: stale ones, and long forks between nodes
    Registers(RegistersArgs),
    /// Write without a pause, reconnect at once, and tell each gap between two acknowledged writes
    Stall(StallArgs),
    /// Print the psql script whose output `check --dump` reads
    DumpSql,
}

/// Who connects, and how trusted. The password comes from the variable PGPASSWORD alone.
#[derive(Debug, Args)]
pub struct ConnectArgs {
    /// User
    #[arg(long, env = "PGUSER", default_value = "app")]
    pub user: String,
    /// Database
    #[arg(long, env = "PGDATABASE", default_value = "app")]
    pub dbname: String,
    /// Port where an endpoint names none
    #[arg(long, env = "PGPORT", default_value_t = 5432)]
    pub port: u16,
    /// PEM file of the CA that must have signed the server's certificate; its name is verified too
    #[arg(long, env = "PGSSLROOTCERT")]
    pub ssl_root_cert: Option<PathBuf>,
    /// Speak without TLS
    #[arg(long, conflicts_with = "ssl_root_cert")]
    pub insecure: bool,
}

impl ConnectArgs {
    /// TLS verified by the CA file, or none because that was asked for; never anything in between.
    pub fn transport(&self) -> Result<Transport, WorkloadError> {
        match &self.ssl_root_cert {
            Some(path) => Ok(Transport::Tls(Verified::from_ca_file(path)?)),
            None if self.insecure => Ok(Transport::Plain),
            None => Err(WorkloadError::Untrusted),
        }
    }

    /// The endpoint `HOST` or `HOST:PORT`.
    pub fn target(&self, endpoint: &str) -> Result<Target, WorkloadError> {
        let bad = || WorkloadError::BadEndpoint { endpoint: endpoint.to_owned() };
        let (host, port) = match endpoint.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') => (host, port.parse().map_err(|_| bad())?),
            _ => (endpoint, self.port),
        };
        if host.is_empty() {
            return Err(bad());
        }
        let mut config = Config::new();
        config.host(host).port(port).user(&self.user).dbname(&self.dbname);
        if let Some(password) = password() {
            config.password(password);
        }
        Ok(Target::new(endpoint.to_owned(), config, self.transport()?))
    }

    /// The node `NAME=CONNINFO`; what the conninfo leaves out comes from the other options.
    pub fn node(&self, text: &str) -> Result<Target, WorkloadError> {
        let bad = |reason: String| WorkloadError::BadNode { node: text.to_owned(), reason };
        let (name, conninfo) =
            text.split_once('=').ok_or_else(|| bad("expected NAME=CONNINFO".to_owned()))?;
        // The parser's message names the key that it doesn't know, never a value.
        let mut config: Config = conninfo.parse().map_err(|error| bad(format!("{error}")))?;
        if config.get_user().is_none() {
            config.user(&self.user);
        }
        if config.get_dbname().is_none() {
            config.dbname(&self.dbname);
        }
        if config.get_ports().is_empty() {
            config.port(self.port);
        }
        if let (None, Some(password)) = (config.get_password(), password()) {
            config.password(password);
        }
        let target = Target::new(name.to_owned(), config, self.transport()?);
        if name.is_empty() || !target.has_host() {
            return Err(bad("a name and a host are needed".to_owned()));
        }
        Ok(target)
    }
}

fn password() -> Option<String> {
    std::env::var("PGPASSWORD").ok()
}

/// Arguments of `prepare`.
#[derive(Debug, Args)]
pub struct PrepareArgs {
    /// Endpoint for writes, HOST or HOST:PORT
    #[arg(long, env = "PGHOST")]
    pub write_host: String,
    /// Number of bank accounts
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    pub accounts: u32,
    /// How to connect
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// Arguments of `write`, and the writing half of `run`.
#[derive(Debug, Args)]
pub struct WriteArgs {
    /// Endpoint for writes, HOST or HOST:PORT
    #[arg(long, env = "PGHOST")]
    pub write_host: String,
    /// Create what is missing of the schema first, waiting up to a minute for the server
    #[arg(long)]
    pub prepare: bool,
    /// Number of writers, one session each
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub writers: u32,
    /// Stop after this many writes
    #[arg(long, default_value_t = u64::MAX)]
    pub max_writes: u64,
    /// Give a write up as unknown after this many milliseconds
    #[arg(long, default_value_t = 60_000)]
    pub write_timeout_ms: u64,
    /// Milliseconds between two writes of one writer
    #[arg(long, default_value_t = 0)]
    pub write_pause_ms: u64,
    /// Journal to append to
    #[arg(long)]
    pub journal: Option<PathBuf>,
    /// Number of bank accounts
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    pub accounts: u32,
    /// Number of lists
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub lists: u32,
    /// Number of counters
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub counters: u32,
    /// When to stop
    #[command(flatten)]
    pub until: UntilArgs,
    /// The control port
    #[command(flatten)]
    pub control: ControlArgs,
    /// How to connect
    #[command(flatten)]
    pub connect: ConnectArgs,
}

impl WriteArgs {
    /// Sizes of the schema.
    pub fn sizes(&self) -> Sizes {
        Sizes { accounts: self.accounts, lists: self.lists, counters: self.counters }
    }
}

/// When to stop; SIGTERM, SIGINT and POST /stop always do.
#[derive(Debug, Args)]
pub struct UntilArgs {
    /// Stop after this many seconds
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Stop when this file exists
    #[arg(long)]
    pub until_file: Option<PathBuf>,
}

/// The control port.
#[derive(Debug, Args)]
pub struct ControlArgs {
    /// Serve GET /summary, GET /journal and POST /stop over plain HTTP on this port (0: a free one)
    #[arg(long, value_name = "PORT")]
    pub control: Option<u16>,
    /// At the end go on serving until SIGTERM, so that the journal can be fetched
    #[arg(long, requires = "control")]
    pub keep_serving: bool,
}

/// How readers go about it.
#[derive(Debug, Args)]
pub struct ReaderArgs {
    /// Readers for each endpoint
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub readers: u32,
    /// A read without an answer for this many milliseconds counts as refused
    #[arg(long, default_value_t = 30_000)]
    pub read_timeout_ms: u64,
    /// Milliseconds between two reads of one reader
    #[arg(long, default_value_t = 5)]
    pub read_pause_ms: u64,
    /// A reader's session is replaced after at most this many reads
    #[arg(long, default_value_t = 100)]
    pub session_reads: u32,
}

/// Which operations on registers are recorded, in the journal, for checkers of histories.
#[derive(Debug, Args)]
pub struct RecordArgs {
    /// Number of registers; none are recorded without
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub registers: u32,
    /// Writers of registers
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub register_writers: u32,
    /// Readers of registers for each endpoint, that for writes among them
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub register_readers: u32,
    /// Each client begins one operation in this many milliseconds, all at about the same time
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    pub register_beat_ms: u64,
    /// Stop after this many operations: the journal must not grow without end
    #[arg(long, default_value_t = 200_000)]
    pub register_operations: u64,
}

/// Arguments of `registers`.
#[derive(Debug, Args)]
pub struct RegistersArgs {
    /// Journal with the recorded operations
    #[arg(long)]
    pub journal: PathBuf,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Endpoints for reads, HOST or HOST:PORT, separated by commas: a balanced Service or single nodes
    #[arg(long, required = true, value_delimiter = ',')]
    pub read_host: Vec<String>,
    /// The reading half
    #[command(flatten)]
    pub readers: ReaderArgs,
    /// What is recorded besides
    #[command(flatten)]
    pub record: RecordArgs,
    /// The writing half
    #[command(flatten)]
    pub write: WriteArgs,
}

/// Arguments of `read`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("endpoint").required(true).args(["nodes", "service"]))]
pub struct ReadArgs {
    /// Single nodes, HOST or HOST:PORT, separated by commas
    #[arg(long, value_delimiter = ',')]
    pub nodes: Vec<String>,
    /// One balanced endpoint
    #[arg(long)]
    pub service: Option<String>,
    /// Journal with the writes to look for
    #[arg(long)]
    pub journal: PathBuf,
    /// How to read
    #[command(flatten)]
    pub readers: ReaderArgs,
    /// When to stop
    #[command(flatten)]
    pub until: UntilArgs,
    /// How to connect
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("source").required(true).multiple(true).args(["node", "dump"]))]
pub struct CheckArgs {
    /// Journals of all runs that are to be checked
    #[arg(long, required = true, num_args = 1..)]
    pub journal: Vec<PathBuf>,
    /// A node to connect to, NAME=CONNINFO
    #[arg(long, num_args = 1.., value_name = "NAME=CONNINFO")]
    pub node: Vec<String>,
    /// Output of the script of `dump-sql` on a node, NAME=FILE
    #[arg(long, num_args = 1.., value_name = "NAME=FILE")]
    pub dump: Vec<String>,
    /// Wait at most this many seconds for nodes to have nothing in flight and to be level
    #[arg(long, default_value_t = 60)]
    pub wait_seconds: u64,
    /// How to connect
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// Splits `NAME=FILE`.
pub fn named_file(text: &str) -> Result<(&str, &Path), WorkloadError> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => Ok((name, Path::new(file))),
        _ => Err(WorkloadError::BadDump { dump: text.to_owned() }),
    }
}

/// Milliseconds as a duration.
pub fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn connect_args(extra: &[&str]) -> ConnectArgs {
        let args = ["pgpool-workload", "prepare", "--write-host", "h"].iter().chain(extra);
        match Cli::try_parse_from(args).unwrap().command {
            Command::Prepare(args) => args.connect,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn neither_ca_nor_insecure_is_refused() {
        let mut args = connect_args(&[]);
        args.ssl_root_cert = None;
        assert!(matches!(args.target("h"), Err(WorkloadError::Untrusted)));
    }

    #[test]
    fn endpoints_may_name_a_port() {
        let args = connect_args(&["--insecure"]);
        for (text, good) in
            [("h", true), ("h:1", true), (":1", false), ("h:x", false), ("", false), ("::1", true)]
        {
            assert_eq!(args.target(text).is_ok(), good, "{text}");
        }
        assert!(args.node("a=host=h port=3").is_ok());
        assert!(args.node("a=port=3").is_err() && args.node("=host=h").is_err() && args.node("h").is_err());
    }
}
