//! Probes and metrics of the agent, in plain HTTP for the kubelet.
use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;

use super::shared::Shared;
use crate::messages::Role;

/// `/livez` speaks of the agent alone: a Postgres that is recovering is never killed for it.
/// `/readyz` is true while clients may be sent here.
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "the agent runs\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(shared)
}

async fn ready(State(shared): State<Arc<Shared>>) -> (StatusCode, String) {
    let report = shared.report();
    let status = if report.open { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("{}\n", report.message))
}

async fn metrics(State(shared): State<Arc<Shared>>) -> String {
    let report = shared.report();
    let flag = u8::from;
    let role = match report.role {
        Role::Stopped => "stopped",
        Role::Primary => "primary",
        Role::Standby => "standby",
    };
    let gauges = [
        ("pgpool_node_open", "1 while clients are let in", u64::from(flag(report.open))),
        ("pgpool_node_streaming", "1 while the walreceiver streams", u64::from(flag(report.streaming))),
        (
            "pgpool_node_epoch",
            "epoch of the record that the agent acts on",
            u64::try_from(report.epoch).unwrap_or(0),
        ),
        ("pgpool_node_lsn_bytes", "last applied or flushed WAL position", report.lsn.unwrap_or(0)),
        ("pgpool_node_lag_milliseconds", "age of the oldest unapplied commit", report.lag_ms.unwrap_or(0)),
        ("pgpool_node_volume_free_bytes", "free bytes on the volume", report.volume_free),
        ("pgpool_node_archive_bytes", "bytes of the WAL archive", report.archive_bytes),
    ];
    let mut text = format!(
        "# HELP pgpool_node_role what the node's Postgres is\n# TYPE pgpool_node_role gauge\npgpool_node_role{{role=\"{role}\"}} 1\n"
    );
    for (name, help, value) in gauges {
        // Writing to a String can't fail.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n");
    }
    text
}
