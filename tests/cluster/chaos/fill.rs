//! A volume that has no room left, and how it gets it back.
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgpool_operator::names;

use super::draw::{Fault, Role, Round};
use super::make::Cast;
use crate::harness::{Failure, Outcome, ensure};
use crate::world::{POOL, SPACE, World, call_within};
use crate::{faults, machines};

/// MiB of the largest file system that is ever filled: a larger one is a disk that others use.
const LARGEST: u32 = 4096;
/// What takes all the room of a volume, beside the data: all files of the volume that begin so.
const FILLER: &str = "filler";
/// Where volumes are on a machine's disk.
const VOLUMES: &str = "opt/local-path-provisioner";
/// Ends segment after segment of WAL, until PostgreSQL has none left that it could write again.
const NEEDING_WAL: &str = "for i in $(seq 20); do timeout 10 psql -XAtqd postgres -c \
    \"SELECT pg_logical_emit_message(false, 'chaos', 'x'), pg_switch_wal()\" || exit 1; done";
/// Longest time for that.
const NEEDS_WAL: Duration = Duration::from_secs(60);

/// A volume to fill, looked up while everything answers.
pub struct Fill {
    node: u8,
    primary: u8,
    /// The volume as the host sees it.
    folder: PathBuf,
    /// Whether the primary is lost, or handed over, by this or by another fault of the round.
    primary_is_hit: bool,
}

impl Fill {
    /// The volume of this node.
    pub async fn of(world: &World, node: u8, round: &Round, cast: &Cast) -> Outcome<Self> {
        let (_, volume) = faults::claim(world, node).await?;
        ensure(!volume.is_empty(), || format!("the claim of node {node} has no volume"))?;
        let primary_is_hit = round.faults.iter().any(Fault::hits_primary);
        Ok(Self { node, primary: cast.node(Role::Primary), folder: folder(&volume)?, primary_is_hit })
    }

    /// Fills it, and makes the primary need more room: segments of WAL that are there already would do for minutes.
    pub async fn make(&self, world: &World) -> Outcome {
        world.shell(self.node, &filling()).await?;
        let pod = names::node_pod(POOL, self.primary);
        let words = ["-n", SPACE, "exec", &pod, "-c", "postgres", "--", "sh", "-c", NEEDING_WAL];
        let needed = call_within(NEEDS_WAL, "kubectl", &words, None).await;
        if self.primary_is_hit { Ok(()) } else { needed.map(drop) }
    }

    /// Makes room again, from the host: the node's pod may be away, as long as there is none. A volume that was replaced
    /// meanwhile is gone with all that was on it.
    pub fn free(&self) -> Outcome {
        if !self.folder.exists() {
            return Ok(());
        }
        for file in fs::read_dir(&self.folder)? {
            let file = file?;
            if file.file_name().to_string_lossy().starts_with(FILLER) {
                fs::remove_file(file.path())?;
            }
        }
        Ok(())
    }
}

/// The folder of a volume, on the disk of whichever machine has it. Its name begins with the volume's.
fn folder(volume: &str) -> Outcome<PathBuf> {
    let disks = std::env::var_os("PGPOOL_DISKS");
    let disks =
        disks.ok_or_else(|| Failure("PGPOOL_DISKS isn't set: `cargo xtask chaos` does it".to_owned()))?;
    let below = |machine| fs::read_dir(Path::new(&disks).join(machine).join(VOLUMES));
    let mut all =
        machines::MACHINES.into_iter().filter_map(|machine| below(machine).ok()).flatten().flatten();
    let own = all.find(|entry| entry.file_name().to_string_lossy().starts_with(volume));
    own.map(|entry| entry.path())
        .ok_or_else(|| Failure(format!("no machine below {} has the volume {volume}", disks.display())))
}

/// Takes all the room that a volume has left, if that is a file system of a size of its own, and fails where some is left.
/// The first program takes it at once, the second one what is left over; something may be removed meanwhile.
fn filling() -> String {
    format!(
        "set -e; cd {}; size=$(df --output=size -BM . | tail -n 1 | tr -dc 0-9); \
         [ \"$size\" -le {LARGEST} ] || {{ \
         echo \"this volume has $size MiB and is no file system of its own: cargo xtask chaos makes such\" >&2; exit 1; }}; \
         fallocate -l ${{size}}M {FILLER} 2>/dev/null || true; \
         for i in $(seq 5); do dd if=/dev/zero of={FILLER}.$i bs=4096 2>/dev/null || true; \
         left=$(df --output=avail -BK . | tail -n 1 | tr -dc 0-9); \
         if [ \"$left\" -lt 1024 ]; then exit 0; fi; done; \
         echo \"$left KiB are left on a volume that was filled\" >&2; exit 1",
        names::VOLUME_DIR
    )
}
