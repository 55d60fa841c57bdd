//! The threads that serve sessions, each with a runtime of its own. A session stays on the thread that it was given.
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::runtime::{Builder, Handle};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

/// The most that are started: enough for what a primary can answer, however many processors the machine has.
const MOST: usize = 8;

/// The threads; they end when this is dropped, with whatever runs on them.
pub struct Threads {
    all: Vec<Thread>,
    _stop: DropGuard,
}

struct Thread {
    runtime: Handle,
    sessions: Arc<AtomicUsize>,
}

/// A session among those of its thread, until it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn among(sessions: &Arc<AtomicUsize>) -> Self {
        sessions.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(sessions))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Threads {
    /// One for each processor that this process may use, and no more than eight: those that its cgroup's quota amounts
    /// to, where it has one.
    pub fn for_each_core() -> io::Result<Self> {
        // Where that isn't known, as many as a small machine has.
        Self::start(due(thread::available_parallelism().map_or(2, usize::from)))
    }

    /// So many, and one at least.
    pub fn start(count: usize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let all =
            (0..count.max(1)).map(|index| Thread::start(index, stop.clone())).collect::<io::Result<_>>()?;
        Ok(Self { all, _stop: guard })
    }

    /// Runs a session on the thread that has the fewest.
    pub fn spawn(&self, tracker: &TaskTracker, session: impl Future<Output = ()> + Send + 'static) {
        let Some(thread) = self.all.iter().min_by_key(|thread| thread.sessions.load(Ordering::Relaxed))
        else {
            return;
        };
        let counted = Counted::among(&thread.sessions);
        // A block keeps room for what it has captured beside that for what it awaits: here for a pointer twice.
        let session = Box::pin(session);
        let session = async move {
            session.await;
            drop(counted);
        };
        tracker.spawn_on(session, &thread.runtime);
    }

    /// How many sessions each has.
    #[cfg(test)]
    pub fn sessions(&self) -> Vec<usize> {
        self.all.iter().map(|thread| thread.sessions.load(Ordering::Relaxed)).collect()
    }
}

fn due(processors: usize) -> usize {
    processors.min(MOST)
}

impl Thread {
    fn start(index: usize, stop: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        thread::Builder::new().name(format!("sessions-{index}")).spawn(move || {
            runtime.block_on(stop.cancelled());
            // A name that DNS doesn't answer for keeps a thread for seconds.
            runtime.shutdown_background();
        })?;
        Ok(Self { runtime: handle, sessions: Arc::default() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tokio::sync::{mpsc, watch};

    use super::*;

    #[test]
    fn a_large_machine_gets_no_more_than_a_pool_can_use() {
        assert_eq!([1, 2, 8, 96].map(due), [1, 2, 8, 8]);
    }

    #[tokio::test]
    async fn sessions_are_spread_and_stay() {
        let threads = Threads::start(3).unwrap();
        let tracker = TaskTracker::new();
        let (turn, _) = watch::channel(0);
        let (say, mut heard) = mpsc::unbounded_channel();
        for session in 0..6 {
            let (mut turns, say) = (turn.subscribe(), say.clone());
            let body = async move {
                while *turns.borrow_and_update() < 20 {
                    say.send((session, thread::current().id())).unwrap();
                    turns.changed().await.unwrap();
                }
            };
            threads.spawn(&tracker, body);
        }
        assert_eq!(threads.sessions(), [2, 2, 2]);
        let mut places = HashMap::new();
        for now in 1..=20 {
            for _ in 0..6 {
                let (session, place) = heard.recv().await.unwrap();
                assert_eq!(*places.entry(session).or_insert(place), place, "it has gone to another thread");
            }
            turn.send_replace(now);
        }
        tracker.close();
        tracker.wait().await;
        assert_eq!(threads.sessions(), [0, 0, 0]);
        let mut busy = HashMap::new();
        for place in places.into_values() {
            *busy.entry(place).or_insert(0) += 1;
        }
        assert_eq!(busy.into_values().collect::<Vec<_>>(), [2, 2, 2]);
    }

    #[tokio::test]
    async fn the_thread_with_the_fewest_gets_the_next() {
        let threads = Threads::start(2).unwrap();
        let tracker = TaskTracker::new();
        let (end, ended) = watch::channel(false);
        let stays = |mut ended: watch::Receiver<bool>| async move {
            ended.wait_for(|ended| *ended).await.ok();
        };
        threads.spawn(&tracker, stays(ended.clone()));
        let (short, shortly) = watch::channel(false);
        threads.spawn(&tracker, stays(shortly));
        threads.spawn(&tracker, stays(ended.clone()));
        assert_eq!(threads.sessions(), [2, 1]);
        short.send_replace(true);
        while threads.sessions() != [2, 0] {
            tokio::task::yield_now().await;
        }
        for _ in 0..2 {
            threads.spawn(&tracker, stays(ended.clone()));
        }
        assert_eq!(threads.sessions(), [2, 2]);
        end.send_replace(true);
        tracker.close();
        tracker.wait().await;
    }

    #[tokio::test]
    async fn what_runs_there_ends_with_them() {
        let threads = Threads::start(2).unwrap();
        let tracker = TaskTracker::new();
        threads.spawn(&tracker, std::future::pending());
        tracker.close();
        drop(threads);
        tracker.wait().await;
    }
}
