//! Probes and metrics of the agent, in plain HTTP for the kubelet and for whoever may read metrics.
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::metrics::{self, Archiver, Known};
use super::observe;
use super::shared::Shared;
use crate::clock::{self, Moment};
use crate::link::Identity;
use crate::telemetry;

/// PostgreSQL is asked this often at most, by however many scrapers: the session is the driver's.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// Longest time for its answer: a scrape goes on without it.
const LIMIT: Duration = Duration::from_secs(1);

/// What a scrape needs.
struct Scraped {
    shared: Arc<Shared>,
    /// When PostgreSQL was asked last, and what it said.
    archiver: Mutex<Option<(Moment, Option<Archiver>)>>,
}

/// `/livez` speaks of the agent alone: a Postgres that is recovering is never killed for it.
/// `/readyz` is true while clients may be sent here.
pub fn router(shared: Arc<Shared>) -> Router {
    let scraped = Arc::new(Scraped { shared: Arc::clone(&shared), archiver: Mutex::default() });
    Router::new()
        .route("/metrics", get(metrics))
        .with_state(scraped)
        .route("/livez", get(|| async { "the agent runs\n" }))
        .route("/readyz", get(ready))
        .with_state(shared)
}

async fn ready(State(shared): State<Arc<Shared>>) -> (StatusCode, String) {
    let report = shared.report();
    let status = if report.open { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("{}\n", report.message))
}

async fn metrics(State(scraped): State<Arc<Scraped>>) -> impl IntoResponse {
    let archiver = scraped.archiver().await;
    let text = metrics::text(&scraped.known(archiver));
    ([(CONTENT_TYPE, telemetry::CONTENT_TYPE)], text)
}

impl Scraped {
    /// What PostgreSQL has archived; none while it doesn't answer.
    async fn archiver(&self) -> Option<Archiver> {
        let client = self.shared.client()?;
        let mut last = self.archiver.lock().await;
        let now = clock::now();
        if let Some((_, said)) = last.filter(|(at, _)| now.since(*at) < ASK_EVERY) {
            return said;
        }
        let said = timeout(LIMIT, observe::archiver(&client)).await.ok().and_then(Result::ok);
        *last = Some((now, said));
        said
    }

    fn known(&self, archiver: Option<Archiver>) -> Known {
        let validity = self.shared.identity.get().and_then(Identity::validity);
        let now = clock::now();
        let mut inner = self.shared.lock();
        let report = inner.report_at(now);
        let office = inner.office.as_ref();
        let lags = office.into_iter().flat_map(|office| &office.others);
        Known {
            attached: inner.attached(),
            lags: lags.filter_map(|(index, other)| Some((*index, other.lag?))).collect(),
            oldest_waiting: office.and_then(|office| office.oldest_waiter).map(|since| now.since(since)),
            archiver,
            validity,
            report,
        }
    }
}
