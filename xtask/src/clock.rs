//! The one place that reads the time.

use std::time::{Duration, Instant};

/// A stopwatch; also a deadline when asked for [`Stopwatch::over`].
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts at zero.
    #[expect(
        clippy::disallowed_methods,
        reason = "the ban on `now` keeps time out of decisions; this is the exempted place"
    )]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the start.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    /// Whether more than `limit` has passed.
    pub fn over(self, limit: Duration) -> bool {
        self.elapsed() > limit
    }
}

/// The time of day, for what is compared with moments that others have written down.
#[expect(clippy::disallowed_methods, reason = "the exempted place, as above")]
pub fn timestamp() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
