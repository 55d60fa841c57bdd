//! What the agent asks of its own Postgres, a few questions a heartbeat.
use super::metrics::Archiver;
use super::sql::{self, Client, SqlError};
use crate::membership::names::parse_application_name;
use crate::membership::{joining, settings};
use crate::messages::{BackupProgress, Replica};

/// A standby's own view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StandbyFacts {
    /// Last applied position.
    pub replay: Option<u64>,
    /// True while the walreceiver streams.
    pub streaming: bool,
    /// Timeline that is received, or replayed.
    pub timeline: Option<u32>,
    /// Milliseconds since the newest applied commit, where WAL waits to be applied; else zero.
    pub lag_ms: u64,
}

/// A primary's own view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrimaryFacts {
    /// Flushed position.
    pub flush: Option<u64>,
    /// Timeline that it writes.
    pub timeline: Option<u32>,
    /// Its walsenders to nodes of the pool.
    pub replicas: Vec<Replica>,
    /// Sessions that wait for a synchronous standby: process and start of the statement, in microseconds.
    pub waiting: Vec<(i32, i64)>,
}

/// True while Postgres answers as a standby.
pub async fn in_recovery(client: &Client) -> Result<bool, SqlError> {
    Ok(sql::within(client.ask_one("SELECT pg_is_in_recovery()")).await?.get(0))
}

/// Asks a standby.
pub async fn standby(client: &Client) -> Result<StandbyFacts, SqlError> {
    let row = sql::within(client.ask_one(
        "SELECT pg_last_wal_replay_lsn()::text AS replay,
                r.status = 'streaming' AS streaming,
                coalesce(r.received_tli, (SELECT timeline_id FROM pg_control_checkpoint()))::bigint AS timeline,
                CASE WHEN pg_last_wal_receive_lsn() IS NULL OR pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn()
                     THEN 0
                     ELSE greatest(0, extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) * 1000)
                END::bigint AS lag
         FROM (SELECT 1) one LEFT JOIN pg_stat_wal_receiver r ON true",
    ))
    .await?;
    Ok(StandbyFacts {
        replay: sql::position(&row, "replay"),
        streaming: row.get::<_, Option<bool>>("streaming").unwrap_or(false),
        timeline: row.get::<_, Option<i64>>("timeline").and_then(|t| u32::try_from(t).ok()),
        lag_ms: row.get::<_, Option<i64>>("lag").and_then(|l| u64::try_from(l).ok()).unwrap_or(0),
    })
}

/// Position of a standby that receives nothing and has applied all that it has; none while it does or has not.
/// The startup process waits under that name only once it has looked everywhere for more (PostgreSQL source,
/// `WaitForWALToBecomeAvailable`).
pub async fn drained(client: &Client) -> Result<Option<u64>, SqlError> {
    let row = sql::within(client.ask_one(
        "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)
                AND EXISTS (SELECT FROM pg_stat_activity
                            WHERE backend_type = 'startup' AND wait_event = 'RecoveryRetrieveRetryInterval')
                    AS drained,
                pg_last_wal_replay_lsn()::text AS replay",
    ))
    .await?;
    Ok(sql::position(&row, "replay").filter(|_| row.get("drained")))
}

/// Parameters that were changed and wait for a restart.
pub async fn pending_restart(client: &Client) -> Result<Vec<String>, SqlError> {
    let text = "SELECT name FROM pg_settings WHERE pending_restart ORDER BY name";
    Ok(sql::within(client.ask(text)).await?.iter().map(|row| row.get(0)).collect())
}

/// Those of them that are limits which the restart makes lower, where no standby may have less than its primary
/// (PostgreSQL docs, "Hot Standby", "Administrator's Overview"). What the file leaves out becomes PostgreSQL's own value.
pub async fn lowered_limits(client: &Client) -> Result<Vec<String>, SqlError> {
    let text = "SELECT s.name, s.setting, coalesce(f.setting, s.boot_val)
         FROM pg_settings s LEFT JOIN pg_file_settings f ON f.name = s.name WHERE s.pending_restart ORDER BY s.name";
    let rows = sql::within(client.ask(text)).await?;
    let lowered = |row: &tokio_postgres::Row| {
        let value = |column: usize| row.get::<_, Option<String>>(column).unwrap_or_default();
        let name: String = row.get(0);
        joining::lowers(&name, &value(1), &value(2)).then_some(name)
    };
    Ok(rows.iter().filter_map(lowered).collect())
}

/// Settings of roles and databases that belong to the operator (R11): for each the command that takes it back.
pub async fn unsafe_settings(client: &Client) -> Result<Vec<String>, SqlError> {
    let rows = sql::within(client.query(
        "SELECT split_part(setting, '=', 1),
                CASE WHEN s.setrole = 0 AND s.setdatabase = 0 THEN 'ALTER ROLE ALL'
                     WHEN s.setrole = 0 THEN format('ALTER DATABASE %I', coalesce(d.datname, '?'))
                     WHEN s.setdatabase = 0 THEN format('ALTER ROLE %I', coalesce(r.rolname, '?'))
                     ELSE format('ALTER ROLE %I IN DATABASE %I', coalesce(r.rolname, '?'), coalesce(d.datname, '?')) END
         FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) setting
              LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
         ORDER BY 2, 1",
        &[],
    ))
    .await?;
    let command = |row: &tokio_postgres::Row| {
        let (setting, owner): (String, Option<String>) = (row.get(0), row.get(1));
        settings::is_unsafe(&setting).then(|| format!("{} RESET {setting}", owner.unwrap_or_default()))
    };
    Ok(rows.iter().filter_map(command).collect())
}

/// Asks a primary. The walsenders are asked first: what they report is never ahead of the flush position.
pub async fn primary(client: &Client) -> Result<PrimaryFacts, SqlError> {
    let replicas = replicas(client).await?;
    let waiting = sql::within(client.ask(
        "SELECT pid, (extract(epoch FROM state_change) * 1000000)::bigint FROM pg_stat_activity
         WHERE wait_event = 'SyncRep'",
    ))
    .await?;
    let row = sql::within(client.ask_one(
        "SELECT pg_current_wal_flush_lsn()::text AS flush,
                ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::bigint AS timeline",
    ))
    .await?;
    Ok(PrimaryFacts {
        flush: sql::position(&row, "flush"),
        timeline: u32::try_from(row.get::<_, i64>("timeline")).ok(),
        replicas,
        waiting: waiting.iter().map(|w| (w.get(0), w.get::<_, Option<i64>>(1).unwrap_or(0))).collect(),
    })
}

async fn replicas(client: &Client) -> Result<Vec<Replica>, SqlError> {
    let rows = sql::within(client.ask(
        "SELECT application_name, state, sync_priority, replay_lsn::text AS replay,
                (extract(epoch FROM clock_timestamp() - reply_time) * 1000)::bigint AS age, client_addr
         FROM pg_stat_replication",
    ))
    .await?;
    Ok(rows
        .iter()
        .filter_map(|row| {
            let member = parse_application_name(row.get("application_name"))?;
            Some(Replica {
                index: member.index,
                incarnation: member.incarnation,
                state: row.get::<_, Option<String>>("state").unwrap_or_default(),
                priority: row.get::<_, Option<i32>>("sync_priority").unwrap_or(0),
                replay_lsn: sql::position(row, "replay"),
                reply_age_ms: row.get::<_, Option<i64>>("age").and_then(|a| u64::try_from(a).ok()),
                lag_ms: None,
                address: row.get("client_addr"),
            })
        })
        .collect())
}

/// What was archived since PostgreSQL's statistics began.
pub async fn archiver(client: &Client) -> Result<Archiver, SqlError> {
    let text = "SELECT archived_count, failed_count FROM pg_stat_archiver";
    let row = sql::within(client.ask_one(text)).await?;
    let count = |index: usize| u64::try_from(row.get::<_, i64>(index)).unwrap_or(0);
    Ok(Archiver { archived: count(0), failed: count(1) })
}

/// Base backups that are being taken from this node.
pub async fn backups(client: &Client) -> Result<Vec<BackupProgress>, SqlError> {
    let rows = sql::within(client.ask(
        "SELECT a.application_name, p.phase, p.backup_streamed, coalesce(p.backup_total, 0)
         FROM pg_stat_progress_basebackup p JOIN pg_stat_activity a USING (pid)",
    ))
    .await?;
    Ok(rows
        .iter()
        .map(|row| BackupProgress {
            name: row.get(0),
            phase: row.get(1),
            bytes: row.get(2),
            total: row.get(3),
        })
        .collect())
}
