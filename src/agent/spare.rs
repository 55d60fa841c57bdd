//! Room that is kept for the agent's own small files. On a full volume it must still be able to note an epoch, to shut the gate and to
//! give its word: else a primary doesn't learn that it was deposed, and a standby can't vote.
//!
//! A file that is written over keeps its blocks (ext4, XFS), so one of a few spare files takes the new content and changes names with
//! the old file (renameat2(2), `RENAME_EXCHANGE`), which is the spare one from then on. Where a file system writes elsewhere (btrfs, ZFS), or
//! doesn't know the exchange, there may be no room all the same.
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rand::RngCore as _;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::volume::CONF;

/// Folder of the spare files, among the agent's own files.
const FOLDER: &str = "spare";
/// How many there are: an exchange gives one back, a file that wasn't there before doesn't.
const SPARES: u32 = 6;
/// Bytes of each, more than any of the agent's files has.
const BYTES: u64 = 16 << 10;
/// Several threads of an agent write files: one at a time takes or makes a spare one.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
/// Bytes of what the kernel counts as a block (stat(2), `st_blocks`).
const BLOCK: u64 = 512;

/// Makes the spare files that are missing or have become small, while there is room.
///
/// # Errors
/// When one can't be made; those that are there stay.
pub fn keep(conf: &Path) -> io::Result<()> {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = conf.join(FOLDER);
    fs::create_dir_all(&folder)?;
    for number in 0..SPARES {
        let path = folder.join(number.to_string());
        // By its length: where the file system compresses, the room that it takes is another.
        if fs::metadata(&path).is_ok_and(|file| file.len() >= BYTES) {
            continue;
        }
        let unfinished = folder.join("unfinished");
        let made = filled(&unfinished).and_then(|()| fs::rename(&unfinished, &path));
        if made.is_err() {
            // What was written in part would take the last room of others.
            let _ = fs::remove_file(&unfinished);
        }
        made?;
    }
    Ok(())
}

fn filled(path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    // What can be compressed would keep no room.
    let mut content = vec![0; usize::try_from(BYTES).unwrap_or(0)];
    rand::rng().fill_bytes(&mut content);
    file.write_all(&content)?;
    file.sync_all()
}

/// Bytes that a file may have without more room.
fn room(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.blocks() * BLOCK)
}

/// Writes a file that couldn't be written for this reason: where that was a full volume, by a spare file. It has the old content or the
/// new, whatever fails.
///
/// # Errors
/// The reason, where it is another one or no spare file is large enough; else that of the spare file.
pub fn write_instead(path: &Path, content: &[u8], why: io::Error) -> io::Result<()> {
    if !matches!(why.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return Err(why);
    }
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let needed = u64::try_from(content.len()).unwrap_or(u64::MAX);
    let Some(spare) = smallest(path, needed) else { return Err(why) };
    tracing::warn!(path = %path.display(), "the volume is full: written into room that was kept for it");
    // Not truncated: its blocks would go.
    let mut file = File::options().write(true).open(&spare)?;
    file.write_all(content)?;
    file.set_len(needed)?;
    file.sync_all()?;
    match renameat_with(CWD, &spare, CWD, path, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(()),
        // No file of that name yet, or no exchange on this file system.
        Err(Errno::NOENT | Errno::INVAL | Errno::NOSYS) => fs::rename(&spare, path),
        Err(error) => Err(error.into()),
    }
}

/// The smallest spare file with room for so many bytes, on the volume of this file.
fn smallest(path: &Path, needed: u64) -> Option<PathBuf> {
    let folder = path.ancestors().skip(1).map(|above| above.join(CONF).join(FOLDER)).find(|f| f.is_dir())?;
    let spares = (0..SPARES).map(|number| folder.join(number.to_string()));
    spares.filter(|spare| room(spare) >= needed.max(1)).min_by_key(|spare| room(spare))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> io::Error {
        io::ErrorKind::StorageFull.into()
    }

    /// A volume with a node file and the spare files.
    fn volume() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("pgdata")).unwrap();
        keep(&root.path().join(CONF)).unwrap();
        let path = root.path().join("pgdata/pgpool_node.json");
        (root, path)
    }

    fn spares(root: &Path) -> Vec<u64> {
        (0..SPARES).map(|number| room(&root.join(CONF).join(FOLDER).join(number.to_string()))).collect()
    }

    #[test]
    fn a_file_is_replaced_without_more_room_again_and_again() {
        let (root, path) = volume();
        fs::write(&path, b"{\"epoch\":1,\"what\":\"longer than the next\"}").unwrap();
        for epoch in 2..20 {
            let content = format!("{{\"epoch\":{epoch}}}");
            write_instead(&path, content.as_bytes(), full()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        let left = spares(root.path());
        assert!(left.iter().all(|room| *room >= 4096), "each is still there: {left:?}");
        assert_eq!(
            left.iter().filter(|room| **room < BYTES).count(),
            1,
            "the smallest that fits is taken: {left:?}"
        );
        keep(&root.path().join(CONF)).unwrap();
        assert!(spares(root.path()).iter().all(|room| *room >= BYTES));
    }

    #[test]
    fn a_file_that_was_not_there_takes_a_spare_one_for_good_while_there_are_any() {
        let (root, _) = volume();
        for number in 0..SPARES {
            write_instead(&root.path().join(CONF).join(format!("new{number}")), b"word", full()).unwrap();
        }
        let error = write_instead(&root.path().join(CONF).join("late"), b"word", full()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        keep(&root.path().join(CONF)).unwrap();
        write_instead(&root.path().join(CONF).join("late"), b"word", full()).unwrap();
        assert_eq!(fs::read(root.path().join(CONF).join("late")).unwrap(), b"word");
    }

    #[test]
    fn other_reasons_and_contents_that_are_too_large_are_errors() {
        let (root, path) = volume();
        fs::write(&path, b"old").unwrap();
        let denied = write_instead(&path, b"new", io::ErrorKind::PermissionDenied.into()).unwrap_err();
        assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
        let large = vec![b'x'; 1 << 20];
        assert_eq!(write_instead(&path, &large, full()).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert!(spares(root.path()).iter().all(|room| *room >= BYTES));
    }

    #[test]
    fn without_spare_files_the_reason_stands() {
        let root = tempfile::tempdir().unwrap();
        let error = write_instead(&root.path().join("file"), b"new", full()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
