//! The node's volume: whose copy of the data it holds, and what must outlive the pod.
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::spare;
use crate::membership::starting::NodeFile;

/// Why something on the volume could not be done.
#[derive(Debug, Error)]
pub enum VolumeError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file's content isn't what it should be.
    #[error("{path}: {source}")]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Another agent or a recovery Job works on the volume.
    #[error("{0}: the volume is in use by another agent or by a recovery Job")]
    InUse(PathBuf),
}

/// Name of the data directory.
const DATA: &str = "pgdata";
/// Name of the file in it that says whose copy it is.
const NODE_FILE: &str = "pgpool_node.json";
/// Name of the folder for configuration.
pub(super) const CONF: &str = "conf";

/// The volume, held by a lock as long as this lives.
#[derive(Debug)]
pub struct Volume {
    root: PathBuf,
    _lock: Lock,
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.to_owned();
    move |source| VolumeError::File { path, source }
}

/// Names of the files and folders in `dir`; none where there is no such folder.
pub fn entries(dir: &Path) -> Result<Vec<String>, VolumeError> {
    let list = match fs::read_dir(dir) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(file_error(dir)(error)),
    };
    let names = list.map(|entry| Ok(entry?.file_name().into_string().ok()));
    Ok(names.collect::<io::Result<Vec<_>>>().map_err(file_error(dir))?.into_iter().flatten().collect())
}

/// Makes a rename or a new file in `dir` durable.
pub fn sync_dir(dir: &Path) -> Result<(), VolumeError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(file_error(dir))
}

/// Replaces a file in one step: it has the old content or the new, whatever fails. On a full volume it takes room that was kept for it.
pub fn write_durably(path: &Path, content: &[u8]) -> Result<(), VolumeError> {
    let temporary = path.with_extension("tmp");
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().or_else(|why| instead(path, &temporary, content, why)).map_err(file_error(path))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// What was written in part goes: it takes the last room of others.
fn instead(path: &Path, temporary: &Path, content: &[u8], why: io::Error) -> io::Result<()> {
    let _ = fs::remove_file(temporary);
    spare::write_instead(path, content, why)
}

/// Writes a file that is whole or not there for whoever reads it; a power cut may take it.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<(), VolumeError> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, content)
        .and_then(|()| fs::rename(&temporary, path))
        .or_else(|why| instead(path, &temporary, content, why))
        .map_err(file_error(path))
}

/// Reads a JSON file; none when it isn't there.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, VolumeError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| VolumeError::Content { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file_error(path)(error)),
    }
}

/// Writes a JSON file durably.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), VolumeError> {
    let bytes =
        serde_json::to_vec(value).map_err(|source| VolumeError::Content { path: path.to_owned(), source })?;
    write_durably(path, &bytes)
}

/// Writes a JSON file that can be written again, whole or not at all. On a full volume it is not written: the room that is kept there
/// is for files on which more depends.
pub fn write_replaceable<T: Serialize>(path: &Path, value: &T) -> Result<(), VolumeError> {
    let bytes =
        serde_json::to_vec(value).map_err(|source| VolumeError::Content { path: path.to_owned(), source })?;
    let temporary = path.with_extension("tmp");
    let written = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    written.map_err(|error| {
        // What was written in part takes the last room of others.
        let _ = fs::remove_file(&temporary);
        file_error(path)(error)
    })
}

/// Removes a file, durably; one that isn't there is gone.
pub fn remove_durably(path: &Path) -> Result<(), VolumeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error(path)(error)),
        _ => path.parent().map_or(Ok(()), sync_dir),
    }
}

/// Whether the volume is known to hold this pool's copy: else its archive may be another pool's. Asked beside whoever has
/// the volume.
pub fn holds_copy_of(root: &Path, pool_uid: &str) -> bool {
    let file: Option<NodeFile> = read_json(&root.join(DATA).join(NODE_FILE)).ok().flatten();
    file.is_some_and(|file| file.pool_uid == pool_uid)
}

/// The lock of a volume. It is given back by name: a child that another thread has forked, and that runs nothing yet, has its
/// descriptor too, and a lock lasts as long as any of them (Linux, flock(2)).
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = flock(&self.0, FlockOperation::Unlock) {
            tracing::debug!(%error, "the volume's lock lasts until its file is closed");
        }
    }
}

impl Volume {
    /// Takes the volume; refused while another process holds it.
    pub fn open(root: &Path) -> Result<Self, VolumeError> {
        let path = root.join("lock");
        let lock = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .map_err(file_error(&path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| VolumeError::InUse(path))?;
        let volume = Self { root: root.to_owned(), _lock: Lock(lock) };
        let conf = volume.conf();
        fs::create_dir_all(&conf).map_err(file_error(&conf))?;
        volume.keep_spare();
        Ok(volume)
    }

    /// Keeps room for the agent's own files, as far as there is any.
    pub fn keep_spare(&self) {
        if let Err(error) = spare::keep(&self.conf()) {
            tracing::debug!(%error, "no room is kept for the agent's own files");
        }
    }

    /// True until a copy of the data was put there, or an agent has had the volume. A volume that can't be looked at
    /// isn't.
    pub fn is_unused(root: &Path) -> bool {
        [DATA, CONF].iter().all(|name| matches!(root.join(name).try_exists(), Ok(false)))
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.root.join(DATA)
    }

    /// Where a new copy is made.
    pub fn data_new(&self) -> PathBuf {
        self.root.join("pgdata.new")
    }

    /// The copy that a recovery replaced; kept until the new one is attached.
    pub fn data_old(&self) -> PathBuf {
        self.root.join("pgdata.old")
    }

    /// The agent's own files and PostgreSQL's configuration.
    pub fn conf(&self) -> PathBuf {
        self.root.join(CONF)
    }

    /// The WAL archive.
    pub fn archive(&self) -> PathBuf {
        self.root.join("archive")
    }

    fn node_path(&self) -> PathBuf {
        self.data().join(NODE_FILE)
    }

    /// True when there is a data directory, whole or not.
    pub fn has_data(&self) -> bool {
        self.data().join("PG_VERSION").exists()
    }

    /// Whose copy the data is; none when there is none.
    pub fn node(&self) -> Result<Option<NodeFile>, VolumeError> {
        read_json(&self.node_path())
    }

    /// Notes the highest epoch of the pool's record that was seen; nothing in another pool's copy.
    pub fn note_epoch(&self, pool_uid: &str, epoch: i64) -> Result<(), VolumeError> {
        match self.node()? {
            Some(node) if node.pool_uid == pool_uid && node.epoch < epoch => {
                self.write_node(&NodeFile { epoch, ..node })
            }
            _ => Ok(()),
        }
    }

    /// Says durably whose copy the data is.
    pub fn write_node(&self, node: &NodeFile) -> Result<(), VolumeError> {
        write_json(&self.node_path(), node)
    }

    /// Turns `pgdata.new`, made by initdb, into the data: the node file last, then one rename.
    pub fn adopt_new(&self, node: &NodeFile) -> Result<(), VolumeError> {
        write_json(&self.data_new().join(NODE_FILE), node)?;
        let (from, to) = (self.data_new(), self.data());
        fs::rename(&from, &to).map_err(file_error(&to))?;
        sync_dir(&self.root)
    }

    /// Removes a folder that a killed run left.
    pub fn remove(&self, folder: &Path) -> Result<(), VolumeError> {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error(folder)(error)),
            _ => sync_dir(&self.root),
        }
    }

    /// Removes what a killed run had discarded.
    pub fn empty_trash(&self) -> Result<(), VolumeError> {
        self.remove(&self.root.join("pgdata.trash"))
    }

    /// Takes a folder's name away, durably; gives where it can be removed at leisure.
    pub fn discard(&self, folder: &Path) -> Result<PathBuf, VolumeError> {
        let trash = self.root.join("pgdata.trash");
        self.remove(&trash)?;
        fs::rename(folder, &trash).map_err(file_error(folder))?;
        sync_dir(&self.root)?;
        Ok(trash)
    }

    /// PostgreSQL refuses a data directory that others may read; fsGroup makes it so at each later start.
    pub fn protect_data(&self) -> Result<(), VolumeError> {
        use std::os::unix::fs::PermissionsExt as _;
        let data = self.data();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).map_err(file_error(&data))
    }

    /// Size and free bytes of the file system.
    pub fn space(&self) -> Result<(u64, u64), VolumeError> {
        let stat = rustix::fs::statvfs(&self.root)
            .map_err(|e| VolumeError::File { path: self.root.clone(), source: e.into() })?;
        Ok((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(epoch: i64) -> NodeFile {
        NodeFile { pool_uid: "p".into(), index: 1, incarnation: "abc".into(), epoch, taken_up: None }
    }

    #[test]
    fn two_agents_never_hold_one_volume() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Volume::is_unused(dir.path()));
        let first = Volume::open(dir.path()).unwrap();
        assert!(!Volume::is_unused(dir.path()), "whoever had it once takes it again");
        assert!(matches!(Volume::open(dir.path()), Err(VolumeError::InUse(_))));
        drop(first);
        assert!(Volume::open(dir.path()).is_ok());
    }

    #[test]
    fn the_epoch_never_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(dir.path()).unwrap();
        assert_eq!(volume.node().unwrap(), None);
        fs::create_dir(volume.data_new()).unwrap();
        volume.adopt_new(&node(3)).unwrap();
        volume.note_epoch("p", 2).unwrap();
        assert_eq!(volume.node().unwrap(), Some(node(3)));
        volume.note_epoch("p", 7).unwrap();
        assert_eq!(volume.node().unwrap(), Some(node(7)));
        volume.note_epoch("another", 9).unwrap();
        assert_eq!(volume.node().unwrap(), Some(node(7)), "another pool's copy isn't touched");
        assert!(holds_copy_of(dir.path(), "p") && !holds_copy_of(dir.path(), "another"));
    }

    #[test]
    fn a_broken_file_is_an_error_and_no_empty_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(dir.path()).unwrap();
        fs::create_dir(volume.data()).unwrap();
        fs::write(volume.data().join("pgpool_node.json"), "{").unwrap();
        assert!(matches!(volume.node(), Err(VolumeError::Content { .. })));
        assert!(!holds_copy_of(dir.path(), "p"), "nor is what lies beside it known to be anybody's");
    }
}
