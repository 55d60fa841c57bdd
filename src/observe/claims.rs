//! Claims, and the proof that a volume is lost.
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::ObserveError;
use super::kubernetes::{Lists, error};
use crate::model::{ClaimSeen, NodeSeen, ValidPool};
use crate::names;
use crate::resources::{ANNOTATION_FILLED, ANNOTATION_GIVEN_UP};

const HOSTNAME: &str = "kubernetes.io/hostname";

fn find<'l>(pool: &ValidPool, lists: &'l Lists, index: u8) -> Option<&'l PersistentVolumeClaim> {
    let name = names::claim(pool.name(), index);
    lists.claims.iter().find(|claim| claim.name_any() == name)
}

pub(super) fn claim(pool: &ValidPool, lists: &Lists, index: u8) -> Option<ClaimSeen> {
    let claim = find(pool, lists, index)?;
    Some(ClaimSeen {
        uid: claim.uid().unwrap_or_default(),
        deleting: claim.metadata.deletion_timestamp.is_some(),
        filled: claim.annotations().get(ANNOTATION_FILLED).is_some_and(|value| value == "true"),
        given_up: claim.annotations().get(ANNOTATION_GIVEN_UP).cloned(),
        lost: None,
    })
}

/// Asks after the volume of each claim whose pod doesn't run: a volume is lost when it is gone, or
/// when the only machines that it can be reached from are.
pub(super) async fn look_for_lost(
    client: &Client,
    pool: &ValidPool,
    lists: &Lists,
    nodes: &mut BTreeMap<u8, NodeSeen>,
) -> Result<(), ObserveError> {
    for (index, seen) in nodes {
        let Some(claim) = find(pool, lists, *index) else { continue };
        let Some(entry) = &mut seen.claim else { continue };
        if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
            entry.lost = Some("its claim is in phase Lost".to_owned());
            continue;
        }
        let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
        if let Some(volume) = volume.filter(|_| !seen.pod.as_ref().is_some_and(|pod| pod.ready)) {
            entry.lost = lost(client, pool, volume).await?;
        }
    }
    Ok(())
}

async fn lost(client: &Client, pool: &ValidPool, name: &str) -> Result<Option<String>, ObserveError> {
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let volume = match volumes.get_opt(name).await {
        Ok(Some(volume)) => volume,
        Ok(None) => return Ok(Some(format!("PersistentVolume {name} is gone"))),
        Err(source) => return unknown(pool, "PersistentVolume", source),
    };
    let Some(hosts) = hosts(&volume) else { return Ok(None) };
    let machines: Api<Node> = Api::all(client.clone());
    let params = ListParams::default().labels(&format!("{HOSTNAME} in ({})", hosts.join(",")));
    match machines.list(&params).await {
        Ok(list) if list.items.is_empty() => Ok(Some(format!(
            "PersistentVolume {name} can be reached from {} alone, which is no longer part of the cluster",
            hosts.join(", ")
        ))),
        Ok(_) => Ok(None),
        Err(source) => unknown(pool, "Nodes", source),
    }
}

/// An operator that may not ask has no proof; any other failure ends the pass.
fn unknown(
    pool: &ValidPool,
    what: &'static str,
    source: kube::Error,
) -> Result<Option<String>, ObserveError> {
    match &source {
        kube::Error::Api(status) if status.code == 403 => Ok(None),
        _ => Err(error(pool, what, source)),
    }
}

/// The host names to which a volume is bound, if it is bound by host name alone.
fn hosts(volume: &PersistentVolume) -> Option<Vec<String>> {
    let terms = &volume.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref()?.node_selector_terms;
    let mut hosts = Vec::new();
    for term in terms {
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let by_host = expressions.iter().find(|e| e.key == HOSTNAME && e.operator == "In")?;
        hosts.extend(by_host.values.clone().unwrap_or_default());
    }
    (!hosts.is_empty()).then_some(hosts)
}
