//! `pgpool-operator restore-wal --name %f --to %p`: PostgreSQL's `restore_command`. A file that is
//! nowhere is exit code 1, and so is any failure: PostgreSQL then goes on with what it has, and asks
//! again (documentation, "Recovering Using a Continuous Archive Backup").
use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{ArchiveError, Kind, Store, WalFile};
use crate::{
    link::{Client, Identity},
    names,
};

/// Silence after which another node is given up.
const ANSWER: Duration = Duration::from_millis(1500);
/// Smallest and greatest segment that PostgreSQL can be made with, in bytes.
const SEGMENT: std::ops::RangeInclusive<u64> = (1 << 20)..=(1 << 30);

/// What PostgreSQL says, and which node this is.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The file that is wanted (%f).
    #[arg(long)]
    pub name: String,
    /// Where to put it, relative to the data directory (%p).
    #[arg(long)]
    pub to: PathBuf,
    /// This node's own archive.
    #[arg(long, default_value = "/var/lib/pgpool/archive")]
    pub archive: PathBuf,
    /// The timelines of the pool's history; without the file WAL of any is taken.
    #[arg(long, default_value = "/var/lib/pgpool/conf/lineage.json")]
    pub lineage: PathBuf,
    /// Name of the pool.
    #[arg(long, env = "PGPOOL_POOL")]
    pub pool: String,
    /// Its namespace.
    #[arg(long, env = "PGPOOL_NAMESPACE")]
    pub namespace: String,
    /// Index of this node.
    #[arg(long, env = "PGPOOL_INDEX")]
    pub index: u8,
    /// How many nodes the pool has, as the node's agent heard last.
    #[arg(long, default_value = "/var/lib/pgpool/conf/nodes.json")]
    pub count: PathBuf,
    /// How many it had when the pod was started: of use until its agent has heard.
    #[arg(long, env = "PGPOOL_NODES", value_parser = clap::value_parser!(u8).range(1..=15))]
    pub nodes: u8,
}

/// Fetches one file: from this node's archive, else from any other's.
pub async fn run(args: Args) -> Result<(), ArchiveError> {
    let client = || Ok(Client::new(Identity::load(Path::new(names::TLS_DIR))?));
    fetch(&args, client).await
}

pub(super) async fn fetch(
    args: &Args,
    client: impl FnOnce() -> Result<Client, ArchiveError>,
) -> Result<(), ArchiveError> {
    let file = WalFile::parse(&args.name).ok_or_else(|| ArchiveError::Name(args.name.clone()))?;
    if !super::lineage::admits(&args.lineage, &file) {
        return Err(ArchiveError::Missing { name: args.name.clone(), unheard: 0, others: 0 });
    }
    let unfinished = beside(&args.to);
    let found = match local(&Store::new(&args.archive), &file, &unfinished) {
        Ok(true) => Ok(()),
        Ok(false) => remote(args, &file, &unfinished, client).await,
        Err(error) => {
            tracing::warn!(%error, "this node's own archive can't give the file");
            remote(args, &file, &unfinished, client).await
        }
    };
    match found {
        Ok(()) => fs::rename(&unfinished, &args.to).map_err(ArchiveError::io(&args.to)),
        Err(error) => {
            fs::remove_file(&unfinished).ok();
            Err(error)
        }
    }
}

/// PostgreSQL must never find half a file under the name that it asked for.
fn beside(to: &Path) -> PathBuf {
    let mut name = OsString::from(to);
    name.push(".unfinished");
    PathBuf::from(name)
}

fn local(store: &Store, file: &WalFile, to: &Path) -> Result<bool, ArchiveError> {
    let Some(mut from) = store.get(file)? else { return Ok(false) };
    let mut into = File::create(to).map_err(ArchiveError::io(to))?;
    io::copy(&mut from, &mut into)
        .map_err(|source| ArchiveError::Damaged { name: file.name().to_owned(), source })?;
    Ok(true)
}

async fn remote(
    args: &Args,
    file: &WalFile,
    to: &Path,
    client: impl FnOnce() -> Result<Client, ArchiveError>,
) -> Result<(), ArchiveError> {
    let nodes = super::count::nodes(&args.count, args.nodes);
    let others: Vec<u8> = (0..nodes).filter(|index| *index != args.index).collect();
    let mut unheard = 0;
    if !others.is_empty() {
        let client = client()?;
        let domain = names::domain(&args.pool, &args.namespace);
        let path = format!("/v1/wal/{}", file.name());
        for index in &others {
            let host = names::node_host(&args.pool, *index, &domain);
            let mut into = tokio::fs::File::create(to).await.map_err(ArchiveError::io(to))?;
            match client.download(&host, names::AGENT_PORT, &path, ANSWER, &mut into).await {
                Ok(length) if whole(file, length) => {
                    tracing::info!(host, name = file.name(), "WAL from another node's archive");
                    return Ok(());
                }
                Ok(length) => {
                    tracing::warn!(host, name = file.name(), length, "not a whole WAL segment: left alone");
                    unheard += 1;
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    tracing::info!(%error, "a node can't be asked for WAL");
                    unheard += 1;
                }
            }
        }
    }
    Err(ArchiveError::Missing { name: file.name().to_owned(), unheard, others: others.len() })
}

fn whole(file: &WalFile, length: u64) -> bool {
    match file.kind() {
        Kind::Segment | Kind::Partial => SEGMENT.contains(&length) && length.is_power_of_two(),
        Kind::Backup | Kind::History => length > 0,
    }
}
