//! The custom resources against a real API server: what it accepts, what it refuses, and in which words.
//!
//! Needs a cluster (KUBECONFIG), so it isn't part of a plain `cargo test`: `cargo xtask test api` runs it.
//! It also needs helm, for the chart's admission policy (see tests/common/helm.rs).
//! It works in a namespace of its own, which it removes, also after a failure.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it finds the unexpected")]

#[path = "../common/bad_pools.rs"]
mod bad_pools;
mod cluster;
mod examples;
mod guard;
#[path = "../common/helm.rs"]
mod helm;
#[path = "../common/examples.rs"]
mod manifests;
mod membership;
mod pools;
mod updates;

use std::panic::{AssertUnwindSafe, resume_unwind};

use cluster::{Cluster, Report};
use futures::FutureExt as _;

#[tokio::test]
async fn the_api_server_takes_what_is_right_and_says_what_is_wrong() {
    let cluster = Cluster::prepare().await;
    let outcome = AssertUnwindSafe(look(&cluster)).catch_unwind().await;
    cluster.remove().await;
    match outcome {
        Ok(report) => report.finish(),
        Err(panic) => resume_unwind(panic),
    }
}

async fn look(cluster: &Cluster) -> Report {
    let mut report = Report::default();
    pools::check(cluster, &mut report).await;
    examples::check(cluster, &mut report).await;
    updates::check(cluster, &mut report).await;
    membership::check(cluster, &mut report).await;
    guard::check(cluster, &mut report).await;
    report
}
