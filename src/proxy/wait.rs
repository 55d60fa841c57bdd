//! Waiting for a node that serves.
use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout, timeout_at};

use super::{Front, hub::Seat, lease::Tenure, route::Kind};

/// Pause before nodes that could not be reached are tried again, unless one of them begins anew; and by how much the
/// pauses of two clients may differ, lest all come at once.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(100));

/// The longest wait for news: what comes by the passing of time alone, as the end of another node's lease, is told by
/// nobody.
pub const LOOK: Duration = Duration::from_secs(1);

/// Waits for places.
pub struct Wait<'a> {
    front: &'a Front,
    kind: Kind,
    changes: tokio::sync::watch::Receiver<()>,
    /// Nodes that did not serve just now, as they were then.
    failed: Vec<(u8, Arc<Tenure>)>,
    /// Until when these are let be.
    until: Instant,
    held: bool,
}

impl<'a> Wait<'a> {
    /// For a place of this kind.
    pub fn new(front: &'a Front, kind: Kind) -> Self {
        let changes = front.hub.changes();
        Self { front, kind, changes, failed: Vec::new(), until: Instant::now(), held: false }
    }

    /// The node of this place doesn't serve although it said so.
    pub fn failed(&mut self, seat: &Seat) {
        if self.failed.is_empty() {
            self.until = Instant::now() + AGAIN.0 + AGAIN.1.mul_f32(rand::random());
        }
        self.failed.push((seat.index, Arc::clone(&seat.tenure)));
    }

    /// A place, as soon as there is one.
    pub async fn seat(&mut self) -> Seat {
        loop {
            self.changes.mark_unchanged();
            self.failed.retain(|(_, tenure)| !tenure.is_over());
            let failed: Vec<u8> = self.failed.iter().map(|(index, _)| *index).collect();
            if let Some(seat) = self.front.hub.take(self.kind, &failed) {
                return seat;
            }
            if !std::mem::replace(&mut self.held, true) {
                self.front.hub.metrics.held(self.kind);
            }
            if failed.is_empty() {
                let _ = timeout(self.front.intervals.look, self.changes.changed()).await;
            } else if timeout_at(self.until, self.changes.changed()).await.is_err() {
                self.failed.clear();
            }
        }
    }
}
