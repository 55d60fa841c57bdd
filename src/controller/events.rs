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

/// Reasons of what is good.
const NORMAL: &[&str] = &[
    "AuthorityRenewed",
    "CertificatesRenewed",
    "Deleting",
    "NodeAttached",
    "NodeDetached",
    "NodeLeaves",
    "NodeRemoved",
    "NodeRestarts",
    "NotReady",
    "ParametersLoaded",
    "PostgresRestarts",
    "PrimaryChanged",
    "PrimaryInOffice",
    "Ready",
    "RecoveryFinished",
    "RecoveryStarted",
    "RequestAccepted",
    "Resumed",
    "RolesChanged",
    "RollingFinished",
    "RollingStarted",
    "Suspended",
    "SwitchoverFinished",
    "SwitchoverStarted",
    "VolumeGrown",
    "VolumeGrows",
];

/// Reasons of what somebody should look at; those of errors are their categories.
const WARNING: &[&str] = &[
    "AgentUnreachable",
    "ApplyFailed",
    "ArchiveError",
    "AuthorityUnreadable",
    "BootstrapSqlUnusable",
    "BuildFailed",
    "CertificateFailed",
    "CommitsWait",
    "DeletionIncomplete",
    "FirstNodeLeftOut",
    "InvalidSpec",
    "NameTaken",
    "NeedsPerson",
    "NodeDetached",
    "NotReady",
    "NothingToRelease",
    "OldVolumesFound",
    "ParametersRefused",
    "PodCannotStart",
    "PrimaryChanged",
    "PrimaryInOffice",
    "RecoveryFailed",
    "RecoveryGivenUp",
    "RecoveryNeeded",
    "RequestRefused",
    "RestartStopped",
    "RolesNotMade",
    "RollingStopped",
    "SecretUnusable",
    "ServerSecretUnusable",
    "SwitchoverFailed",
    "UnsafeSetting",
    "VolumeNearlyFull",
    "VolumeNotExpandable",
];

/// Type and reason of every event that there may be.
pub fn known() -> impl Iterator<Item = (&'static str, &'static str)> {
    let normal = NORMAL.iter().map(|reason| (kind(Severity::Normal), *reason));
    normal.chain(WARNING.iter().map(|reason| (kind(Severity::Warning), *reason)))
}

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
            match api.create(&PostParams::default(), &self.event(pool, happening)).await {
                Ok(_) => self.metrics.event(kind(happening.severity), reason),
                Err(error) => tracing::warn!(%error, pool = name, namespace, reason, "event not published"),
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
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::controller::reconcile::CATEGORIES;

    /// How an event is made, and which it is then.
    const CALLS: [(&str, Severity); 4] = [
        ("Happening::normal(", Severity::Normal),
        ("Happening::warning(", Severity::Warning),
        (".warn(", Severity::Warning),
        (".stuck(", Severity::Warning),
    ];

    /// The code of every file below a folder, without comments and tests.
    fn sources(folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let body = text.split("\n#[cfg(test)]\nmod ").next().unwrap();
                let lines = body.lines().map(|line| line.split("//").next().unwrap());
                found.push(lines.collect::<Vec<_>>().join("\n"));
            }
        }
    }

    /// The reason among the arguments of a call, as a word or as a constant of the file; none where it is passed on.
    fn reason<'c>(arguments: &'c str, code: &'c str) -> Option<&'c str> {
        let camel = |word: &&str| {
            word.starts_with(|c: char| c.is_ascii_uppercase())
                && word.chars().all(|c| c.is_ascii_alphabetic())
        };
        let arguments = arguments.split(';').next()?;
        let name = arguments.split(',').next()?.trim();
        let constant = || code.split(&format!("const {name}: &str = \"")).nth(1)?.split('"').next();
        arguments.split('"').skip(1).step_by(2).find(camel).or_else(constant)
    }

    #[test]
    fn every_event_is_known_beforehand() {
        let mut all = Vec::new();
        for module in ["plan", "apply", "controller"] {
            sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(module), &mut all);
        }
        let (mut made, mut passed_on) = (BTreeSet::new(), 0);
        for code in &all {
            for (call, severity) in CALLS {
                for (at, _) in code.match_indices(call) {
                    match reason(&code[at + call.len()..], code) {
                        Some(reason) => {
                            made.insert((kind(severity), reason));
                        }
                        None => passed_on += 1,
                    }
                }
            }
        }
        assert_eq!(passed_on, 3, "by warn and stuck of a draft, and by what notes errors");
        // Of what can't even be read or observed there is no event.
        let errors = CATEGORIES.iter().filter(|category| !["ReadFailed", "ObserveFailed"].contains(category));
        made.extend(errors.map(|category| (kind(Severity::Warning), *category)));
        assert_eq!(known().collect::<BTreeSet<_>>(), made);
        assert_eq!(known().count(), made.len(), "one is there twice");
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let note = "é".repeat(NOTE_BYTES);
        assert_eq!(cut(&note).len(), NOTE_BYTES);
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&format!("a{note}")).len(), NOTE_BYTES - 1);
    }
}
