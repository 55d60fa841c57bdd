//! `pgpool-simulator`: what `cargo xtask bench operator` needs to show the operator more pools than a machine can run.
//!
//! Real are the operator, the Kubernetes API with its controllers and scheduler, and all objects of the pools, certificates
//! among them. Simulated is what would run on the nodes of a cluster:
//!
//! | instead of | this |
//! |---|---|
//! | machines with a kubelet | three Node objects, Ready by the lease that is renewed for each; no pod but those of the one namespace tolerates their taint |
//! | disks | PersistentVolumes without a provisioner, placed by the scheduler and bound by Kubernetes as those of local disks are |
//! | containers | the status of each pod, said at once; a pod that is deleted is gone at once |
//! | agents | the project's own HTTP server with mutual TLS for each node, at an address of its own, with the certificate from the pool's Secret; it answers the two calls that the operator makes, `GET /v1/report` and `POST /v1/roles` |
//! | PostgreSQL | nothing: positions stand still, copies are made by having been ordered |
//! | the membership protocol | the records of a pool that nothing happens to: the first one, then one node more at a time, when the operator wishes it and the node has a copy; the API server's rules apply as ever |
//! | fronts | nothing but the pods' status: the operator never asks them |
//!
//! So it says nothing of agents, fronts and what they ask of the API, nor of the time that a pool really takes to be made. It ends
//! with its standard input; what it has made in the cluster is taken away by whoever started it.

mod agent;
mod drive;
mod error;
mod kubelet;
mod machines;
mod pool;
mod world;

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::{io, thread};

use clap::Parser;
use kube::Client;
use pgpool_operator::names::LogFormat;
use pgpool_operator::telemetry;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio_util::sync::CancellationToken;

use drive::Driver;
use error::SimulatorError;

/// Says of machines, agents and fronts that they are there.
#[derive(Debug, Parser)]
#[command(name = "pgpool-simulator", version)]
struct Cli {
    /// Namespace of the pools.
    #[arg(long)]
    namespace: String,
    /// Address of this machine, which stands for all.
    #[arg(long)]
    machine: Ipv4Addr,
    /// First address of pods; this machine has to take what is sent to it, and to those that follow.
    #[arg(long)]
    first: Ipv4Addr,
    /// Volumes to make for each machine.
    #[arg(long)]
    volumes: u32,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    telemetry::logs::start(LogFormat::Text);
    match simulate(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pgpool-simulator: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn simulate(cli: Cli) -> Result<(), SimulatorError> {
    let stop = CancellationToken::new();
    on_end_of_input(stop.clone());
    allow_many_files();
    let client = Client::try_default().await.map_err(|source| SimulatorError::Client(Box::new(source)))?;
    machines::make(&client, cli.machine, cli.volumes).await?;
    let mut driver = Driver::new(client, cli.namespace, cli.machine, cli.first)?;
    println!("ready");
    tokio::select! {
        () = Box::pin(driver.run()) => {}
        () = stop.cancelled() => {}
    }
    Ok(())
}

/// Nothing is written to it: its end is that of whoever started this.
fn on_end_of_input(stop: CancellationToken) {
    thread::spawn(move || {
        // Whatever ends the reading ends the input.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        stop.cancel();
    });
}

/// Each agent has a socket that listens, and one for the operator.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
