//! Objects and actions of a plan, in order.
use futures::future::join_all;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

use super::{ApplyError, Context, Executor, authority, is_code, objects, roles};
use crate::api::v1alpha1::{MembershipSpec, PgPool, PgPoolMembership};
use crate::model::{Login, Memory, Observed, Sensitive, ValidPool};
use crate::observe::Agents;
use crate::pki;
use crate::plan::{Action, EnsureOrder, Happening, Plan};
use crate::resources::{
    ANNOTATION_LAST_RECORD, JobOrder, MANAGER, Manifest, Runtime, login_secret, membership, recovery_job,
};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};

/// What came of it.
#[derive(Debug, Default)]
pub struct Done {
    /// What to tell people besides the plan's own events.
    pub events: Vec<Happening>,
    /// What went wrong. The rest was done all the same, unless it rested on it.
    pub errors: Vec<ApplyError>,
}

impl Executor {
    /// Does all that a plan says, status and events excepted; remembers in `memory` what came of it.
    pub async fn execute(
        &self,
        agents: &Agents,
        raw: &PgPool,
        pool: &ValidPool,
        runtime: &Runtime,
        (seen, plan): (&Observed, &Plan),
        memory: &mut Memory,
    ) -> Done {
        let context = Context { client: &self.client, agents, raw, pool };
        let mut done = Done::default();
        let mut unprotected = false;
        for manifest in &plan.apply {
            let live = seen.live.get(&manifest.key()).map(|live| &live.value);
            if unprotected && adds_pods(manifest, live) {
                continue;
            }
            // One object that can't be applied doesn't hold the others up, but for pods without their policies: each says
            // what it waits for.
            if let Err(error) = objects::apply(context, seen, manifest).await {
                unprotected |= live.is_none() && is_policy(manifest);
                done.errors.push(error);
            }
        }
        let (leaves, rest): (Vec<&Action>, Vec<&Action>) =
            plan.actions.iter().partition(|action| matches!(action, Action::Issue(_)));
        let issued =
            join_all(leaves.into_iter().map(|action| self.act(context, runtime, seen, action))).await;
        done.errors.extend(issued.into_iter().filter_map(Result::err));
        for action in rest {
            if unprotected && matches!(action, Action::CreateJob(_)) {
                continue;
            }
            if let Action::Ensure(order) = action {
                self.ensure(context, order, memory, &mut done).await;
            } else if let Err(error) = self.act(context, runtime, seen, action).await {
                done.errors.push(error);
            }
        }
        done
    }

    async fn act(
        &self,
        context: Context<'_>,
        runtime: &Runtime,
        seen: &Observed,
        action: &Action,
    ) -> Result<(), ApplyError> {
        match action {
            Action::Guard => objects::finalizer(context, true).await,
            Action::Unguard => objects::finalizer(context, false).await,
            Action::CreateMembership(spec) => create_membership(context, spec).await,
            Action::UpdateMembership(spec) => update_membership(context, spec).await,
            Action::DeleteMembership => {
                objects::delete(context, "PgPoolMembership", context.pool.name(), None).await
            }
            Action::Authority(step) => authority::step(context, *step, seen.now).await,
            Action::Issue(order) => {
                let secret = authority::issue(context, order, seen.now).await?;
                objects::apply(context, seen, &Manifest::of(&secret)?).await
            }
            Action::CreateLogin(login) => create_login(context, login).await,
            Action::UpdateLogin { secret, data } => update_login(context, secret, data).await,
            Action::CreateJob(order) => create_job(context, runtime, seen, order).await,
            Action::Delete { kind, name, uid } => objects::delete(context, kind, name, uid.as_deref()).await,
            Action::LabelPod { pod, role } => label(context, pod, role).await,
            Action::NoteClaim { claim, text } => note_claim(context, claim, text.as_deref()).await,
            Action::RemoveAnnotations(annotations) => objects::unannotate(context, annotations).await,
            // Has an answer of its own, see `ensure`.
            Action::Ensure(_) => Ok(()),
        }
    }

    async fn ensure(&self, context: Context<'_>, order: &EnsureOrder, memory: &mut Memory, done: &mut Done) {
        match roles::ensure(context, order).await {
            Ok(ensured) => {
                memory.ensured = ensured.errors.is_empty().then(|| order.fingerprint.clone());
                memory.ensure_errors = ensured.errors;
                done.events
                    .extend(ensured.changed.into_iter().map(|what| Happening::normal("RolesChanged", what)));
            }
            Err(error) => done.errors.push(error),
        }
    }
}

fn is_policy(manifest: &Manifest) -> bool {
    manifest.resource.kind == "NetworkPolicy"
}

/// Whether there would be more pods by this manifest than by the object that is there.
fn adds_pods(manifest: &Manifest, live: Option<&Value>) -> bool {
    let replicas = |value: &Value| value["spec"]["replicas"].as_i64().unwrap_or_default();
    matches!(manifest.resource.kind.as_str(), "StatefulSet" | "Deployment")
        && replicas(&manifest.value) > live.map_or(0, replicas)
}

fn manager() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

/// That it is there already is fine: the next pass looks at it.
fn created<T>(kind: &str, name: &str, result: Result<T, kube::Error>) -> Result<(), ApplyError> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if is_code(&error, 409) => Ok(()),
        Err(source) => Err(ApplyError::api(kind, name, source)),
    }
}

async fn create_membership(context: Context<'_>, spec: &MembershipSpec) -> Result<(), ApplyError> {
    let api: Api<PgPoolMembership> = Api::namespaced(context.client.clone(), context.pool.namespace());
    let object = membership(context.pool, spec);
    created("PgPoolMembership", context.pool.name(), api.create(&manager(), &object).await)
}

/// Agents write the status of the same object; whoever comes second reads again.
async fn update_membership(context: Context<'_>, spec: &MembershipSpec) -> Result<(), ApplyError> {
    let api: Api<PgPoolMembership> = Api::namespaced(context.client.clone(), context.pool.namespace());
    let name = context.pool.name();
    let error = |source| ApplyError::api("PgPoolMembership", name, source);
    let mut object = api.get(name).await.map_err(error)?;
    object.spec = spec.clone();
    api.replace(name, &manager(), &object).await.map(|_| ()).map_err(error)
}

async fn create_login(context: Context<'_>, login: &Login) -> Result<(), ApplyError> {
    let name = &login.secret;
    let password =
        pki::password().map_err(|source| ApplyError::Certificate { name: name.clone(), source })?;
    let secret = login_secret(context.pool, login, &Sensitive::new(password));
    let api: Api<Secret> = Api::namespaced(context.client.clone(), context.pool.namespace());
    created("Secret", name, api.create(&manager(), &secret).await)
}

async fn update_login(
    context: Context<'_>,
    secret: &str,
    data: &std::collections::BTreeMap<String, Sensitive>,
) -> Result<(), ApplyError> {
    let text: serde_json::Map<String, Value> =
        data.iter().map(|(key, value)| (key.clone(), Value::from(value.reveal()))).collect();
    objects::merge::<Secret>(context, secret, &json!({"stringData": text})).await
}

async fn create_job(
    context: Context<'_>,
    runtime: &Runtime,
    seen: &Observed,
    order: &JobOrder,
) -> Result<(), ApplyError> {
    let uid = seen.membership.as_ref().map(|m| m.spec.pool_uid.as_str()).unwrap_or_default();
    let job = recovery_job(context.pool, runtime, uid, order);
    let name = job.metadata.name.clone().unwrap_or_default();
    let api: Api<Job> = Api::namespaced(context.client.clone(), context.pool.namespace());
    created("Job", &name, api.create(&manager(), &job).await)
}

async fn label(context: Context<'_>, pod: &str, role: &str) -> Result<(), ApplyError> {
    let patch = json!({"metadata": {"labels": {crate::names::LABEL_ROLE: role}}});
    // It was deleted meanwhile; its successor is labelled when it is seen.
    unless_gone(objects::merge::<Pod>(context, pod, &patch).await)
}

async fn note_claim(context: Context<'_>, claim: &str, text: Option<&str>) -> Result<(), ApplyError> {
    let patch = json!({"metadata": {"annotations": {ANNOTATION_LAST_RECORD: text}}});
    unless_gone(objects::merge::<PersistentVolumeClaim>(context, claim, &patch).await)
}

fn unless_gone(done: Result<(), ApplyError>) -> Result<(), ApplyError> {
    match done {
        Err(ApplyError::Api { source, .. }) if is_code(&source, 404) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::StatefulSet;
    use k8s_openapi::api::networking::v1::NetworkPolicy;

    use super::*;

    fn set(replicas: i32) -> Manifest {
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "orchard-1"},
            "spec": {"replicas": replicas, "serviceName": "orchard", "selector": {}, "template": {}},
        }))
        .unwrap();
        Manifest::of(&set).unwrap()
    }

    #[test]
    fn pods_that_are_not_there_yet_are_known() {
        let (running, stopped) = (set(1), set(0));
        assert!(adds_pods(&running, None) && adds_pods(&running, Some(&stopped.value)));
        assert!(!adds_pods(&running, Some(&running.value)), "one that runs may be changed");
        assert!(!adds_pods(&stopped, None) && !adds_pods(&stopped, Some(&running.value)));
        let policy = Manifest::of(&NetworkPolicy::default()).unwrap();
        assert!(is_policy(&policy) && !adds_pods(&policy, None) && !is_policy(&running));
    }
}
