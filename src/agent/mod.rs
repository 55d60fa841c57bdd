//! The agent: PID 1 in the Postgres container of a node.
//!
//! It makes or follows a copy of the data, starts, stops and fences Postgres, keeps the gate (pg_hba), and
//! carries out what [`crate::membership`] decides. One task, the driver ([`node`]), owns Postgres and the
//! volume; beats, HTTP and probes run beside it and share only [`shared::Shared`].
//!
//! It never exits for what it can wait for: a container that restarts is backed off for minutes.

mod abandoned;
mod beats;
mod conf;
mod election;
mod env;
mod epochs;
pub mod files;
mod finish;
mod health;
mod http;
mod initdb;
pub mod install;
mod lag;
mod lease;
mod lineage;
mod locks;
mod logins;
mod metrics;
mod node;
mod observe;
mod office;
mod postgres;
mod primary;
mod putback;
mod reaper;
mod record;
mod roles;
mod server;
mod settings;
mod shared;
mod slots;
mod spare;
mod sql;
mod standby;
mod start;
mod switchover;
mod takeup;
mod unseen;
mod volume;
mod wal;

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::archive::Store;
use crate::link::{Client, Identity, LinkError};
use crate::names;
use crate::postgres::programs::Programs;
use env::{Env, EnvError};
use node::Node;
use record::RecordStore;
use shared::Shared;
use volume::{Volume, VolumeError};

/// The agent takes no arguments: the pod's environment says who it is.
#[derive(clap::Args, Debug)]
pub struct Args {}

/// Why the agent can't run at all.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The environment.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// A port or a signal can't be had.
    #[error("{what}: {source}")]
    Io {
        /// What was wanted.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The Kubernetes client can't be made.
    #[error("Kubernetes client: {0}")]
    Kubernetes(Box<kube::Error>),
    /// The certificates.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// Between two tries at the volume's lock: its holder is another process and can't wake us.
const LOCK_RETRY: Duration = Duration::from_millis(100);

/// Takes the volume; waits while a recovery Job or a dying agent still holds it. A volume that was never used is left
/// alone until a Job has put a copy there: so that the Job needn't wait for the pod to end. The node that begins the pool
/// waits for no Job.
async fn take_volume(root: &Path, shared: &Shared) -> Volume {
    loop {
        // A node that the record counts has lost what it had, and that is for its driver to say.
        let first = shared.env.index == names::BOOTSTRAP || shared.begins();
        if !first && Volume::is_unused(root) && !shared.is_counted() {
            if shared.lock().report.postgres_version.is_none() {
                let found = Programs::find().await.ok();
                shared.lock().report.postgres_version = found.map(|programs| programs.major);
            }
            say(shared, "waits for a recovery: the node has no copy of the data");
        } else {
            match Volume::open(root) {
                Ok(volume) => return volume,
                Err(error @ VolumeError::InUse(_)) => say(shared, &error.to_string()),
                Err(error) => {
                    tracing::error!(%error, "the volume can't be used");
                    say(shared, &error.to_string());
                }
            }
        }
        tokio::time::sleep(LOCK_RETRY).await;
    }
}

fn say(shared: &Shared, message: &str) {
    let mut inner = shared.lock();
    let news = inner.report.message != message;
    message.clone_into(&mut inner.report.message);
    drop(inner);
    if news {
        shared.changed();
    }
}

async fn listen(port: u16, what: &'static str) -> Result<TcpListener, AgentError> {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await.map_err(|source| AgentError::Io { what, source })
}

fn spawn_health(listener: TcpListener, shared: &Arc<Shared>) {
    let router = health::router(Arc::clone(shared));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "probes are no longer answered");
        }
    });
}

/// Runs until the pod is stopped.
pub async fn run(_: Args) -> Result<(), AgentError> {
    let env = Env::read(|name| std::env::var(name).ok())?;
    let mut term = signal(SignalKind::terminate())
        .map_err(|source| AgentError::Io { what: "handling SIGTERM", source })?;
    let boot = format!("{:016x}", rand::random::<u64>());
    let shared = Shared::new(env.clone(), &boot);
    spawn_health(listen(names::HEALTH_PORT, "port of the probes").await?, &shared);
    tokio::spawn(reaper::run());

    let identity = Identity::load(Path::new(names::TLS_DIR))?;
    let pool_uid = identity.pool_uid();
    shared.identity.set(identity.clone()).ok();
    shared.lock().report.pool_uid.clone_from(&pool_uid);
    let listener = listen(names::AGENT_PORT, "port of the agent").await?;
    let stop = CancellationToken::new();
    let router = http::router(Arc::clone(&shared), Store::new(&env.volume.join("archive")));
    let serving =
        tokio::spawn(crate::link::serve(listener, identity.clone(), pool_uid.clone(), router, stop.clone()));

    let kube = kube::Client::try_default().await.map_err(|e| AgentError::Kubernetes(Box::new(e)))?;
    let store = RecordStore::new(kube, &env.namespace, &env.pool);
    let told = Arc::clone(&shared);
    tokio::spawn(store.clone().watch(Arc::clone(&shared.wake), move |object| told.bring_news(object)));
    let volume = tokio::select! {
        volume = take_volume(&env.volume, &shared) => volume,
        _ = term.recv() => return Ok(()),
    };
    let node = Node::new(Arc::clone(&shared), store, volume, Client::new(identity), pool_uid);
    node.run(term).await;
    stop.cancel();
    // The server drains within its own limit; a panic in it can't matter any more.
    let _ = serving.await;
    Ok(())
}

#[cfg(test)]
mod tests;
