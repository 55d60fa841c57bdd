//! `kubectl get --watch`, whose lines come as an object changes: one process, where asking again and again would take
//! the processors from what is measured.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::pool::Pool;
use crate::clock::Stopwatch;
use crate::error::{Error, Result, refused};
use crate::interrupt;
use crate::run;

/// How soon Ctrl-C is noticed.
const NOTICE_INTERRUPT: Duration = Duration::from_millis(200);

/// The watch of an object; it ends with this value.
pub struct Watcher {
    child: Child,
    lines: Receiver<String>,
    what: String,
}

impl Watcher {
    /// Watches an object, such as `["pgpool", "bench"]`; each line is what the template of jsonpath makes of it.
    pub fn start(pool: &Pool<'_>, object: &[&str], template: &str) -> Result<Self> {
        let output = format!("--output=jsonpath={template}{{\"\\n\"}}");
        let mut kubectl = pool.kubectl(&["get", "--watch", &output])?;
        kubectl.args(object).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let child = kubectl.spawn();
        let mut child = child.map_err(|source| Error::Start { command: run::shown(&kubectl), source })?;
        let Some(out) = child.stdout.take() else { return refused("kubectl has no standard output") };
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || hand_on(out, &sender));
        Ok(Self { child, lines, what: object.join(" ") })
    }

    /// The next line; fails when `watch` has gone on for longer than `limit`.
    pub fn next(&mut self, watch: Stopwatch, limit: Duration) -> Result<String> {
        loop {
            interrupt::check()?;
            match self.lines.recv_timeout(NOTICE_INTERRUPT) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Disconnected) => {
                    return refused(format!("kubectl tells no more of {}", self.what));
                }
                Err(RecvTimeoutError::Timeout) if watch.over(limit) => {
                    let (what, last) = (format!("a change of {}", self.what), String::new());
                    return Err(Error::Timeout { what, seconds: limit.as_secs(), last });
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// The first line of which something is made.
    pub fn until<T>(&mut self, limit: Duration, found: impl Fn(&str) -> Option<T>) -> Result<T> {
        let watch = Stopwatch::start();
        loop {
            if let Some(found) = found(&self.next(watch, limit)?) {
                return Ok(found);
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn hand_on(out: ChildStdout, lines: &mpsc::Sender<String>) {
    for line in BufReader::new(out).lines() {
        let Ok(line) = line else { return };
        if lines.send(line).is_err() {
            return;
        }
    }
}
