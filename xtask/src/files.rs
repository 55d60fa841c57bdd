//! Small file helpers whose errors name the file, and digests.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{OnFile, Result};

/// Creates a folder with its parents.
pub fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).on("create", path)
}

/// Removes a folder with all that is in it.
pub fn remove_dir(path: &Path) -> Result<()> {
    fs::remove_dir_all(path).on("remove", path)
}

/// Writes a file and the folders above it.
pub fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    if let Some(parent) = path.parent() {
        make_dir(parent)?;
    }
    fs::write(path, content).on("write", path)
}

/// Writes a file that only its owner may read.
pub fn write_private(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    write(path, "")?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).on("protect", path)?;
    fs::write(path, content).on("write", path)
}

/// Reads a text file; `None` when there is none.
pub fn read_optional(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).on("read", path),
    }
}

/// Gives a file a second name in another place, or copies it where the file systems differ.
pub fn link_or_copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        make_dir(parent)?;
    }
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    fs::copy(from, to).on("copy to", to).map(drop)
}

/// All regular files below a folder, in a fixed order.
pub fn walk(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).on("list", &dir)? {
            let path = entry.on("list", &dir)?.path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The lower-case hexadecimal SHA-256 of what is added to it.
#[derive(Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Adds a part with its length, so that parts cannot run into each other.
    pub fn part(mut self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// Adds the content of a file.
    pub fn file(self, path: &Path) -> Result<Self> {
        Ok(self.part(fs::read(path).on("read", path)?))
    }

    /// Sixteen digits: enough for the name of a cache entry.
    pub fn key(self) -> String {
        hex(&self.0.finalize())[..16].to_owned()
    }
}

/// The full SHA-256 of a file in hexadecimal digits, and its size in bytes.
pub fn sha256_of(path: &Path) -> Result<(String, u64)> {
    let mut file = fs::File::open(path).on("open", path)?;
    let mut hash = Sha256::new();
    let mut size = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).on("read", path)?;
        if count == 0 {
            return Ok((hex(&hash.finalize()), size));
        }
        hash.update(&buffer[..count]);
        size += count as u64;
    }
}

/// The SHA-256 of bytes in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [b >> 4, b & 15])
        .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        let key = |parts: &[&str]| parts.iter().fold(Hasher::default(), Hasher::part).key();
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
    }

    #[test]
    fn a_digest_is_the_one_that_everybody_else_computes() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), expected);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        write(&file, "abc").unwrap();
        assert_eq!(sha256_of(&file).unwrap(), (expected.to_owned(), 3));
    }

    #[test]
    fn a_walk_finds_nested_files_in_a_fixed_order() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b/x", "a", "b/c/y"] {
            write(&dir.path().join(name), "").unwrap();
        }
        let names: Vec<_> = walk(dir.path())
            .unwrap()
            .iter()
            .map(|p| p.strip_prefix(dir.path()).unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["a", "b/c/y", "b/x"]);
    }
}
