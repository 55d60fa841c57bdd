//! What the pod tells the agent: environment variables set by the controller.
use std::path::PathBuf;

use serde::Deserialize;
use thiserror::Error;

use crate::api::v1alpha1::LocaleProvider;
use crate::names;

/// Why the environment can't be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EnvError {
    /// A variable isn't there.
    #[error("environment variable {0} isn't set")]
    Missing(&'static str),
    /// A variable has no usable value.
    #[error("environment variable {name}: {value:?} isn't usable")]
    Unusable {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
    },
}

/// How initdb is called, should this node make the first copy.
#[derive(Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct InitDb {
    /// Encoding of the databases.
    pub encoding: String,
    /// Locale of the databases.
    pub locale: String,
    /// Who provides the collations.
    pub provider: LocaleProvider,
    /// ICU locale, for provider icu.
    #[serde(default)]
    pub icu_locale: Option<String>,
    /// Size of a WAL segment in megabytes.
    pub wal_segment_size: u32,
}

/// Who this agent is.
#[derive(Clone, Debug)]
pub struct Env {
    /// The pool.
    pub pool: String,
    /// Its namespace.
    pub namespace: String,
    /// Index of this node.
    pub index: u8,
    /// Bytes that the volume was asked to have.
    pub storage_bytes: u64,
    /// How initdb is called.
    pub initdb: InitDb,
    /// The volume.
    pub volume: PathBuf,
}

impl Env {
    /// Reads the environment by `get`.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, EnvError> {
        let need = |name: &'static str| get(name).filter(|v| !v.is_empty()).ok_or(EnvError::Missing(name));
        let unusable = |name: &'static str, value: String| EnvError::Unusable { name, value };
        let index = need("PGPOOL_INDEX")?;
        let storage = need("PGPOOL_STORAGE_BYTES")?;
        let initdb = need("PGPOOL_INITDB")?;
        Ok(Self {
            pool: need("PGPOOL_POOL")?,
            namespace: need("PGPOOL_NAMESPACE")?,
            index: index.parse().map_err(|_| unusable("PGPOOL_INDEX", index))?,
            storage_bytes: storage.parse().map_err(|_| unusable("PGPOOL_STORAGE_BYTES", storage))?,
            initdb: serde_json::from_str(&initdb).map_err(|_| unusable("PGPOOL_INITDB", initdb))?,
            volume: names::VOLUME_DIR.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(name: &str) -> Option<String> {
        let value = match name {
            "PGPOOL_POOL" => "heron",
            "PGPOOL_NAMESPACE" => "birds",
            "PGPOOL_INDEX" => "2",
            "PGPOOL_STORAGE_BYTES" => "1073741824",
            "PGPOOL_INITDB" => {
                r#"{"encoding":"UTF8","locale":"C.UTF-8","provider":"libc","walSegmentSize":16}"#
            }
            _ => return None,
        };
        Some(value.to_owned())
    }

    #[test]
    fn reads_what_the_controller_sets() {
        let env = Env::read(get).unwrap();
        assert_eq!((env.index, env.storage_bytes, env.initdb.wal_segment_size), (2, 1 << 30, 16));
    }

    #[test]
    fn names_the_variable_that_is_wrong() {
        let missing = Env::read(|n| get(n).filter(|_| n != "PGPOOL_POOL")).unwrap_err();
        assert_eq!(missing, EnvError::Missing("PGPOOL_POOL"));
        let bad = Env::read(|n| if n == "PGPOOL_INDEX" { Some("two".into()) } else { get(n) }).unwrap_err();
        assert!(bad.to_string().contains("PGPOOL_INDEX"));
    }
}
