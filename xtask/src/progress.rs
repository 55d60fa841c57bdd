//! What a long command shows while it works: a line when a step begins, a line with its time when it ends.

use std::io::Write;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::clock::Stopwatch;
use crate::error::{Error, Result};
use crate::interrupt;

/// A step that takes longer than this says so again and again.
const STILL: Duration = Duration::from_secs(15);
/// How often a state outside of our hands is looked at.
const POLL: Duration = Duration::from_millis(200);

/// Prints one line for the user. Progress goes to standard error, results to standard output.
pub fn say(text: impl AsRef<str>) {
    eprintln!("{}", text.as_ref());
}

/// Prints one line of a result. A reader that has gone (`| head`) is no error.
pub fn print(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stdout(), "{}", text.as_ref());
}

/// Runs a step under a name, telling of long waits and of the time it took.
pub fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let watch = Stopwatch::start();
    let (done, wait) = mpsc::channel::<()>();
    let result = thread::scope(|scope| {
        scope.spawn(move || {
            while wait.recv_timeout(STILL) == Err(RecvTimeoutError::Timeout) {
                say(format!("  … {name} ({:.0} s)", watch.elapsed().as_secs_f64()));
            }
        });
        let result = work();
        drop(done);
        result
    });
    let mark = if result.is_ok() { "✓" } else { "✗" };
    say(format!("{mark} {name} ({:.1} s)", watch.elapsed().as_secs_f64()));
    result
}

/// Looks again and again until `look` gives a value; its text tells what is still missing.
pub fn until<T>(
    what: &str,
    limit: Duration,
    look: impl FnMut() -> Result<std::result::Result<T, String>>,
) -> Result<T> {
    until_every(POLL, what, limit, look)
}

/// Like [`until`], for looks that cost something.
pub fn until_every<T>(
    pause: Duration,
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<std::result::Result<T, String>>,
) -> Result<T> {
    let watch = Stopwatch::start();
    loop {
        interrupt::check()?;
        let last = match look()? {
            Ok(value) => return Ok(value),
            Err(missing) => missing,
        };
        if watch.over(limit) {
            return Err(Error::Timeout { what: what.to_owned(), seconds: limit.as_secs(), last });
        }
        thread::sleep(pause);
    }
}
