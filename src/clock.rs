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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Where the clock is asked by a process that sees more suspension than others.
    const ASKED: &str = "PGPOOL_TEST_CLOCK";

    #[test]
    fn a_time_of_suspension_counts() {
        if std::env::var_os(ASKED).is_some() {
            println!("now {}", now().as_millis());
            return;
        }
        // An offset of this clock alone, as after an hour of suspension (time_namespaces(7)).
        let this = std::env::current_exe().unwrap();
        let name = "clock::tests::a_time_of_suspension_counts";
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--time", "--boottime", "3600", "--fork", "--"]);
        let out = unshare.arg(this).args([name, "--exact", "--nocapture"]).env(ASKED, "1").output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        let later: u64 = said
            .lines()
            .find_map(|line| line.split_once("now ")?.1.trim().parse().ok())
            .unwrap_or_else(|| {
                panic!("{said}{}", String::from_utf8_lossy(&out.stderr));
            });
        assert!(later >= now().as_millis() + 3_500_000, "{later} {:?}", now());
    }
}
