//! The folders under /sys/fs/cgroup in which kubelets put their pods.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{OnFile, Result};
use crate::files;
use crate::progress::until;

const ROOT: &str = "/sys/fs/cgroup";
/// How long the kernel may take to let go of an ended process.
const RELEASE: Duration = Duration::from_secs(10);

/// The roots of all hierarchies: one folder a controller in version 1, a single one in version 2.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        return Ok(vec![root.to_path_buf()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(root).on("list", root)? {
        let path = entry.on("list", root)?.path();
        // Links are second names of the same hierarchy.
        if path.is_dir() && !path.is_symlink() {
            found.push(path);
        }
    }
    Ok(found)
}

/// Makes a group in every hierarchy.
pub fn create(group: &str) -> Result<()> {
    for root in hierarchies()? {
        if root.join("cgroup.controllers").exists() {
            delegate(&root, group)?;
        }
        files::make_dir(&root.join(group))?;
    }
    Ok(())
}

/// Version 2 gives a group only the controllers that each group above hands down.
fn delegate(root: &Path, group: &str) -> Result<()> {
    let available = root.join("cgroup.controllers");
    let available = fs::read_to_string(&available).on("read", &available)?;
    let mut dir = root.to_path_buf();
    for part in group.split('/') {
        let control = dir.join("cgroup.subtree_control");
        for controller in available.split_whitespace() {
            // Some cannot be handed down; kubelet names those that it misses.
            let _ = fs::write(&control, format!("+{controller}"));
        }
        dir = dir.join(part);
        files::make_dir(&dir)?;
    }
    Ok(())
}

/// Removes a group and all below it from every hierarchy; its processes must have ended.
pub fn remove(group: &str) -> Result<()> {
    for root in hierarchies()? {
        let dir = root.join(group);
        until(&format!("the removal of cgroup {}", dir.display()), RELEASE, || {
            Ok(remove_tree(&dir).map_err(|e| e.to_string()))
        })?;
    }
    Ok(())
}

/// Removes a group from every hierarchy if nothing is below it.
pub fn remove_if_empty(group: &str) -> Result<()> {
    for root in hierarchies()? {
        // Fails where another cluster still has groups, as it should.
        let _ = fs::remove_dir(root.join(group));
    }
    Ok(())
}

/// The files of a group cannot be removed and go with it: only folders are.
fn remove_tree(dir: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}
