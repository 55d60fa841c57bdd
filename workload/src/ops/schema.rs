//! The schema `workload`. Made idempotently, in one transaction.

use tokio_postgres::types::Type;

use crate::db::Session;
use crate::history::id::Id;

/// What each account holds at first. Balances may go below zero: only the sum is promised.
pub const INITIAL_BALANCE: i64 = 1000;

const TABLES: &str = "
CREATE SCHEMA IF NOT EXISTS workload;
CREATE TABLE IF NOT EXISTS workload.accounts (
    id int PRIMARY KEY, initial bigint NOT NULL, balance bigint NOT NULL);
CREATE TABLE IF NOT EXISTS workload.transfers (
    id uuid PRIMARY KEY, run uuid NOT NULL, from_account int NOT NULL, to_account int NOT NULL,
    amount bigint NOT NULL);
CREATE TABLE IF NOT EXISTS workload.list_heads (
    list int PRIMARY KEY, length bigint NOT NULL);
CREATE TABLE IF NOT EXISTS workload.lists (
    list int NOT NULL, pos bigint NOT NULL, id uuid NOT NULL UNIQUE, run uuid NOT NULL,
    PRIMARY KEY (list, pos));
CREATE TABLE IF NOT EXISTS workload.ids (
    id uuid PRIMARY KEY, run uuid NOT NULL, writer int NOT NULL, seq bigint NOT NULL);
CREATE TABLE IF NOT EXISTS workload.counters (
    run uuid NOT NULL, counter int NOT NULL, n bigint NOT NULL, PRIMARY KEY (run, counter));
";

/// Rows that are written in place: `replaced` tells each write what it wrote over.
const REGISTERS: &str = "
CREATE TABLE IF NOT EXISTS workload.registers (
    run uuid NOT NULL, register int NOT NULL, value bigint NOT NULL, version bigint NOT NULL,
    replaced bigint NOT NULL, PRIMARY KEY (run, register));
";

/// Two pods may prepare at once; "IF NOT EXISTS" alone lets the second one fail on the catalogs' unique keys.
const ALONE: &str = "SELECT pg_advisory_xact_lock(hashtext('workload.prepare'))";

/// Creates what is missing of the schema, with at least `accounts` accounts.
pub async fn prepare(session: &Session, accounts: u32) -> Result<(), tokio_postgres::Error> {
    let client = &session.client;
    client.batch_execute("BEGIN").await?;
    client.batch_execute(ALONE).await?;
    client.batch_execute(TABLES).await?;
    let last = i64::from(accounts) - 1;
    client
        .execute_typed(
            "INSERT INTO workload.accounts (id, initial, balance)
             SELECT id, $2, $2 FROM generate_series(0, $1) AS id ON CONFLICT (id) DO NOTHING",
            &[(&last, Type::INT8), (&INITIAL_BALANCE, Type::INT8)],
        )
        .await?;
    client.batch_execute("COMMIT").await
}

/// Makes the registers of a run, each with value and version zero. May be repeated.
pub async fn registers(session: &Session, run: Id, count: u32) -> Result<(), tokio_postgres::Error> {
    let client = &session.client;
    client.batch_execute("BEGIN").await?;
    client.batch_execute(ALONE).await?;
    client.batch_execute(REGISTERS).await?;
    let (run, count) = (run.to_string(), i32::try_from(count).unwrap_or(i32::MAX));
    client
        .execute_typed(
            "INSERT INTO workload.registers (run, register, value, version, replaced)
             SELECT $1::uuid, n, 0, 0, 0 FROM generate_series(0, $2 - 1) AS n ON CONFLICT (run, register) DO NOTHING",
            &[(&run, Type::TEXT), (&count, Type::INT4)],
        )
        .await?;
    client.batch_execute("COMMIT").await
}
