//! Objects: applied, deleted, patched.
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::{ApiResource, DynamicObject};
use kube::{Resource, ResourceExt};
use serde_json::{Map, Value, json};

use super::{ApplyError, Context, is_code};
use crate::model::Observed;
use crate::resources::{MANAGER, Manifest};

fn api(context: Context<'_>, resource: &ApiResource) -> Api<DynamicObject> {
    Api::namespaced_with(context.client.clone(), context.pool.namespace(), resource)
}

/// Server-side apply, forced. An object that was not among the pool's is looked at first.
pub(super) async fn apply(
    context: Context<'_>,
    seen: &Observed,
    manifest: &Manifest,
) -> Result<(), ApplyError> {
    let api = api(context, &manifest.resource);
    let kind = &manifest.resource.kind;
    let name = &manifest.name;
    let error = |source| ApplyError::api(kind, name, source);
    let claim = kind == "PersistentVolumeClaim";
    if !claim && !seen.live.contains_key(&manifest.key()) {
        let there = api.get_metadata_opt(name).await.map_err(error)?;
        let owned = |meta: &kube::core::PartialObjectMeta<DynamicObject>| {
            meta.owner_references().iter().any(|owner| owner.uid == context.pool.object_uid)
        };
        if there.is_some_and(|meta| !owned(&meta)) {
            return Err(ApplyError::Foreign { kind: kind.clone(), name: name.clone() });
        }
    }
    let params = PatchParams::apply(MANAGER).force();
    api.patch(name, &params, &Patch::Apply(&manifest.value)).await.map_err(error)?;
    Ok(())
}

/// The kinds that are deleted by name.
fn resource(kind: &str) -> Option<ApiResource> {
    use k8s_openapi::api::{apps, batch, core, networking, policy, rbac};
    Some(match kind {
        "StatefulSet" => ApiResource::erase::<apps::v1::StatefulSet>(&()),
        "Deployment" => ApiResource::erase::<apps::v1::Deployment>(&()),
        "Job" => ApiResource::erase::<batch::v1::Job>(&()),
        "Service" => ApiResource::erase::<core::v1::Service>(&()),
        "Secret" => ApiResource::erase::<core::v1::Secret>(&()),
        "ConfigMap" => ApiResource::erase::<core::v1::ConfigMap>(&()),
        "ServiceAccount" => ApiResource::erase::<core::v1::ServiceAccount>(&()),
        "PersistentVolumeClaim" => ApiResource::erase::<core::v1::PersistentVolumeClaim>(&()),
        "Pod" => ApiResource::erase::<core::v1::Pod>(&()),
        "Role" => ApiResource::erase::<rbac::v1::Role>(&()),
        "RoleBinding" => ApiResource::erase::<rbac::v1::RoleBinding>(&()),
        "PodDisruptionBudget" => ApiResource::erase::<policy::v1::PodDisruptionBudget>(&()),
        "NetworkPolicy" => ApiResource::erase::<networking::v1::NetworkPolicy>(&()),
        "PgPoolMembership" => ApiResource::erase::<crate::api::v1alpha1::PgPoolMembership>(&()),
        _ => return None,
    })
}

/// Deletes; that it is gone already is fine. A uid keeps a namesake from being hit.
pub(super) async fn delete(
    context: Context<'_>,
    kind: &str,
    name: &str,
    uid: Option<&str>,
) -> Result<(), ApplyError> {
    let Some(resource) = resource(kind) else { return Ok(()) };
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: uid.map(|uid| Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::default()
    };
    match api(context, &resource).delete(name, &params).await {
        Ok(_) => Ok(()),
        Err(error) if is_code(&error, 404) || is_code(&error, 409) => Ok(()),
        Err(source) => Err(ApplyError::api(kind, name, source)),
    }
}

/// A merge patch of an object of a known kind.
pub(super) async fn merge<K>(context: Context<'_>, name: &str, patch: &Value) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = ()>,
{
    let resource = ApiResource::erase::<K>(&());
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    api(context, &resource)
        .patch(name, &params, &Patch::Merge(patch))
        .await
        .map(|_| ())
        .map_err(|source| ApplyError::api(&resource.kind, name, source))
}

/// Sets or removes the operator's finalizer, unless the list has changed since it was read.
pub(super) async fn finalizer(context: Context<'_>, guarded: bool) -> Result<(), ApplyError> {
    let own = crate::model::FINALIZER;
    let mut list: Vec<String> = context.raw.finalizers().iter().filter(|f| *f != own).cloned().collect();
    if guarded {
        list.push(own.to_owned());
    }
    let version = context.raw.resource_version();
    let patch = json!({"metadata": {"finalizers": list, "resourceVersion": version}});
    match merge::<crate::api::v1alpha1::PgPool>(context, context.pool.name(), &patch).await {
        // Without it there is nothing to hold any more.
        Err(ApplyError::Api { source, .. }) if !guarded && is_code(&source, 404) => Ok(()),
        other => other,
    }
}

/// Removes annotations that were answered, unless the object has changed since it was read: another
/// value may stand there by now, which is a request for the next pass.
pub(super) async fn unannotate(context: Context<'_>, annotations: &[&str]) -> Result<(), ApplyError> {
    let version = context.raw.resource_version();
    let gone: Map<String, Value> = annotations.iter().map(|name| ((*name).to_owned(), Value::Null)).collect();
    let patch = json!({"metadata": {"annotations": gone, "resourceVersion": version}});
    match merge::<crate::api::v1alpha1::PgPool>(context, context.pool.name(), &patch).await {
        Err(error) if error.is_conflict() => Ok(()),
        other => other,
    }
}
