//! `pgpool-operator controller`: looks after all pools of the cluster, or of some namespaces.
mod events;
mod figures;
mod health;
pub mod lease;
mod reconcile;
mod watches;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures::future::join_all;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::apply::Executor;
use crate::names::LogFormat;
use crate::observe::Agents;
use crate::resources::{Peers, Runtime};
use crate::telemetry::operator::Metrics;
use events::Events;
use health::Health;
use lease::{Keeper, LeaseError};
use reconcile::Shared;

/// What the operator is started with.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Namespace of the operator itself.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,
    /// Name of the operator's pod.
    #[arg(long, env = "POD_NAME", default_value = "pgpool-operator")]
    pub pod: String,
    /// Image that holds this program; it runs the front and is copied into the nodes.
    #[arg(long, env = "OPERATOR_IMAGE")]
    pub image: String,
    /// Namespaces whose pools are looked after, separated by commas; all when empty.
    #[arg(long, env = "WATCH_NAMESPACES", default_value = "", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,
    /// Who may read the metrics of nodes and fronts: peers of a NetworkPolicy, as a list in JSON. Nobody when empty.
    #[arg(long, env = "METRICS_FROM", default_value = "[]")]
    pub metrics_from: Peers,
    /// Secrets by which the pods of all pools pull images besides those of the spec, separated by commas. Each must be in
    /// the namespace of the pool.
    #[arg(long, env = "IMAGE_PULL_SECRETS", default_value = "", value_delimiter = ',')]
    pub image_pull_secrets: Vec<String>,
    /// Where probes and metrics are served.
    #[arg(long, env = "HEALTH_ADDRESS", default_value = "0.0.0.0:8080")]
    pub health_address: SocketAddr,
    /// Directory for the certificates with which agents are called.
    #[arg(long, env = "PGPOOL_CERTIFICATE_DIR", default_value = "/tmp/pgpool-operator")]
    pub certificate_dir: PathBuf,
}

/// Why the operator ended.
#[derive(Debug, Error)]
pub enum ControllerError {
    /// There is no way to the Kubernetes API.
    #[error("Kubernetes API: {}", crate::observe::said(_0))]
    Client(#[source] Box<kube::Error>),
    /// Probes could not be served.
    #[error("health server: {0}")]
    Health(#[source] std::io::Error),
    /// Signals can't be waited for.
    #[error("signals: {0}")]
    Signals(#[source] std::io::Error),
    /// Another operator leads now.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// A task of the operator ended by a fault of its own.
    #[error("a task ended: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Runs until a signal comes or the lease is lost. What it makes logs in this format, too.
pub async fn run(args: Args, log_format: LogFormat) -> Result<(), ControllerError> {
    let client = Client::try_default().await.map_err(|error| ControllerError::Client(Box::new(error)))?;
    let stop = CancellationToken::new();
    on_signal(stop.clone())?;
    let metrics = Arc::new(Metrics::new(&reconcile::CATEGORIES, events::known()));
    let ready = Arc::new(AtomicBool::new(false));
    let health = Health { ready: ready.clone(), metrics: metrics.clone() };
    let mut serving = tokio::spawn(health::serve(args.health_address, health, stop.clone()));
    let (leading, mut leads) = watch::channel(false);
    let leases: Api<Lease> = Api::namespaced(client.clone(), &args.namespace);
    // The same pod may start twice; its second start must not take the first one's lease for its own.
    let me = format!("{}_{}", args.pod, uuid());
    let mut keeping = tokio::spawn(Keeper::new(leases, me).run(leading, stop.clone()));
    let runtime = runtime(&args, log_format);
    let working = work(&args, runtime, client, metrics, ready, stop.clone(), async move {
        leads.wait_for(|leads| *leads).await.is_ok()
    });
    let result = tokio::select! {
        () = working => Ok(()),
        kept = &mut keeping => kept?.map_err(ControllerError::from),
        served = &mut serving => served?.map_err(ControllerError::Health),
    };
    stop.cancel();
    if !keeping.is_finished() {
        keeping.await??;
    }
    result
}

fn runtime(args: &Args, log_format: LogFormat) -> Runtime {
    Runtime {
        operator_image: args.image.clone(),
        operator_namespace: args.namespace.clone(),
        metrics_from: args.metrics_from.clone(),
        log_format,
        pull_secrets: named(&args.image_pull_secrets).into_iter().map(str::to_owned).collect(),
    }
}

/// The names in a list that was separated by commas; an empty one has none.
fn named(list: &[String]) -> Vec<&str> {
    list.iter().map(|name| name.trim()).filter(|name| !name.is_empty()).collect()
}

fn uuid() -> String {
    format!("{:016x}", rand::random::<u64>())
}

fn on_signal(stop: CancellationToken) -> Result<(), ControllerError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ControllerError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ControllerError::Signals)?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}

/// Waits for the lease, then looks after pools.
async fn work(
    args: &Args,
    runtime: Runtime,
    client: Client,
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
    stop: CancellationToken,
    leads: impl Future<Output = bool>,
) {
    // Whoever waits for its turn is as ready as it can be.
    ready.store(true, Ordering::Relaxed);
    tokio::select! {
        () = stop.cancelled() => return,
        _ = leads => {}
    }
    ready.store(false, Ordering::Relaxed);
    metrics.leads();
    tracing::info!("leading");
    let shared = Arc::new(Shared {
        runtime,
        agents: Agents::new(args.certificate_dir.clone()),
        executor: Executor::new(client.clone()),
        events: Events::new(client.clone(), args.pod.clone(), metrics.clone()),
        metrics,
        memories: Mutex::new(BTreeMap::new()),
        client,
    });
    let namespaces = named(&args.watch_namespaces);
    let scopes = if namespaces.is_empty() { vec![None] } else { namespaces.into_iter().map(Some).collect() };
    join_all(
        scopes.into_iter().map(|scope| watches::run(shared.clone(), scope, ready.clone(), stop.clone())),
    )
    .await;
}
