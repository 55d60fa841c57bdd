//! The HTTP server of an agent, as far as the operator asks: the project's own server, with the certificate that the operator
//! has made for the node, at the address of its pod.
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use pgpool_operator::link::{Caller, Identity, serve};
use pgpool_operator::messages::EnsureRoles;
use pgpool_operator::names;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::error::SimulatorError;
use crate::world::World;

/// What a certificate is made of, as files.
const FILES: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];

/// Who is asked.
#[derive(Clone)]
pub struct Asked {
    /// All pools.
    pub world: Arc<World>,
    /// Name of its pool.
    pub pool: String,
    /// Its index.
    pub index: u8,
    /// Names the start of its PostgreSQL.
    pub boot: String,
}

/// An agent that answers until it is dropped.
pub struct Agent(CancellationToken);

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Starts it. Its certificate goes into `dir`, as a kubelet would put it there.
pub async fn start(
    secret: &Secret,
    dir: &Path,
    address: Ipv4Addr,
    asked: Asked,
) -> Result<Agent, SimulatorError> {
    store(secret, dir)?;
    let identity = Identity::load(dir)?;
    let address = SocketAddr::from((address, names::AGENT_PORT));
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|source| SimulatorError::Listen { address, source })?;
    let stop = CancellationToken::new();
    let pool_uid = identity.pool_uid();
    tokio::spawn(serve(listener, identity, pool_uid, router(asked), stop.clone()));
    Ok(Agent(stop))
}

fn store(secret: &Secret, dir: &Path) -> Result<(), SimulatorError> {
    let file = |path: &Path| {
        let path = path.to_path_buf();
        move |source| SimulatorError::File { path, source }
    };
    fs::create_dir_all(dir).map_err(file(dir))?;
    for key in FILES {
        let value = secret.data.as_ref().and_then(|data| data.get(key));
        let value = value.ok_or_else(|| SimulatorError::Key { name: secret.name_any(), key })?;
        let path = dir.join(key);
        fs::write(&path, &value.0).map_err(file(&path))?;
    }
    Ok(())
}

fn router(asked: Asked) -> Router {
    Router::new().route("/v1/report", get(report)).route("/v1/roles", post(ensure)).with_state(asked)
}

async fn report(State(asked): State<Asked>) -> Response {
    match asked.world.report(&asked.pool, asked.index, &asked.boot) {
        Some(report) => Json(report).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the pool has no membership yet").into_response(),
    }
}

async fn ensure(caller: Caller, State(asked): State<Asked>, Json(wanted): Json<EnsureRoles>) -> Response {
    match caller.operator() {
        Ok(()) => Json(asked.world.ensure(&asked.pool, &wanted)).into_response(),
        Err(refused) => refused.into_response(),
    }
}
