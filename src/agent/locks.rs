//! Lock files that a Postgres which has ended left behind (PostgreSQL source, `CreateLockFile` in `miscinit.c`).
//!
//! PostgreSQL takes a lock for held while the process of its number is alive. The numbers begin anew with each container,
//! and for kill(2) the number of a thread is alive too: one of the agent's may have it, and then no Postgres would ever
//! start here again. So the locks are released before each start, when no process of Postgres is left.
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// What PostgreSQL puts beside its data.
const PID_FILE: &str = "postmaster.pid";
/// Its socket and the lock of that.
const SOCKET: [&str; 2] = [".s.PGSQL.5432", ".s.PGSQL.5432.lock"];

/// Releases the locks of data directory and socket. The pid file stays: it names the shared memory, on which PostgreSQL looks
/// for what a dead one may have left running. Only its process becomes `own`, the parent of the Postgres that is
/// started next, which PostgreSQL knows not to be another postmaster.
pub fn release(data: &Path, sockets: &Path, own: u32) -> io::Result<()> {
    for name in SOCKET {
        there(fs::remove_file(sockets.join(name)))?;
    }
    let path = data.join(PID_FILE);
    let Some(text) = there(fs::read_to_string(&path))? else { return Ok(()) };
    match text.split_once('\n') {
        Some((_, rest)) => fs::write(&path, format!("{own}\n{rest}")),
        // A power cut leaves it empty, which PostgreSQL takes for a lock that is just being made.
        None => fs::remove_file(&path),
    }
}

/// None where there is no such file.
fn there<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_process_of_a_lock_is_forgotten() {
        let (data, sockets) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let release = || release(data.path(), sockets.path(), 1).unwrap();
        release();
        let pid_file = data.path().join(PID_FILE);
        fs::write(&pid_file, "11\n/data\n1795850523\n5432\n/run\n*\n  4711  8\nready\n").unwrap();
        for name in SOCKET {
            fs::write(sockets.path().join(name), "11\n/data\n").unwrap();
        }
        release();
        let text = fs::read_to_string(&pid_file).unwrap();
        assert_eq!(text, "1\n/data\n1795850523\n5432\n/run\n*\n  4711  8\nready\n");
        assert_eq!(fs::read_dir(sockets.path()).unwrap().count(), 0);

        fs::write(&pid_file, "").unwrap();
        release();
        assert!(!pid_file.exists(), "a power cut came before its content");
    }
}
