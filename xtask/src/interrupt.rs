//! Ctrl-C is remembered instead of ending the program, so that what a long command made is removed first.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::error::{Error, Result};

const SIGNALS: [i32; 2] = [SIGINT, SIGTERM];
/// How often a signal is looked for while another program works.
const LOOK: Duration = Duration::from_millis(200);
/// How long programs have to end when they are asked to.
const GRACE: Duration = Duration::from_secs(10);

/// There was a signal.
static SEEN: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
/// Signals are remembered.
static HELD: AtomicBool = AtomicBool::new(false);
/// They no longer count.
static FORGOTTEN: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT and SIGTERM are remembered; programs that were started get them as before. While one is
/// remembered, the next ends the program at once.
pub fn remember() -> Result<()> {
    for signal in SIGNALS {
        handled(flag::register_conditional_shutdown(signal, 130, Arc::clone(&SEEN)))?;
    }
    hold()
}

/// The same, and no other one ends the program either.
pub fn hold() -> Result<()> {
    for signal in SIGNALS {
        handled(flag::register(signal, Arc::clone(&SEEN)))?;
    }
    HELD.store(true, Ordering::Relaxed);
    Ok(())
}

fn handled<T>(registered: std::io::Result<T>) -> Result<()> {
    let path = "SIGINT and SIGTERM".into();
    registered.map(drop).map_err(|source| Error::File { action: "handle", path, source })
}

/// Whether signals are remembered: then nobody else ends the programs that were started.
pub fn is_held() -> bool {
    HELD.load(Ordering::Relaxed)
}

/// Fails once there was one.
pub fn check() -> Result<()> {
    let counts = !FORGOTTEN.load(Ordering::Relaxed);
    if counts && SEEN.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
}

/// Forgets it, and takes note of no other one, for what has to be done all the same.
pub fn forget() {
    FORGOTTEN.store(true, Ordering::Relaxed);
    SEEN.store(false, Ordering::Relaxed);
}

/// Does something while the programs of a process group work. They end once there was a signal: asked to, and killed where
/// they don't.
pub fn ending<T>(group: Pid, work: impl FnOnce() -> T) -> T {
    ending_once(|| check().is_err(), group, work)
}

fn ending_once<T>(seen: impl Fn() -> bool + Send, group: Pid, work: impl FnOnce() -> T) -> T {
    let (done, wait) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            let (mut signal, mut pause) = (Signal::TERM, LOOK);
            while wait.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                if seen() {
                    // They may have ended just now.
                    let _ = kill_process_group(group, signal);
                    (signal, pause) = (Signal::KILL, GRACE);
                }
            }
        });
        let result = work();
        drop(done);
        result
    })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::Stdio;

    use super::*;
    use crate::run;

    #[test]
    fn a_signal_ends_a_program_and_all_that_it_has_started() {
        // Whoever reads its output waits for both.
        let mut command = run::command("sh", ["-c", "sleep 300 & sleep 300"]);
        let mut child = command.process_group(0).stdout(Stdio::piped()).spawn().unwrap();
        let output = child.stdout.take().unwrap();
        let group = Pid::from_child(&child);
        ending_once(|| true, group, || io::read_to_string(output)).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(SIGTERM));
    }

    #[test]
    fn without_a_signal_a_program_goes_on_to_its_end() {
        let mut command = run::command("sh", ["-c", "sleep 0.5; echo done"]);
        let mut child = command.process_group(0).stdout(Stdio::piped()).spawn().unwrap();
        let output = child.stdout.take().unwrap();
        let read = ending_once(|| false, Pid::from_child(&child), || io::read_to_string(output)).unwrap();
        assert_eq!((read.as_str(), child.wait().unwrap().success()), ("done\n", true));
    }
}
