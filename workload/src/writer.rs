//! A writer: one session, one write at a time, back at once when the session is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::clock::Clock;
use crate::db::failure::{Failure, Outcome, Stage};
use crate::db::{Session, Target};
use crate::history::id::Id;
use crate::history::stats::Activity;
use crate::journal::Entry;
use crate::ops::execute::{Done, Write, execute, roll_back};
use crate::ops::{Action, Sizes};
use crate::shared::Shared;

/// First wait after a failed connection or a refused write; doubles up to [`LONGEST_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(5);

/// Longest wait between two attempts.
const LONGEST_BACKOFF: Duration = Duration::from_millis(200);

/// How long a write that is under way when the run is told to stop may still take.
const FINISH_WITHIN: Duration = Duration::from_secs(10);

/// Longest time for the ROLLBACK of a failed transaction.
const ROLLBACK_WITHIN: Duration = Duration::from_secs(5);

/// What all writers of a run have in common.
pub struct Orders {
    /// The run.
    pub run: Id,
    /// Where to write.
    pub target: Target,
    /// Sizes of the schema.
    pub sizes: Sizes,
    /// When a write without an answer is given up as unknown.
    pub timeout: Duration,
    /// Pause between two writes of one writer.
    pub pause: Duration,
    /// How many writes are still to be begun by all writers together.
    pub budget: AtomicU64,
}

impl Orders {
    fn take_one(&self) -> bool {
        self.budget.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }
}

/// Waits that grow while nothing succeeds.
pub struct Backoff(Duration);

impl Backoff {
    /// Starts short.
    pub fn new() -> Self {
        Self(FIRST_BACKOFF)
    }

    /// Starts short again.
    pub fn reset(&mut self) {
        self.0 = FIRST_BACKOFF;
    }

    /// Waits, up to half as long again by chance so that a crowd spreads, and doubles.
    pub async fn wait(&mut self, shared: &Shared, rng: &mut StdRng) {
        shared.pause(self.0.mul_f64(rng.random_range(1.0..1.5))).await;
        self.0 = (self.0 * 2).min(LONGEST_BACKOFF);
    }
}

/// Connects, however often that takes; none when the run is to stop.
pub async fn connect(
    shared: &Shared,
    target: &Target,
    activity: Activity,
    backoff: &mut Backoff,
    rng: &mut StdRng,
) -> Option<Session> {
    while !shared.stopping() {
        let attempt = tokio::select! {
            attempt = target.connect() => attempt,
            () = shared.stopped() => return None,
        };
        match attempt {
            Ok(session) => return Some(session),
            Err(error) => {
                shared.error(activity, &error.failure);
                if activity == Activity::ReadConnect {
                    shared.stats().read_refused();
                }
                backoff.wait(shared, rng).await;
            }
        }
    }
    None
}

/// Writes until the run is to stop or the budget is spent.
pub async fn run(shared: Arc<Shared>, orders: Arc<Orders>, writer: u32) {
    let mut rng = StdRng::from_rng(&mut rand::rng());
    let mut backoff = Backoff::new();
    let mut session = None;
    let mut seq = 0;
    while !shared.stopping() {
        let Some(open) = (match session.take() {
            Some(open) => Some(open),
            None => connect(&shared, &orders.target, Activity::WriteConnect, &mut backoff, &mut rng).await,
        }) else {
            break;
        };
        if !orders.take_one() {
            break;
        }
        let action = Action::random(&mut rng, orders.sizes);
        let write = Write { run: orders.run, writer, seq, id: Id(rng.random()), action };
        seq += 1;
        let done = perform(&shared, &orders, &open, &write).await;
        let refused = done.outcome != Outcome::Acked;
        if keep(&open, &done).await {
            session = Some(open);
        }
        if refused {
            backoff.wait(&shared, &mut rng).await;
        } else {
            backoff.reset();
        }
        if !orders.pause.is_zero() {
            shared.pause(orders.pause).await;
        }
    }
}

/// Runs and records one write.
async fn perform(shared: &Shared, orders: &Orders, session: &Session, write: &Write) -> Done {
    let (sent_us, sent_wall_us) = (shared.clock.mono(), Clock::wall());
    let mut stage = Stage::Open;
    let answer = tokio::select! {
        done = execute(session, write, &mut stage) => Some(done),
        () = give_up(shared, orders.timeout) => None,
    };
    let done = answer.unwrap_or_else(|| Done::failed(Failure::timeout(), stage));
    if let Some(failure) = &done.failure {
        shared.error(Activity::Write, failure);
    }
    shared.wrote(Entry {
        writer: write.writer,
        seq: write.seq,
        id: write.id,
        action: write.action,
        outcome: done.outcome,
        code: done.failure.as_ref().map(|failure| failure.code.clone()),
        pos: done.pos,
        sent_us,
        done_us: shared.clock.mono(),
        sent_wall_us,
        done_wall_us: Clock::wall(),
    });
    done
}

/// Returns when a write has had `timeout`, or [`FINISH_WITHIN`] since the run was told to stop.
pub async fn give_up(shared: &Shared, timeout: Duration) {
    let stopped_for_long = async {
        shared.stopped().await;
        tokio::time::sleep(FINISH_WITHIN).await;
    };
    let _ = tokio::time::timeout(timeout, stopped_for_long).await;
}

/// Whether the session can be used again after a write that ended like this.
async fn keep(session: &Session, done: &Done) -> bool {
    match &done.failure {
        None => true,
        Some(failure) if failure.session_lives() => {
            tokio::time::timeout(ROLLBACK_WITHIN, roll_back(session)).await.unwrap_or(false)
        }
        Some(_) => false,
    }
}
