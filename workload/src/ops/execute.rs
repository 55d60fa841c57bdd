//! Running one write in a session.

use tokio_postgres::types::{ToSql, Type};

use super::Action;
use crate::db::Session;
use crate::db::failure::{Failure, Outcome, Stage};
use crate::history::id::Id;

/// Who writes what.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// The run.
    pub run: Id,
    /// Number of the writer, from zero.
    pub writer: u32,
    /// Number of the write among the writer's, from zero.
    pub seq: u64,
    /// The write's own id.
    pub id: Id,
    /// What it does.
    pub action: Action,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Done {
    /// The outcome.
    pub outcome: Outcome,
    /// Why it isn't acknowledged.
    pub failure: Option<Failure>,
    /// For an append: the position that the server reported.
    pub pos: Option<u64>,
}

impl Done {
    /// A write that failed at `stage`.
    pub fn failed(failure: Failure, stage: Stage) -> Self {
        Self { outcome: failure.outcome(stage), failure: Some(failure), pos: None }
    }
}

const APPEND: &str = "
WITH head AS (
    INSERT INTO workload.list_heads AS h (list, length) VALUES ($1, 1)
    ON CONFLICT (list) DO UPDATE SET length = h.length + 1 RETURNING length)
INSERT INTO workload.lists (list, pos, id, run)
SELECT $1, length, $2::uuid, $3::uuid FROM head RETURNING pos";

const UNIQUE: &str = "INSERT INTO workload.ids (id, run, writer, seq) VALUES ($1::uuid, $2::uuid, $3, $4)";

const INCREMENT: &str = "
INSERT INTO workload.counters AS c (run, counter, n) VALUES ($1::uuid, $2, 1)
ON CONFLICT (run, counter) DO UPDATE SET n = c.n + 1";

const MOVE: &str = "UPDATE workload.accounts SET balance = balance + $2 WHERE id = $1";

const TRANSFER: &str = "
INSERT INTO workload.transfers (id, run, from_account, to_account, amount)
VALUES ($1::uuid, $2::uuid, $3, $4, $5)";

type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// Runs the write. `stage` tells, also after this future was dropped half-way, whether it may have committed.
pub async fn execute(session: &Session, write: &Write, stage: &mut Stage) -> Done {
    let doubts = session.doubts();
    match perform(session, write, stage).await {
        Err(failure) => Done::failed(failure, *stage),
        Ok(_) if session.doubts() != doubts => Done::failed(Failure::cancelled_wait(), Stage::Committing),
        Ok(pos) => Done { outcome: Outcome::Acked, failure: None, pos },
    }
}

/// Statements outside of a transaction block commit at the end of the extended protocol's exchange; the calls
/// used here return only when the server is ready for the next query, which is after that commit.
async fn perform(session: &Session, write: &Write, stage: &mut Stage) -> Result<Option<u64>, Failure> {
    let (id, run) = (write.id.to_string(), write.run.to_string());
    let (writer, seq) = (number(write.writer), i64::try_from(write.seq).unwrap_or(i64::MAX));
    match write.action {
        Action::Transfer { from, to, amount } => {
            transfer(session, (&id, &run), (from, to, amount), stage).await?;
            Ok(None)
        }
        Action::Append { list } => {
            *stage = Stage::Committing;
            let list = number(list);
            let params: [Param<'_>; 3] = [(&list, Type::INT4), (&id, Type::TEXT), (&run, Type::TEXT)];
            let rows = session.client.query_typed(APPEND, &params).await.map_err(|e| Failure::from(&e))?;
            let pos: i64 = match rows.first() {
                Some(row) => row.try_get(0).map_err(|e| Failure::from(&e))?,
                None => 0,
            };
            Ok(Some(u64::try_from(pos).unwrap_or(0)))
        }
        Action::Unique => {
            *stage = Stage::Committing;
            let params: [Param<'_>; 4] =
                [(&id, Type::TEXT), (&run, Type::TEXT), (&writer, Type::INT4), (&seq, Type::INT8)];
            statement(session, UNIQUE, &params).await.map(|()| None)
        }
        Action::Increment { counter } => {
            *stage = Stage::Committing;
            let counter = number(counter);
            statement(session, INCREMENT, &[(&run, Type::TEXT), (&counter, Type::INT4)]).await.map(|()| None)
        }
    }
}

async fn transfer(
    session: &Session,
    (id, run): (&String, &String),
    (from, to, amount): (u32, u32, u32),
    stage: &mut Stage,
) -> Result<(), Failure> {
    batch(session, "BEGIN").await?;
    let amount = i64::from(amount);
    let mut moves = [(number(from), -amount), (number(to), amount)];
    // Always the lower account first: two transfers never wait for each other in a circle.
    moves.sort_unstable();
    for (account, delta) in &moves {
        statement(session, MOVE, &[(account, Type::INT4), (delta, Type::INT8)]).await?;
    }
    let (from, to) = (number(from), number(to));
    let params: [Param<'_>; 5] =
        [(id, Type::TEXT), (run, Type::TEXT), (&from, Type::INT4), (&to, Type::INT4), (&amount, Type::INT8)];
    statement(session, TRANSFER, &params).await?;
    *stage = Stage::Committing;
    batch(session, "COMMIT").await
}

/// Ends a failed transaction; false if the session is of no more use.
pub async fn roll_back(session: &Session) -> bool {
    batch(session, "ROLLBACK").await.is_ok()
}

/// Every statement here changes exactly one row; anything else means that the schema isn't as prepared.
async fn statement(session: &Session, sql: &str, params: &[Param<'_>]) -> Result<(), Failure> {
    match session.client.execute_typed(sql, params).await {
        Ok(1) => Ok(()),
        Ok(rows) => Err(Failure {
            code: "row_count".into(),
            message: format!("{rows} rows changed instead of one by: {}", sql.trim()),
            plain_error: false,
        }),
        Err(error) => Err(Failure::from(&error)),
    }
}

async fn batch(session: &Session, sql: &str) -> Result<(), Failure> {
    session.client.batch_execute(sql).await.map_err(|error| Failure::from(&error))
}

/// PostgreSQL's int4 for numbers that are far below its end.
fn number(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
