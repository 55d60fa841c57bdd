//! The cluster as the steps see it: its API, kubectl and helm.
use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use kube::Client;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::Instant;

use super::chaos::Orders;
use super::compare::Tally;
use super::harness::{Failure, Outcome, failed};
use super::pool::NODES;

/// Namespace of the operator.
pub const SYSTEM: &str = "pgpool-system";
/// Release of the chart.
pub const RELEASE: &str = "pgpool-operator";
/// Namespace of the pool that the scenario is about.
pub const SPACE: &str = "cluster-test";
/// That pool.
pub const POOL: &str = "demo";
/// Shortest pause between two looks at something that can't be watched.
const LOOK: Duration = Duration::from_millis(250);
/// Longest one.
const LONGEST_LOOK: Duration = Duration::from_secs(2);
/// How many times as long as a look the pause after it is: on a busy machine looks would take from what is looked at.
const PAUSES: u32 = 3;
/// Longest time for one call of a program.
pub const CALL: Duration = Duration::from_secs(120);
/// A wait that is worth a word.
const LONG: Duration = Duration::from_secs(15);

/// The cluster.
pub struct World {
    /// A client of the API server.
    pub client: Client,
    /// The pool that is meant where no other is named.
    pub pool: &'static str,
    /// Its nodes.
    pub nodes: &'static [u8],
    /// Folder for files of this run; goes with it.
    pub scratch: tempfile::TempDir,
    /// Everything that stood in the pool's namespace before the pool.
    pub before: OnceLock<BTreeSet<String>>,
    /// What the pool held when it was deleted.
    pub held: OnceLock<String>,
    /// Faults at random, where they are asked for.
    pub chaos: Orders,
    /// How often nodes were compared.
    pub compared: Tally,
}

impl World {
    /// The cluster that KUBECONFIG names.
    pub async fn open(chaos: Orders) -> Outcome<Self> {
        Ok(Self {
            client: Client::try_default().await?,
            pool: POOL,
            nodes: &NODES,
            scratch: tempfile::tempdir()?,
            before: OnceLock::new(),
            held: OnceLock::new(),
            chaos,
            compared: Tally::default(),
        })
    }

    /// The same cluster, another pool of the same namespace being meant.
    pub fn of_pool(&self, pool: &'static str, nodes: &'static [u8]) -> Outcome<Self> {
        let (client, scratch) = (self.client.clone(), tempfile::tempdir()?);
        let (before, held, chaos) = (OnceLock::new(), OnceLock::new(), self.chaos);
        Ok(Self { client, pool, nodes, scratch, before, held, chaos, compared: Tally::default() })
    }

    /// Runs kubectl; gives what it printed.
    pub async fn kubectl(&self, args: &[&str]) -> Outcome<String> {
        call("kubectl", args, None).await
    }

    /// Runs kubectl in the pool's namespace.
    pub async fn here(&self, args: &[&str]) -> Outcome<String> {
        self.kubectl(&[&["-n", SPACE], args].concat()).await
    }

    /// Runs kubectl in the pool's namespace with something on its standard input.
    pub async fn feed(&self, args: &[&str], input: &str) -> Outcome<String> {
        call("kubectl", &[&["-n", SPACE], args].concat(), Some(input)).await
    }

    /// Applies a manifest as a person would.
    pub async fn apply(&self, manifest: &Value) -> Outcome<String> {
        call("kubectl", &["apply", "-f", "-"], Some(&manifest.to_string())).await
    }

    /// Runs helm.
    pub async fn helm(&self, args: &[&str]) -> Outcome<String> {
        call("helm", args, None).await
    }

    /// Breaks a machine of the embedded cluster, or heals it.
    pub async fn machine(&self, words: &[&str]) -> Outcome {
        let Some(xtask) = env::var_os("PGPOOL_XTASK") else {
            return failed("PGPOOL_XTASK isn't set: `cargo xtask test cluster` does it");
        };
        call(&xtask.to_string_lossy(), &[&["cluster", "node"], words].concat(), None).await.map(drop)
    }

    /// Prints what a person would look at after a failure.
    pub async fn describe(&self) {
        let looks: [&[&str]; 7] = [
            &["-n", SPACE, "get", "pgpool", "-o", "yaml"],
            &["-n", SPACE, "get", "pgpoolmemberships", "-o", "yaml"],
            &["-n", SPACE, "get", "pods,pvc,jobs", "-o", "wide"],
            &["-n", SPACE, "get", "events", "--sort-by=.lastTimestamp"],
            &[
                "-n",
                SYSTEM,
                "logs",
                "--tail=25",
                "--prefix",
                "-l",
                "app.kubernetes.io/instance=pgpool-operator",
            ],
            &["-n", SPACE, "logs", "--tail=15", "--prefix", "-l", "pgpool-operator.dev/part=node"],
            &["-n", SPACE, "logs", "--tail=15", "--prefix", "-l", "pgpool-operator.dev/part=recovery"],
        ];
        for args in looks {
            let seen = match self.kubectl(args).await {
                Ok(text) | Err(Failure(text)) => text,
            };
            let lines: Vec<&str> = seen.lines().collect();
            let last = lines.len().saturating_sub(DESCRIBED);
            println!("---- kubectl {}", args.join(" "));
            lines.iter().skip(last).for_each(|line| println!("    {line}"));
        }
    }
}

/// Most lines printed of each look after a failure.
const DESCRIBED: usize = 120;

/// A file or folder of the checkout.
pub fn checkout(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs a program; its words are the failure when it fails.
pub async fn call(program: &str, args: &[&str], input: Option<&str>) -> Outcome<String> {
    call_within(CALL, program, args, input).await
}

/// The same of a program that may take so long.
pub async fn call_within(
    limit: Duration,
    program: &str,
    args: &[&str],
    input: Option<&str>,
) -> Outcome<String> {
    let shown = format!("{program} {}", args.join(" "));
    printed(&shown, &output(limit, program, args, input).await?)
}

/// What a program printed; its words are the failure when it failed.
pub fn printed(shown: &str, output: &Output) -> Outcome<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let (status, out, err) = (output.status, text(&output.stdout), text(&output.stderr));
    failed(format!("{shown}: {status}\n{out}{err}"))
}

/// Runs a program to its end, good or bad.
pub async fn output(limit: Duration, program: &str, args: &[&str], input: Option<&str>) -> Outcome<Output> {
    let mut command = Command::new(program);
    command.args(args);
    if program == "kubectl" {
        // It ends before its garbage would matter, and the processors are short.
        command.env("GOGC", "off");
    }
    ended(limit, &format!("{program} {}", args.join(" ")), command, input).await
}

/// The same of a command that is prepared already.
pub async fn ended(
    limit: Duration,
    shown: &str,
    mut command: Command,
    input: Option<&str>,
) -> Outcome<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| Failure(format!("{shown}: {error}")))?;
    let mut stdin = child.stdin.take();
    let work = async {
        let write = async {
            if let (Some(stdin), Some(input)) = (&mut stdin, input) {
                // A program that ends before it has read all says why by itself.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
            drop(stdin.take());
        };
        let ((), output) = tokio::join!(write, child.wait_with_output());
        output
    };
    match tokio::time::timeout(limit, work).await {
        Ok(output) => Ok(output?),
        Err(_) => failed(format!("{shown}: no end within {} s", limit.as_secs())),
    }
}

/// Looks again and again until it holds: `look` gives what was waited for, or what it saw instead.
pub async fn until<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Outcome<T>) -> Outcome<T> {
    let begun = Instant::now();
    let end = begun + limit;
    let mut last = String::new();
    loop {
        let looked = Instant::now();
        match look().await {
            Ok(found) => {
                let took = begun.elapsed();
                if took > LONG {
                    println!("    {what}: {} s; seen before: {last}", took.as_secs());
                }
                return Ok(found);
            }
            Err(seen) if Instant::now() >= end => {
                return failed(format!("waited {} s for {what}; seen at last: {seen}", limit.as_secs()));
            }
            Err(Failure(seen)) => {
                last = seen;
                tokio::time::sleep((looked.elapsed() * PAUSES).clamp(LOOK, LONGEST_LOOK)).await;
            }
        }
    }
}
