//! The order of events on the volume, written down so that a Job that is killed anywhere goes on.
//!
//! | `recovery.json` says | on the volume | what a Job that starts does |
//! |---|---|---|
//! | nothing, or another recovery | old data or none | writes `Copying` |
//! | `Copying` | old data (or none, once it was given up for want of room), half of `pgdata.new` | removes `pgdata.new`, copies again |
//! | `Copied` | `pgdata.new` whole, with its node file | renames |
//! | `Done` | `pgdata` is the new copy, `pgdata.old` the old | nothing |
//!
//! The renames need no step of their own: which of the three folders there are says how far they got. A
//! `pgdata.old` that is there before them is from a recovery whose copy was never attached (the agent
//! removes it then): that copy goes, not the older data. Nothing is deleted in place: it is renamed to
//! `pgdata.trash` first, so that half a folder never looks like data.
use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::RecoverError;
use crate::membership::starting::NodeFile;

/// How far a recovery has got.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The copy is being made in `pgdata.new`.
    Copying,
    /// The copy is whole and on the disk.
    Copied,
    /// The copy is the node's data.
    Done,
}

/// `recovery.json`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Journal {
    /// Id of the recovery.
    pub id: String,
    /// Incarnation of the copy.
    pub incarnation: String,
    /// How far it has got.
    pub step: Step,
    /// True once old data was deleted for want of room.
    pub destroyed: bool,
    /// Bytes that were copied.
    pub bytes: u64,
}

/// Told before each change of the volume, and able to forbid it: tests end a run there.
pub(super) type Probe = Box<dyn Fn(&str) -> io::Result<()> + Send + Sync>;

/// The folders of the volume.
pub struct Volume {
    root: PathBuf,
    pub(super) probe: Probe,
}

impl Volume {
    /// The volume mounted at `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf(), probe: Box::new(|_| Ok(())) }
    }

    fn probe(&self, what: &str) -> Result<(), RecoverError> {
        (self.probe)(what).map_err(RecoverError::io(&self.root))
    }

    /// Where it is mounted.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The node's data.
    pub fn data(&self) -> PathBuf {
        self.root.join("pgdata")
    }

    /// Where the copy is made.
    pub fn new_data(&self) -> PathBuf {
        self.root.join("pgdata.new")
    }

    /// The data that the copy replaced.
    pub fn old_data(&self) -> PathBuf {
        self.root.join("pgdata.old")
    }

    fn trash(&self) -> PathBuf {
        self.root.join("pgdata.trash")
    }

    fn journal_path(&self) -> PathBuf {
        self.root.join("recovery.json")
    }

    /// Reads the journal; none when there is none.
    pub fn journal(&self) -> Result<Option<Journal>, RecoverError> {
        let path = self.journal_path();
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(RecoverError::io(&path)(error)),
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(RecoverError::json(&path)),
        }
    }

    fn write(&self, journal: &Journal) -> Result<(), RecoverError> {
        self.probe("journal")?;
        write_durably(&self.journal_path(), journal)
    }

    /// Begins a recovery, or finds one that was begun: says what is left to do. On `Copying` there is no
    /// `pgdata.new`.
    pub fn begin(&self, id: &str, incarnation: &str) -> Result<Journal, RecoverError> {
        self.empty_trash()?;
        let found = self.journal()?;
        let journal = match found.filter(|journal| journal.id == id && journal.incarnation == incarnation) {
            Some(journal) => journal,
            None => Journal {
                id: id.to_owned(),
                incarnation: incarnation.to_owned(),
                step: Step::Copying,
                destroyed: false,
                bytes: 0,
            },
        };
        if journal.step == Step::Copying {
            self.write(&journal)?;
            self.discard(&self.new_data())?;
        }
        Ok(journal)
    }

    /// Removes half a copy.
    pub fn clear(&self) -> Result<(), RecoverError> {
        self.discard(&self.new_data())
    }

    /// True when there is data from before this recovery.
    pub fn has_old(&self) -> bool {
        self.data().exists() || self.old_data().exists()
    }

    /// Deletes a folder that takes the room that the copy needs, and notes it: where there are two, first
    /// the copy that was never attached. None when there is nothing to delete.
    pub fn destroy_one(&self, journal: &mut Journal) -> Result<Option<PathBuf>, RecoverError> {
        let Some(folder) = [self.data(), self.old_data()].into_iter().find(|folder| folder.exists()) else {
            return Ok(None);
        };
        journal.destroyed = true;
        self.write(journal)?;
        self.discard(&folder)?;
        Ok(Some(folder))
    }

    /// Finishes the copy in `pgdata.new`: what belongs to the donor goes, the node file comes last.
    pub fn finish(&self, journal: &mut Journal, node: &NodeFile, bytes: u64) -> Result<(), RecoverError> {
        let data = self.new_data();
        for name in
            ["standby.signal", "recovery.signal", "postmaster.pid", "postmaster.opts", "pgpool_node.json"]
        {
            self.probe(name)?;
            match fs::remove_file(data.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(RecoverError::io(&data.join(name))(error));
                }
                _ => {}
            }
        }
        self.probe("node file")?;
        write_durably(&data.join("pgpool_node.json"), node)?;
        sync_folder(&self.root)?;
        (journal.step, journal.bytes) = (Step::Copied, bytes);
        self.write(journal)
    }

    /// Removes what another pool has left beside its data, before that data goes: its archive has WAL under names that
    /// this pool's may have, and what its agent has noted is of offices that are over. Data that says nothing of its pool, or
    /// that is gone, may have been another one's. Where this very recovery has deleted data, this was done before that.
    pub fn forget_other_pool(&self, journal: &Journal, pool_uid: &str) -> Result<(), RecoverError> {
        if !journal.destroyed && self.pool_of_data().as_deref() != Some(pool_uid) {
            self.discard(&self.root.join("archive"))?;
            self.discard(&self.root.join("conf"))?;
        }
        Ok(())
    }

    /// The pool whose data was there before this recovery, as far as that is known. Between the two renames it has the name
    /// of the old data.
    fn pool_of_data(&self) -> Option<String> {
        let folder = [self.data(), self.old_data()].into_iter().find(|folder| folder.exists())?;
        let text = fs::read(folder.join("pgpool_node.json")).ok()?;
        serde_json::from_slice(&text).ok().map(|file: NodeFile| file.pool_uid)
    }

    /// Makes the copy the node's data.
    pub fn swap(&self, journal: &mut Journal) -> Result<(), RecoverError> {
        let (data, new, old) = (self.data(), self.new_data(), self.old_data());
        if new.exists() {
            if data.exists() && old.exists() {
                self.discard(&data)?;
            }
            if data.exists() {
                self.rename(&data, &old)?;
            }
            self.rename(&new, &data)?;
        }
        journal.step = Step::Done;
        self.write(journal)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), RecoverError> {
        self.probe("rename")?;
        fs::rename(from, to).map_err(RecoverError::io(to))?;
        sync_folder(&self.root)
    }

    fn discard(&self, folder: &Path) -> Result<(), RecoverError> {
        if folder.exists() {
            self.rename(folder, &self.trash())?;
        }
        self.empty_trash()
    }

    fn empty_trash(&self) -> Result<(), RecoverError> {
        let trash = self.trash();
        if !trash.exists() {
            return Ok(());
        }
        self.probe("trash")?;
        fs::remove_dir_all(&trash).map_err(RecoverError::io(&trash))?;
        sync_folder(&self.root)
    }
}

fn write_durably<T: Serialize>(path: &Path, content: &T) -> Result<(), RecoverError> {
    let text = serde_json::to_vec(content).map_err(RecoverError::json(path))?;
    let unfinished = path.with_extension("json.new");
    let write = || -> io::Result<()> {
        let mut file = File::create(&unfinished)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)
    };
    write().map_err(RecoverError::io(path))?;
    path.parent().map_or(Ok(()), sync_folder)
}

fn sync_folder(folder: &Path) -> Result<(), RecoverError> {
    File::open(folder).and_then(|open| open.sync_all()).map_err(RecoverError::io(folder))
}
