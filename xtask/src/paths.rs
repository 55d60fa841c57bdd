//! Where things are: the checkout, the cache outside of it, and the lock on each.

use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::{OnFile, Result, refused};
use crate::files;

/// The folder of the whole checkout.
pub fn checkout() -> PathBuf {
    let here = env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    let here = Path::new(&here);
    // Under `cargo test` of another package the variable is that package's folder.
    if here.ends_with("xtask") { here.parent().unwrap_or(here).to_path_buf() } else { own_checkout() }
}

fn own_checkout() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// A folder of the cache, which outlives checkouts: `$PGPOOL_CACHE`, `$XDG_CACHE_HOME` or `~/.cache`, and in
/// it `pgpool-operator/KIND`.
pub fn cache(kind: &str) -> Result<PathBuf> {
    let base = ["PGPOOL_CACHE", "XDG_CACHE_HOME"].into_iter().find_map(env::var_os).map(PathBuf::from);
    let base = base.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    let Some(base) = base else {
        return refused("no place for the cache: set PGPOOL_CACHE or HOME");
    };
    let dir = base.join("pgpool-operator").join(kind);
    files::make_dir(&dir)?;
    Ok(dir)
}

/// Waits until no other command works in this folder, and keeps the others out until dropped.
pub fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(".lock");
    let file = File::create(&path).on("create", &path)?;
    file.lock().on("lock", &path)?;
    Ok(file)
}
