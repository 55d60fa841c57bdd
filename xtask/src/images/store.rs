//! The image store that every node starts with, and loading into nodes that run.
//!
//! A private containerd imports the cluster's images once. Each node gets the folder as hard links (real copies
//! of the databases alone): containerd only ever adds blobs and layers, so the nodes share one set of blocks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use super::Image;
use crate::error::{Error, OnFile, Result, refused};
use crate::files::{self, Hasher};
use crate::progress::until;
use crate::{paths, run};

/// How long a private containerd may take to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// Snapshotters that want a kernel module or a file system of their own.
pub const UNUSED_PLUGINS: &str = r#""io.containerd.snapshotter.v1.btrfs","io.containerd.snapshotter.v1.zfs","io.containerd.snapshotter.v1.aufs","io.containerd.snapshotter.v1.devmapper""#;

/// A folder that can become a node's `/var/lib/containerd`.
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// Makes the store of exactly these images, unless the cache has it.
    pub fn prepare(images: &[Image]) -> Result<Self> {
        let stores = paths::cache("stores")?;
        let _lock = paths::lock(&stores)?;
        let key = images.iter().fold(Hasher::default(), |h, i| h.part(&i.name).part(&i.digest)).key();
        let dir = stores.join(&key);
        if dir.exists() {
            return Ok(Self { dir });
        }
        prune(&stores)?;
        let fresh = stores.join(format!("{key}.new"));
        let private = Private::start(&fresh)?;
        for image in images {
            import(&private.socket, image)?;
        }
        private.stop()?;
        fs::rename(&fresh, &dir).on("rename to", &dir)?;
        Ok(Self { dir })
    }

    /// Puts a copy at `target`, which must not exist.
    pub fn copy_to(&self, target: &Path) -> Result<()> {
        let copy = |how: &str| {
            let mut cp = run::command("cp", ["-a", how]);
            run::captured(cp.arg(&self.dir).arg(target))
        };
        if copy("--link").is_err() {
            // Another file system.
            if target.exists() {
                fs::remove_dir_all(target).on("remove", target)?;
            }
            copy("--sparse=auto")?;
        }
        // The only files that are written in place.
        for database in DATABASES {
            let path = target.join(database);
            let fresh = path.with_extension("fresh");
            fs::copy(&path, &fresh).on("copy", &path)?;
            fs::rename(&fresh, &path).on("rename to", &path)?;
        }
        Ok(())
    }
}

const DATABASES: [&str; 2] =
    ["io.containerd.metadata.v1.bolt/meta.db", "io.containerd.snapshotter.v1.overlayfs/metadata.db"];

/// Removes what a killed command left, and all stores but the newest: nodes hold links of their own, and another
/// command may be copying that one.
fn prune(stores: &Path) -> Result<()> {
    let mut whole = Vec::new();
    for entry in fs::read_dir(stores).on("list", stores)? {
        let path = entry.on("list", stores)?.path();
        if path.is_dir() && path.extension().is_some() {
            fs::remove_dir_all(&path).on("remove", &path)?;
        } else if path.is_dir() {
            let made = fs::metadata(&path).and_then(|m| m.modified()).on("look at", &path)?;
            whole.push((made, path));
        }
    }
    whole.sort();
    whole.pop();
    whole.iter().try_for_each(|(_, path)| fs::remove_dir_all(path).on("remove", path))
}

/// A containerd that serves us alone.
struct Private {
    child: Child,
    socket: PathBuf,
    state: PathBuf,
}

impl Private {
    fn start(root: &Path) -> Result<Self> {
        let state = root.with_extension("state");
        files::make_dir(root)?;
        files::make_dir(&state)?;
        let socket = state.join("socket");
        let (root, at) = (root.display(), state.display());
        let config = format!(
            "version = 2\nroot = \"{root}\"\nstate = \"{at}/state\"\ndisabled_plugins = \
             [\"io.containerd.grpc.v1.cri\",{UNUSED_PLUGINS}]\n[grpc]\n  address = \"{at}/socket\"\n[ttrpc]\n  \
             address = \"{at}/socket.ttrpc\"\n[plugins.\"io.containerd.internal.v1.opt\"]\n  \
             path = \"{at}/opt\"\n"
        );
        files::write(&state.join("config.toml"), config)?;
        let log = state.join("log");
        let log = fs::File::create(&log).on("create", &log)?;
        // It must not outlive us, should we be killed.
        let mut containerd = run::command(
            "setpriv",
            ["--pdeathsig", "KILL", "--", "containerd", "--log-level", "warn", "--config"],
        );
        containerd.arg(state.join("config.toml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = containerd.spawn();
        let child = child.map_err(|source| Error::Start { command: run::shown(&containerd), source })?;
        let private = Self { child, socket, state };
        until("an answer of the private containerd", ANSWER, || {
            let answer = run::output(ctr(&private.socket).arg("version"))?;
            Ok(if answer.status.success() { Ok(()) } else { Err("no answer".to_owned()) })
        })?;
        Ok(private)
    }

    /// Ends it in good order, so that its databases are whole.
    fn stop(mut self) -> Result<()> {
        if let Some(pid) = pid_of(&self.child) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)
                .on("end containerd of", &self.state)?;
        }
        self.child.wait().on("wait for containerd of", &self.state).map(drop)
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // After `stop` this does nothing; after an error it must leave neither process nor folder, and has
        // nobody to report to.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.state);
    }
}

fn pid_of(child: &Child) -> Option<rustix::process::Pid> {
    i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw)
}

fn ctr(socket: &Path) -> std::process::Command {
    let mut ctr = run::command("ctr", ["--namespace", "k8s.io", "--address"]);
    ctr.arg(socket);
    ctr
}

fn import(socket: &Path, image: &Image) -> Result<()> {
    run::captured(ctr(socket).args(["images", "import"]).arg(&image.tar)).map(drop)
}

/// Which digest a containerd has under each name: the lines of `ctr images list`.
fn present(listing: &str, image: &Image) -> bool {
    listing.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some(&image.name) && words.any(|w| w == format!("sha256:{}", image.digest))
    })
}

/// Imports into the nodes behind these sockets what they lack, all nodes at once. Gives the number of imports.
pub fn load(sockets: &[PathBuf], images: &[Image]) -> Result<usize> {
    let one = |socket: &PathBuf| -> Result<usize> {
        let listing = run::captured(ctr(socket).args(["images", "list"]))?;
        let lacking: Vec<&Image> = images.iter().filter(|i| !present(&listing, i)).collect();
        lacking.iter().try_for_each(|image| import(socket, image))?;
        Ok(lacking.len())
    };
    thread::scope(|scope| {
        let loads: Vec<_> = sockets.iter().map(|socket| scope.spawn(move || one(socket))).collect();
        let mut count = 0;
        for load in loads {
            count += load.join().unwrap_or_else(|_| refused("loading images was broken off"))?;
        }
        Ok(count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_store_stays_and_halves_go() {
        let dir = tempfile::tempdir().unwrap();
        for (age, name) in ["a", "b", "c.new", "c.state"].iter().enumerate() {
            let path = dir.path().join(name);
            files::write(&path.join("x"), "").unwrap();
            let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(age as u64);
            fs::File::open(&path).unwrap().set_modified(time).unwrap();
        }
        prune(dir.path()).unwrap();
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["b"]);
    }

    #[test]
    fn an_image_is_present_under_its_name_with_its_digest_only() {
        let listing = "REF TYPE DIGEST SIZE\nlocalhost/a:dev application/x sha256:aa11 1 MiB linux/amd64 -\n";
        let image = |name: &str, digest: &str| Image {
            name: name.into(),
            digest: digest.into(),
            tar: PathBuf::new(),
        };
        assert!(present(listing, &image("localhost/a:dev", "aa11")));
        assert!(!present(listing, &image("localhost/a:dev", "bb22")));
        assert!(!present(listing, &image("localhost/b:dev", "aa11")));
    }
}
