//! The record, as the Kubernetes API has it: consistent reads, a watch that wakes and brings newer epochs to running
//! standbys, compare-and-swap.
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{Api, PostParams};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use thiserror::Error;
use tokio::sync::Notify;

use crate::api::v1alpha1::{PgPoolMembership, Record};

/// Longest time that the API may take to answer.
const LIMIT: Duration = Duration::from_secs(3);

/// Why the record could not be read or written.
#[derive(Debug, Error)]
pub enum RecordError {
    /// There is none (yet, or no more).
    #[error("PgPoolMembership {0} isn't there")]
    Absent(String),
    /// Somebody else wrote first: read again.
    #[error("the record was changed by somebody else")]
    Conflict,
    /// The API server refused the change; its own words.
    #[error("the record's change was refused: {0}")]
    Refused(String),
    /// The API did not answer; a write may still land.
    #[error("Kubernetes API: {0}")]
    Away(String),
}

/// Access to the record of one pool.
#[derive(Clone)]
pub struct RecordStore {
    api: Api<PgPoolMembership>,
    name: String,
}

impl RecordStore {
    /// For the pool's record, in the pod's own namespace.
    pub fn new(client: kube::Client, namespace: &str, pool: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), name: pool.to_owned() }
    }

    fn error(&self, error: kube::Error) -> RecordError {
        match error {
            kube::Error::Api(status) if status.code == 404 => RecordError::Absent(self.name.clone()),
            kube::Error::Api(status) if status.code == 409 => RecordError::Conflict,
            kube::Error::Api(status) if status.code == 422 => RecordError::Refused(status.message),
            other => RecordError::Away(other.to_string()),
        }
    }

    /// Reads the object as it is now: no `resourceVersion`, so the answer is never from a cache.
    pub async fn read(&self) -> Result<PgPoolMembership, RecordError> {
        match tokio::time::timeout(LIMIT, self.api.get(&self.name)).await {
            Ok(result) => result.map_err(|e| self.error(e)),
            Err(_) => Err(RecordError::Away("no answer in time".into())),
        }
    }

    /// Writes the record over the very version that was read.
    pub async fn write(
        &self,
        read: &PgPoolMembership,
        record: Record,
    ) -> Result<PgPoolMembership, RecordError> {
        let mut object = read.clone();
        object.status = Some(record);
        let parameters = PostParams::default();
        let write = self.api.replace_status(&self.name, &parameters, &object);
        match tokio::time::timeout(LIMIT, write).await {
            Ok(result) => result.map_err(|e| self.error(e)),
            Err(_) => Err(RecordError::Away("no answer in time; the write may still land".into())),
        }
    }

    /// Hands each version of the object on and wakes `changed` whenever there may be a newer one, for ever.
    pub async fn watch(self, changed: Arc<Notify>, news: impl Fn(PgPoolMembership)) {
        let config = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        let mut events = watcher(self.api, config).default_backoff().boxed();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(object) | Event::InitApply(object)) => news(object),
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "watch of the record"),
            }
            changed.notify_one();
        }
    }
}
