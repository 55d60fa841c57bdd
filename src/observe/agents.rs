//! The agents of all pools, as the operator talks to them: one client a pool, with the pool's certificate.
use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Secret;
use thiserror::Error;
use tokio::time::sleep;

use crate::clock::{self, Moment};
use crate::link::{Client, Identity, LinkError};
use crate::messages::{EnsureRoles, Ensured, NodeReport};
use crate::model::{PoolKey, ValidPool};
use crate::names;

/// How long an agent may take for its report.
const REPORT: Duration = Duration::from_secs(1);
/// For so long after its start an operator asks a node again that doesn't answer: a network policy may take a moment to let a new
/// pod through, and a pool of which nobody is heard would be called unavailable.
const FIRST: Duration = Duration::from_secs(5);
/// Pause between two of these tries.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// How long the primary may take for roles, databases and the bootstrap SQL.
const ENSURE: Duration = Duration::from_secs(120);

/// Why the operator can't talk to agents.
#[derive(Debug, Error)]
pub enum AgentsError {
    /// A certificate could not be put where it is read from.
    #[error("certificate of the operator for pool {pool}: {path}: {source}")]
    Store {
        /// The pool.
        pool: PoolKey,
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
    /// A certificate can't be used.
    #[error("certificate of the operator for pool {pool}: {source}")]
    Identity {
        /// The pool.
        pool: PoolKey,
        /// What is wrong.
        #[source]
        source: Box<LinkError>,
    },
    /// An agent didn't answer.
    #[error("node {index} of pool {pool}: {source}")]
    Call {
        /// The pool.
        pool: PoolKey,
        /// The node.
        index: u8,
        /// What went wrong.
        #[source]
        source: Box<LinkError>,
    },
    /// There is no certificate yet.
    #[error("pool {pool}: the operator has no certificate yet")]
    Unknown {
        /// The pool.
        pool: PoolKey,
    },
}

struct Known {
    version: String,
    client: Arc<Client>,
}

/// Clients by pool. Certificates are kept in files of a directory of the operator's own.
pub struct Agents {
    dir: PathBuf,
    /// Until then nodes are asked again.
    patient: Moment,
    known: Mutex<BTreeMap<PoolKey, Known>>,
}

impl Agents {
    /// Keeps certificates under `dir`. Made at the operator's start.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, patient: clock::now().after(FIRST), known: Mutex::default() }
    }

    /// Takes in the operator's certificate for a pool, if it is another than before.
    pub fn learn(&self, key: &PoolKey, secret: &Secret) -> Result<(), AgentsError> {
        let version = secret.metadata.resource_version.clone().unwrap_or_default();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(key).is_some_and(|known| known.version == version) {
            return Ok(());
        }
        let dir = self.dir.join(&key.namespace).join(&key.name);
        store(&dir, secret).map_err(|(path, source)| AgentsError::Store {
            pool: key.clone(),
            path,
            source,
        })?;
        if let Some(known) = known.get_mut(key) {
            // The client looks at its files itself, and keeps its connections.
            known.version = version;
        } else {
            let identity = Identity::load(&dir)
                .map_err(|source| AgentsError::Identity { pool: key.clone(), source: Box::new(source) })?;
            known.insert(key.clone(), Known { version, client: Arc::new(Client::new(identity)) });
        }
        Ok(())
    }

    /// Forgets a pool that is gone, or was made anew under the same name.
    pub fn forget(&self, key: &PoolKey) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        // What is left behind is overwritten by the next pool of that name.
        let _ = fs::remove_dir_all(self.dir.join(&key.namespace).join(&key.name));
    }

    fn client(&self, key: &PoolKey) -> Result<Arc<Client>, AgentsError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(key)
            .map(|known| known.client.clone())
            .ok_or_else(|| AgentsError::Unknown { pool: key.clone() })
    }

    /// What the agents of these nodes say, or why they could not be asked; with the addresses of their pods.
    pub async fn reports(
        &self,
        pool: &ValidPool,
        pool_uid: &str,
        asked: &[(u8, IpAddr)],
    ) -> Vec<Result<NodeReport, String>> {
        let patient = || !pool.deleting && !pool.suspend && clock::now() < self.patient;
        let answers = asked.iter().map(|&(index, address)| async move {
            loop {
                let answer = self.report(pool, pool_uid, index, address).await;
                if answer.is_ok() || !patient() {
                    return answer;
                }
                sleep(FIRST_PAUSE).await;
            }
        });
        join_all(answers).await
    }

    /// What the agent of a node says, or why it could not be asked. Its pod has this address.
    async fn report(
        &self,
        pool: &ValidPool,
        pool_uid: &str,
        index: u8,
        address: IpAddr,
    ) -> Result<NodeReport, String> {
        let client = self.client(&pool.key).map_err(|error| error.to_string())?;
        let host = names::node_host(pool.name(), index, &pool.domain());
        client.hint(&host, address);
        let report: NodeReport = client
            .get_json(&host, names::AGENT_PORT, "/v1/report", REPORT)
            .await
            .map_err(|error| error.to_string())?;
        if report.pool_uid != pool_uid || report.index != index {
            return Err(format!("{host} answers for node {} of pool {}", report.index, report.pool_uid));
        }
        Ok(report)
    }

    /// Tells the primary which roles and databases there shall be.
    pub async fn ensure(
        &self,
        pool: &ValidPool,
        primary: u8,
        roles: &EnsureRoles,
    ) -> Result<Ensured, AgentsError> {
        let client = self.client(&pool.key)?;
        let host = names::node_host(pool.name(), primary, &pool.domain());
        client.post_json(&host, names::AGENT_PORT, "/v1/roles", roles, ENSURE).await.map_err(|source| {
            AgentsError::Call { pool: pool.key.clone(), index: primary, source: Box::new(source) }
        })
    }
}

/// Writes the files so that a reader sees each whole; the key last, since it is what a change is known by.
fn store(dir: &Path, secret: &Secret) -> Result<(), (PathBuf, std::io::Error)> {
    let at = |path: &Path| {
        let path = path.to_path_buf();
        move |source| (path, source)
    };
    fs::create_dir_all(dir).map_err(at(dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(at(dir))?;
    for key in ["ca.crt", "tls.crt", "tls.key"] {
        let content = secret.data.as_ref().and_then(|data| data.get(key)).map(|value| value.0.as_slice());
        let part = dir.join(format!("{key}.part"));
        let mut options = fs::OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&part).map_err(at(&part))?;
        std::io::Write::write_all(&mut file, content.unwrap_or_default()).map_err(at(&part))?;
        let path = dir.join(key);
        fs::rename(&part, &path).map_err(at(&path))?;
    }
    Ok(())
}
