//! PostgreSQL's files as the agent writes them: configuration, gate, certificates. Each start of Postgres writes
//! them anew, so that they needn't outlive a power cut.
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::server::check_config;
use super::volume::{VolumeError, read_json, write_durably, write_json, write_whole};
use crate::config::hba::{self, Gate};
use crate::config::postgresql::{self, NodeConfig};
use crate::names;
use crate::postgres::programs::Programs;

/// Why the configuration could not be written.
#[derive(Debug, Error)]
pub enum ConfError {
    /// A file could not be written.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// A certificate could not be taken over.
    #[error("{path}: {source}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The user's parameters that PostgreSQL accepted last, for the agent's next life.
const ACCEPTED: &str = "accepted.json";

/// The configuration of this node's Postgres.
#[derive(Debug)]
pub struct Conf {
    folder: PathBuf,
    /// The user's parameters that PostgreSQL accepted last.
    accepted: BTreeMap<String, String>,
    /// The newest parameters, if PostgreSQL refuses them, and its words.
    refused: Option<(BTreeMap<String, String>, String)>,
    last: Option<String>,
    /// True while PostgreSQL has not read what was written last.
    pub owed: bool,
}

impl Conf {
    /// In the given folder of the volume.
    pub fn new(folder: PathBuf) -> Self {
        // A file that can't be read only means that the parameters are tried again.
        let accepted = read_json(&folder.join(ACCEPTED)).ok().flatten().unwrap_or_default();
        Self { folder, accepted, refused: None, last: None, owed: false }
    }

    /// Why the newest parameters of the user are not in use.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_ref().map(|(_, said)| said.as_str())
    }

    /// Which of the user's parameters PostgreSQL has read; none while it has not read what was written last.
    pub fn loaded(&self) -> Option<String> {
        (self.last.is_some() && !self.owed).then(|| postgresql::mark(&self.accepted))
    }

    /// Writes postgresql.conf; a reload is owed when it has changed. Parameters that PostgreSQL refuses are left
    /// out as a whole, those that were accepted before stay, and [`Self::refused`] says why.
    pub async fn write(
        &mut self,
        mut config: NodeConfig,
        programs: &Programs,
        data: &Path,
    ) -> Result<(), ConfError> {
        let known = self.refused.as_ref().is_some_and(|(refused, _)| *refused == config.parameters);
        // The first time each life: another image may not know what the last one took.
        let first = self.last.is_none() && !config.parameters.is_empty();
        if config.parameters == self.accepted && !first {
            self.refused = None;
        } else if !known {
            let candidate = self.folder.join("candidate.conf");
            write_whole(&candidate, postgresql::render(&config).as_bytes())?;
            match check_config(&programs.path("postgres"), data, &candidate).await {
                Ok(()) => {
                    write_json(&self.folder.join(ACCEPTED), &config.parameters)?;
                    self.accepted.clone_from(&config.parameters);
                    self.refused = None;
                }
                Err(said) => {
                    if config.parameters == self.accepted {
                        self.accepted.clear();
                    }
                    self.refused = Some((config.parameters.clone(), said));
                }
            }
        }
        config.parameters.clone_from(&self.accepted);
        let text = postgresql::render(&config);
        if self.last.as_ref() == Some(&text) {
            return Ok(());
        }
        self.owed = true;
        write_whole(&self.folder.join("postgresql.conf"), text.as_bytes())?;
        self.last = Some(text);
        Ok(())
    }

    /// Writes pg_hba.conf; true when the gate has moved.
    pub fn write_gate(&self, gate: Gate) -> Result<bool, ConfError> {
        let path = self.folder.join("pg_hba.conf");
        let text = hba::render(gate);
        if fs::read_to_string(&path).is_ok_and(|now| now == text) {
            return Ok(false);
        }
        write_whole(&path, text.as_bytes())?;
        Ok(true)
    }

    /// Settings made by ALTER SYSTEM would win over the file: they are dropped at each start, and PostgreSQL 17
    /// and newer refuses to make them.
    pub fn forget_alter_system(&self, data: &Path) -> Result<(), ConfError> {
        write_durably(&self.folder.join("pg_ident.conf"), b"")?;
        Ok(write_durably(&data.join("postgresql.auto.conf"), b"")?)
    }
}

/// Copies the certificates to where PostgreSQL and libpq accept their permissions; `changed` says that one did.
pub fn take_certificates(changed: &mut bool) -> Result<(), ConfError> {
    for name in ["ca.crt", "tls.crt", "tls.key"] {
        let from = Path::new(names::TLS_DIR).join(name);
        let to = Path::new(names::RUN_DIR).join(name);
        let error = |path: &Path| {
            let path = path.to_owned();
            move |source| ConfError::Certificate { path, source }
        };
        let content = fs::read(&from).map_err(error(&from))?;
        if fs::read(&to).is_ok_and(|now| now == content) {
            continue;
        }
        let temporary = to.with_extension("tmp");
        fs::write(&temporary, &content).map_err(error(&temporary))?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600)).map_err(error(&temporary))?;
        fs::rename(&temporary, &to).map_err(error(&to))?;
        *changed = true;
    }
    Ok(())
}
