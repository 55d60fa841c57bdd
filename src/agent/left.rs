//! Sessions that no front has any more.
//!
//! A front that breaks off while the network is down isn't heard, and one that lost its machine says nothing. PostgreSQL then
//! keeps the session with the locks of its transaction: keepalive doesn't run while an answer is unacknowledged (tcp(7)),
//! and the kernel sends that again for a quarter of an hour (`tcp_retries2`). `tcp_user_timeout` would end it, and also
//! every client that only takes its time to read. So fronts say what they have left, and sessions of a front that isn't
//! heard any more are ended as well.
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::sleep;
use tokio_postgres::Client;

use super::shared::Shared;
use super::sql::{SqlError, within};
use crate::messages::{LeftSession, Leftover};

/// A front that has not come back after so long has gone: it tries again at least every three seconds.
const GONE: Duration = Duration::from_secs(10);
/// Between two looks at sessions with a statement under way.
const AGAIN: Duration = Duration::from_secs(1);

/// Only a session that reads from its client or writes to it is ended. Any other has a statement under way, which ends by
/// itself: a commit that waits for the other nodes and is cut short would be seen before they have it.
const WAITS_FOR_ITS_CLIENT: &str = "wait_event_type IS NOT DISTINCT FROM 'Client'";

/// The fronts that follow this node, and by how many streams.
#[derive(Default)]
pub struct Fronts(Mutex<HashMap<IpAddr, usize>>);

impl Fronts {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn comes(&self, front: IpAddr) {
        *self.lock().entry(front).or_default() += 1;
    }

    /// True when that was its last stream.
    fn goes(&self, front: IpAddr) -> bool {
        let mut all = self.lock();
        let streams = all.get(&front).copied().unwrap_or_default();
        if streams > 1 {
            all.insert(front, streams - 1);
        } else {
            all.remove(&front);
        }
        streams <= 1
    }

    fn is_heard(&self, front: IpAddr) -> bool {
        self.lock().contains_key(&front)
    }
}

/// A front's stream, until this is dropped. When it was the last one and none follows, the front's sessions are ended.
pub struct Following {
    shared: Arc<Shared>,
    front: IpAddr,
}

impl Following {
    /// A front follows this node.
    pub fn begin(shared: &Arc<Shared>, front: IpAddr) -> Self {
        shared.fronts.comes(front);
        Self { shared: Arc::clone(shared), front }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if self.shared.fronts.goes(self.front)
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(end_all(Arc::clone(&self.shared), self.front));
        }
    }
}

async fn end_all(shared: Arc<Shared>, front: IpAddr) {
    sleep(GONE).await;
    while !shared.fronts.is_heard(front) {
        // Without Postgres there are no sessions, and those of its next start are known to their front.
        let Some(client) = shared.client() else { return };
        match end(&client, front, None).await {
            Ok(Leftover { busy: 0, .. }) => return,
            Ok(_) => {}
            Err(error) => tracing::warn!(%front, %error, "sessions of a front that is gone can't be ended"),
        }
        sleep(AGAIN).await;
    }
}

/// Ends the sessions of a front that wait for their client: all, or these.
pub async fn end(
    client: &Client,
    front: IpAddr,
    these: Option<&[LeftSession]>,
) -> Result<Leftover, SqlError> {
    let all = these.is_none();
    let (pids, ports): (Vec<i32>, Vec<i32>) =
        these.unwrap_or_default().iter().map(|left| (left.pid, i32::from(left.port))).unzip();
    let text = format!(
        "SELECT pg_catalog.count(*) FILTER (WHERE {WAITS_FOR_ITS_CLIENT} AND pg_catalog.pg_terminate_backend(pid)),
                pg_catalog.count(*) FILTER (WHERE NOT {WAITS_FOR_ITS_CLIENT})
         FROM pg_catalog.pg_stat_activity
         WHERE backend_type = 'client backend' AND client_addr = $1
         AND ($2 OR (pid, client_port) IN (SELECT * FROM ROWS FROM (
             pg_catalog.unnest($3::pg_catalog.int4[]), pg_catalog.unnest($4::pg_catalog.int4[]))))"
    );
    let row = within(client.query_one(&text, &[&front, &all, &pids, &ports])).await?;
    let count = |column| u32::try_from(row.get::<_, i64>(column)).unwrap_or(u32::MAX);
    let done = Leftover { ended: count(0), busy: count(1) };
    if done.ended > 0 {
        tracing::info!(%front, ended = done.ended, "sessions were ended that their front had left");
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_front_is_heard_as_long_as_one_of_its_streams() {
        let (fronts, front) = (Fronts::default(), IpAddr::from([10, 0, 0, 7]));
        fronts.comes(front);
        fronts.comes(front);
        assert!(!fronts.goes(front));
        assert!(fronts.is_heard(front));
        assert!(fronts.goes(front));
        assert!(!fronts.is_heard(front));
    }
}
