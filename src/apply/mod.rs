//! Carries a plan out: status first (it holds the marks that later steps rest on, and its
//! resourceVersion keeps a stale operator from doing anything), then objects, then actions.
mod authority;
mod execute;
mod objects;
mod roles;

use kube::Client;
use kube::api::{Api, PostParams};
use thiserror::Error;

pub use execute::Done;

use crate::api::v1alpha1::{PgPool, PgPoolStatus};
use crate::model::ValidPool;
use crate::observe::{Agents, AgentsError, said};
use crate::pki::PkiError;
use crate::resources::BuildError;

/// Why a plan could not be carried out.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// The API refused a write, or didn't answer.
    #[error("{kind} {name}: {}", said(source))]
    Api {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// The API's answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// An object of that name is there and belongs to somebody else.
    #[error(
        "{kind} {name} is there already and isn't the pool's: delete or rename it, or give the pool another name"
    )]
    Foreign {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
    },
    /// A certificate could not be made.
    #[error("Secret {name}: {source}")]
    Certificate {
        /// Name of the Secret.
        name: String,
        /// What went wrong.
        #[source]
        source: PkiError,
    },
    /// A Secret lacks what it needs.
    #[error("Secret {name}: key {key} is missing or no text")]
    Key {
        /// Name of the Secret.
        name: String,
        /// The key.
        key: &'static str,
    },
    /// The agent of the primary could not be told something.
    #[error(transparent)]
    Agents(#[from] AgentsError),
    /// A manifest could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
}

impl ApplyError {
    pub(crate) fn api(kind: &str, name: &str, source: kube::Error) -> Self {
        Self::Api { kind: kind.to_owned(), name: name.to_owned(), source: Box::new(source) }
    }

    /// One word for conditions and metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Api { .. } => "ApplyFailed",
            Self::Foreign { .. } => "NameTaken",
            Self::Certificate { .. } | Self::Key { .. } => "CertificateFailed",
            Self::Agents(_) => "AgentUnreachable",
            Self::Build(_) => "BuildFailed",
        }
    }

    /// Whether somebody else wrote first, which the next pass sees.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { source, .. } if is_code(source, 409))
    }
}

pub(crate) fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// What carries plans out.
pub struct Executor {
    client: Client,
}

impl Executor {
    /// One for all pools.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Writes the status, unless the object has changed since it was read.
    pub async fn write_status(&self, pool: &PgPool, status: &PgPoolStatus) -> Result<PgPool, ApplyError> {
        let name = pool.metadata.name.clone().unwrap_or_default();
        let namespace = pool.metadata.namespace.clone().unwrap_or_default();
        let api: Api<PgPool> = Api::namespaced(self.client.clone(), &namespace);
        let mut changed = pool.clone();
        changed.status = Some(status.clone());
        // Not needed for the write, and the longest part of the object.
        changed.metadata.managed_fields = None;
        api.replace_status(&name, &PostParams::default(), &changed)
            .await
            .map_err(|source| ApplyError::api("PgPool", &name, source))
    }
}

/// What a plan is carried out with.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub client: &'a Client,
    pub agents: &'a Agents,
    pub raw: &'a PgPool,
    pub pool: &'a ValidPool,
}
