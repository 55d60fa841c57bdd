//! The direction of the dependencies between the modules of src/, and the size of files.
//!
//! Reads `use` lines and paths; a new module has to be given its place in [`MAY_USE`].
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it finds the unexpected")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Most lines of a file.
const LINES: usize = 500;

/// Which modules a module may use. Everybody may use itself; the program's main.rs and lib.rs use all.
const MAY_USE: &[(&str, &str)] = &[
    // Leaves.
    ("clock", ""),
    ("names", ""),
    ("messages", "names"),
    ("api", ""),
    ("pki", ""),
    ("telemetry", "clock names"),
    ("crds", "api"),
    ("postgres", "clock messages names"),
    ("link", "clock messages names pki"),
    ("membership", "api clock messages"),
    // The operator: api <- model <- config <- resources <- plan <- observe, apply <- controller.
    ("config", "api names postgres"),
    ("model", "api messages names"),
    ("resources", "api config messages model names"),
    ("plan", "api clock config messages model names resources"),
    ("observe", "api clock config link messages model names pki plan postgres resources telemetry"),
    ("apply", "api clock config link messages model names observe pki plan postgres resources telemetry"),
    ("controller", "api apply clock config link messages model names observe pki plan resources telemetry"),
    // The parts that run in a pool's pods never see the operator's own modules.
    ("archive", "clock link messages names postgres telemetry"),
    ("proxy", "clock link messages names postgres telemetry"),
    ("agent", "api archive clock config link membership messages names postgres telemetry"),
    ("recover", "agent api archive clock config link membership messages names postgres telemetry"),
];

/// Modules that decide and so never ask for the time: it is given to them.
const PURE: [&str; 6] = ["api", "config", "membership", "model", "plan", "resources"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// The path of a file's module from the crate's root: `plan/recovery/mod.rs` is `[plan, recovery]`.
fn module(file: &Path) -> Vec<String> {
    let inner = file.strip_prefix(root().join("src")).unwrap().with_extension("");
    let mut parts: Vec<String> = inner.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

/// The text without comments and without the tests at its end.
fn code(text: &str) -> String {
    let body = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    body.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The names that stand first in what follows `crate::`: one, or those of a group.
fn heads(after: &str) -> Vec<String> {
    let Some(group) = after.strip_prefix('{') else {
        return Vec::from([name(after)]);
    };
    let (mut depth, mut parts, mut part) = (0, Vec::new(), String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => parts.push(std::mem::take(&mut part)),
            _ => {}
        }
        if depth == 0 && c != ',' {
            part.push(c);
        }
    }
    parts.push(part);
    parts.iter().map(|part| name(part.trim_start())).filter(|head| !head.is_empty()).collect()
}

fn name(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The top modules that a file of module `path` names.
fn used(path: &[String], code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (place, _) in code.match_indices("crate::") {
        let before = code[..place].chars().next_back();
        if before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != '$') {
            found.extend(heads(&code[place + "crate::".len()..]));
        }
    }
    // A chain of `super::` that leaves the top module.
    let chain = "super::".repeat(path.len());
    for (place, _) in code.match_indices(&chain) {
        if !code[..place].ends_with("super::") {
            found.extend(heads(&code[place + chain.len()..]));
        }
    }
    found
}

/// Whether a file holds tests only.
fn tests_only(path: &[String]) -> bool {
    path.iter().any(|part| part == "tests" || part == "testing" || part.ends_with("_tests"))
}

/// For every top module the modules that its files name, with one file that does.
fn graph() -> BTreeMap<String, BTreeMap<String, PathBuf>> {
    let mut sources = Vec::new();
    files(&root().join("src"), &mut sources);
    let mut graph: BTreeMap<String, BTreeMap<String, PathBuf>> = BTreeMap::new();
    for file in sources {
        let path = module(&file);
        if tests_only(&path) || path == ["lib"] || path == ["main"] {
            continue;
        }
        let uses = used(&path, &code(&fs::read_to_string(&file).unwrap()));
        let known = graph.entry(path[0].clone()).or_default();
        known.extend(uses.into_iter().filter(|used| *used != path[0]).map(|used| (used, file.clone())));
    }
    graph
}

#[test]
fn modules_use_only_what_lies_below_them() {
    let may: BTreeMap<&str, BTreeSet<&str>> =
        MAY_USE.iter().map(|(module, uses)| (*module, uses.split_whitespace().collect())).collect();
    let mut wrong = Vec::new();
    for (module, uses) in graph() {
        let Some(allowed) = may.get(module.as_str()) else {
            wrong.push(format!("src/{module} has no place in tests/layering.rs"));
            continue;
        };
        for (other, file) in uses {
            if !allowed.contains(other.as_str()) {
                wrong.push(format!("{module} may not use {other}, but {} does", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_modules_use_each_other_in_a_circle() {
    let mut left = graph();
    let known: BTreeSet<String> = left.keys().cloned().collect();
    loop {
        let bottom = left
            .iter()
            .find(|(_, uses)| uses.keys().all(|other| !known.contains(other) || !left.contains_key(other)));
        let Some(module) = bottom.map(|(module, _)| module.clone()) else { break };
        left.remove(&module);
    }
    assert!(left.is_empty(), "a circle among {:?}", left.keys().collect::<Vec<_>>());
}

#[test]
fn what_decides_never_asks_for_the_time() {
    let mut sources = Vec::new();
    files(&root().join("src"), &mut sources);
    for file in sources {
        let path = module(&file);
        if !PURE.contains(&path[0].as_str()) || tests_only(&path) {
            continue;
        }
        let text = code(&fs::read_to_string(&file).unwrap());
        for call in ["clock::now", "clock::timestamp", "::now()", "tokio::", "std::net"] {
            assert!(!text.contains(call), "{} holds {call}", file.display());
        }
    }
}

#[test]
fn no_file_is_too_long_to_be_read() {
    let mut all = Vec::new();
    for folder in ["src", "tests", "xtask", "workload"] {
        files(&root().join(folder), &mut all);
    }
    assert!(all.len() > 30, "only {} files were found", all.len());
    let long = |file: &PathBuf| fs::read_to_string(file).unwrap().lines().count() > LINES;
    let long: Vec<_> = all.into_iter().filter(long).collect();
    assert!(long.is_empty(), "longer than {LINES} lines: {long:?}");
}

#[test]
fn the_reader_of_paths_sees_every_way_of_writing_them() {
    let path = ["plan".to_owned(), "recovery".to_owned()];
    let text = "use crate::{clock::Moment, names::{self, x}, api};\nfn f(a: crate::link::B) {}\n\
                use super::super::model;\nuse super::step; use mycrate::no; // crate::hidden\n";
    let seen: Vec<String> = used(&path, &code(text)).into_iter().collect();
    assert_eq!(seen, ["api", "clock", "link", "model", "names"]);
}
