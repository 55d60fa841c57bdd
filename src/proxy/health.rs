//! Probes and metrics, plain HTTP.
use std::{io, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use tokio::net::TcpListener;

use super::{Front, metrics::Moments};
use crate::telemetry;

/// Answers probes for ever.
pub async fn serve(listener: TcpListener, front: Arc<Front>) -> io::Result<()> {
    let router = Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(front);
    axum::serve(listener, router).await
}

async fn ready(State(front): State<Arc<Front>>) -> (StatusCode, &'static str) {
    front.hub.not_ready().map_or((StatusCode::OK, "ok"), |why| (StatusCode::SERVICE_UNAVAILABLE, why))
}

async fn metrics(State(front): State<Arc<Front>>) -> impl IntoResponse {
    let moments = Moments {
        ready: front.hub.not_ready().is_none(),
        serving: front.hub.serving(),
        max_connections: front.max_connections,
        certificates: [
            ("clients", front.certificate.current().validity),
            ("pool", front.link.identity().validity()),
        ],
    };
    ([(CONTENT_TYPE, telemetry::CONTENT_TYPE)], front.hub.metrics.text(&moments))
}
