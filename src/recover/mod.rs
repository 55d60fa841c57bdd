//! `pgpool-operator recover`, the recovery Job's stage 1: streams a copy of the donor's data into the
//! node's volume, beside the old data, and puts it in its place.
//!
//! It can be killed at any moment and started again (see [`journal`]). It says how it went in its
//! termination message: [`Outcome`].
mod backup;
mod error;
pub mod journal;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock, statvfs};
use serde::{Deserialize, Serialize};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

pub use self::error::RecoverError;
use self::{
    backup::{Ended, Progress, Source},
    journal::{Journal, Step, Volume},
};
use crate::{
    clock::{self, Moment},
    membership::starting::NodeFile,
    names::{self, PoolArgs},
    postgres::programs::Programs,
};

/// How long the node's agent may still hold the volume: its grace period and some more.
const HELD: Duration = Duration::from_secs(120);
/// Between two looks at the lock; a wait that can be given up isn't offered by flock(2).
const LOOK: Duration = Duration::from_millis(250);
/// The donor's estimate is exceeded by the WAL that is written meanwhile: a tenth more must be free.
const MARGIN: u64 = 10;
/// Where Kubernetes reads a container's last words; at most 4096 bytes of them.
const TERMINATION_LOG: &str = "/dev/termination-log";
/// Characters of an error that are kept for it.
const LAST_WORDS: usize = 2000;

/// What the Job is told.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The pool.
    #[command(flatten)]
    pub of: PoolArgs,
    /// Index of the node that is recovered.
    #[arg(long, env = "PGPOOL_INDEX")]
    pub index: u8,
    /// Index of the node that is copied.
    #[arg(long, env = "PGPOOL_DONOR")]
    pub donor: u8,
    /// Id of the recovery.
    #[arg(long, env = "PGPOOL_RECOVERY")]
    pub recovery: String,
    /// Id of the copy that is made.
    #[arg(long, env = "PGPOOL_INCARNATION")]
    pub incarnation: String,
    /// Epoch of the record when the recovery was ordered.
    #[arg(long, env = "PGPOOL_EPOCH")]
    pub epoch: i64,
    /// Limit in KiB a second.
    #[arg(long, env = "PGPOOL_MAX_RATE")]
    pub max_rate: Option<u32>,
    /// Whether the old data may be deleted where there is no room for both.
    #[arg(long, env = "PGPOOL_MAY_DESTROY", default_value_t = false, action = clap::ArgAction::Set)]
    pub may_destroy: bool,
}

/// The Job's termination message.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// How it went, for people.
    pub message: String,
    /// Bytes copied.
    pub bytes: u64,
    /// Seconds that this run took.
    pub seconds: u64,
    /// True when it failed only because the old data may not be deleted.
    pub needs_destroy: bool,
}

/// Everything that isn't on the volume.
struct Setting {
    source: Source,
    controldata: PathBuf,
    major: u32,
    /// How long the volume's lock is waited for.
    held: Duration,
}

/// Recovers the node; the outcome is also written for Kubernetes.
pub async fn run(args: Args) -> Result<(), RecoverError> {
    let begun = clock::now();
    let done = prepared(&args).await;
    let outcome = match &done {
        Ok(journal) => outcome(begun, "copied", journal.bytes, false),
        Err(error) => outcome(begun, &error.to_string(), 0, error.needs_destroy()),
    };
    report(&outcome);
    done.map(drop)
}

async fn prepared(args: &Args) -> Result<Journal, RecoverError> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(RecoverError::io(Path::new("SIGTERM")))?;
    let stopper = stop.clone();
    tokio::spawn(async move {
        terminate.recv().await;
        stopper.cancel();
    });
    let programs = Programs::find().await?;
    let tls = Path::new(names::RUN_DIR).join("recovery-tls");
    private_copy(Path::new(names::TLS_DIR), &tls)?;
    let setting = Setting {
        source: Source {
            program: programs.path("pg_basebackup"),
            host: names::node_host(
                &args.of.pool,
                args.donor,
                &names::domain(&args.of.pool, &args.of.namespace),
            ),
            port: names::POSTGRES_PORT,
            tls,
            application: names::recovery_job(&args.of.pool, args.index, &args.recovery),
            max_rate: args.max_rate,
        },
        controldata: programs.path("pg_controldata"),
        major: programs.major,
        held: HELD,
    };
    recover(args, &setting, &Volume::new(Path::new(names::VOLUME_DIR)), &stop).await
}

/// Goes from whatever is on the volume to the end.
async fn recover(
    args: &Args,
    setting: &Setting,
    volume: &Volume,
    stop: &CancellationToken,
) -> Result<Journal, RecoverError> {
    if args.donor == args.index {
        return Err(RecoverError::Order(format!("node {} can't be copied from itself", args.index)));
    }
    let _lock = lock(volume, setting.held, stop).await?;
    let mut journal = volume.begin(&args.recovery, &args.incarnation)?;
    if journal.step == Step::Copying {
        let bytes = copy(args, setting, volume, &mut journal, stop).await?;
        check(setting, &volume.new_data()).await?;
        let node = NodeFile {
            pool_uid: args.of.uid.clone(),
            index: args.index,
            incarnation: args.incarnation.clone(),
            epoch: args.epoch,
            taken_up: None,
        };
        volume.finish(&mut journal, &node, bytes)?;
    }
    if journal.step == Step::Copied {
        volume.forget_other_pool(&journal, &args.of.uid)?;
        volume.swap(&mut journal)?;
    }
    tracing::info!(bytes = journal.bytes, incarnation = args.incarnation, "the node has a new copy");
    Ok(journal)
}

/// The volume belongs to one process at a time: the agent, or this.
async fn lock(volume: &Volume, held: Duration, stop: &CancellationToken) -> Result<File, RecoverError> {
    let path = volume.root().join("lock");
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
    let file = file.map_err(RecoverError::io(&path))?;
    let begun = clock::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(error) if error != rustix::io::Errno::WOULDBLOCK => {
                return Err(RecoverError::io(&path)(error.into()));
            }
            Err(_) if clock::now().since(begun) >= held => {
                return Err(RecoverError::Held { path, after: held });
            }
            Err(_) => tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => return Err(RecoverError::Stopped),
            },
        }
    }
}

/// Why a copy is given up while it runs.
enum GiveUp {
    Room { wanted: u64 },
    Tablespaces(u32),
}

/// Copies into `pgdata.new`; makes room for it where that is allowed. Returns the bytes that came.
async fn copy(
    args: &Args,
    setting: &Setting,
    volume: &Volume,
    journal: &mut Journal,
    stop: &CancellationToken,
) -> Result<u64, RecoverError> {
    loop {
        // The donor's estimate is in the first line of progress, when almost nothing has come yet.
        let mut total = None;
        let watch = |progress: Progress| {
            if progress.tablespaces > 0 {
                return Some(GiveUp::Tablespaces(progress.tablespaces));
            }
            if total.replace(progress.total).is_some() {
                return None;
            }
            let wanted = with_margin(progress.total).saturating_sub(progress.bytes);
            tracing::info!(total = progress.total, "the copy has begun");
            (free(volume).is_ok_and(|free| free < wanted)).then_some(GiveUp::Room { wanted })
        };
        let ended = setting.source.copy(&volume.new_data(), stop, watch).await;
        if let Ok(Ended::Whole(bytes)) = ended {
            return Ok(bytes);
        }
        // Half a copy is of no use to anybody and takes the old data's room.
        volume.clear()?;
        match ended {
            Ok(Ended::Given(GiveUp::Tablespaces(many))) => {
                return Err(RecoverError::Tablespaces(many.to_string()));
            }
            Ok(Ended::Given(GiveUp::Room { wanted })) => make_room(args, volume, journal, wanted)?,
            Err(RecoverError::Copy { said, .. }) if said.contains("No space left on device") => {
                make_room(args, volume, journal, with_margin(total.unwrap_or(0)))?;
            }
            Err(error) => return Err(error),
            Ok(Ended::Whole(bytes)) => return Ok(bytes),
        }
    }
}

fn with_margin(total: u64) -> u64 {
    total.saturating_add(total / MARGIN)
}

/// Deletes old data, if it may and there is some.
fn make_room(args: &Args, volume: &Volume, journal: &mut Journal, wanted: u64) -> Result<(), RecoverError> {
    let free = free(volume)?;
    if volume.has_old() && !args.may_destroy {
        return Err(RecoverError::NoRoom { free, wanted });
    }
    volume.forget_other_pool(journal, &args.of.uid)?;
    match volume.destroy_one(journal)? {
        Some(folder) => {
            tracing::warn!(folder = %folder.display(), free, wanted, "old data was deleted for want of room");
            Ok(())
        }
        None => Err(RecoverError::TooSmall { free, wanted }),
    }
}

fn free(volume: &Volume) -> Result<u64, RecoverError> {
    let about = statvfs(volume.root()).map_err(|error| RecoverError::io(volume.root())(error.into()))?;
    Ok(about.f_bavail.saturating_mul(about.f_frsize))
}

/// Looks whether what came is a data directory of the right version that a standby can start from.
async fn check(setting: &Setting, data: &Path) -> Result<(), RecoverError> {
    let wrong = |reason: String| RecoverError::Result { donor: setting.source.host.clone(), reason };
    let path = data.join("PG_VERSION");
    let version = fs::read_to_string(&path).map_err(RecoverError::io(&path))?;
    if version.trim() != setting.major.to_string() {
        let (theirs, ours) = (version.trim(), setting.major);
        return Err(wrong(format!("it is of PostgreSQL {theirs}, the image has {ours}")));
    }
    let label = data.join("backup_label");
    if !fs::read_to_string(&label).map_err(RecoverError::io(&label))?.contains("CHECKPOINT LOCATION") {
        return Err(wrong("its backup_label names no checkpoint".into()));
    }
    let spaces = data.join("pg_tblspc");
    if let Some(space) = fs::read_dir(&spaces).map_err(RecoverError::io(&spaces))?.next() {
        let name = space.map_err(RecoverError::io(&spaces))?.file_name();
        return Err(RecoverError::Tablespaces(name.to_string_lossy().into_owned()));
    }
    let control = Command::new(&setting.controldata).arg("-D").arg(data).env("LC_ALL", "C").output().await;
    let control = control.map_err(RecoverError::io(&setting.controldata))?;
    let text = String::from_utf8_lossy(&control.stdout);
    let identifier = text
        .lines()
        .find_map(|line| line.strip_prefix("Database system identifier:"))
        .and_then(|identifier| identifier.trim().parse::<u64>().ok());
    match identifier {
        Some(identifier) if control.status.success() && identifier != 0 => {
            tracing::info!(identifier, "the copy is whole");
            Ok(())
        }
        _ => Err(wrong(format!(
            "its control file can't be read: {}",
            String::from_utf8_lossy(&control.stderr)
        ))),
    }
}

/// libpq refuses a key that others may read, which a Secret with an fsGroup is.
fn private_copy(from: &Path, to: &Path) -> Result<(), RecoverError> {
    fs::create_dir_all(to).map_err(RecoverError::io(to))?;
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        let (source, target) = (from.join(name), to.join(name));
        let content = fs::read(&source).map_err(RecoverError::io(&source))?;
        // Made anew: the mode counts only for a new file.
        match fs::remove_file(&target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(RecoverError::io(&target)(error));
            }
            _ => {}
        }
        let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&target);
        file.and_then(|mut file| file.write_all(&content)).map_err(RecoverError::io(&target))?;
    }
    Ok(())
}

fn outcome(begun: Moment, message: &str, bytes: u64, needs_destroy: bool) -> Outcome {
    let message = message.chars().take(LAST_WORDS).collect();
    Outcome { message, bytes, seconds: clock::now().since(begun).as_secs(), needs_destroy }
}

fn report(outcome: &Outcome) {
    let text = serde_json::to_string(outcome).unwrap_or_default();
    if let Err(error) = fs::write(TERMINATION_LOG, &text) {
        tracing::warn!(%error, text, "the termination message can't be written");
    }
}
