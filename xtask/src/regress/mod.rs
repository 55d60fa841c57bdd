//! `cargo xtask regress`: PostgreSQL's own regression tests, once at the primary itself and once through the front, and
//! what differs.
//!
//! They need a superuser, and make roles that the whole server has: so they get a pool of their own. Both ways begin in
//! the primary's pod, with the same psql, files, role and name of the database; files are run one after the other, as
//! `pg_regress --max-connections=1` does.

mod expected;
mod report;
mod source;
mod way;

use clap::Args;
use serde_json::json;

use crate::bench::{self, Pool};
use crate::cargo::Profile;
use crate::cluster::Cluster;
use crate::error::{Result, refused};
use crate::progress::{say, step};
use crate::{files, host, paths};
use report::Report;
use way::{Course, Way};

/// Namespace of the pool.
const NAMESPACE: &str = "pgpool-regress";
/// Volume of each node: the tests write some hundred megabytes of WAL.
const STORAGE: &str = "4Gi";

/// What to run.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Embedded cluster to use; one that is not up is started, and removed in the end
    #[arg(long, default_value = "regress")]
    name: String,
    /// Major version of PostgreSQL: the mirror of the images must have the sources of its package
    #[arg(long, default_value_t = 15, value_parser = source::major)]
    major: u32,
    /// Run them twice at the primary itself instead: what differs by itself is no matter of the front
    #[arg(long)]
    control: bool,
}

/// Runs and compares; what was made for it is removed.
pub fn run(options: &Options) -> Result<()> {
    host::need_regress_packages()?;
    bench::on_cluster(&options.name, |cluster| on(options, cluster))
}

fn on(options: &Options, cluster: &Cluster) -> Result<()> {
    let target = bench::prepare_as(cluster, Profile::Dev)?;
    let pool = Pool::new(&target, NAMESPACE);
    let compared = compared(options, &pool);
    let removed = step("the pool is removed", || pool.remove());
    compared.and_then(|report| removed.and(report.judge()))
}

fn compared(options: &Options, pool: &Pool<'_>) -> Result<Report> {
    let spec = json!({
        "image": format!("localhost/postgres:{}", options.major),
        // As pg_regress has it for a server of its own.
        "postgres": { "parameters": { "max_prepared_transactions": "2" } },
    });
    step("a pool", || pool.create_with(STORAGE, &spec))?;
    let version = way::package_version(pool, options.major)?;
    let tests = step(&format!("sources of PostgreSQL {version}"), || source::fetch(options.major, &version))?;
    way::put(pool, options.major, &tests)?;
    let folder = paths::checkout().join("target/regress");
    if folder.exists() {
        files::remove_dir(&folder)?;
    }
    let since = way::primary_since(pool)?;
    let [first, second] = if options.control { [Way::Direct; 2] } else { [Way::Direct, Way::Front] };
    let first = Course::run(pool, &tests.names, first, &folder.join("1"))?;
    let second = Course::run(pool, &tests.names, second, &folder.join("2"))?;
    if way::primary_since(pool)? != since {
        return refused("the primary was another in between: the comparison says nothing");
    }
    say(format!("what they said is in {}", folder.display()));
    Report::of(&tests, &first, &second, &folder)
}
