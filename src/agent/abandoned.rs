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

use super::shared::Shared;
use super::sql::{Client, SqlError, within};
use crate::messages::{AbandonedSession, LAPSED_FOR, Leftover, Role};

/// A front that has not come back after so long has gone: it tries again at least every three seconds.
const GONE: Duration = Duration::from_secs(10);
/// Between two looks at sessions with a statement under way.
const AGAIN: Duration = Duration::from_secs(1);

/// Only a session that reads from its client or writes to it is ended. Any other has a statement under way, which ends by
/// itself: a commit that waits for the other nodes and is cut short would be seen before they have it.
const WAITS_FOR_ITS_CLIENT: &str = "wait_event_type IS NOT DISTINCT FROM 'Client'";

/// A front: by how many streams it follows this node, and how often it has begun to.
#[derive(Clone, Copy, Default)]
struct Front {
    streams: usize,
    begun: u64,
}

/// The fronts that have followed this node.
#[derive(Default)]
pub struct Fronts(Mutex<HashMap<IpAddr, Front>>);

impl Fronts {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Front>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn comes(&self, front: IpAddr) {
        let mut all = self.lock();
        let entry = all.entry(front).or_default();
        entry.streams += 1;
        entry.begun += 1;
    }

    /// When that was its last stream: how often it had begun by then.
    fn goes(&self, front: IpAddr) -> Option<u64> {
        let mut all = self.lock();
        let entry = all.get_mut(&front)?;
        entry.streams = entry.streams.saturating_sub(1);
        (entry.streams == 0).then_some(entry.begun)
    }

    /// Whether it has not been heard since.
    fn is_away(&self, front: IpAddr, begun: u64) -> bool {
        self.lock().get(&front).is_none_or(|entry| entry.begun == begun)
    }

    fn forget(&self, front: IpAddr, begun: u64) {
        let mut all = self.lock();
        if all.get(&front).is_some_and(|entry| entry.begun == begun) {
            all.remove(&front);
        }
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
        if let (Some(begun), Ok(runtime)) = (self.shared.fronts.goes(self.front), Handle::try_current()) {
            runtime.spawn(end_all(Arc::clone(&self.shared), self.front, begun));
        }
    }
}

async fn end_all(shared: Arc<Shared>, front: IpAddr, begun: u64) {
    let lease = shared.lock().longest_lease(0);
    sleep(GONE.max(lease + LAPSED_FOR)).await;
    while shared.fronts.is_away(front, begun) {
        let done = match shared.client() {
            Some(client) => end(&client, front, None).await,
            // Without Postgres there are no sessions, and those of its next start are known to their front.
            None if shared.lock().report.role == Role::Stopped => Ok(Leftover::default()),
            None => Err(SqlError::Late),
        };
        match done {
            Ok(done) if done.busy.is_empty() => return shared.fronts.forget(front, begun),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%front, %error, "sessions of a front that is gone aren't ended yet");
            }
        }
        sleep(AGAIN).await;
    }
}

/// Ends the sessions of a front that wait for their client: all, or these.
pub async fn end(
    client: &Client,
    front: IpAddr,
    these: Option<&[AbandonedSession]>,
) -> Result<Leftover, SqlError> {
    let all = these.is_none();
    let (pids, ports): (Vec<i32>, Vec<i32>) =
        these.unwrap_or_default().iter().map(|session| (session.pid, i32::from(session.port))).unzip();
    let text = format!(
        "SELECT pg_catalog.count(*) FILTER (WHERE {WAITS_FOR_ITS_CLIENT} AND pg_catalog.pg_terminate_backend(pid)),
                coalesce(pg_catalog.array_agg(pid) FILTER (WHERE NOT {WAITS_FOR_ITS_CLIENT}), '{{}}')
         FROM pg_catalog.pg_stat_activity
         WHERE backend_type = 'client backend' AND client_addr = $1
         AND ($2 OR (pid, client_port) IN (SELECT * FROM ROWS FROM (
             pg_catalog.unnest($3::pg_catalog.int4[]), pg_catalog.unnest($4::pg_catalog.int4[]))))"
    );
    let row = within(client.query_one(&text, &[&front, &all, &pids, &ports])).await?;
    let ended = u32::try_from(row.get::<_, i64>(0)).unwrap_or(u32::MAX);
    let done = Leftover { ended, busy: row.get(1) };
    if done.ended > 0 {
        tracing::info!(%front, ended = done.ended, "sessions were ended that their front had left");
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_front_is_away_only_while_it_has_not_begun_again() {
        let (fronts, front) = (Fronts::default(), IpAddr::from([10, 0, 0, 7]));
        fronts.comes(front);
        fronts.comes(front);
        assert_eq!(fronts.goes(front), None);
        let begun = fronts.goes(front).unwrap();
        assert!(fronts.is_away(front, begun));
        fronts.comes(front);
        let again = fronts.goes(front).unwrap();
        assert!(!fronts.is_away(front, begun), "it was heard in between");
        fronts.forget(front, begun);
        assert!(fronts.is_away(front, again));
        fronts.forget(front, again);
        assert!(fronts.is_away(front, again) && fronts.lock().is_empty());
    }
}
