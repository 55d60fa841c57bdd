//! `pgpool-operator crds`: prints the definitions of the custom resources.
use std::io::{self, Write as _};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use thiserror::Error;

use crate::api;

/// `pgpool-operator crds` takes no options.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Args {}

/// Why the definitions could not be printed.
#[derive(Debug, Error)]
pub enum CrdsError {
    /// A definition can't be written as YAML.
    #[error("the definition of {name} can't be written as YAML: {source}")]
    Yaml {
        /// Name of the definition.
        name: String,
        /// What the serializer says.
        source: Box<serde_saphyr::ser::Error>,
    },
    /// Standard output refused the text.
    #[error("the definitions can't be printed: {0}")]
    Print(#[from] io::Error),
}

/// Prints the definitions to standard output, ready for `kubectl apply --server-side -f -`.
#[expect(clippy::unused_async, reason = "every subcommand is called the same way")]
pub async fn run(_: Args) -> Result<(), CrdsError> {
    let mut out = io::stdout().lock();
    for crd in api::crds() {
        out.write_all(b"---\n")?;
        out.write_all(to_yaml(&crd)?.as_bytes())?;
    }
    Ok(out.flush()?)
}

/// One definition as YAML.
pub fn to_yaml(crd: &CustomResourceDefinition) -> Result<String, CrdsError> {
    let failed = |source| CrdsError::Yaml {
        name: crd.metadata.name.clone().unwrap_or_default(),
        source: Box::new(source),
    };
    serde_saphyr::to_string(crd).map_err(failed)
}
