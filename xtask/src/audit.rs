//! `cargo xtask audit`: what comes in as a dependency, by the rules of deny.toml.

use std::process::Command;

use crate::error::{Result, refused};
use crate::progress::{print, say};
use crate::{cargo, run};

/// The checks that need no database.
const WITHOUT_DATABASE: [&str; 3] = ["bans", "licenses", "sources"];

/// Has cargo-deny check the dependencies of all packages here, those of the tests too. The last line says what was
/// checked.
pub fn run() -> Result<()> {
    if !succeeds(deny().arg("--version"))? {
        return refused("cargo-deny is missing: cargo install --locked cargo-deny");
    }
    let mut check = deny();
    check.args(["check", "--hide-inclusion-graph"]);
    // Asked for by itself: the exit code of a check doesn't tell a database out of reach from a vulnerability.
    let reached = succeeds(deny().args(["fetch", "db"]))?;
    if !reached {
        say("the database of advisories can't be reached: checking bans, licenses and sources alone");
        check.args(WITHOUT_DATABASE);
    }
    run::visible(&mut check)?;
    print(sum(reached));
    Ok(())
}

fn sum(reached: bool) -> &'static str {
    if reached {
        "checked: advisories, bans, licenses, sources"
    } else {
        "checked: bans, licenses, sources; NOT advisories"
    }
}

/// For every package of the workspace: by itself cargo-deny looks at the one at the root alone.
fn deny() -> Command {
    let mut deny = cargo::command("deny");
    deny.arg("--workspace");
    deny
}

fn succeeds(command: &mut Command) -> Result<bool> {
    Ok(run::output(command)?.status.success())
}
