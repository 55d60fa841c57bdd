//! The recipes of all images.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::Image;
use super::oci::{self, Config, Documents, Form, Layer};
use super::root::Root;
use crate::error::{OnFile, Result, refused};
use crate::files;
use crate::programs::Programs;
use crate::run;

const BASE: Root = Root { name: "base", suite: "trixie", packages: &["ca-certificates"] };
const POSTGRES_17: Root =
    Root { name: "postgres-17", suite: "trixie", packages: &["ca-certificates", "postgresql-17"] };
const POSTGRES_15: Root =
    Root { name: "postgres-15", suite: "bookworm", packages: &["ca-certificates", "postgresql-15"] };
const POOLERS: Root =
    Root { name: "poolers", suite: "trixie", packages: &["ca-certificates", "pgbouncer", "pgpool2"] };

/// The user id of the operator's own containers.
const NOBODY: u32 = 65532;
/// Tars of one image that are kept: the newest, and one that another command may be reading.
const KEPT: usize = 2;

/// Where an image's program comes from.
enum From {
    /// A Go program of the cluster.
    Go,
    /// A Rust program: of this checkout, unless the recipe says otherwise.
    Cargo,
}

/// How one image is made.
pub struct Recipe {
    registry: &'static str,
    name: &'static str,
    tag: &'static str,
    root: Option<Root>,
    program: Option<(From, &'static str, &'static str)>,
    path: Option<&'static str>,
    user: Option<u32>,
    /// Appended to the program, which runs as before: the loader reads no further than the sections say (elf(5)).
    mark: Option<&'static str>,
}

const PLAIN: Recipe = Recipe {
    registry: "localhost",
    name: "",
    tag: "dev",
    root: None,
    program: None,
    path: None,
    user: None,
    mark: None,
};

/// See [`super::of_the_cluster`].
pub const CLUSTER: [Recipe; 7] = [
    Recipe { name: "pause", program: Some((From::Go, "pause", "/pause")), ..PLAIN },
    Recipe { name: "coredns", program: Some((From::Go, "coredns", "/coredns")), ..PLAIN },
    Recipe {
        name: "local-path-provisioner",
        program: Some((From::Go, "local-path-provisioner", "/local-path-provisioner")),
        ..PLAIN
    },
    Recipe { name: "base", root: Some(BASE), ..PLAIN },
    Recipe {
        name: "postgres",
        tag: "17",
        root: Some(POSTGRES_17),
        path: Some("/usr/lib/postgresql/17/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ..PLAIN
    },
    Recipe {
        name: "postgres",
        tag: "15",
        root: Some(POSTGRES_15),
        path: Some("/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ..PLAIN
    },
    // What `postgres:17`, the default of `spec.image`, is short for: a manifest that names no image works here too.
    Recipe {
        registry: "docker.io/library",
        name: "postgres",
        tag: "17",
        root: Some(POSTGRES_17),
        path: Some("/usr/lib/postgresql/17/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ..PLAIN
    },
];

/// See [`super::parts_of_the_operator`].
pub const OPERATOR: Recipe = Recipe {
    name: "pgpool-operator",
    root: Some(BASE),
    program: Some((From::Cargo, "pgpool-operator", "/usr/local/bin/pgpool-operator")),
    user: Some(NOBODY),
    ..PLAIN
};

/// See [`super::of_the_checkout`].
pub const CHECKOUT: [Recipe; 2] = [
    OPERATOR,
    Recipe {
        name: "pgpool-workload",
        root: Some(POSTGRES_17),
        program: Some((From::Cargo, "pgpool-workload", "/usr/local/bin/pgpool-workload")),
        path: CLUSTER[4].path,
        ..PLAIN
    },
];

/// See [`super::of_the_next_release`].
pub const NEXT: Recipe = Recipe { tag: "next", mark: Some("the next release"), ..OPERATOR };

/// See [`super::of_the_first_release`].
pub const FIRST: Recipe = Recipe { tag: "first", ..OPERATOR };

/// See [`super::of_the_peers`].
pub const PEERS: Recipe = Recipe { name: "poolers", root: Some(POOLERS), ..PLAIN };

impl Recipe {
    /// The root file system, the program by its name, and its place, where there are both.
    pub fn parts(&self) -> Option<(Root, &'static str, &'static str)> {
        let (_, program, place) = self.program.as_ref()?;
        Some((self.root?, *program, *place))
    }

    /// Builds an image that needs no Rust program.
    pub fn build(&self, dir: &Path, programs: &Programs) -> Result<Image> {
        self.build_from(dir, programs, &[], Form::Whole)
    }

    /// Builds the image unless its tar is there already; `built` are the Rust programs.
    pub fn build_from(
        &self,
        dir: &Path,
        programs: &Programs,
        built: &[(String, PathBuf)],
        form: Form,
    ) -> Result<Image> {
        let mut layers = Vec::new();
        if let Some(root) = &self.root {
            layers.push(root.layer()?);
        }
        let mut config = Config { path: self.path.map(Into::into), user: self.user, ..Config::default() };
        if let Some((from, program, target)) = &self.program {
            let source = match from {
                From::Go => programs.path(program)?.to_path_buf(),
                From::Cargo => stripped(dir, program, built)?,
            };
            let source = match self.mark {
                Some(mark) => marked(&source, mark)?,
                None => source,
            };
            layers.push(Layer::of_programs(&[(source, (*target).to_owned())])?);
            config.entrypoint = vec![(*target).to_owned()];
        } else {
            config.command = vec!["bash".to_owned()];
        }
        let documents = Documents::new(&config, &layers);
        let digest = documents.digest();
        let file = format!("{}-{}-{}", self.registry.replace('/', "."), self.name, self.tag);
        let prefix = match form {
            Form::Whole => format!("{file}-"),
            Form::WithoutRoot => format!("{file}-without-root-"),
        };
        let tar = dir.join(format!("{prefix}{digest:.16}.tar"));
        let name = format!("{}/{}:{}", self.registry, self.name, self.tag);
        if !tar.exists() {
            oci::write(&tar, &name, &documents, &layers, form)?;
            prune(dir, &prefix)?;
        }
        Ok(Image { name, digest, tar })
    }
}

/// Removes all but the newest tars of one image.
fn prune(dir: &Path, prefix: &str) -> Result<()> {
    let mut tars = Vec::new();
    for path in files::walk(dir)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // What follows is a digest: else the prefix of one form would take in the other form.
        let digest = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(".tar"));
        if path.parent() == Some(dir) && digest.is_some_and(|d| !d.contains('-')) {
            let made = fs::metadata(&path).and_then(|m| m.modified()).on("look at", &path)?;
            tars.push((made, path));
        }
    }
    tars.sort();
    for (_, path) in tars.iter().rev().skip(KEPT) {
        fs::remove_file(path).on("remove", path)?;
    }
    Ok(())
}

/// A copy of a program without its debug information, which is most of it; symbols stay for backtraces.
fn stripped(dir: &Path, program: &str, built: &[(String, PathBuf)]) -> Result<PathBuf> {
    let Some((_, source)) = built.iter().find(|(name, _)| name == program) else {
        return refused(format!("cargo built no program named {program}"));
    };
    let target = dir.join("programs").join(program);
    files::make_dir(&dir.join("programs"))?;
    let mut strip = run::command("strip", ["--strip-debug", "-o"]);
    run::captured(strip.arg(&target).arg(source))?;
    Ok(target)
}

/// A copy of a program that differs in its bytes, and in nothing else.
fn marked(program: &Path, mark: &str) -> Result<PathBuf> {
    let target = program.with_extension("marked");
    fs::copy(program, &target).on("copy", program)?;
    let append = |mut file: fs::File| file.write_all(mark.as_bytes());
    fs::File::options().append(true).open(&target).and_then(append).on("append to", &target)?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marked_program_has_other_bytes_and_runs_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let marked = marked(&program, "the next release").unwrap();
        let (before, after) = (fs::read(&program).unwrap(), fs::read(&marked).unwrap());
        assert!(after.starts_with(&before) && after.ends_with(b"the next release"));
        // Copied by another process: one that is open for writing in any child of this one can't be run.
        let script = "cp \"$1\" \"$1.copy\" && \"$1.copy\" --list";
        let mut runs = run::command("sh", ["-c", script, "sh"]);
        assert!(run::captured(runs.arg(&marked)).unwrap().contains("a_marked_program_has_other_bytes"));
    }

    #[test]
    fn only_old_tars_of_the_same_image_go() {
        let dir = tempfile::tempdir().unwrap();
        for (age, name) in
            ["base-dev-1.tar", "base-dev-2.tar", "base-dev-3.tar", "base-dev-x-1.tar", "other-dev-1.tar"]
                .iter()
                .enumerate()
        {
            let path = dir.path().join(name);
            files::write(&path, "").unwrap();
            let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(age as u64);
            fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        }
        prune(dir.path(), "base-dev-").unwrap();
        let left: Vec<_> = files::walk(dir.path()).unwrap();
        let names: Vec<_> = left.iter().map(|p| p.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["base-dev-2.tar", "base-dev-3.tar", "base-dev-x-1.tar", "other-dev-1.tar"]);
    }
}
