//! A file system of its own for the volumes of a node, so that a full volume fills nothing else.
//!
//! It is mounted in the host's own mount namespace before the machine starts, which takes it along: so it outlives a
//! power cut, as a disk does. It goes with the disks of the cluster.

use std::fs::{self, File};
use std::path::Path;

use super::layout::{Cluster, Machine};
use crate::error::{OnFile, Result};
use crate::{files, host, run};

/// Where the volumes of a machine are, on its disk (manifests/volumes.yaml).
const FOLDER: &str = "opt/local-path-provisioner";
/// The file that holds them.
const FILE: &str = "volumes.img";

/// Makes and mounts the file system of a machine whose disk is there; it has so many MiB, and takes of the host's disk
/// what is written to it.
pub fn make(cluster: &Cluster, machine: Machine, size: u32) -> Result<()> {
    host::need_programs(&[("mkfs.ext4", "e2fsprogs"), ("mount", "mount")])?;
    let disk = cluster.disk(machine);
    let (file, folder) = (disk.join(FILE), disk.join(FOLDER));
    let bytes = u64::from(size) << 20;
    File::create(&file).and_then(|made| made.set_len(bytes)).on("create", &file)?;
    // No blocks are set aside for root: pods are not root.
    run::captured(run::command("mkfs.ext4", ["-q", "-m", "0"]).arg(&file))?;
    files::make_dir(&folder)?;
    run::captured(run::command("mount", ["-o", "loop"]).arg(&file).arg(&folder)).map(drop)
}

/// MiB of the file system on a machine's disk; none where its volumes are folders of that disk.
pub fn size(disk: &Path) -> Option<u64> {
    fs::metadata(disk.join(FILE)).ok().map(|file| file.len() >> 20)
}

/// Whether a mount of the host is that of another machine: whoever took it along without need would hold its file system.
/// One that the disk itself lies on is none.
pub fn is_of_another(target: &Path, own: &Path) -> bool {
    target.starts_with(Cluster::all_disks()) && !target.starts_with(own) && !own.starts_with(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_where_the_cluster_makes_them() {
        let manifest = include_str!("../../manifests/volumes.yaml");
        assert!(manifest.contains(&format!("\"paths\": [\"/{FOLDER}\"]")));
    }

    #[test]
    fn a_machine_keeps_its_own_file_system_alone() {
        let (one, other) = (Cluster::named("one").unwrap(), Cluster::named("other").unwrap());
        let folder = |cluster: &Cluster, machine| cluster.disk(machine).join(FOLDER);
        let own = one.disk(Machine::Node(1));
        assert!(!is_of_another(&folder(&one, Machine::Node(1)), &own));
        assert!(is_of_another(&folder(&one, Machine::Node(2)), &own));
        assert!(is_of_another(&folder(&other, Machine::Node(1)), &own));
        assert!(!is_of_another(Path::new("/var/lib"), &own));
    }

    #[test]
    fn a_file_system_that_the_disk_lies_on_is_kept() {
        let (one, other) = (Cluster::named("one").unwrap(), Cluster::named("other").unwrap());
        let own = one.disk(Machine::Node(1));
        for below in [Cluster::all_disks(), one.disks(), own.clone()] {
            assert!(!is_of_another(&below, &own), "{}", below.display());
        }
        assert!(is_of_another(&other.disks(), &own));
    }

    #[test]
    fn a_disk_tells_how_large_its_file_system_of_volumes_is() {
        let disk = tempfile::tempdir().unwrap();
        assert_eq!(size(disk.path()), None);
        File::create(disk.path().join(FILE)).and_then(|made| made.set_len(1536 << 20)).unwrap();
        assert_eq!(size(disk.path()), Some(1536));
    }
}
