//! Root file systems of Debian images, made by mmdebstrap and kept as one layer each.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use tar::Archive;

use super::oci::{Content, Layer};
use crate::error::{OnFile, Result, refused};
use crate::files::{self, Hasher};
use crate::progress::step;
use crate::{paths, run};

/// Nothing reads these in a container. The locale C.UTF-8 lies elsewhere and stays.
const LEFT_OUT: [&str; 5] = [
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/lintian/*",
];
/// Debian creates a database when it installs PostgreSQL; an image must not carry one.
const NO_DATABASE: &str = r#"rm -rf "$1"/var/lib/postgresql/*/main "$1"/etc/postgresql/*/main"#;

/// Where dpkg keeps what it knows of the packages in a root.
const STATUS: &str = "var/lib/dpkg/status";

/// What a root file system is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root {
    /// Its name in the cache.
    pub name: &'static str,
    /// The Debian release.
    pub suite: &'static str,
    /// Packages on top of `minbase`.
    pub packages: &'static [&'static str],
}

impl Root {
    fn options(&self) -> Vec<String> {
        let mut options = vec!["--variant=minbase".to_owned(), "--quiet".to_owned()];
        options.push(format!("--include={}", self.packages.join(",")));
        options.extend(LEFT_OUT.iter().map(|path| format!("--dpkgopt=path-exclude={path}")));
        options.push(format!("--customize-hook={NO_DATABASE}"));
        options
    }

    fn key(&self) -> String {
        self.options().iter().fold(Hasher::default().part(self.suite), Hasher::part).key()
    }

    /// The layer, from the cache if it was made before.
    pub fn layer(&self) -> Result<Layer> {
        let dir = paths::cache("roots")?;
        let _lock = paths::lock(&dir)?;
        let tar = self.tar(&dir);
        let sum = tar.with_extension("sha256");
        if !sum.exists() {
            step(&format!("file system {} ({} {})", self.name, self.suite, self.packages.join(" ")), || {
                self.make(&tar)?;
                let (digest, size) = files::sha256_of(&tar)?;
                files::write(&sum, format!("{digest} {size}\n"))
            })?;
        }
        let text = fs::read_to_string(&sum).on("read", &sum)?;
        let Some((digest, size)) = parse(&text) else {
            return refused(format!("{} is damaged: remove it", sum.display()));
        };
        Ok(Layer { digest, size, content: Content::File(tar) })
    }

    /// What dpkg says of the packages in it; `None` while the layer isn't in the cache.
    pub fn dpkg_status(&self) -> Result<Option<String>> {
        let tar = self.tar(&paths::cache("roots")?);
        if tar.with_extension("sha256").exists() { text_in(&tar, STATUS) } else { Ok(None) }
    }

    fn tar(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{}-{}.tar", self.name, self.key()))
    }

    fn make(&self, tar: &Path) -> Result<()> {
        let fresh = tar.with_extension("new.tar");
        let mut make = run::command("mmdebstrap", self.options());
        make.arg(self.suite).arg(&fresh).arg(mirror()?);
        // Times in the tar are cut to this one, so that the same packages give the same digest.
        run::captured(make.env("SOURCE_DATE_EPOCH", "1735689600").env("LC_ALL", "C"))?;
        fs::rename(&fresh, tar).on("rename to", tar)
    }
}

/// A text file out of a tar; `None` when there is none.
fn text_in(tar: &Path, name: &str) -> Result<Option<String>> {
    let mut archive = Archive::new(fs::File::open(tar).on("open", tar)?);
    for entry in archive.entries_with_seek().on("read", tar)? {
        let mut entry = entry.on("read", tar)?;
        if entry.path().on("read", tar)?.ends_with(name) {
            let mut text = String::new();
            entry.read_to_string(&mut text).on("read", tar)?;
            return Ok(Some(text));
        }
    }
    Ok(None)
}

fn parse(text: &str) -> Option<(String, u64)> {
    let (digest, size) = text.trim().split_once(' ')?;
    Some((digest.to_owned(), size.parse().ok()?))
}

/// The Debian mirror that apt uses here.
pub fn mirror() -> Result<String> {
    let sites = run::captured(&mut run::command("apt-get", ["indextargets", "--format", "$(SITE)"]))?;
    match choose(&sites) {
        Some(site) => Ok(site.to_owned()),
        None => refused("apt knows no Debian mirror here: run apt-get update"),
    }
}

fn choose(sites: &str) -> Option<&str> {
    sites.lines().map(str::trim).find(|site| site.contains("://") && !site.contains("security"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_never_the_one_for_security_updates() {
        assert_eq!(choose("http://a/debian-security\nhttp://a/debian\n"), Some("http://a/debian"));
        assert_eq!(choose("\n"), None);
    }

    #[test]
    fn the_list_of_packages_is_read_out_of_a_root() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("root.tar");
        let mut builder = tar::Builder::new(fs::File::create(&file).unwrap());
        for (name, text) in [("./var/lib/dpkg/status-old", "old"), ("./var/lib/dpkg/status", "new")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            builder.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap();
        assert_eq!(text_in(&file, STATUS).unwrap().as_deref(), Some("new"));
        assert_eq!(text_in(&file, "etc/nothing").unwrap(), None);
    }

    #[test]
    fn packages_and_release_make_the_key() {
        let root = Root { name: "a", suite: "trixie", packages: &["x", "y"] };
        assert_eq!(root.key(), Root { name: "b", ..root }.key());
        assert_ne!(root.key(), Root { suite: "bookworm", ..root }.key());
        assert_ne!(root.key(), Root { packages: &["x"], ..root }.key());
    }
}
