//! `pgpool-operator`: one program, several parts.
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pgpool_operator::names::{LOG_FORMAT, LogFormat};
use pgpool_operator::{agent, archive, controller, crds, proxy, recover, telemetry};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::runtime::Builder;

/// Keeps a pool of PostgreSQL nodes that always hold identical data.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// How log lines are written, on standard error.
    #[arg(long, global = true, env = LOG_FORMAT, value_enum, default_value_t)]
    log_format: LogFormat,
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// PID 1 of a node's Postgres container.
    Agent(agent::Args),
    /// Copies this program into a pod (init container).
    Bootstrap(agent::install::Args),
    /// PostgreSQL's archive_command on a node.
    ArchiveWal(archive::ArchiveArgs),
    /// PostgreSQL's restore_command on a node.
    RestoreWal(archive::RestoreArgs),
    /// Stage 1 of a recovery: the Job that copies the data.
    Recover(recover::Args),
    /// The front: takes clients to the primary or to an attached node.
    Proxy(proxy::Args),
    /// Reconciles PgPools.
    Controller(controller::Args),
    /// Prints the custom resource definitions.
    Crds(crds::Args),
}

async fn run(part: Part, log_format: LogFormat) -> Result<ExitCode, Box<dyn std::error::Error>> {
    match part {
        Part::Agent(args) => agent::run(args).await?,
        Part::Bootstrap(args) => agent::install::run(&args)?,
        Part::ArchiveWal(args) => archive::archive_wal(args).await?,
        Part::RestoreWal(args) => match archive::restore_wal(args).await {
            // PostgreSQL asks for files that may not exist, and takes this answer for a no: nothing to complain of.
            Err(error) if error.is_missing() => {
                tracing::debug!(%error, "not archived");
                return Ok(ExitCode::FAILURE);
            }
            done => done?,
        },
        Part::Recover(args) => recover::run(args).await?,
        Part::Proxy(args) => proxy::run(args).await?,
        Part::Controller(args) => controller::run(args, log_format).await?,
        Part::Crds(args) => crds::run(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What the process knows stays in it: it is never written into a core dump, and no other process of its user may look into it
/// (prctl(2), `PR_SET_DUMPABLE`). Programs that it starts are as usual.
fn keep_to_itself() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "a core dump of this process would hold its secrets");
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    telemetry::logs::start(cli.log_format);
    keep_to_itself();
    let mut builder = match cli.part {
        // It starts a thread for each core itself.
        Part::Proxy(_) => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let done = builder.worker_threads(2).enable_all().build().map_err(Into::into).and_then(|runtime| {
        let done = runtime.block_on(run(cli.part, cli.log_format));
        // A name that DNS doesn't answer for keeps its thread for seconds; PostgreSQL waits for `restore-wal`.
        runtime.shutdown_background();
        done
    });
    done.unwrap_or_else(|error| {
        tracing::error!(%error, "ended with an error");
        ExitCode::FAILURE
    })
}
