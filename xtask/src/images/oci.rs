//! OCI image layouts as tar files, written without a daemon, in the form that containerd imports.
//!
//! Layers stay uncompressed, so that a layer's digest and its diff id are the same number and unpacking is a
//! copy. All times are zero: the same input gives the same digest.

use std::fs::File;
use std::io::{self, BufWriter, Read};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::error::{Error, OnFile, Result};
use crate::files;

const OCI: &str = "application/vnd.oci.image";

/// Where the bytes of a layer are.
pub enum Content {
    /// In a tar file.
    File(PathBuf),
    /// In memory.
    Bytes(Vec<u8>),
}

/// Whether an image's tar can stand alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// With every layer.
    Whole,
    /// Without the layers that lie in files, the Debian roots: every node of ours has them from the start, and
    /// need not read hundreds of megabytes to get a new program.
    WithoutRoot,
}

/// One layer of an image.
pub struct Layer {
    /// SHA-256 of the tar, in hexadecimal digits.
    pub digest: String,
    /// Size of the tar in bytes.
    pub size: u64,
    /// The tar itself.
    pub content: Content,
}

impl Layer {
    /// A layer that holds files at the given places, owned by root, with mode 0755.
    pub fn of_programs(files: &[(PathBuf, String)]) -> Result<Self> {
        let mut tar = Builder::new(Vec::new());
        let mut made = Vec::new();
        for (source, target) in files {
            let target = target.trim_start_matches('/');
            for (end, _) in target.match_indices('/') {
                let dir = &target[..=end];
                if !made.contains(&dir) {
                    made.push(dir);
                    append(&mut tar, source, EntryType::Directory, dir, 0, io::empty())?;
                }
            }
            let file = File::open(source).on("open", source)?;
            let size = file.metadata().on("look at", source)?.len();
            append(&mut tar, source, EntryType::Regular, target, size, file)?;
        }
        let bytes = tar.into_inner().on("finish a layer of", "memory")?;
        Ok(Self { digest: files::sha256(&bytes), size: bytes.len() as u64, content: Content::Bytes(bytes) })
    }
}

/// How a container of the image starts.
#[derive(Debug, Default, Clone)]
pub struct Config {
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Default for further arguments.
    pub command: Vec<String>,
    /// `PATH` in the container.
    pub path: Option<String>,
    /// User id; root when absent.
    pub user: Option<u32>,
}

impl Config {
    fn json(&self, layers: &[Layer]) -> Value {
        let path =
            self.path.as_deref().unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let mut run = json!({ "Env": [format!("PATH={path}")] });
        if !self.entrypoint.is_empty() {
            run["Entrypoint"] = json!(self.entrypoint);
        }
        if !self.command.is_empty() {
            run["Cmd"] = json!(self.command);
        }
        if let Some(user) = self.user {
            run["User"] = json!(user.to_string());
        }
        let diff_ids: Vec<String> = layers.iter().map(|l| format!("sha256:{}", l.digest)).collect();
        json!({
            "architecture": architecture(),
            "os": "linux",
            "config": run,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        })
    }
}

/// Go's name of this machine's architecture, which the image format uses.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The documents of an image, whose digests name it.
pub struct Documents {
    config: Vec<u8>,
    manifest: Vec<u8>,
}

impl Documents {
    /// Describes an image of these layers.
    pub fn new(config: &Config, layers: &[Layer]) -> Self {
        let config = config.json(layers).to_string().into_bytes();
        let layers: Vec<Value> =
            layers.iter().map(|l| descriptor("layer.v1.tar", &l.digest, l.size)).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": format!("{OCI}.manifest.v1+json"),
            "config": descriptor("config.v1+json", &files::sha256(&config), config.len() as u64),
            "layers": layers,
        });
        Self { config, manifest: manifest.to_string().into_bytes() }
    }

    /// The SHA-256 of the manifest: the identity of the image.
    pub fn digest(&self) -> String {
        files::sha256(&self.manifest)
    }
}

fn descriptor(kind: &str, digest: &str, size: u64) -> Value {
    json!({ "mediaType": format!("{OCI}.{kind}"), "digest": format!("sha256:{digest}"), "size": size })
}

/// Writes the image under its full name, such as `localhost/base:dev`.
pub fn write(out: &Path, name: &str, documents: &Documents, layers: &[Layer], form: Form) -> Result<()> {
    let fresh = out.with_extension("new");
    let file = File::create(&fresh).on("create", &fresh)?;
    let mut tar = Builder::new(BufWriter::with_capacity(1 << 20, file));
    let mut manifest = descriptor("manifest.v1+json", &documents.digest(), documents.manifest.len() as u64);
    manifest["annotations"] = json!({ "io.containerd.image.name": name });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string();
    let small: [(String, &[u8]); 4] = [
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#),
        ("index.json".to_owned(), index.as_bytes()),
        (blob(&documents.digest()), &documents.manifest),
        (blob(&files::sha256(&documents.config)), &documents.config),
    ];
    for (name, bytes) in small {
        append(&mut tar, &fresh, EntryType::Regular, &name, bytes.len() as u64, bytes)?;
    }
    let mut written: Vec<&str> = Vec::new();
    for layer in layers {
        if written.contains(&layer.digest.as_str()) {
            continue;
        }
        written.push(&layer.digest);
        let name = blob(&layer.digest);
        match &layer.content {
            Content::Bytes(bytes) => {
                append(&mut tar, &fresh, EntryType::Regular, &name, layer.size, bytes.as_slice())?;
            }
            Content::File(_) if form == Form::WithoutRoot => {}
            Content::File(path) => {
                let file = File::open(path).on("open", path)?;
                append(&mut tar, &fresh, EntryType::Regular, &name, layer.size, file)?;
            }
        }
    }
    tar.into_inner().and_then(|file| file.into_inner().map_err(io::Error::from)).on("finish", &fresh)?;
    std::fs::rename(&fresh, out).on("rename to", out)
}

fn blob(digest: &str) -> String {
    format!("blobs/sha256/{digest}")
}

fn append<W: io::Write>(
    tar: &mut Builder<W>,
    about: &Path,
    kind: EntryType,
    name: &str,
    size: u64,
    content: impl Read,
) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    tar.append_data(&mut header, name, content).map_err(|source| Error::File {
        action: "put into a tar",
        path: about.to_path_buf(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(dir: &Path) -> Vec<Layer> {
        let program = dir.join("program");
        files::write(&program, "#!/bin/sh\n").unwrap();
        vec![Layer::of_programs(&[(program, "/usr/local/bin/program".to_owned())]).unwrap()]
    }

    fn config() -> Config {
        Config { entrypoint: vec!["/usr/local/bin/program".into()], user: Some(65532), ..Config::default() }
    }

    #[test]
    fn the_same_input_gives_the_same_digest_wherever_and_whenever() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (one, two) = (sample(a.path()), sample(b.path()));
        assert_eq!(one[0].digest, two[0].digest);
        assert_eq!(one[0].digest, "cc5b7aaad4c6bb65e2c8405552ade484bcf9f39c612cf30a4630692c57f54d32");
        assert_eq!(Documents::new(&config(), &one).digest(), Documents::new(&config(), &two).digest());
        let other = Config { user: None, ..config() };
        assert_ne!(Documents::new(&config(), &one).digest(), Documents::new(&other, &one).digest());
    }

    #[test]
    fn every_blob_lies_under_its_own_digest_and_is_named_by_the_one_above() {
        let dir = tempfile::tempdir().unwrap();
        let layers = sample(dir.path());
        let documents = Documents::new(&config(), &layers);
        let out = dir.path().join("image.tar");
        write(&out, "localhost/sample:dev", &documents, &layers, Form::Whole).unwrap();
        let mut found = std::collections::BTreeMap::new();
        for entry in tar::Archive::new(File::open(&out).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            if let Some(digest) = name.strip_prefix("blobs/sha256/") {
                assert_eq!(digest, files::sha256(&bytes));
            }
            found.insert(name, bytes);
        }
        let blob_of = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
            assert_eq!(found[&blob(&digest)].len() as u64, descriptor["size"].as_u64().unwrap());
            found[&blob(&digest)].clone()
        };
        let index: Value = serde_json::from_slice(&found["index.json"]).unwrap();
        let named = &index["manifests"][0]["annotations"]["io.containerd.image.name"];
        assert_eq!(named, "localhost/sample:dev");
        let manifest: Value = serde_json::from_slice(&blob_of(&index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(&blob_of(&manifest["config"])).unwrap();
        assert_eq!(config["config"]["User"], "65532");
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        blob_of(&manifest["layers"][0]);
        assert_eq!(found.len(), 5);
    }

    #[test]
    fn a_layer_holds_the_folders_above_its_programs_once() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("p");
        files::write(&program, "p").unwrap();
        let files = ["/usr/bin/a", "/usr/bin/b"].map(|t| (program.clone(), t.to_owned()));
        let layer = Layer::of_programs(&files).unwrap();
        let Content::Bytes(bytes) = layer.content else { panic!("programs are packed in memory") };
        let names: Vec<String> = tar::Archive::new(bytes.as_slice())
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["usr/", "usr/bin/", "usr/bin/a", "usr/bin/b"]);
    }
}
