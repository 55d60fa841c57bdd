//! What the tasks of a run share: clock, counts, history, journal, and the wish to stop.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::db::failure::{Failure, Outcome};
use crate::history::stats::{Activity, Stale, Stats, Summary};
use crate::history::{Acked, History};
use crate::journal::{Entry, Journal, JournalError, Line};
use crate::registers::Operation;

/// The state of a run.
pub struct Shared {
    /// The run's clock.
    pub clock: Clock,
    /// Where the journal is, if there is one.
    pub journal_path: Option<PathBuf>,
    stats: Mutex<Stats>,
    history: Mutex<History>,
    journal: Mutex<Option<Journal>>,
    broken: Mutex<Option<JournalError>>,
    stop: watch::Sender<bool>,
}

impl Shared {
    /// A run that has just begun.
    pub fn new(clock: Clock, stats: Stats, journal: Option<(PathBuf, Journal)>) -> Self {
        let (journal_path, journal) = journal.unzip();
        Self {
            clock,
            journal_path,
            stats: Mutex::new(stats),
            history: Mutex::new(History::default()),
            journal: Mutex::new(journal),
            broken: Mutex::new(None),
            stop: watch::Sender::new(false),
        }
    }

    /// The counts.
    pub fn stats(&self) -> MutexGuard<'_, Stats> {
        lock(&self.stats)
    }

    /// The acknowledged writes.
    pub fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.history)
    }

    /// Journals a write, then counts it, then lets readers look for it, in this order.
    pub fn wrote(&self, entry: Entry) {
        let (id, action, outcome, sent, now) =
            (entry.id, entry.action, entry.outcome, entry.sent_us, entry.done_us);
        if !self.note(&Line::Write(entry)) {
            return;
        }
        self.stats().wrote(action, outcome, sent, now);
        if outcome == Outcome::Acked {
            let acked = Acked { id, action, since_us: now };
            self.history().acked(acked, &mut rand::rng());
        }
    }

    /// Journals and counts a stale read.
    pub fn stale(&self, stale: Stale) {
        self.note(&Line::Stale(stale.clone()));
        self.stats().read_stale(stale, self.clock.mono());
    }

    /// Journals and counts an operation on registers.
    pub fn operated(&self, operation: Operation) {
        let line = Line::Register(operation);
        if self.note(&line)
            && let Line::Register(operation) = line
        {
            self.stats().operated(&operation.act);
        }
    }

    /// Counts an error.
    pub fn error(&self, activity: Activity, failure: &Failure) {
        self.stats().error(activity, failure);
    }

    /// Writes a line; a journal that can't be written ends the run. False if it wasn't written.
    pub fn note(&self, line: &Line) -> bool {
        let Some(journal) = &mut *lock(&self.journal) else { return true };
        match journal.write(line) {
            Ok(()) => true,
            Err(error) => {
                lock(&self.broken).get_or_insert(error);
                self.stop();
                false
            }
        }
    }

    /// Why the journal ended early, if it did.
    pub fn journal_error(&self) -> Option<JournalError> {
        lock(&self.broken).take()
    }

    /// The summary as of now.
    pub fn summary(&self, finished: bool) -> Summary {
        self.stats().summary(self.clock.mono(), finished)
    }

    /// Asks every task to end.
    pub fn stop(&self) {
        if !self.stop.send_replace(true) {
            self.stats().stopping(self.clock.mono());
        }
    }

    /// Whether the tasks are to end.
    pub fn stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Returns when the tasks are to end.
    pub async fn stopped(&self) {
        // The sender lives in self, so waiting can't fail.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// Waits for `pause` or for the end, whichever comes first.
    pub async fn pause(&self, pause: Duration) {
        let _ = tokio::time::timeout(pause, self.stopped()).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
