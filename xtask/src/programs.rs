//! The Go programs of the embedded cluster, built once for each version of their sources.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{OnFile, Result, refused};
use crate::files::{self, Hasher};
use crate::progress::step;
use crate::{host, paths, run};

/// The release that the cluster's programs say they are.
pub const KUBERNETES: &str = "v1.34.4";

/// One program: its name and the Go package it is built from.
struct Program {
    name: &'static str,
    package: &'static str,
}

/// All of them. Packages beginning with `./` are ours; the others are built as they are.
const PROGRAMS: [Program; 8] = [
    Program { name: "etcd", package: "./etcd" },
    Program { name: "kube", package: "./kube" },
    Program { name: "coredns", package: "./coredns" },
    Program { name: "netpol", package: "./netpol" },
    Program { name: "netq", package: "./netq" },
    Program { name: "pause", package: "./pause" },
    Program { name: "local-path-provisioner", package: "github.com/rancher/local-path-provisioner" },
    Program { name: "helm", package: "helm.sh/helm/v3/cmd/helm" },
];

/// The programs, ready to run.
pub struct Programs {
    ready: Vec<(&'static str, PathBuf)>,
}

impl Programs {
    /// Builds what is not in the cache.
    pub fn build() -> Result<Self> {
        let sources = paths::checkout().join("xtask/go");
        let bin = paths::cache("bin")?;
        let _lock = paths::lock(&bin)?;
        let mut ready = Vec::new();
        for program in &PROGRAMS {
            let path = bin.join(format!("{}-{}", program.name, key(&sources, program)?));
            if !path.exists() {
                host::need_go()?;
                step(&format!("build {}", program.name), || go_build(&sources, program, &path))?;
            }
            ready.push((program.name, path));
        }
        Ok(Self { ready })
    }

    /// The file of one program.
    pub fn path(&self, name: &str) -> Result<&Path> {
        match self.ready.iter().find(|(n, _)| *n == name) {
            Some((_, path)) => Ok(path),
            None => refused(format!("there is no program {name}")),
        }
    }

    /// Name and file of all programs.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        self.ready.iter().map(|(name, path)| (*name, path.as_path()))
    }
}

/// Without a version the parts call themselves v0.0.0-master, and charts with `kubeVersion` refuse them; helm
/// renders for a cluster of version 1.20 where it sees none.
fn link_flags(program: &Program) -> String {
    let mut parts = KUBERNETES.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if program.name == "helm" {
        let version = "-X helm.sh/helm/v3/pkg/chartutil";
        return format!("-s -w {version}.k8sVersionMajor={major} {version}.k8sVersionMinor={minor}");
    }
    let version = "-X k8s.io/component-base/version";
    format!("-s -w {version}.gitVersion={KUBERNETES} {version}.gitMajor={major} {version}.gitMinor={minor}")
}

fn key(sources: &Path, program: &Program) -> Result<String> {
    let mut hasher = Hasher::default()
        .part(std::env::consts::ARCH)
        .part(program.package)
        .part(link_flags(program))
        .file(&sources.join("go.mod"))?
        .file(&sources.join("go.sum"))?;
    if program.package.starts_with("./") {
        let tests = |file: &PathBuf| file.to_string_lossy().ends_with("_test.go");
        for file in files::walk(&sources.join(program.package))?.into_iter().filter(|f| !tests(f)) {
            hasher = hasher.file(&file)?;
        }
    }
    Ok(hasher.key())
}

/// The tests of our own Go programs.
pub fn go_test() -> Command {
    // Built like the programs, so that their packages are compiled once; `vet` would compile all of them anew.
    let mut go = run::command("go", ["test", "-trimpath", "-vet=off", "./netpol"]);
    go.current_dir(paths::checkout().join("xtask/go")).env("CGO_ENABLED", "0");
    go
}

fn go_build(sources: &Path, program: &Program, path: &Path) -> Result<()> {
    let fresh = path.with_extension("new");
    // Without cgo the programs are static: they run on any base, and in images without one.
    let mut go = run::command("go", ["build", "-trimpath", "-buildvcs=false", "-ldflags"]);
    go.arg(link_flags(program)).arg("-o").arg(&fresh).arg(program.package);
    run::captured(go.current_dir(sources).env("CGO_ENABLED", "0"))?;
    fs::rename(&fresh, path).on("rename to", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_reaches_the_linker_in_all_three_places() {
        let flags = |name| link_flags(&Program { name, package: "" });
        assert!(flags("kube").contains("gitVersion=v1.34.4 "), "{}", flags("kube"));
        assert!(flags("kube").contains(".gitMajor=1 ") && flags("kube").ends_with(".gitMinor=34"));
        assert!(
            flags("helm").contains("k8sVersionMajor=1 ") && flags("helm").ends_with("k8sVersionMinor=34")
        );
    }

    #[test]
    fn a_key_follows_the_sources_of_its_own_program_alone() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["go.mod", "go.sum", "etcd/main.go", "netq/main.go"] {
            files::write(&dir.path().join(file), file).unwrap();
        }
        let program = |package| Program { name: "x", package };
        let keys = || ["./etcd", "./netq"].map(|p| key(dir.path(), &program(p)).unwrap());
        let before = keys();
        files::write(&dir.path().join("netq/main.go"), "changed").unwrap();
        let after = keys();
        assert_eq!(before[0], after[0]);
        assert_ne!(before[1], after[1]);
    }
}
