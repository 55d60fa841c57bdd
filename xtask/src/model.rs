//! `cargo xtask model`: the models of the membership protocol, with the states that they looked at.

use crate::cargo;
use crate::error::Result;
use crate::run;

/// The test programs that are models.
const MODELS: [&str; 2] = ["membership_model", "election_model"];

/// Runs the models one after the other, so that each has the machine for itself. Their lines show how many
/// states were generated, and whether those were all.
pub fn run(full: bool) -> Result<()> {
    let mut test = cargo::command("test");
    // The selection of the tests, so that nothing is built twice.
    test.args(cargo::SELECTION);
    for model in MODELS {
        test.args(["--test", model]);
    }
    test.args(["--", "--nocapture", "--test-threads=1"]);
    if full {
        test.env("PGPOOL_MODEL", "full");
    }
    run::visible(&mut test)
}
