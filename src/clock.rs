//! The only source of time. Decisions take their times as arguments; this is where those come from.
use std::time::Duration;

use jiff::Timestamp;

/// A moment on the machine's monotonic clock that goes on while the machine is suspended
/// (`CLOCK_BOOTTIME`). Compared only with moments of the same machine; never sent as a time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(Duration);

impl Moment {
    /// The start of the clock; for tests and as a floor.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// A moment that many milliseconds after the clock's start.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// Milliseconds since the clock's start.
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    /// Time that has passed since `earlier`; zero when that lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment that much later.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

/// Now, on the clock that counts suspension (clock_gettime(2), `CLOCK_BOOTTIME`).
pub fn now() -> Moment {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Moment(Duration::new(seconds, nanos))
}

/// The time of day, for people: status, events, certificates.
#[expect(clippy::disallowed_methods, reason = "this is the place it is disallowed everywhere else for")]
pub fn timestamp() -> Timestamp {
    Timestamp::now()
}
