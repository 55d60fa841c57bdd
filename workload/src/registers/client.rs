//! The clients of the registers: writers and readers, each with one session and one operation at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::{Act, Done, Operation, Snapshot, Write};
use crate::clock::{Micros, micros};
use crate::db::failure::{Failure, Outcome, Stage};
use crate::db::{Session, Target};
use crate::history::id::Id;
use crate::history::stats::Activity;
use crate::shared::Shared;
use crate::writer::{Backoff, connect, give_up};

/// By how much clients are late for a beat at most: about as long as a commit takes.
const SPREAD: Duration = Duration::from_millis(5);

const WRITE: &str = "
UPDATE workload.registers SET replaced = value, value = $3, version = version + 1
WHERE run = $1::uuid AND register = $2 RETURNING replaced, version";

/// One statement, so one snapshot. A node that has no row of a register yet shows what it held at first.
const READ: &str = "
SELECT coalesce(nullif(current_setting('cluster_name'), ''), host(inet_server_addr()), 'local'),
    coalesce(r.value, 0)::bigint, coalesce(r.version, 0)::bigint
FROM generate_series(0, $2 - 1) AS n LEFT JOIN workload.registers AS r ON r.run = $1::uuid AND r.register = n
ORDER BY n";

/// What all clients have in common.
pub struct Orders {
    /// The run.
    pub run: Id,
    /// Number of registers.
    pub registers: u32,
    /// Time from one beat to the next: a client begins one operation a beat at most.
    pub beat: Duration,
    /// When an operation without an answer is given up.
    pub timeout: Duration,
    /// A reader's session is replaced after at most this many reads, so that a balanced endpoint shows all its nodes.
    pub session_reads: u32,
    /// How many operations are still to be recorded by all clients together.
    pub budget: AtomicU64,
    /// The value that was written last.
    pub value: AtomicU64,
}

impl Orders {
    fn take_one(&self) -> bool {
        self.budget.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }

    /// From `now` to when a client is to begin next.
    fn until_next(&self, now: Micros, rng: &mut StdRng) -> Duration {
        let beat = micros(self.beat).max(1);
        Duration::from_micros(beat - now % beat) + SPREAD.mul_f64(rng.random_range(0.0..1.0))
    }
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Writes.
    Writer,
    /// Reads.
    Reader,
}

/// Lets clients work until the run is to stop, or until enough is recorded.
pub fn spawn(
    tasks: &mut JoinSet<()>,
    shared: &Arc<Shared>,
    orders: &Arc<Orders>,
    clients: Vec<(Part, Target)>,
) {
    for (number, (part, target)) in (0..).zip(clients) {
        let (shared, orders) = (Arc::clone(shared), Arc::clone(orders));
        tasks.spawn(async move {
            let rng = StdRng::from_rng(&mut rand::rng());
            Client { shared: &shared, orders: &orders, target: &target, number, rng }.run(part).await;
        });
    }
}

struct Client<'a> {
    shared: &'a Shared,
    orders: &'a Orders,
    target: &'a Target,
    number: u32,
    rng: StdRng,
}

impl Client<'_> {
    async fn run(mut self, part: Part) {
        let mut backoff = Backoff::new();
        loop {
            let found =
                connect(self.shared, self.target, Activity::Register, &mut backoff, &mut self.rng).await;
            let Some(session) = found else { return };
            let most = match part {
                Part::Writer => u32::MAX,
                Part::Reader => self.rng.random_range(1..=self.orders.session_reads.max(1)),
            };
            for _ in 0..most {
                let pause = self.orders.until_next(self.shared.clock.mono(), &mut self.rng);
                self.shared.pause(pause).await;
                if self.shared.stopping() || !self.orders.take_one() {
                    return;
                }
                let done = match part {
                    Part::Writer => self.write(&session).await,
                    Part::Reader => self.read(&session).await,
                };
                match done {
                    Ok(()) => backoff.reset(),
                    Err(failure) => {
                        self.shared.error(Activity::Register, &failure);
                        backoff.wait(self.shared, &mut self.rng).await;
                        if !failure.session_lives() {
                            break;
                        }
                    }
                }
            }
        }
    }

    async fn write(&mut self, session: &Session) -> Result<(), Failure> {
        let register = self.rng.random_range(0..self.orders.registers.max(1));
        let value = self.orders.value.fetch_add(1, Ordering::SeqCst) + 1;
        let doubts = session.doubts();
        let call_us = self.shared.clock.mono();
        let mut answer = self.put(session, register, value).await;
        let return_us = self.shared.clock.mono();
        if answer.is_ok() && session.doubts() != doubts {
            answer = Err(Failure::cancelled_wait());
        }
        // The statement is its own transaction: once it is sent it may commit.
        let (outcome, code) = match &answer {
            Ok(_) => (Outcome::Acked, None),
            Err(failure) => (failure.outcome(Stage::Committing), Some(failure.code.clone())),
        };
        let done = answer.as_ref().ok().copied();
        let act = Act::Write(Write { register, value, outcome, code, done });
        self.record(call_us, return_us, act);
        answer.map(drop)
    }

    async fn put(&self, session: &Session, register: u32, value: u64) -> Result<Done, Failure> {
        let (run, register, value) = (self.orders.run.to_string(), int4(register), int8(value));
        let params: [(&(dyn ToSql + Sync), Type); 3] =
            [(&run, Type::TEXT), (&register, Type::INT4), (&value, Type::INT8)];
        let rows = self.rows(session, WRITE, &params).await?;
        match rows.as_slice() {
            [row] => Ok(Done { replaced: number(row, 0)?, version: number(row, 1)? }),
            rows => Err(row_count(rows.len())),
        }
    }

    async fn read(&mut self, session: &Session) -> Result<(), Failure> {
        let call_us = self.shared.clock.mono();
        let snapshot = self.get(session).await;
        let return_us = self.shared.clock.mono();
        match snapshot {
            Ok(snapshot) => {
                self.record(call_us, return_us, Act::Read(snapshot));
                Ok(())
            }
            Err(failure) => {
                self.shared.stats().unread();
                Err(failure)
            }
        }
    }

    async fn get(&self, session: &Session) -> Result<Snapshot, Failure> {
        let (run, registers) = (self.orders.run.to_string(), int4(self.orders.registers));
        let params: [(&(dyn ToSql + Sync), Type); 2] = [(&run, Type::TEXT), (&registers, Type::INT4)];
        let rows = self.rows(session, READ, &params).await?;
        let first = rows.first().filter(|_| rows.len() == self.orders.registers as usize);
        let node = first.ok_or_else(|| row_count(rows.len()))?.try_get(0).map_err(|e| Failure::from(&e))?;
        let shown = rows.iter().map(|row| Ok((number(row, 1)?, number(row, 2)?)));
        Ok(Snapshot { node, shown: shown.collect::<Result<_, Failure>>()? })
    }

    async fn rows(
        &self,
        session: &Session,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, Failure> {
        tokio::select! {
            rows = session.client.query_typed(sql, params) => rows.map_err(|error| Failure::from(&error)),
            () = give_up(self.shared, self.orders.timeout) => Err(Failure::timeout()),
        }
    }

    fn record(&self, call_us: Micros, return_us: Micros, act: Act) {
        let endpoint = self.target.name.clone();
        self.shared.operated(Operation { client: self.number, endpoint, call_us, return_us, act });
    }
}

fn row_count(rows: usize) -> Failure {
    let message = format!("{rows} rows came back, not one for each register that was asked for");
    Failure { code: "row_count".into(), message, plain_error: false }
}

fn number(row: &Row, column: usize) -> Result<u64, Failure> {
    let value: i64 = row.try_get(column).map_err(|error| Failure::from(&error))?;
    Ok(u64::try_from(value).unwrap_or(0))
}

fn int4(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

fn int8(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_begin_a_little_after_the_next_beat() {
        let orders = Orders {
            run: Id(1),
            registers: 8,
            beat: Duration::from_millis(200),
            timeout: Duration::ZERO,
            session_reads: 1,
            budget: AtomicU64::new(2),
            value: AtomicU64::new(0),
        };
        let mut rng = StdRng::seed_from_u64(3);
        for now in [0, 1, 199_999, 200_000, 1_234_567] {
            let begins = now + micros(orders.until_next(now, &mut rng));
            let beat = (now / 200_000 + 1) * 200_000;
            assert!((beat..=beat + micros(SPREAD)).contains(&begins), "{begins}");
        }
        assert!(orders.take_one() && orders.take_one() && !orders.take_one());
    }
}
