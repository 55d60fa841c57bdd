//! Container images: what there is, how each is built, and how it gets into nodes.
//!
//! An image is made of at most two layers: a Debian root (from the cache) and our program. Its tar lies in the
//! cache under the digest of its content, so nothing is written when nothing changed.

mod build;
pub mod oci;
mod root;
mod store;

use std::path::PathBuf;

use crate::cargo::Profile;
use crate::error::{Result, refused};
use crate::programs::Programs;
use crate::progress::{say, step};
use crate::{cargo, host, paths, release};

pub use oci::Form;
pub use root::mirror;
pub use store::{Store, UNUSED_PLUGINS, load};

/// A finished image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its full name, such as `localhost/base:dev`.
    pub name: String,
    /// The SHA-256 of its manifest.
    pub digest: String,
    /// The OCI layout tar.
    pub tar: PathBuf,
}

/// The images that only change with the cluster: its own parts, and PostgreSQL.
pub fn of_the_cluster(programs: &Programs) -> Result<Vec<Image>> {
    host::need_packages()?;
    let dir = paths::cache("images")?;
    let _lock = paths::lock(&dir)?;
    build::CLUSTER.iter().map(|recipe| recipe.build(&dir, programs)).collect()
}

/// The images of the programs in this checkout.
pub fn of_the_checkout(programs: &Programs, form: Form, profile: Profile) -> Result<Vec<Image>> {
    host::need_packages()?;
    let built = cargo::build_programs(profile)?;
    let dir = paths::cache("images")?;
    let _lock = paths::lock(&dir)?;
    build::CHECKOUT.iter().map(|recipe| recipe.build_from(&dir, programs, &built, form)).collect()
}

/// What the operator's image is made of.
pub struct Parts {
    /// The Debian release of its root file system.
    pub suite: &'static str,
    /// What dpkg says of the packages in there; `None` while the image wasn't built here.
    pub status: Option<String>,
    /// The name of its program.
    pub program: &'static str,
    /// Where the program lies.
    pub place: &'static str,
}

/// Looks at the operator's image, and builds nothing.
pub fn parts_of_the_operator() -> Result<Parts> {
    let Some((root, program, place)) = build::OPERATOR.parts() else {
        return refused("the operator's image lacks a root file system or a program");
    };
    Ok(Parts { suite: root.suite, status: root.dpkg_status()?, program, place })
}

/// The operator's image once more, under another tag: what an upgrade of the operator changes in the pods.
pub fn of_the_next_release(programs: &Programs, form: Form) -> Result<Image> {
    let built = cargo::build_programs(Profile::Dev)?;
    let dir = paths::cache("images")?;
    let _lock = paths::lock(&dir)?;
    build::NEXT.build_from(&dir, programs, &built, form)
}

/// The operator's image of the first release.
pub fn of_the_first_release(programs: &Programs, form: Form) -> Result<Image> {
    let built = [(release::PROGRAM.to_owned(), release::program()?)];
    let dir = paths::cache("images")?;
    let _lock = paths::lock(&dir)?;
    build::FIRST.build_from(&dir, programs, &built, form)
}

/// PgBouncer and pgpool-II, which the front is measured beside.
pub fn of_the_peers(programs: &Programs) -> Result<Image> {
    let dir = paths::cache("images")?;
    let _lock = paths::lock(&dir)?;
    build::PEERS.build(&dir, programs)
}

/// `cargo xtask images`: builds all, and says what came out. Gives the images of this checkout.
pub fn build_all(form: Form) -> Result<Vec<Image>> {
    host::need_root()?;
    let programs = Programs::build()?;
    let mut images = of_the_cluster(&programs)?;
    step("image store", || Store::prepare(&images).map(drop))?;
    // What goes to another cluster is for use.
    let profile = if form == Form::Whole { Profile::Release } else { Profile::Dev };
    let own = step("images of this checkout", || of_the_checkout(&programs, form, profile))?;
    images.extend(own.iter().cloned());
    for image in &images {
        say(format!("  {:<40} sha256:{:.12}  {}", image.name, image.digest, image.tar.display()));
    }
    Ok(own)
}
