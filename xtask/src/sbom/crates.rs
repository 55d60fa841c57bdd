//! The crates that a program of this workspace is linked of, as cargo resolves them for the build of the images.
//!
//! By `cargo tree`: `cargo metadata` has one answer for all packages with their tests, where crates stand as used that
//! only a test makes another one use.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::error::{OnFile, Result, refused};
use crate::{cargo, paths, run};

/// One crate. Two sources never have the same: deny.toml allows one alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// What is known of a crate.
#[derive(Debug, Default)]
pub struct Known {
    /// Its licences, as an SPDX expression; empty when it names none.
    pub licence: String,
    /// The SHA-256 of its published package; `None` for crates of this workspace.
    pub sum: Option<String>,
    /// The crates that it uses.
    pub uses: BTreeSet<Crate>,
}

/// Crates, and which of the others each of them uses.
pub type Graph = BTreeMap<Crate, Known>;

/// What is linked: build scripts, macros and tests run elsewhere. A line has the depth, licence and package.
const LINKED: [&str; 9] = [
    "--locked",
    "--color",
    "never",
    "--edges",
    "normal,no-proc-macro",
    "--prefix",
    "depth",
    "--format",
    "\t{l}\t{p}",
];

/// The crate of a program, and all that it is linked of, itself among them.
pub fn of(program: &str) -> Result<(Crate, Graph)> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut tree = cargo::command("tree");
    // The selection of the build, so that its features are those of the program.
    tree.args(cargo::SELECTION).args(LINKED).args(["--target", &target]);
    let all = read(&run::captured(&mut tree)?)?;
    let (root, mut graph) = reached(all, program)?;
    let lock = paths::checkout().join("Cargo.lock");
    let mut sums = sums(&fs::read_to_string(&lock).on("read", &lock)?);
    for (found, known) in &mut graph {
        known.sum = sums.remove(found);
    }
    Ok((root, graph))
}

/// The trees of all packages as one graph. A crate that cargo has shown before stands there without what it uses.
fn read(trees: &str) -> Result<Graph> {
    let mut all = Graph::new();
    let mut above: Vec<Crate> = Vec::new();
    for line in trees.lines().filter(|line| !line.is_empty()) {
        let Some((depth, licence, found)) = parse(line) else {
            return refused(format!("cargo tree says what isn't understood: {line}"));
        };
        above.truncate(depth);
        if let Some(user) = above.last().and_then(|user| all.get_mut(user)) {
            user.uses.insert(found.clone());
        }
        all.entry(found.clone()).or_default().licence = licence;
        above.push(found);
    }
    Ok(all)
}

fn parse(line: &str) -> Option<(usize, String, Crate)> {
    let mut parts = line.split('\t');
    let (depth, licence, package) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
    let mut words = package.split_whitespace();
    let (name, version) = (words.next()?.to_owned(), words.next()?.strip_prefix('v')?.to_owned());
    Some((depth, expression(licence), Crate { name, version }))
}

/// Crates of old have a slash for OR.
fn expression(licence: &str) -> String {
    licence.split('/').map(str::trim).collect::<Vec<_>>().join(" OR ")
}

/// The package of this name, and what is reached from it.
fn reached(mut all: Graph, program: &str) -> Result<(Crate, Graph)> {
    let Some(root) = all.keys().find(|found| found.name == program).cloned() else {
        return refused(format!("cargo tree shows no package {program}"));
    };
    let mut graph = Graph::new();
    let mut left = vec![root.clone()];
    while let Some(next) = left.pop() {
        if let Some(known) = all.remove(&next) {
            left.extend(known.uses.iter().cloned());
            graph.insert(next, known);
        }
    }
    Ok((root, graph))
}

/// The checksums of Cargo.lock.
fn sums(lock: &str) -> BTreeMap<Crate, String> {
    let of_package = |package: &str| {
        let field = |name: &str| {
            let value = package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""));
            value.map(|value| value.trim_end_matches('"').to_owned())
        };
        Some((Crate { name: field("name")?, version: field("version")? }, field("checksum")?))
    };
    lock.split("[[package]]").filter_map(of_package).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As cargo prints it: two packages, and crates that aren't shown twice.
    const TREES: &str = "0\tApache-2.0\tdrivers v0.1.0 (/w/drivers)\n1\tMIT\tbytes v1.0.0\n\
        1\tMIT/Apache-2.0\tfutures v0.3.0\n2\tMIT\tslab v0.4.0\n1\tMIT\ttempfile v3.0.0\n\n\
        0\tApache-2.0\toperator v0.1.0 (/w)\n1\tMIT/Apache-2.0\tfutures v0.3.0 (*)\n\
        1\tISC\trand v0.9.0\n2\tMIT\tbytes v1.0.0\n1\tISC\trand v0.10.0\n";

    fn found(name: &str, version: &str) -> Crate {
        Crate { name: name.to_owned(), version: version.to_owned() }
    }

    #[test]
    fn a_program_has_what_is_reached_from_it_and_nothing_else() {
        let (root, graph) = reached(read(TREES).unwrap(), "operator").unwrap();
        assert_eq!(root, found("operator", "0.1.0"));
        let shown = |found: &Crate| format!("{} {}", found.name, found.version);
        let names: Vec<String> = graph.keys().map(shown).collect();
        assert_eq!(
            names,
            ["bytes 1.0.0", "futures 0.3.0", "operator 0.1.0", "rand 0.10.0", "rand 0.9.0", "slab 0.4.0"]
        );
        let uses = |found: &Crate| graph[found].uses.iter().map(shown).collect::<Vec<_>>();
        assert_eq!(uses(&root), ["futures 0.3.0", "rand 0.10.0", "rand 0.9.0"]);
        assert_eq!(uses(&found("futures", "0.3.0")), ["slab 0.4.0"]);
        assert_eq!(graph[&found("futures", "0.3.0")].licence, "MIT OR Apache-2.0");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(read("├── bytes v1.0.0\n").unwrap_err().to_string().contains("├── bytes"));
        assert!(reached(read(TREES).unwrap(), "nothing").unwrap_err().to_string().contains("nothing"));
    }

    #[test]
    fn checksums_are_those_of_published_crates() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nchecksum = \"aa11\"\n\
            dependencies = [\n \"b\",\n]\n\n[[package]]\nname = \"b\"\nversion = \"2.0.0\"\n";
        let sums = sums(lock);
        assert_eq!(sums.len(), 1);
        assert_eq!(sums[&found("a", "1.0.0")], "aa11");
    }

    /// Cargo's own answer for this checkout.
    #[test]
    fn the_operator_is_linked_of_published_crates_and_of_none_that_only_builds_or_tests() {
        let (root, graph) = of("pgpool-operator").unwrap();
        let has = |name: &str| graph.keys().any(|found| found.name == name);
        assert!(["kube", "ring", "rustls", "tokio", "tokio-postgres"].into_iter().all(has));
        let absent = ["cc", "clap_derive", "insta", "proptest", "stateright", "syn", "tempfile", "xtask"];
        assert_eq!(absent.into_iter().find(|name| has(name)), None);
        for (found, known) in &graph {
            assert!(!known.licence.is_empty(), "{found:?} has no licence");
            assert_eq!(known.sum.is_none(), *found == root, "checksum of {found:?}");
        }
    }
}
