//! The epoch table: a row by each primary behind its gate, and before each attach. Equal tables prove that
//! two nodes hold one history, where positions alone do not (docs/membership.md).
use rand::Rng as _;

use super::sql::{self, Client, SqlError};
use crate::messages::{EpochRow, EpochTable};
use crate::names::SCHEMA;

/// Makes schema and table, and takes from PUBLIC what would undo the promise (R11): a cancelled wait for
/// replication is answered with success.
pub async fn prepare(client: &Client) -> Result<(), SqlError> {
    let text = format!(
        "CREATE SCHEMA IF NOT EXISTS {SCHEMA};
         REVOKE ALL ON SCHEMA {SCHEMA} FROM PUBLIC;
         CREATE TABLE IF NOT EXISTS {SCHEMA}.epochs (
             id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, epoch bigint NOT NULL,
             timeline bigint NOT NULL, nonce text NOT NULL, fork_xid text NOT NULL);
         CREATE TABLE IF NOT EXISTS {SCHEMA}.markers (name text PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
         DO $$ BEGIN
             IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN
                 CREATE ROLE {role} LOGIN REPLICATION;
             END IF;
         END $$;",
        role = crate::names::REPLICATION_ROLE,
    );
    sql::within(client.batch_execute(&text)).await?;
    for database in ["postgres", "template1"] {
        let session = sql::connect(database).await?;
        sql::within(session.batch_execute(
            "REVOKE EXECUTE ON FUNCTION pg_cancel_backend(int), pg_terminate_backend(int, bigint) FROM PUBLIC",
        ))
        .await?;
    }
    Ok(())
}

/// Commits a row, waiting for nobody: what counts is that the others show it. Gives its id.
pub async fn commit_row(client: &Client, epoch: i64, timeline: u32) -> Result<i64, SqlError> {
    let nonce = format!("{:032x}", rand::rng().random::<u128>());
    let insert = format!(
        "INSERT INTO {SCHEMA}.epochs (epoch, timeline, nonce, fork_xid)
         VALUES ($1, $2, $3, pg_snapshot_xmax(pg_current_snapshot())::text) RETURNING id"
    );
    let row = sql::within(client.query_one(&insert, &[&epoch, &i64::from(timeline), &nonce])).await?;
    Ok(row.get(0))
}

/// True when the row of the office on this timeline stands in the table.
pub async fn has_row(client: &Client, timeline: u32) -> Result<bool, SqlError> {
    let text = format!("SELECT EXISTS (SELECT FROM {SCHEMA}.epochs WHERE timeline = $1)");
    Ok(sql::within(client.query_one(&text, &[&i64::from(timeline)])).await?.get(0))
}

/// The whole table of this node.
pub async fn table(client: &Client) -> Result<EpochTable, SqlError> {
    let text = format!("SELECT id, epoch, timeline, nonce, fork_xid FROM {SCHEMA}.epochs ORDER BY id");
    let rows = sql::within(client.query(&text, &[])).await?;
    let rows = rows
        .iter()
        .map(|row| EpochRow {
            id: row.get(0),
            epoch: row.get(1),
            timeline: u32::try_from(row.get::<_, i64>(2)).unwrap_or(0),
            nonce: row.get(3),
            fork_xid: row.get(4),
        })
        .collect();
    Ok(EpochTable { rows })
}

/// A commit that nobody waits for: its WAL makes every standby reply at once, which wakes the waiters that a
/// shorter list lets go (streaming-facts: 1.1).
pub async fn nudge(client: &Client) -> Result<(), SqlError> {
    sql::within(client.query_one("SELECT pg_logical_emit_message(true, 'nudge', '')", &[])).await.map(drop)
}
