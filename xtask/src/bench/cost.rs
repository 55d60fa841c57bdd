//! `cargo xtask bench cost`: what the pool costs beside PostgreSQL's own synchronous replication.
//!
//! pgbench runs in the primary's own pod, through its socket, so that neither network nor front are part of it. Pool
//! and hand-made servers are there in turn, never both, and who is first changes from round to round.

use clap::Args;
use serde_json::{Value, json};

use super::peer::{self, Model};
use super::pool::Pool;
use super::report::median;
use super::{NAMESPACE, NAMESPACE_NEW, on_cluster, prepare};
use crate::cluster::Cluster;
use crate::error::{Result, refused};
use crate::progress::{print, step};
use crate::run;

/// Volume of each node.
const STORAGE: &str = "2Gi";

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Numbers of clients that commit at once
    #[arg(long, value_delimiter = ',', default_value = "1,8")]
    clients: Vec<u32>,
    /// How long each run of pgbench is, in seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// pgbench's scale: 100,000 accounts each
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    scale: u32,
    /// How often both are measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Embedded cluster to use; one that is not up is started, and removed in the end
    #[arg(long, default_value = "bench")]
    name: String,
}

/// Transactions a second, for each number of clients.
type Rates = Vec<f64>;

/// Measures and prints.
pub fn cost(options: &Options) -> Result<()> {
    on_cluster(&options.name, |cluster| measure(options, cluster))
}

fn measure(options: &Options, cluster: &Cluster) -> Result<()> {
    let target = prepare(cluster)?;
    let (pool, by_hand) = (Pool::new(&target, NAMESPACE), Pool::new(&target, NAMESPACE_NEW));
    let mut model = None;
    let (mut pools, mut peers): (Vec<Rates>, Vec<Rates>) = (Vec::new(), Vec::new());
    for run in 1..=options.runs {
        let with_pool = |model: &mut Option<Model>| {
            step(&format!("pool, {run} of {}", options.runs), || of_pool(&pool, options, model))
        };
        let with_peer = |model: &Option<Model>| {
            step(&format!("by hand, {run} of {}", options.runs), || {
                of_peer(&by_hand, options, model.as_ref())
            })
        };
        // The first pool is the model of the hand-made servers, so it can't come second in the first round.
        if run % 2 == 1 {
            pools.push(with_pool(&mut model)?);
            peers.push(with_peer(&model)?);
        } else {
            peers.push(with_peer(&model)?);
            pools.push(with_pool(&mut model)?);
        }
    }
    for (i, clients) in options.clients.iter().enumerate() {
        let of = |all: &[Rates]| all.iter().map(|rates| rates[i]).collect::<Vec<f64>>();
        let (pool, peer) = (of(&pools), of(&peers));
        print(table(*clients, &pool, &peer));
        print(line(*clients, &pool, &peer).to_string());
    }
    Ok(())
}

fn of_pool(pool: &Pool<'_>, options: &Options, model: &mut Option<Model>) -> Result<Rates> {
    pool.create_automatic(STORAGE)?;
    if model.is_none() {
        *model = Some(Model::of(pool)?);
    }
    let rates = rates(pool, &Pool::pod(0), "", options)?;
    pool.remove()?;
    Ok(rates)
}

fn of_peer(pool: &Pool<'_>, options: &Options, model: Option<&Model>) -> Result<Rates> {
    let Some(model) = model else { return refused("no pool was there to take the parameters from") };
    peer::start(pool, model)?;
    let rates = rates(pool, &peer::name(0), "-h /tmp -U postgres", options)?;
    pool.remove()?;
    Ok(rates)
}

fn rates(pool: &Pool<'_>, pod: &str, login: &str, options: &Options) -> Result<Rates> {
    let path = "PATH=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1):$PATH";
    let make = format!(
        "{path}; createdb {login} pgbench; pgbench {login} --quiet -i -s {} pgbench 2>&1 | tail -n 1; \
         psql {login} -qc checkpoint pgbench",
        options.scale
    );
    run::captured(&mut pool.script(pod, &make)?)?;
    let one = |clients: &u32| {
        let threads = (*clients).min(2);
        let text = format!(
            "{path}; pgbench {login} --no-vacuum -c {clients} -j {threads} -T {} pgbench 2>/dev/null",
            options.seconds
        );
        rate(&run::captured(&mut pool.script(pod, &text)?)?)
    };
    options.clients.iter().map(one).collect()
}

/// What pgbench says, such as `tps = 812.3 (without initial connection time)`.
fn rate(said: &str) -> Result<f64> {
    let words = said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next());
    match words.and_then(|word| word.parse().ok()) {
        Some(rate) => Ok(rate),
        None => refused(format!("pgbench told no rate: {said}")),
    }
}

/// Of each round, since both were measured within minutes there.
fn ratio(pool: &[f64], peer: &[f64]) -> f64 {
    median(pool.iter().zip(peer).map(|(pool, peer)| pool / peer))
}

fn table(clients: u32, pool: &[f64], peer: &[f64]) -> String {
    let row = |name: &str, values: &[f64]| {
        let each: Vec<String> = values.iter().map(|v| format!("{v:8.0}")).collect();
        format!("  {name:<10} {}   median {:.0} a second", each.join(""), median(values.iter().copied()))
    };
    format!(
        "\nTransactions of pgbench, {clients} clients\n{}\n{}\n  pool : by hand {:.3}",
        row("pool", pool),
        row("by hand", peer),
        ratio(pool, peer)
    )
}

fn line(clients: u32, pool: &[f64], peer: &[f64]) -> Value {
    json!({ "bench": "cost", "clients": clients, "poolTps": pool, "byHandTps": peer, "ratio": ratio(pool, peer) })
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
    fn the_ratio_is_taken_round_by_round() {
        assert!((ratio(&[90.0, 50.0, 30.0], &[100.0, 50.0, 60.0]) - 0.9).abs() < 1e-9);
    }
}
