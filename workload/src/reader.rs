//! A fresh-read checker: it picks a write that was acknowledged, then asks for it. Whatever is picked was
//! acknowledged before the question is sent, so an answer without it is stale.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_postgres::types::{ToSql, Type};

use crate::clock::{Clock, Micros};
use crate::db::failure::Failure;
use crate::db::{Session, Target};
use crate::history::Claim;
use crate::history::id::Id;
use crate::history::stats::{Activity, Stale};
use crate::ops::Action;
use crate::shared::Shared;
use crate::writer::{Backoff, connect};

/// How long a stale read is repeated to learn when the write shows.
const WATCH_STALE: Duration = Duration::from_secs(5);

/// Pause between those repetitions.
const WATCH_EVERY: Duration = Duration::from_millis(5);

/// How long a read that is under way when the run is told to stop may still take.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// Wait for the first acknowledged write.
const NOTHING_YET: Duration = Duration::from_millis(20);

/// What all readers of an endpoint have in common.
pub struct Orders {
    /// The run whose counters are looked at.
    pub run: Id,
    /// Where to read.
    pub target: Target,
    /// When a read without an answer counts as refused.
    pub timeout: Duration,
    /// Pause between two reads of one reader.
    pub pause: Duration,
    /// A session is replaced after at most this many reads, so that a balanced endpoint shows all its nodes.
    pub session_reads: u32,
}

/// What a node answered.
struct Answer {
    /// The row is there (1) or not (0); for a counter, its value.
    value: u64,
    /// Address and cluster_name.
    node: String,
}

/// Reads until the run is to stop.
pub async fn run(shared: Arc<Shared>, orders: Arc<Orders>) {
    let mut rng = StdRng::from_rng(&mut rand::rng());
    let mut backoff = Backoff::new();
    while !shared.stopping() {
        let found = connect(&shared, &orders.target, Activity::ReadConnect, &mut backoff, &mut rng).await;
        let Some(session) = found else { break };
        let reads = rng.random_range(1..=orders.session_reads.max(1));
        match read_some(&shared, &orders, &session, reads, &mut rng).await {
            Ok(()) => backoff.reset(),
            Err(failure) if failure.is_stopped() => break,
            Err(failure) => {
                shared.stats().read_refused();
                shared.error(Activity::Read, &failure);
                backoff.wait(&shared, &mut rng).await;
            }
        }
    }
}

async fn read_some(
    shared: &Shared,
    orders: &Orders,
    session: &Session,
    reads: u32,
    rng: &mut StdRng,
) -> Result<(), Failure> {
    for _ in 0..reads {
        if shared.stopping() {
            break;
        }
        let claim = shared.history().pick(rng);
        match claim {
            Some(claim) => check(shared, orders, session, claim).await?,
            None => shared.pause(NOTHING_YET).await,
        }
        if !orders.pause.is_zero() {
            shared.pause(orders.pause).await;
        }
    }
    Ok(())
}

async fn check(shared: &Shared, orders: &Orders, session: &Session, claim: Claim) -> Result<(), Failure> {
    let (sent_us, wall_us) = (shared.clock.mono(), Clock::wall());
    let answer = ask(shared, orders, session, claim).await?;
    let wanted = wanted(claim);
    if answer.value >= wanted {
        shared.stats().read_fresh(&answer.node, shared.clock.mono());
        return Ok(());
    }
    let is_counter = matches!(claim.write.action, Action::Increment { .. });
    let (shown_after_us, lost) = watch(shared, orders, session, claim, sent_us).await;
    shared.stale(Stale {
        id: claim.write.id,
        action: claim.write.action,
        endpoint: orders.target.name.clone(),
        node: answer.node,
        counter: is_counter.then_some((wanted, answer.value)),
        acked_before_us: sent_us.saturating_sub(claim.write.since_us),
        shown_after_us,
        wall_us,
    });
    lost.map_or(Ok(()), Err)
}

/// Asks again until the write shows, the session is lost, or [`WATCH_STALE`] has passed.
async fn watch(
    shared: &Shared,
    orders: &Orders,
    session: &Session,
    claim: Claim,
    sent_us: Micros,
) -> (Option<Micros>, Option<Failure>) {
    let watching = async {
        while !shared.stopping() {
            match ask(shared, orders, session, claim).await {
                Ok(answer) if answer.value >= wanted(claim) => {
                    return (Some(shared.clock.mono().saturating_sub(sent_us)), None);
                }
                Ok(_) => shared.pause(WATCH_EVERY).await,
                Err(failure) => return (None, Some(failure)),
            }
        }
        (None, None)
    };
    tokio::time::timeout(WATCH_STALE, watching).await.unwrap_or((None, None))
}

fn wanted(claim: Claim) -> u64 {
    match claim.write.action {
        Action::Increment { .. } => claim.at_least,
        Action::Transfer { .. } | Action::Append { .. } | Action::Unique => 1,
    }
}

const WHO: &str = "coalesce(host(inet_server_addr()), 'local') || '/' || current_setting('cluster_name')";

async fn ask(shared: &Shared, orders: &Orders, session: &Session, claim: Claim) -> Result<Answer, Failure> {
    let exists = |table: &str| {
        format!("SELECT (SELECT count(*) FROM workload.{table} WHERE id = $1::uuid)::bigint, {WHO}")
    };
    let counter_sql = format!(
        "SELECT coalesce((SELECT n FROM workload.counters WHERE run = $1::uuid AND counter = $2), 0)::bigint, {WHO}"
    );
    let id = claim.write.id.to_string();
    let run = orders.run.to_string();
    let by_id: [(&(dyn ToSql + Sync), Type); 1] = [(&id, Type::TEXT)];
    match claim.write.action {
        Action::Transfer { .. } => answer(shared, orders, session, &exists("transfers"), &by_id).await,
        Action::Append { .. } => answer(shared, orders, session, &exists("lists"), &by_id).await,
        Action::Unique => answer(shared, orders, session, &exists("ids"), &by_id).await,
        Action::Increment { counter } => {
            let counter = i32::try_from(counter).unwrap_or(i32::MAX);
            answer(shared, orders, session, &counter_sql, &[(&run, Type::TEXT), (&counter, Type::INT4)]).await
        }
    }
}

async fn answer(
    shared: &Shared,
    orders: &Orders,
    session: &Session,
    sql: &str,
    params: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Answer, Failure> {
    let asked = session.client.query_typed(sql, params);
    let stopped_for_long = async {
        shared.stopped().await;
        tokio::time::sleep(FINISH_WITHIN).await;
    };
    let rows = tokio::select! {
        rows = tokio::time::timeout(orders.timeout, asked) => rows.map_err(|_| Failure::timeout())?,
        () = stopped_for_long => return Err(Failure::stopped()),
    };
    let rows = rows.map_err(|error| Failure::from(&error))?;
    let row = rows.first().ok_or_else(|| Failure {
        code: "no_row".into(),
        message: "a count came back without a row".into(),
        plain_error: false,
    })?;
    let value: i64 = row.try_get(0).map_err(|error| Failure::from(&error))?;
    let node: String = row.try_get(1).map_err(|error| Failure::from(&error))?;
    Ok(Answer { value: u64::try_from(value).unwrap_or(0), node })
}
