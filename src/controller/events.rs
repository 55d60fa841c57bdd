//! Kubernetes Events of a pool.
//!
//! Each is an object of its own: kube's recorder counts events of one reason as one, and keeps the note
//! of the first. What mustn't be said twice is kept back by the planner.
use std::sync::Arc;

use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::{Client, Resource, ResourceExt};

use crate::api::v1alpha1::PgPool;
use crate::clock;
use crate::plan::{Happening, Severity};
use crate::telemetry::operator::Metrics;

/// Longest note that the API takes.
const NOTE_BYTES: usize = 1000;
/// Who speaks.
const CONTROLLER: &str = "pgpool-operator.dev/controller";

/// Publishes events, and counts them; that one is lost is logged and otherwise no matter.
pub struct Events {
    client: Client,
    pod: String,
    metrics: Arc<Metrics>,
}

impl Events {
    /// As the operator in pod `pod`.
    pub fn new(client: Client, pod: String, metrics: Arc<Metrics>) -> Self {
        Self { client, pod, metrics }
    }

    /// Tells what happened to a pool.
    pub async fn publish(&self, pool: &PgPool, happenings: &[Happening]) {
        let (name, namespace) = (pool.name_any(), pool.namespace().unwrap_or_default());
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        for happening in happenings {
            let (reason, note) = (happening.reason, &happening.note);
            tracing::info!(pool = name, namespace, reason, note, "event");
            self.metrics.event(kind(happening.severity), reason);
            if let Err(error) = api.create(&PostParams::default(), &self.event(pool, happening)).await {
                tracing::warn!(%error, pool = name, namespace, reason, "event not published");
            }
        }
    }

    fn event(&self, pool: &PgPool, happening: &Happening) -> Event {
        Event {
            metadata: ObjectMeta {
                // No dot at its end: the API server looks at it as at a whole name.
                generate_name: Some(format!("{}-", pool.name_any())),
                namespace: pool.namespace(),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(clock::timestamp())),
            action: Some(happening.reason.to_owned()),
            reason: Some(happening.reason.to_owned()),
            note: Some(cut(&happening.note)),
            regarding: Some(pool.object_ref(&())),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.pod.clone()),
            type_: Some(kind(happening.severity).to_owned()),
            ..Event::default()
        }
    }
}

/// The type of an event, as Kubernetes has it.
fn kind(severity: Severity) -> &'static str {
    match severity {
        Severity::Normal => "Normal",
        Severity::Warning => "Warning",
    }
}

/// The note, cut to what the API takes.
fn cut(note: &str) -> String {
    let mut end = note.len().min(NOTE_BYTES);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let note = "é".repeat(NOTE_BYTES);
        assert_eq!(cut(&note).len(), NOTE_BYTES);
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&format!("a{note}")).len(), NOTE_BYTES - 1);
    }
}
