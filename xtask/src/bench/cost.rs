//! `cargo xtask bench cost`: what the pool costs beside PostgreSQL's own synchronous replication.
//!
//! pgbench runs in the primary's own pod, through its socket, so that neither network nor front are part of it. Pool
//! and hand-made servers stand side by side on the same machines, and are measured in turn, in short turns: the disk
//! beneath them is faster in one minute than in the next, and only neighbours can be compared. Who is first changes
//! from turn to turn. The one that isn't measured is idle, and an idle pool still beats.

use clap::Args;
use serde_json::{Value, json};

use super::peer::{self, Model};
use super::pool::{PROGRAMS, Pool};
use super::report::median;
use super::{NAMESPACE, NAMESPACE_NEW, on_cluster, prepare};
use crate::cluster::Cluster;
use crate::error::{Result, refused};
use crate::progress::{print, step};
use crate::run;

/// Volume of each node: enough WAL between two checkpoints that none falls into a turn by itself.
const STORAGE: &str = "16Gi";

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Numbers of clients that commit at once
    #[arg(long, value_delimiter = ',', default_value = "1,8")]
    clients: Vec<u32>,
    /// How long each run of pgbench is, in seconds
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// pgbench's scale: 100,000 accounts each
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    scale: u32,
    /// How often both are measured
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Encrypt the connections between the servers that are set up by hand, as the pool's are
    #[arg(long)]
    tls: bool,
    /// Embedded cluster to use; one that is not up is started, and removed in the end
    #[arg(long, default_value = "bench")]
    name: String,
}

/// Measures and prints.
pub fn cost(options: &Options) -> Result<()> {
    on_cluster(&options.name, |cluster| measure(options, cluster))
}

/// A primary on which pgbench runs.
struct Primary<'a> {
    pool: &'a Pool<'a>,
    pod: String,
    login: &'static str,
}

/// Transactions a second in each turn.
#[derive(Default)]
struct Rates {
    pool: Vec<f64>,
    by_hand: Vec<f64>,
}

fn measure(options: &Options, cluster: &Cluster) -> Result<()> {
    let target = prepare(cluster)?;
    let (pool, peers) = (Pool::new(&target, NAMESPACE), Pool::new(&target, NAMESPACE_NEW));
    step("a pool", || pool.create_automatic(STORAGE))?;
    step("the same by hand", || peer::start(&peers, &Model::of(&pool)?, options.tls))?;
    let ours = Primary { pool: &pool, pod: Pool::pod(0), login: "" };
    let theirs = Primary { pool: &peers, pod: peer::name(0), login: "-h /tmp -U postgres" };
    for primary in [&ours, &theirs] {
        step(&format!("pgbench's tables in {}", primary.pod), || primary.fill(options.scale))?;
    }
    for clients in &options.clients {
        let mut rates = Rates::default();
        for turn in 1..=options.runs {
            let one = |primary: &Primary<'_>| primary.rate(*clients, options.seconds);
            step(&format!("{clients} clients, {turn} of {}", options.runs), || {
                if turn % 2 == 1 {
                    rates.pool.push(one(&ours)?);
                    rates.by_hand.push(one(&theirs)?);
                } else {
                    rates.by_hand.push(one(&theirs)?);
                    rates.pool.push(one(&ours)?);
                }
                Ok(())
            })?;
        }
        print(table(*clients, &rates));
        print(line(*clients, &rates).to_string());
    }
    peers.remove()?;
    pool.remove()
}

impl Primary<'_> {
    fn run(&self, text: &str) -> Result<String> {
        run::captured(&mut self.pool.script(&self.pod, &format!("{PROGRAMS}; {text}"))?)
    }

    fn fill(&self, scale: u32) -> Result<()> {
        let login = self.login;
        self.run(&format!(
            "createdb {login} pgbench; pgbench {login} --quiet -i -s {scale} pgbench 2>&1 | tail -n 1"
        ))
        .map(drop)
    }

    fn rate(&self, clients: u32, seconds: u32) -> Result<f64> {
        let (login, threads) = (self.login, clients.min(2));
        rate(&self.run(&format!(
            "psql {login} -qc checkpoint pgbench; \
             pgbench {login} --no-vacuum -c {clients} -j {threads} -T {seconds} pgbench 2>/dev/null"
        ))?)
    }
}

/// What pgbench says, such as `tps = 812.3 (without initial connection time)`.
fn rate(said: &str) -> Result<f64> {
    let words = said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next());
    match words.and_then(|word| word.parse().ok()) {
        Some(rate) => Ok(rate),
        None => refused(format!("pgbench told no rate: {said}")),
    }
}

/// Of each turn, since both were measured within seconds there.
fn ratio(rates: &Rates) -> f64 {
    median(rates.pool.iter().zip(&rates.by_hand).map(|(pool, by_hand)| pool / by_hand))
}

fn table(clients: u32, rates: &Rates) -> String {
    let row = |name: &str, values: &[f64]| {
        let each: Vec<String> = values.iter().map(|v| format!("{v:6.0}")).collect();
        format!("  {name:<10} {}   median {:.0} a second", each.join(""), median(values.iter().copied()))
    };
    format!(
        "\nTransactions of pgbench, {clients} clients\n{}\n{}\n  pool : by hand {:.3}",
        row("pool", &rates.pool),
        row("by hand", &rates.by_hand),
        ratio(rates)
    )
}

fn line(clients: u32, rates: &Rates) -> Value {
    let ratio = ratio(rates);
    json!({ "bench": "cost", "clients": clients, "poolTps": rates.pool, "byHandTps": rates.by_hand, "ratio": ratio })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read_from_what_pgbench_says() {
        let said =
            "latency average = 1.2 ms\ninitial connection time = 3 ms\ntps = 812.345 (without initial ...)\n";
        assert!((rate(said).unwrap() - 812.345).abs() < 1e-9);
        assert!(rate("nothing").is_err());
    }

    #[test]
    fn the_ratio_is_taken_turn_by_turn() {
        let rates = Rates { pool: vec![90.0, 50.0, 30.0], by_hand: vec![100.0, 50.0, 60.0] };
        assert!((ratio(&rates) - 0.9).abs() < 1e-9);
    }
}
