//! Probes and metrics, plain HTTP.
use std::{io, sync::Arc};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::net::TcpListener;

use super::hub::Hub;

/// The type that scrapers of OpenMetrics expect.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers probes for ever.
pub async fn serve(listener: TcpListener, hub: Arc<Hub>) -> io::Result<()> {
    let router = Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(hub);
    axum::serve(listener, router).await
}

async fn ready(State(hub): State<Arc<Hub>>) -> (StatusCode, &'static str) {
    hub.not_ready().map_or((StatusCode::OK, "ok"), |why| (StatusCode::SERVICE_UNAVAILABLE, why))
}

async fn metrics(State(hub): State<Arc<Hub>>) -> ([(axum::http::HeaderName, &'static str); 1], String) {
    ([(axum::http::header::CONTENT_TYPE, OPEN_METRICS)], hub.metrics.text())
}
