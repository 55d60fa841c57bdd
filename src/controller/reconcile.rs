//! One pass over one pool: observe, validate, plan, status, apply. Mostly there is nothing to do, and the watches say so.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{Timestamp, Unit};
use kube::runtime::controller::Action;
use kube::{Api, Client, ResourceExt};
use thiserror::Error;

use super::events::Events;
use super::figures;
use crate::api::v1alpha1::{PgPool, PgPoolStatus};
use crate::apply::{ApplyError, Executor};
use crate::clock;
use crate::model::{InvalidSpec, Memory, PoolKey, ValidPool};
use crate::observe::{Agents, Cache, ObserveError, observe, said};
use crate::plan::{self, AT_ONCE, Happening};
use crate::resources::{BuildError, Runtime};
use crate::telemetry::operator::{Metrics, Pass};

/// When a pass that failed is tried again.
const AFTER_ERROR: Duration = Duration::from_secs(3);
/// When a refused spec is looked at again without being changed.
const AFTER_REFUSAL: Duration = Duration::from_secs(300);

/// The categories that errors of a pass may have.
pub const CATEGORIES: [&str; 7] = [
    "ReadFailed",
    "ObserveFailed",
    "BuildFailed",
    "ApplyFailed",
    "NameTaken",
    "CertificateFailed",
    "AgentUnreachable",
];

/// Why a pass failed.
#[derive(Debug, Error)]
pub enum ReconcileError {
    /// The PgPool could not be read.
    #[error("PgPool {pool}: {}", said(source))]
    Read {
        /// The pool.
        pool: PoolKey,
        /// The API's answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// The world could not be looked at.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// An object could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The status could not be written.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

impl ReconcileError {
    /// One word for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Read { .. } => "ReadFailed",
            Self::Observe(_) => "ObserveFailed",
            Self::Build(_) => "BuildFailed",
            Self::Apply(error) => error.category(),
        }
    }
}

/// What passes over all pools share.
pub struct Shared {
    /// The Kubernetes API.
    pub client: Client,
    /// The operator's own image.
    pub runtime: Runtime,
    /// The agents.
    pub agents: Agents,
    /// What carries plans out.
    pub executor: Executor,
    /// Events.
    pub events: Events,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// What is remembered of each pool; by uid, so that a pool made anew begins with nothing.
    pub memories: Mutex<BTreeMap<PoolKey, (String, Memory)>>,
}

/// The pools of a namespace, or of all, and what is known of them.
pub struct Scope {
    /// What all passes share.
    pub shared: Arc<Shared>,
    /// What the watches have brought.
    pub cache: Cache,
}

impl Shared {
    fn recall(&self, key: &PoolKey, uid: &str) -> Memory {
        let memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        memories.get(key).filter(|(of, _)| of == uid).map(|(_, memory)| memory.clone()).unwrap_or_default()
    }

    fn remember(&self, key: &PoolKey, uid: String, memory: Memory) {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), (uid, memory));
    }

    fn forget(&self, key: &PoolKey) {
        self.metrics.forget(&key.namespace, &key.name);
        self.memories.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        self.agents.forget(key);
    }
}

/// The time of day in whole milliseconds: it stands in status, where people read it.
fn now() -> Timestamp {
    let now = clock::timestamp();
    now.round(Unit::Millisecond).unwrap_or(now)
}

/// Called for each pool at each change and when the last pass asked for it.
pub async fn reconcile(cached: Arc<PgPool>, scope: Arc<Scope>) -> Result<Action, Arc<ReconcileError>> {
    let begun = clock::now();
    let shared = &scope.shared;
    // One pass holds much at once; on the heap it may.
    if let Some(next) = Box::pin(at_rest(&cached, &scope)).await {
        shared.metrics.passed(Pass::Done, clock::now().since(begun).as_secs_f64());
        return Ok(Action::requeue(next));
    }
    let result = Box::pin(pass(&cached, shared)).await;
    let came = match &result {
        Ok((_, came)) => *came,
        Err(ReconcileError::Apply(error)) if error.is_conflict() => Pass::Conflict,
        Err(_) => Pass::Failed,
    };
    shared.metrics.passed(came, clock::now().since(begun).as_secs_f64());
    result.map(|(next, _)| next).map_err(Arc::new)
}

/// What the controller does about a pass that failed.
#[expect(clippy::needless_pass_by_value, reason = "the signature is the controller's")]
pub fn on_error(pool: Arc<PgPool>, error: &Arc<ReconcileError>, scope: Arc<Scope>) -> Action {
    if matches!(error.as_ref(), ReconcileError::Apply(error) if error.is_conflict()) {
        return Action::requeue(AT_ONCE);
    }
    scope.shared.metrics.error(error.category());
    tracing::warn!(%error, pool = pool.name_any(), namespace = pool.namespace(), "pass failed");
    Action::requeue(AFTER_ERROR)
}

/// When to look again at a pool of which the watches say that nothing is to be done. They may be behind: whatever would
/// change anything, be it only what the operator remembers, is none of this, and rests on consistent lists.
async fn at_rest(cached: &PgPool, scope: &Scope) -> Option<Duration> {
    let Scope { shared, cache } = scope;
    if cached.metadata.deletion_timestamp.is_some() || !cache.is_filled() {
        return None;
    }
    let pool = ValidPool::parse(cached).ok()?;
    let memory = shared.recall(&pool.key, &pool.object_uid);
    if memory.last_error.is_some() {
        return None;
    }
    let (client, agents) = (&shared.client, &shared.agents);
    let seen = observe(client, agents, cached, &pool, memory.clone(), now(), Some(cache));
    let seen = Box::pin(seen).await.ok()?;
    let plan = plan::plan(&pool, &shared.runtime, &seen).ok()?;
    if !plan.rests(&seen.status, &memory) {
        return None;
    }
    shared.metrics.saw(&pool.key.namespace, &pool.key.name, figures::of(&seen.status, cached.spec.nodes));
    let requeue = plan.requeue;
    shared.remember(&pool.key, pool.object_uid, plan.memory);
    Some(requeue)
}

async fn pass(cached: &PgPool, shared: &Shared) -> Result<(Action, Pass), ReconcileError> {
    let key = PoolKey { namespace: cached.namespace().unwrap_or_default(), name: cached.name_any() };
    let api: Api<PgPool> = Api::namespaced(shared.client.clone(), &key.namespace);
    // The cache may be behind our own last write of status, on which the plan rests.
    let read = api.get_opt(&key.name).await;
    let read = read.map_err(|source| ReconcileError::Read { pool: key.clone(), source: Box::new(source) })?;
    let Some(raw) = read else {
        shared.forget(&key);
        return Ok((Action::await_change(), Pass::Done));
    };
    // What this pass finds out is told by the next one, which its write of the status brings on.
    let figures = figures::of(raw.status.as_ref().unwrap_or(&PgPoolStatus::default()), raw.spec.nodes);
    shared.metrics.saw(&key.namespace, &key.name, figures);
    let deleting = raw.metadata.deletion_timestamp.is_some();
    let parsed = if deleting { ValidPool::for_deletion(&raw) } else { ValidPool::parse(&raw) };
    match parsed {
        Ok(pool) => Box::pin(carry_on(shared, raw, &pool)).await,
        Err(problems) => refuse(shared, &key, &raw, &problems).await,
    }
}

async fn refuse(
    shared: &Shared,
    key: &PoolKey,
    raw: &PgPool,
    problems: &[InvalidSpec],
) -> Result<(Action, Pass), ReconcileError> {
    let old = raw.status.clone().unwrap_or_default();
    let generation = raw.metadata.generation.unwrap_or_default();
    let status = plan::invalid_status(&old, generation, problems, now());
    if status != old {
        shared.executor.write_status(raw, &status).await?;
        let notes: Vec<Happening> =
            problems.iter().map(|problem| Happening::warning("InvalidSpec", problem.to_string())).collect();
        shared.events.publish(raw, &notes).await;
    }
    tracing::info!(pool = %key, "spec refused");
    Ok((Action::requeue(AFTER_REFUSAL), Pass::Refused))
}

async fn carry_on(shared: &Shared, raw: PgPool, pool: &ValidPool) -> Result<(Action, Pass), ReconcileError> {
    let memory = shared.recall(&pool.key, &pool.object_uid);
    let seen = Box::pin(observe(&shared.client, &shared.agents, &raw, pool, memory, now(), None)).await?;
    let plan = plan::plan(pool, &shared.runtime, &seen)?;
    // Status first: whatever is done next rests on what stands there.
    let raw = if plan.status == seen.status {
        raw
    } else {
        shared.executor.write_status(&raw, &plan.status).await?
    };
    let mut memory = plan.memory.clone();
    shared.remember(&pool.key, pool.object_uid.clone(), memory.clone());
    figures::count_recovery(&shared.metrics, &plan.events, &plan.status);
    shared.events.publish(&raw, &plan.events).await;
    let done = shared
        .executor
        .execute(&shared.agents, &raw, pool, &shared.runtime, (&seen, &plan), &mut memory)
        .await;
    shared.events.publish(&raw, &done.events).await;
    let came = came(&done.errors);
    let requeue = note_errors(shared, &raw, &done.errors, &mut memory).await.unwrap_or(plan.requeue);
    if done.errors.is_empty() && plan.actions.contains(&plan::Action::Unguard) {
        shared.forget(&pool.key);
        return Ok((Action::await_change(), came));
    }
    shared.remember(&pool.key, pool.object_uid.clone(), memory);
    Ok((Action::requeue(requeue), came))
}

/// How a pass ended whose plan could be carried out but for these.
fn came(errors: &[ApplyError]) -> Pass {
    match errors {
        [] => Pass::Done,
        errors if errors.iter().all(ApplyError::is_conflict) => Pass::Conflict,
        _ => Pass::Unfinished,
    }
}

/// What went wrong goes into the next pass's conditions, and once into an event.
async fn note_errors(
    shared: &Shared,
    raw: &PgPool,
    errors: &[ApplyError],
    memory: &mut Memory,
) -> Option<Duration> {
    let serious: Vec<&ApplyError> = errors.iter().filter(|error| !error.is_conflict()).collect();
    let Some(first) = serious.first() else {
        memory.last_error = None;
        return (!errors.is_empty()).then_some(AT_ONCE);
    };
    for error in &serious {
        shared.metrics.error(error.category());
        tracing::warn!(%error, pool = raw.name_any(), namespace = raw.namespace(), "not done");
    }
    if let Some(news) = news(first, memory) {
        shared.events.publish(raw, &[news]).await;
    }
    Some(AFTER_ERROR)
}

/// What is told of an error that the pass before didn't have; remembers it.
fn news(error: &ApplyError, memory: &mut Memory) -> Option<Happening> {
    let fresh = Some((error.category(), error.to_string()));
    if memory.last_error == fresh {
        return None;
    }
    memory.last_error = fresh;
    let told = Happening::warning(error.category(), error.to_string());
    Some(told)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::AgentsError;
    use crate::plan::Severity;

    #[test]
    fn what_could_not_be_done_is_told_once_for_as_long_as_it_is_so() {
        let pool = PoolKey { namespace: "birds".to_owned(), name: "heron".to_owned() };
        let unreachable = ApplyError::from(AgentsError::Unknown { pool });
        let unbuilt = ApplyError::from(BuildError::sample("Service", "heron-ro"));
        let mut memory = Memory::default();
        for (error, reason, words) in [
            (&unreachable, "AgentUnreachable", "pool birds/heron: "),
            (&unbuilt, "BuildFailed", "Service heron-ro: "),
            (&unreachable, "AgentUnreachable", "no certificate"),
        ] {
            let told = news(error, &mut memory).unwrap();
            assert_eq!((told.severity, told.reason), (Severity::Warning, reason));
            assert!(told.note.contains(words), "{}", told.note);
            assert_eq!(news(error, &mut memory), None, "{reason} is told once more");
        }
    }
}
