//! The only place of this program that reads a clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Microseconds: since the start of the process on the monotonic clock, since 1970 on the wall clock.
pub type Micros = u64;

/// A monotonic clock that counts from its own making, and the wall clock beside it.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock whose monotonic time is zero now.
    #[expect(clippy::disallowed_methods, reason = "this is the module that the ban points to")]
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Monotonic microseconds since [`Clock::start`].
    pub fn mono(&self) -> Micros {
        micros(self.origin.elapsed())
    }

    /// Microseconds since 1970 on the wall clock; only for people who line journals up with server logs.
    #[expect(clippy::disallowed_methods, reason = "this is the module that the ban points to")]
    pub fn wall() -> Micros {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, micros)
    }
}

/// A duration as whole microseconds, capped at the largest number that fits.
pub fn micros(duration: Duration) -> Micros {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
