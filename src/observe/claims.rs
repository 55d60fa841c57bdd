//! Claims: their size, whether it may grow, and the proof that a volume is lost.
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::ObserveError;
use super::kubernetes::{Lists, error};
use crate::clock::{self, Moment};
use crate::model::{ClaimSeen, ClaimSize, NodeSeen, ValidPool, bytes};
use crate::names;
use crate::resources::{ANNOTATION_FILLED, ANNOTATION_GIVEN_UP, ANNOTATION_LAST_RECORD};

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
        last_record: last_record(claim),
        on_one_machine: false,
        lost: None,
        size: size(claim),
    })
}

fn last_record(claim: &PersistentVolumeClaim) -> Option<String> {
    claim.annotations().get(ANNOTATION_LAST_RECORD).cloned()
}

/// All claims that carry the pool's name, and what stands on them of a pool that was deleted.
pub(super) fn all(lists: &Lists) -> BTreeMap<String, Option<String>> {
    lists.claims.iter().map(|claim| (claim.name_any(), last_record(claim))).collect()
}

fn size(claim: &PersistentVolumeClaim) -> ClaimSize {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    let status = claim.status.as_ref();
    let capacity = status.and_then(|status| status.capacity.as_ref()?.get("storage"));
    let waits = status
        .and_then(|status| status.conditions.as_ref())
        .and_then(|all| all.iter().find(|c| c.type_ == "FileSystemResizePending" && c.status == "True"));
    ClaimSize {
        requested: requests.and_then(|r| r.get("storage")).map(|q| q.0.clone()).unwrap_or_default(),
        capacity: capacity.and_then(|quantity| bytes(&quantity.0)),
        fixed: None,
        waits_since: waits.and_then(|c| c.last_transition_time.as_ref()).map(|time| time.0),
    }
}

/// Asks the storage class of each claim that is smaller than the spec wants whether it may grow.
pub(super) async fn look_for_fixed(
    client: &Client,
    pool: &ValidPool,
    lists: &Lists,
    nodes: &mut BTreeMap<u8, NodeSeen>,
) -> Result<(), ObserveError> {
    for (index, seen) in nodes {
        let Some(entry) = &mut seen.claim else { continue };
        if bytes(&entry.size.requested).is_none_or(|has| has >= pool.storage_bytes) {
            continue;
        }
        let class = find(pool, lists, *index)
            .and_then(|claim| claim.spec.as_ref()?.storage_class_name.as_deref())
            .filter(|class| !class.is_empty());
        entry.size.fixed = match class {
            Some(class) => fixed(client, pool, class).await?,
            None => Some("it has no storage class".to_owned()),
        };
    }
    Ok(())
}

async fn fixed(client: &Client, pool: &ValidPool, name: &str) -> Result<Option<String>, ObserveError> {
    let classes: Api<StorageClass> = Api::all(client.clone());
    match classes.get_opt(name).await {
        Ok(Some(class)) if class.allow_volume_expansion == Some(true) => Ok(None),
        Ok(Some(_)) => Ok(Some(format!("storage class {name} doesn't allow it (allowVolumeExpansion)"))),
        Ok(None) => Ok(Some(format!("storage class {name} is gone"))),
        // The API server refuses what can't be, with its own words.
        Err(source) => unknown(pool, "StorageClass", source),
    }
}

/// Asks after the volume of each claim whose pod isn't ready, unless that is known of late: a volume is lost when it is gone, or
/// when the only machines that it can be reached from are.
pub(super) async fn look_for_lost(
    client: &Client,
    pool: &ValidPool,
    lists: &Lists,
    nodes: &mut BTreeMap<u8, NodeSeen>,
    known: Option<&Volumes>,
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
            let look = known_or_asked(client, pool, volume, known).await?;
            (entry.on_one_machine, entry.lost) = (look.on_one_machine, look.lost);
        }
    }
    Ok(())
}

/// What was found out about a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Look {
    on_one_machine: bool,
    lost: Option<String>,
}

/// What was found out about volumes a moment ago, by name. For passes on a cache: a node that isn't ready wakes them up every second.
#[derive(Debug, Default)]
pub struct Volumes(Mutex<HashMap<String, (Moment, Look)>>);

impl Volumes {
    /// How long it is good for.
    const KEPT: Duration = Duration::from_secs(10);

    fn all(&self) -> MutexGuard<'_, HashMap<String, (Moment, Look)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of_late(&self, name: &str, now: Moment) -> Option<Look> {
        let all = self.all();
        let (asked, look) = all.get(name)?;
        (now.since(*asked) < Self::KEPT).then(|| look.clone())
    }

    /// The first answer stays until it has aged; what has aged goes.
    fn keep(&self, name: &str, look: Look, now: Moment) {
        let mut all = self.all();
        all.retain(|_, (asked, _)| now.since(*asked) < Self::KEPT);
        all.entry(name.to_owned()).or_insert((now, look));
    }
}

async fn known_or_asked(
    client: &Client,
    pool: &ValidPool,
    name: &str,
    known: Option<&Volumes>,
) -> Result<Look, ObserveError> {
    let now = clock::now();
    if let Some(look) = known.and_then(|known| known.of_late(name, now)) {
        return Ok(look);
    }
    let look = look_at(client, pool, name).await?;
    if let Some(known) = known {
        known.keep(name, look.clone(), now);
    }
    Ok(look)
}

async fn look_at(client: &Client, pool: &ValidPool, name: &str) -> Result<Look, ObserveError> {
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let lost = |lost: Option<String>| Look { lost, ..Look::default() };
    let hosts = match volumes.get_opt(name).await {
        Ok(Some(volume)) => hosts(&volume),
        Ok(None) => return Ok(lost(Some(format!("PersistentVolume {name} is gone")))),
        Err(source) => return Ok(lost(unknown(pool, "PersistentVolume", source)?)),
    };
    let Some(hosts) = hosts else { return Ok(Look::default()) };
    Ok(Look { on_one_machine: hosts.len() == 1, lost: all_gone(client, pool, name, &hosts).await? })
}

/// Whether none of the machines from which a volume can be reached is part of the cluster.
async fn all_gone(
    client: &Client,
    pool: &ValidPool,
    name: &str,
    hosts: &[String],
) -> Result<Option<String>, ObserveError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn bound_to(terms: &Value) -> Option<Vec<String>> {
        let volume = json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}});
        hosts(&serde_json::from_value(volume).unwrap())
    }

    #[test]
    fn what_was_found_out_ages() {
        let (known, begin) = (Volumes::default(), Moment::from_millis(0));
        let look = |lost: &str| Look { on_one_machine: true, lost: Some(lost.to_owned()) };
        assert_eq!(known.of_late("a", begin), None);
        known.keep("a", look("first"), begin);
        let (late, end) = (Moment::from_millis(9_999), begin.after(Volumes::KEPT));
        known.keep("a", look("second"), late);
        assert_eq!(known.of_late("a", late), Some(look("first")), "its age is that of the question");
        assert_eq!(known.of_late("a", end), None);
        known.keep("a", look("third"), end);
        assert_eq!(known.of_late("a", end), Some(look("third")));
        known.keep("b", look("other"), begin.after(3 * Volumes::KEPT));
        assert_eq!(known.all().len(), 1, "what has aged goes");
    }

    /// By these names a claim is given up: nothing but host names may say where a volume is.
    #[test]
    fn a_volume_is_bound_to_machines_only_where_each_way_to_it_names_them() {
        let by = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        let (one, two) = (by(HOSTNAME, "In", &["n1"]), by(HOSTNAME, "In", &["n2", "n3"]));
        assert_eq!(bound_to(&json!([one])), Some(vec!["n1".to_owned()]));
        assert_eq!(bound_to(&json!([one, two])).unwrap(), ["n1", "n2", "n3"]);
        let zone = by("topology.kubernetes.io/zone", "In", &["a"]);
        assert_eq!(bound_to(&json!([one, zone])), None, "it can be reached from elsewhere, too");
        assert_eq!(bound_to(&json!([by(HOSTNAME, "NotIn", &["n1"])])), None);
        assert_eq!(bound_to(&json!([by(HOSTNAME, "In", &[])])), None);
        assert_eq!(bound_to(&json!([{"matchFields": []}])), None);
        assert_eq!(hosts(&PersistentVolume::default()), None);
    }
}
