//! Nodes that can be connected to: waiting until they are at rest, and writing their dump to a file, in the
//! same form as psql does with the script of `dump-sql`.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::Duration;

use futures::{StreamExt, pin_mut};
use tokio_postgres::types::{PgLsn, Type};

use super::dump::End;
use super::dump_sql::{BEGIN, NODE, SETTINGS, TABLES};
use crate::db::failure::Failure;
use crate::db::{APPLICATION, Session, Target};
use crate::error::WorkloadError;

/// Pause between two looks at a node that isn't at rest.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Sessions of writers that hold or may still get something done, in this database.
const IN_FLIGHT: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
    AND application_name = $1 AND state <> 'idle' AND pid <> pg_backend_pid()";

/// Whether it is a standby, and how far it is.
const POSITION: &str = "SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery()
    THEN coalesce(pg_last_wal_replay_lsn(), '0/0') ELSE pg_current_wal_lsn() END";

fn failed(target: &Target, what: &'static str) -> impl Fn(tokio_postgres::Error) -> WorkloadError {
    let target = target.name.clone();
    move |error| WorkloadError::Statement {
        target: target.clone(),
        what,
        reason: Failure::from(&error).message,
    }
}

/// Waits until no writer has anything in flight on any node, then until every standby has replayed what the
/// furthest node had by then.
pub async fn wait_for_rest(targets: &[Target], within: Duration) -> Result<Vec<Session>, WorkloadError> {
    let mut sessions = Vec::new();
    for target in targets {
        sessions.push(target.connect().await?);
    }
    for (target, session) in targets.iter().zip(&sessions) {
        bounded(target, "a write is still in flight", within, || async {
            let rows = session.client.query_typed(IN_FLIGHT, &[(&APPLICATION, Type::TEXT)]).await;
            let rows = rows.map_err(failed(target, "looking for writes in flight"))?;
            let count: i64 = first(&rows, 0).map_err(failed(target, "looking for writes in flight"))?;
            Ok(count == 0)
        })
        .await?;
    }
    let mut furthest = PgLsn::from(0);
    for (target, session) in targets.iter().zip(&sessions) {
        furthest = furthest.max(position(target, session).await?.1);
    }
    for (target, session) in targets.iter().zip(&sessions) {
        bounded(target, "it lags behind the furthest node", within, || async {
            let (standby, lsn) = position(target, session).await?;
            Ok(!standby || lsn >= furthest)
        })
        .await?;
    }
    Ok(sessions)
}

async fn position(target: &Target, session: &Session) -> Result<(bool, PgLsn), WorkloadError> {
    let failed = failed(target, "reading its position");
    let rows = session.client.query_typed(POSITION, &[]).await.map_err(&failed)?;
    Ok((first(&rows, 0).map_err(&failed)?, first(&rows, 1).map_err(&failed)?))
}

/// A value of the only row. These queries have exactly one.
fn first<T: for<'a> tokio_postgres::types::FromSql<'a>>(
    rows: &[tokio_postgres::Row],
    column: usize,
) -> Result<T, tokio_postgres::Error> {
    rows[0].try_get(column)
}

async fn bounded<F>(
    target: &Target,
    what: &str,
    within: Duration,
    look: impl Fn() -> F,
) -> Result<(), WorkloadError>
where
    F: Future<Output = Result<bool, WorkloadError>>,
{
    let looking = async {
        while !look().await? {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    };
    tokio::time::timeout(within, looking).await.unwrap_or_else(|_| {
        Err(WorkloadError::Restless {
            target: target.name.clone(),
            what: what.to_owned(),
            seconds: within.as_secs(),
        })
    })
}

/// Writes the dump of one node to `path`.
pub async fn dump(target: &Target, session: &Session, path: &Path) -> Result<(), WorkloadError> {
    let failed = failed(target, "dumping");
    let io = |source| WorkloadError::File { path: path.to_owned(), source };
    let mut out = BufWriter::new(File::create(path).map_err(io)?);
    let client = &session.client;
    client.batch_execute(SETTINGS).await.map_err(&failed)?;
    client.batch_execute(BEGIN).await.map_err(&failed)?;
    let node = client.query_typed(NODE, &[]).await.map_err(&failed)?;
    writeln!(out, "{}", first::<String>(&node, 0).map_err(&failed)?).map_err(io)?;
    let tables = client.query_typed(TABLES, &[]).await.map_err(&failed)?;
    for table in &tables {
        let head: String = table.try_get(0).map_err(&failed)?;
        let copy: String = table.try_get(1).map_err(&failed)?;
        writeln!(out, "{head}").map_err(io)?;
        let rows = client.copy_out(&copy).await.map_err(&failed)?;
        pin_mut!(rows);
        while let Some(chunk) = rows.next().await {
            out.write_all(&chunk.map_err(&failed)?).map_err(io)?;
        }
    }
    client.batch_execute("COMMIT").await.map_err(&failed)?;
    let end = serde_json::to_string(&End { tables: tables.len() as u64 })?;
    writeln!(out, "#end {end}").and_then(|()| out.flush()).map_err(io)
}
