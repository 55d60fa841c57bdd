//! The Go programs of the embedded cluster and of its tests, built once for each version of their sources.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{OnFile, Result, refused};
use crate::files::{self, Hasher};
use crate::progress::step;
use crate::{host, paths, run};

/// The release that the cluster's programs say they are.
pub const KUBERNETES: &str = "v1.34.4";

/// The Go module of the cluster's programs, in the checkout.
const CLUSTER: &str = "xtask/go";
/// The Go module of the checker of histories: one of its own, since each change of a module's requirements builds all of
/// its programs anew.
const CHECKER: &str = "xtask/linearizable";
/// The Go module of Prometheus, which takes minutes to build and which one step of the cluster test needs.
const WATCHER: &str = "xtask/prometheus";

/// One program: its name, and the Go package of a module that it is built from.
struct Program {
    name: &'static str,
    module: &'static str,
    package: &'static str,
    /// Build tags, separated by commas.
    tags: &'static str,
}

/// All of them. Packages beginning with `./` are ours; the others are built as they are.
const PROGRAMS: [Program; 9] = [
    of_the_cluster("etcd", "./etcd"),
    of_the_cluster("kube", "./kube"),
    of_the_cluster("coredns", "./coredns"),
    of_the_cluster("netpol", "./netpol"),
    of_the_cluster("netq", "./netq"),
    of_the_cluster("pause", "./pause"),
    of_the_cluster("local-path-provisioner", "github.com/rancher/local-path-provisioner"),
    of_the_cluster("helm", "helm.sh/helm/v3/cmd/helm"),
    Program { name: LINEARIZABLE, module: CHECKER, package: "./", tags: "" },
];

/// Distributions' packages may know no pods. Of all that finds targets, only what finds pods.
const PROMETHEUS: Program = Program {
    name: "prometheus",
    module: WATCHER,
    package: "github.com/prometheus/prometheus/cmd/prometheus",
    tags: "remove_all_sd,enable_kubernetes_sd",
};

/// The checker of histories.
pub const LINEARIZABLE: &str = "linearizable";

const fn of_the_cluster(name: &'static str, package: &'static str) -> Program {
    Program { name, module: CLUSTER, package, tags: "" }
}

/// The programs, ready to run.
pub struct Programs {
    ready: Vec<(&'static str, PathBuf)>,
}

impl Programs {
    /// Builds what is not in the cache.
    pub fn build() -> Result<Self> {
        let ready = PROGRAMS.iter().map(|program| Ok((program.name, built(program)?)));
        let ready = ready.collect::<Result<_>>()?;
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

/// Prometheus, ready to run: the file.
pub fn prometheus() -> Result<PathBuf> {
    built(&PROMETHEUS)
}

/// Builds a program if it is not in the cache; gives its file.
fn built(program: &Program) -> Result<PathBuf> {
    let bin = paths::cache("bin")?;
    let _lock = paths::lock(&bin)?;
    let sources = paths::checkout().join(program.module);
    let path = bin.join(format!("{}-{}", program.name, key(&sources, program)?));
    if !path.exists() {
        host::need_go()?;
        step(&format!("build {}", program.name), || go_build(&sources, program, &path))?;
    }
    Ok(path)
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
        .part(program.tags)
        .part(link_flags(program))
        .file(&sources.join("go.mod"))?
        .file(&sources.join("go.sum"))?;
    if program.package.starts_with("./") {
        let built = |file: &PathBuf| {
            file.extension().is_some_and(|e| e == "go") && !file.to_string_lossy().ends_with("_test.go")
        };
        for file in files::walk(&sources.join(program.package))?.into_iter().filter(built) {
            hasher = hasher.file(&file)?;
        }
    }
    Ok(hasher.key())
}

/// The tests of our own Go programs.
pub fn go_test() -> [Command; 2] {
    // Built like the programs, so that their packages are compiled once; `vet` would compile all of them anew.
    [(CLUSTER, "./netpol"), (CHECKER, "./...")].map(|(module, package)| {
        let mut go = run::command("go", ["test", "-trimpath", "-vet=off", package]);
        go.current_dir(paths::checkout().join(module)).env("CGO_ENABLED", "0");
        go
    })
}

fn go_build(sources: &Path, program: &Program, path: &Path) -> Result<()> {
    let fresh = path.with_extension("new");
    // Without cgo the programs are static: they run on any base, and in images without one.
    let mut go =
        run::command("go", ["build", "-trimpath", "-buildvcs=false", "-tags", program.tags, "-ldflags"]);
    go.arg(link_flags(program)).arg("-o").arg(&fresh).arg(program.package);
    run::captured(go.current_dir(sources).env("CGO_ENABLED", "0"))?;
    fs::rename(&fresh, path).on("rename to", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_reaches_the_linker_in_all_three_places() {
        let flags = |name| link_flags(&of_the_cluster(name, ""));
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
        let keys = || ["./etcd", "./netq"].map(|p| key(dir.path(), &of_the_cluster("x", p)).unwrap());
        let before = keys();
        files::write(&dir.path().join("netq/main.go"), "changed").unwrap();
        let after = keys();
        assert_eq!(before[0], after[0]);
        assert_ne!(before[1], after[1]);
    }
}
