//! What the agent answers the other parts of the pool (see [`crate::messages`]).
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::stream;

use super::abandoned::{self, Following};
use super::shared::Shared;
use super::{epochs, lease, roles, sql, volume};
use crate::archive::Store;
use crate::clock;
use crate::link::{Caller, Origin};
use crate::messages::{
    AbandonedSession, Beat, EnsureRoles, Leftover, LoginQuestion, NodeReport, Peer, Role, Vote,
};

/// A line of the watch is sent at least this often.
const WATCH_EVERY: Duration = Duration::from_millis(250);

/// All calls of an agent.
pub fn router(shared: Arc<Shared>, archive: Store) -> Router {
    telling(WATCH_EVERY, shared, archive)
}

/// The same, with a line of the watch at least this often.
pub(super) fn telling(every: Duration, shared: Arc<Shared>, archive: Store) -> Router {
    let follow = async move |caller: Caller, Origin(from): Origin, State(shared): State<Arc<Shared>>| {
        watch(every, &caller, from, shared)
    };
    let own = middleware::from_fn_with_state(Arc::clone(&shared), own_archive);
    Router::new()
        .route("/v1/report", get(report))
        .route("/v1/watch", get(follow))
        .route("/v1/beat", post(beat))
        .route("/v1/vote", post(vote))
        .route("/v1/table", get(table))
        .route("/v1/login", post(login))
        .route("/v1/abandoned", post(end_abandoned))
        .route("/v1/roles", post(ensure_roles))
        .with_state(shared)
        .merge(crate::archive::router(archive).layer(own))
}

/// What an earlier pool has archived on this volume may have the name of other WAL of this pool's: it is nobody's here, and
/// whose it is where there is no copy, nobody knows.
async fn own_archive(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let pool_uid = shared.lock().report.pool_uid.clone();
    if !volume::holds_copy_of(&shared.env.volume, &pool_uid) {
        return refuse(StatusCode::NOT_FOUND, "the archive here isn't known to be this pool's");
    }
    next.run(request).await
}

fn refuse(status: StatusCode, why: impl Into<String>) -> Response {
    (status, why.into()).into_response()
}

async fn report(State(shared): State<Arc<Shared>>) -> Json<NodeReport> {
    Json(shared.report())
}

fn watch(every: Duration, caller: &Caller, from: IpAddr, shared: Arc<Shared>) -> Response {
    let changes = shared.subscribe();
    let following = (caller.0 == Peer::Proxy).then(|| Following::begin(&shared, from));
    let begun = (shared, changes, following, true);
    let lines = stream::unfold(begun, move |(shared, mut changes, following, first)| async move {
        if !first {
            // Late or changed: both are a reason to send a line.
            let _ = tokio::time::timeout(every, changes.changed()).await;
        }
        let mut line = serde_json::to_vec(&shared.report()).ok()?;
        line.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), (shared, changes, following, false)))
    });
    Body::from_stream(lines).into_response()
}

async fn beat(caller: Caller, State(shared): State<Arc<Shared>>, Json(beat): Json<Beat>) -> Response {
    match caller.node() {
        Ok(index) if index == beat.from => {}
        Ok(_) => return refuse(StatusCode::FORBIDDEN, "a beat speaks for its own node only"),
        Err(refused) => return refused.into_response(),
    }
    let mut inner = shared.lock();
    if beat.pool_uid != inner.report.pool_uid {
        drop(inner);
        return refuse(StatusCode::CONFLICT, "another pool's beat");
    }
    if let Some(length) = inner.longest_to_write(clock::now(), &beat) {
        // Rare, and short: the length has changed.
        match lease::write(&shared.env.volume, length) {
            Ok(()) => inner.longest_written = length,
            Err(error) if length > inner.longest_written => {
                drop(inner);
                return refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
            }
            // One that is too long costs time, should this node be chosen after a start.
            Err(error) => tracing::warn!(%error, "the longest lease can't be noted"),
        }
    }
    let newer = beat.epoch > inner.record.as_ref().map_or(0, |r| r.epoch);
    let leased = inner.lease.valid(clock::now());
    let answer = inner.beat(clock::now(), &beat);
    let gained = !leased && inner.lease.valid(clock::now());
    drop(inner);
    if newer || gained {
        shared.wake.notify_one();
    }
    Json(answer).into_response()
}

/// Takes a vote and answers with the own one, if this node has voted in that election.
async fn vote(caller: Caller, State(shared): State<Arc<Shared>>, Json(vote): Json<Vote>) -> Response {
    match caller.node() {
        Ok(index) if index == vote.index => {}
        Ok(_) => return refuse(StatusCode::FORBIDDEN, "a vote speaks for its own node only"),
        Err(refused) => return refused.into_response(),
    }
    let mut inner = shared.lock();
    if vote.pool_uid != inner.report.pool_uid {
        drop(inner);
        return refuse(StatusCode::CONFLICT, "another pool's vote");
    }
    let newer = vote.epoch > inner.record.as_ref().map_or(0, |r| r.epoch);
    let own = inner.own_vote(vote.epoch);
    let news = inner.vote(clock::now(), vote);
    drop(inner);
    if newer || news {
        shared.wake.notify_one();
    }
    Json(own).into_response()
}

async fn table(caller: Caller, State(shared): State<Arc<Shared>>) -> Response {
    if let Err(refused) = caller.node() {
        return refused.into_response();
    }
    let Some(client) = shared.client() else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "postgres isn't running");
    };
    match epochs::table(&client).await {
        Ok(table) => Json(table).into_response(),
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

async fn login(
    caller: Caller,
    State(shared): State<Arc<Shared>>,
    Json(question): Json<LoginQuestion>,
) -> Response {
    if let Err(refused) = caller.one_of(|peer| *peer == Peer::Proxy) {
        return refused.into_response();
    }
    // Without the driver's session Postgres isn't running, or not yet as what it shall be.
    let (Some(_), Some(mock)) = (shared.client(), shared.mock.get()) else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "postgres isn't running");
    };
    match shared.logins.verifier(&question.user, mock).await {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

/// Ends sessions of the front that asks.
async fn end_abandoned(
    caller: Caller,
    Origin(from): Origin,
    State(shared): State<Arc<Shared>>,
    Json(sessions): Json<Vec<AbandonedSession>>,
) -> Response {
    if let Err(refused) = caller.one_of(|peer| *peer == Peer::Proxy) {
        return refused.into_response();
    }
    let (role, boot) = {
        let inner = shared.lock();
        (inner.report.role, inner.report.boot.clone())
    };
    // Those of another start are gone with it.
    let sessions: Vec<AbandonedSession> =
        sessions.into_iter().filter(|session| session.boot == boot).collect();
    let Some(client) = shared.client() else {
        if role == Role::Stopped || sessions.is_empty() {
            return Json(Leftover::default()).into_response();
        }
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "postgres isn't running");
    };
    match abandoned::end(&client, from, Some(&sessions)).await {
        Ok(done) => Json(done).into_response(),
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

async fn ensure_roles(
    caller: Caller,
    State(shared): State<Arc<Shared>>,
    Json(request): Json<EnsureRoles>,
) -> Response {
    if let Err(refused) = caller.operator() {
        return refused.into_response();
    }
    let open = {
        let inner = shared.lock();
        inner.report.role == Role::Primary && inner.report.open
    };
    if !open {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "this node isn't a primary in office");
    }
    // A session of its own: its commits wait for the standbys, and the driver's session must never.
    match sql::connect("postgres").await {
        Ok(client) => {
            let answer = roles::ensure(&client, &request).await;
            shared.wake.notify_one();
            Json(answer).into_response()
        }
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}
