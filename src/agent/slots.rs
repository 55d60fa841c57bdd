//! The replication slots that a node keeps for the other nodes. A standby has them too, holding nothing
//! back, so that it can take office at once.
use tokio_postgres::Row;

use super::sql::{self, Client, SqlError};
use crate::names;

/// Makes what is missing and renews what was lost; an absent node's slot keeps WAL only up to
/// `max_slot_wal_keep_size`. With `keep_wal` they hold WAL back from now on. Gives the names of the slots made.
pub async fn ensure(client: &Client, me: u8, nodes: u8, keep_wal: bool) -> Result<Vec<String>, SqlError> {
    let rows = sql::within(client.query(
        "SELECT slot_name::text, active, coalesce(wal_status, ''), restart_lsn IS NULL FROM pg_replication_slots
         WHERE slot_type = 'physical'",
        &[],
    ))
    .await?;
    let mut made = Vec::new();
    for name in (0..nodes).filter(|k| *k != me).map(names::slot) {
        let found = rows.iter().find(|row| row.get::<_, String>(0) == name);
        let useless = |row: &Row| row.get::<_, String>(2) == "lost" || (keep_wal && row.get::<_, bool>(3));
        let lost = found.is_some_and(|row| !row.get::<_, bool>(1) && useless(row));
        if lost {
            sql::within(client.query("SELECT pg_drop_replication_slot($1)", &[&name])).await?;
        }
        if lost || found.is_none() {
            sql::within(
                client.query("SELECT pg_create_physical_replication_slot($1, $2)", &[&name, &keep_wal]),
            )
            .await?;
            made.push(name);
        }
    }
    Ok(made)
}

/// Lets go of the WAL that slots of an earlier office hold back: drops those that nobody uses.
pub async fn release(client: &Client) -> Result<(), SqlError> {
    let text = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
                WHERE slot_type = 'physical' AND NOT active AND restart_lsn IS NOT NULL";
    sql::within(client.query(text, &[])).await.map(drop)
}
