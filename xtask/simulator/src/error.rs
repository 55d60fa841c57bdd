//! What can go wrong, each naming what it failed on.
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use pgpool_operator::link::LinkError;
use pgpool_operator::membership::record::Illegal;
use pgpool_operator::observe::said;
use thiserror::Error;

/// Why something is not simulated.
#[derive(Debug, Error)]
pub enum SimulatorError {
    /// The Kubernetes API refused something, or didn't answer.
    #[error("{kind} {name}: {}", said(source))]
    Api {
        /// Kind of the object.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The API's answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// There is no way to the Kubernetes API.
    #[error("Kubernetes API: {}", said(_0))]
    Client(#[source] Box<kube::Error>),
    /// A certificate lacks a part.
    #[error("Secret {name}: key {key} is missing")]
    Key {
        /// Name of the Secret.
        name: String,
        /// The key.
        key: &'static str,
    },
    /// A file could not be written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An agent can't use its certificate.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// An agent can't listen.
    #[error("can't listen at {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A pool's next record is none that the API server would take.
    #[error("record of pool {pool}: {source}")]
    Record {
        /// Name of the pool.
        pool: String,
        /// What is wrong with it.
        source: Illegal,
    },
}

impl SimulatorError {
    /// What the API said of an object.
    pub fn api(kind: &'static str, name: &str) -> impl FnOnce(kube::Error) -> Self {
        let name = name.to_owned();
        move |source| Self::Api { kind, name, source: Box::new(source) }
    }

    /// Whether the API answered with this HTTP status.
    pub fn is_code(&self, code: u16) -> bool {
        let Self::Api { source, .. } = self else { return false };
        matches!(source.as_ref(), kube::Error::Api(status) if status.code == code)
    }
}
