//! `cargo xtask sbom`: what the operator's image is made of, as a CycloneDX document.
//!
//! Nothing in it tells when or where it was made: the same sources, compiler and Debian packages give the same bytes.

mod crates;
mod debian;
mod document;
mod purl;

use std::path::PathBuf;

use crate::error::{Result, refused};
use crate::progress::{print, say};
use crate::{files, images, paths, run};
use document::Content;

/// CycloneDX wants documents to be called so.
const FILE: &str = "pgpool-operator.cdx.json";

/// Where the document goes.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Folder for the document; target/sbom of the checkout unless given
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Writes the document, and prints its path.
pub fn run(options: &Options) -> Result<()> {
    let dir = options.out.clone().unwrap_or_else(|| paths::checkout().join("target/sbom"));
    let parts = images::parts_of_the_operator()?;
    let (program, crates) = crates::of(parts.program)?;
    let packages = parts.status.as_deref().map(debian::installed);
    if packages.is_none() {
        say("the image's Debian packages aren't known before `cargo xtask images`: they are left out");
    }
    let content =
        Content { program, place: parts.place, crates, compiler: compiler()?, suite: parts.suite, packages };
    let file = dir.join(FILE);
    files::write(&file, format!("{:#}\n", document::of(&content)))?;
    print(file.display().to_string());
    Ok(())
}

/// The version of the compiler, which is that of the standard library in each program.
fn compiler() -> Result<String> {
    let said = run::captured(run::command("rustc", ["--version"]).current_dir(paths::checkout()))?;
    match said.split_whitespace().nth(1) {
        Some(version) => Ok(version.to_owned()),
        None => refused(format!("rustc says no version: {said}")),
    }
}
