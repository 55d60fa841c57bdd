//! `pgpool-operator archive-wal --path %p --name %f`: PostgreSQL's `archive_command`. Any failure is exit
//! code 1: PostgreSQL keeps the file and tries again (documentation, "Setting Up WAL Archiving").
use std::path::PathBuf;

use super::{ArchiveError, Put, Store, WalFile};
use crate::clock;

/// How much less of the processor it wants than the servers.
const BACKGROUND: i32 = 10;

/// What PostgreSQL says.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The file, relative to the data directory (%p).
    #[arg(long)]
    pub path: PathBuf,
    /// Its name (%f).
    #[arg(long)]
    pub name: String,
    /// The archive.
    #[arg(long, default_value = "/var/lib/pgpool/archive")]
    pub archive: PathBuf,
}

/// Archives one file.
pub async fn run(args: Args) -> Result<(), ArchiveError> {
    // Whoever commits comes first: a file that waits is still in pg_wal.
    rustix::process::nice(BACKGROUND).ok();
    // Nothing else happens in this process, so nothing is held up by waiting for the disk here.
    let file = WalFile::parse(&args.name).ok_or_else(|| ArchiveError::Name(args.name.clone()))?;
    let put = Store::new(&args.archive).put(&args.path, &file, clock::timestamp())?;
    if let Put::Stored(dropped) = put {
        for dropped in dropped {
            tracing::info!(file = dropped.name, bytes = dropped.bytes, "dropped from the WAL archive");
        }
    }
    Ok(())
}
