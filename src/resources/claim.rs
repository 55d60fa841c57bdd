//! PVC `data-NAME-K-0`: an object of its own, named by the pod, since the recovery Job comes before it and
//! since it may grow, which the template of a StatefulSet can't.
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::labels::{Part, metadata};
use crate::model::ValidPool;
use crate::names;

/// `true` once data was put on the volume.
pub const ANNOTATION_FILLED: &str = "pgpool-operator.dev/filled";
/// Id of the recovery for which a person gave the volume up.
pub const ANNOTATION_GIVEN_UP: &str = "pgpool-operator.dev/given-up";
/// What the record of the pool said of the node when the pool was deleted and its volumes stayed.
pub const ANNOTATION_LAST_RECORD: &str = "pgpool-operator.dev/last-record";

fn claim_spec(pool: &ValidPool, size: &str) -> PersistentVolumeClaimSpec {
    PersistentVolumeClaimSpec {
        access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
        storage_class_name: pool.storage.storage_class_name.clone(),
        resources: Some(VolumeResourceRequirements {
            requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(size.to_owned()))])),
            ..VolumeResourceRequirements::default()
        }),
        ..PersistentVolumeClaimSpec::default()
    }
}

/// The claim of node `index`. It has no owner: data outlives the pool unless its spec says otherwise.
pub fn claim(
    pool: &ValidPool,
    index: u8,
    size: &str,
    filled: bool,
    given_up: Option<&str>,
) -> PersistentVolumeClaim {
    let mut metadata = metadata(pool, &names::claim(pool.name(), index), Part::Node(index));
    metadata.owner_references = None;
    let mut annotations = BTreeMap::new();
    if filled {
        annotations.insert(ANNOTATION_FILLED.to_owned(), "true".to_owned());
    }
    if let Some(id) = given_up {
        annotations.insert(ANNOTATION_GIVEN_UP.to_owned(), id.to_owned());
    }
    metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    PersistentVolumeClaim { metadata, spec: Some(claim_spec(pool, size)), ..PersistentVolumeClaim::default() }
}
