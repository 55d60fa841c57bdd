//! The replication slots that a primary keeps for the other nodes.
use tokio_postgres::Client;

use super::sql::{self, SqlError};
use crate::names;

/// Makes what is missing and renews what was lost; an absent node's slot keeps WAL only up to
/// `max_slot_wal_keep_size`. Gives the names of the slots made.
pub async fn ensure(client: &Client, me: u8, nodes: u8) -> Result<Vec<String>, SqlError> {
    let rows = sql::within(client.query(
        "SELECT slot_name::text, active, coalesce(wal_status, '') FROM pg_replication_slots WHERE slot_type = 'physical'",
        &[],
    ))
    .await?;
    let mut made = Vec::new();
    for name in (0..nodes).filter(|k| *k != me).map(names::slot) {
        let found = rows.iter().find(|row| row.get::<_, String>(0) == name);
        let lost = found.is_some_and(|row| !row.get::<_, bool>(1) && row.get::<_, String>(2) == "lost");
        if lost {
            sql::within(client.query("SELECT pg_drop_replication_slot($1)", &[&name])).await?;
        }
        if lost || found.is_none() {
            sql::within(client.query("SELECT pg_create_physical_replication_slot($1, true)", &[&name]))
                .await?;
            made.push(name);
        }
    }
    Ok(made)
}
