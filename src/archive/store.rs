//! The files of the archive: `archive/TIMELINE/NAME.lz4`, and beside the timelines `policy.json` (what
//! the agent wishes), `last_error.json` and `lock`.
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use jiff::Timestamp;
use lz4_flex::frame::{FrameDecoder, FrameEncoder, FrameInfo};
use rustix::fs::{FlockOperation, flock, statvfs};
use serde::{Deserialize, Serialize};

use super::retention::{Held, Room, due};
use super::{ArchiveError, Kind, WalFile};
use crate::clock;

/// What each archived file's name ends with.
const SUFFIX: &str = ".lz4";
/// What the name of a file ends with while it is written.
const UNFINISHED: &str = ".tmp";
/// How long another process may hold the archive; PostgreSQL tries again.
const HELD: Duration = Duration::from_secs(30);
/// Between two looks at the lock; a wait that can be given up isn't offered by flock(2).
const LOOK: Duration = Duration::from_millis(50);
/// A full disk: room is made for so many times the file.
const ROOM: u64 = 2;

/// A node's WAL archive.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

/// How much the archive keeps.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// Seconds for which a file is kept; none: as long as there is room.
    pub retention_seconds: Option<u64>,
    /// Bytes that all files together may take; none: as the disk allows.
    pub max_bytes: Option<u64>,
    /// What was archived since then stays in spite of both, as long as the volume has room: a recovery may need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_since: Option<Timestamp>,
}

/// What became of a file that was put into the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is in the archive now. Holds what was dropped to make room for it.
    Stored(Vec<Dropped>),
    /// It was there before, with the same content.
    Known,
}

/// A file that was dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Its name.
    pub name: String,
    /// Bytes that it took.
    pub bytes: u64,
}

/// What is in the archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all files.
    pub bytes: u64,
    /// How many.
    pub files: usize,
}

/// The last failure to archive; gone after the next success.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LastError {
    /// When.
    pub at: Timestamp,
    /// Which file.
    pub file: String,
    /// Why.
    pub message: String,
}

impl Store {
    /// The archive in `dir`, which is made with the first file.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf() }
    }

    fn path(&self, file: &WalFile) -> PathBuf {
        self.dir.join(file.folder()).join(format!("{}{SUFFIX}", file.name()))
    }

    /// Archives `source` as `file`. When this returns it is on the disk for good. The same content again
    /// is fine; other content is an error and changes nothing. Too little room never is one while
    /// there is an older file that can go. The outcome is noted for [`Self::last_error`].
    pub fn put(&self, source: &Path, file: &WalFile, now: Timestamp) -> Result<Put, ArchiveError> {
        let done = self.put_unnoted(source, file, now);
        let noted = match &done {
            Ok(_) => self.forget_error(),
            Err(error) => self.note_error(file, &error.to_string(), now),
        };
        if let Err(error) = noted {
            tracing::warn!(%error, "the outcome of archiving can't be noted");
        }
        done
    }

    fn put_unnoted(&self, source: &Path, file: &WalFile, now: Timestamp) -> Result<Put, ArchiveError> {
        let folder = self.dir.join(file.folder());
        make_folder(&folder)?;
        let _lock = self.lock()?;
        let path = self.path(file);
        if path.exists() {
            return self.compare(source, file);
        }
        let policy = self.policy().unwrap_or_else(|error| {
            tracing::warn!(%error, "the archive's policy can't be read: nothing is dropped for age or size");
            Policy::default()
        });
        let unfinished = folder.join(format!(".{}{UNFINISHED}", file.name()));
        let mut dropped = Vec::new();
        let mut written = compress(source, &unfinished);
        if written.as_ref().is_err_and(ArchiveError::is_no_space) {
            let length = fs::metadata(source).map_err(ArchiveError::io(source))?.len();
            dropped = self.free(length.saturating_mul(ROOM))?;
            written = compress(source, &unfinished);
        }
        let bytes = written.inspect_err(|_| {
            fs::remove_file(&unfinished).ok();
        })?;
        dropped.extend(self.drop_old(&policy, now, bytes)?);
        fs::hard_link(&unfinished, &path).map_err(ArchiveError::io(&path))?;
        fs::remove_file(&unfinished).map_err(ArchiveError::io(&unfinished))?;
        sync_folder(&folder)?;
        Ok(Put::Stored(dropped))
    }

    fn compare(&self, source: &Path, file: &WalFile) -> Result<Put, ArchiveError> {
        let archived = self.get(file)?.ok_or_else(|| ArchiveError::Conflict(file.name().to_owned()))?;
        let given = BufReader::new(File::open(source).map_err(ArchiveError::io(source))?);
        match same(archived, given) {
            Ok(true) => {
                // It may have been linked by a process that died before it made that last.
                sync_folder(&self.dir.join(file.folder()))?;
                Ok(Put::Known)
            }
            Ok(false) => Err(ArchiveError::Conflict(file.name().to_owned())),
            Err(source) => Err(ArchiveError::Damaged { name: file.name().to_owned(), source }),
        }
    }

    /// Reads a file, uncompressed; none when it isn't there. Its checksum is checked at its end: a
    /// damaged file ends in an error.
    pub fn get(&self, file: &WalFile) -> Result<Option<impl Read + Send + use<>>, ArchiveError> {
        let path = self.path(file);
        match File::open(&path) {
            Ok(open) if open.metadata().is_ok_and(|about| about.len() == 0) => {
                // The decoder would take it for an empty file.
                let source = io::ErrorKind::UnexpectedEof.into();
                Err(ArchiveError::Damaged { name: file.name().to_owned(), source })
            }
            Ok(open) => Ok(Some(FrameDecoder::new(BufReader::new(open)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ArchiveError::Io { path, source }),
        }
    }

    /// Drops what is due by the policy, and what was left unfinished. Says what it dropped.
    pub fn prune(&self, now: Timestamp) -> Result<Vec<Dropped>, ArchiveError> {
        if !self.dir.exists() {
            return Ok(Vec::new());
        }
        let _lock = self.lock()?;
        self.remove_unfinished()?;
        self.drop_old(&self.policy()?, now, 0)
    }

    /// Sets the policy for [`Self::prune`] and for each further file.
    pub fn set_policy(&self, policy: &Policy) -> Result<(), ArchiveError> {
        let path = self.dir.join("policy.json");
        make_folder(&self.dir)?;
        if self.policy().is_ok_and(|current| current == *policy) && path.exists() {
            return Ok(());
        }
        replace(&path, policy)
    }

    /// The policy in force; the one that keeps everything when none was set.
    pub fn policy(&self) -> Result<Policy, ArchiveError> {
        Ok(read_json(&self.dir.join("policy.json"))?.unwrap_or_default())
    }

    /// What is in the archive.
    pub fn usage(&self) -> Result<Usage, ArchiveError> {
        let held = self.held()?;
        Ok(Usage { bytes: held.iter().map(|held| held.bytes).sum(), files: held.len() })
    }

    /// The last failure to archive, unless something was archived since.
    pub fn last_error(&self) -> Result<Option<LastError>, ArchiveError> {
        read_json(&self.dir.join("last_error.json"))
    }

    fn note_error(&self, file: &WalFile, message: &str, at: Timestamp) -> Result<(), ArchiveError> {
        let error = LastError { at, file: file.name().to_owned(), message: message.to_owned() };
        replace(&self.dir.join("last_error.json"), &error)
    }

    fn forget_error(&self) -> Result<(), ArchiveError> {
        let path = self.dir.join("last_error.json");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ArchiveError::io(&path)(error)),
            _ => Ok(()),
        }
    }

    /// One process at a time changes the archive.
    fn lock(&self) -> Result<File, ArchiveError> {
        let path = self.dir.join("lock");
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let file = file.map_err(ArchiveError::io(&path))?;
        let begun = clock::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(error) if error != rustix::io::Errno::WOULDBLOCK => {
                    return Err(ArchiveError::Io { path, source: error.into() });
                }
                Err(_) if clock::now().since(begun) >= HELD => {
                    return Err(ArchiveError::Held { path, after: HELD });
                }
                Err(_) => thread::sleep(LOOK),
            }
        }
    }

    fn folders(&self) -> Result<Vec<PathBuf>, ArchiveError> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(ArchiveError::io(&self.dir))?,
        };
        let mut folders = Vec::new();
        for entry in entries {
            let path = entry.map_err(ArchiveError::io(&self.dir))?.path();
            if path.is_dir() {
                folders.push(path);
            }
        }
        Ok(folders)
    }

    /// All archived files, the oldest first.
    fn held(&self) -> Result<Vec<Held>, ArchiveError> {
        let mut held = Vec::new();
        for folder in self.folders()? {
            for entry in fs::read_dir(&folder).map_err(ArchiveError::io(&folder))? {
                let entry = entry.map_err(ArchiveError::io(&folder))?;
                let name = entry.file_name();
                let Some(name) = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)) else { continue };
                let Some(file) = WalFile::parse(name) else { continue };
                let path = entry.path();
                let about = match entry.metadata() {
                    // Dropped while we look.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    about => about.map_err(ArchiveError::io(&path))?,
                };
                let since = about.modified().map_err(ArchiveError::io(&path))?;
                let since = Timestamp::try_from(since).unwrap_or(Timestamp::MIN);
                held.push(Held { file, path, bytes: about.len(), since });
            }
        }
        held.sort_by(|a, b| (a.since, a.file.name()).cmp(&(b.since, b.file.name())));
        Ok(held)
    }

    /// Drops what is due ([`due`]), so that `extra` bytes more fit.
    fn drop_old(&self, policy: &Policy, now: Timestamp, extra: u64) -> Result<Vec<Dropped>, ArchiveError> {
        drop_all(due(self.held()?, policy, self.room()?, extra, now))
    }

    /// The room of the volume.
    pub(super) fn room(&self) -> Result<Room, ArchiveError> {
        let about = statvfs(self.dir.as_path());
        let about = about.map_err(|error| ArchiveError::io(&self.dir)(error.into()))?;
        let bytes = |blocks: u64| blocks.saturating_mul(about.f_frsize);
        Ok(Room { free: bytes(about.f_bavail), size: bytes(about.f_blocks) })
    }

    /// Drops the oldest files until `bytes` are free, or nothing is left to drop: also what a recovery may need, since a file
    /// that can't be archived stays in `pg_wal`, on the same volume.
    fn free(&self, bytes: u64) -> Result<Vec<Dropped>, ArchiveError> {
        self.remove_unfinished()?;
        let held = self.held()?.into_iter().filter(|held| held.file.kind() != Kind::History).collect();
        drop_all(until(bytes, held))
    }

    fn remove_unfinished(&self) -> Result<(), ArchiveError> {
        for folder in self.folders()? {
            for entry in fs::read_dir(&folder).map_err(ArchiveError::io(&folder))? {
                let path = entry.map_err(ArchiveError::io(&folder))?.path();
                if path.to_str().is_some_and(|path| path.ends_with(UNFINISHED)) {
                    fs::remove_file(&path).map_err(ArchiveError::io(&path))?;
                }
            }
        }
        Ok(())
    }
}

/// Those of `held` that go when `bytes` have to: the oldest first.
fn until(bytes: u64, held: Vec<Held>) -> Vec<Held> {
    let mut left = bytes;
    let go = held.into_iter().take_while(|held| {
        let goes = left > 0;
        left = left.saturating_sub(held.bytes);
        goes
    });
    go.collect()
}

fn drop_all(held: Vec<Held>) -> Result<Vec<Dropped>, ArchiveError> {
    let mut dropped = Vec::new();
    for held in held {
        fs::remove_file(&held.path).map_err(ArchiveError::io(&held.path))?;
        dropped.push(Dropped { name: held.file.name().to_owned(), bytes: held.bytes });
    }
    Ok(dropped)
}

/// Compresses `source` into `target`, makes it last, and returns its length.
fn compress(source: &Path, target: &Path) -> Result<u64, ArchiveError> {
    let mut from = File::open(source).map_err(ArchiveError::io(source))?;
    let length = from.metadata().map_err(ArchiveError::io(source))?.len();
    let to = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(target);
    let to = BufWriter::new(to.map_err(ArchiveError::io(target))?);
    let frame = FrameInfo::new().content_checksum(true).content_size(Some(length));
    let mut encoder = FrameEncoder::with_frame_info(frame, to);
    io::copy(&mut from, &mut encoder).map_err(ArchiveError::io(target))?;
    let finished = encoder.finish().map_err(|error| ArchiveError::io(target)(error.into()))?;
    let file = finished.into_inner().map_err(|error| ArchiveError::io(target)(error.into_error()))?;
    file.sync_all().map_err(ArchiveError::io(target))?;
    Ok(file.metadata().map_err(ArchiveError::io(target))?.len())
}

fn same(mut a: impl Read, mut b: impl Read) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let (many, others) = (fill(&mut a, &mut left)?, fill(&mut b, &mut right)?);
        if left[..many] != right[..others] {
            return Ok(false);
        }
        if many == 0 {
            return Ok(true);
        }
    }
}

fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..])? {
            0 => break,
            more => filled += more,
        }
    }
    Ok(filled)
}

/// Makes a folder and the ones above it last.
fn make_folder(folder: &Path) -> Result<(), ArchiveError> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        make_folder(above)?;
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(ArchiveError::io(folder)(error));
            }
            _ => sync_folder(above)?,
        }
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> Result<(), ArchiveError> {
    File::open(folder).and_then(|open| open.sync_all()).map_err(ArchiveError::io(folder))
}

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>, ArchiveError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ArchiveError::io(path)(error)),
        Ok(text) => {
            let json = serde_json::from_slice(&text);
            json.map(Some).map_err(|source| ArchiveError::Json { path: path.to_path_buf(), source })
        }
    }
}

/// Replaces a small file as a whole. It needn't survive a power cut: it is written again.
fn replace<T: Serialize>(path: &Path, content: &T) -> Result<(), ArchiveError> {
    let json = |source| ArchiveError::Json { path: path.to_path_buf(), source };
    let unfinished = path.with_extension("json.new");
    fs::write(&unfinished, serde_json::to_vec(content).map_err(json)?)
        .map_err(ArchiveError::io(&unfinished))?;
    fs::rename(&unfinished, path).map_err(ArchiveError::io(path))
}
