//! ConfigMap `NAME-passwd`: the user that everything in a node's pod runs as.
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::labels::{Part, metadata};
use crate::model::ValidPool;
use crate::names;

/// initdb and libpq look the user up; stock images know another uid, or none.
pub fn passwd(pool: &ValidPool) -> ConfigMap {
    let (uid, home) = (names::NODE_UID, names::VOLUME_DIR);
    ConfigMap {
        metadata: metadata(pool, &names::passwd_map(pool.name()), Part::Pool),
        data: Some(BTreeMap::from([
            (
                "passwd".to_owned(),
                format!("root:x:0:0:root:/root:/bin/sh\npostgres:x:{uid}:{uid}::{home}:/bin/sh\n"),
            ),
            ("group".to_owned(), format!("root:x:0:\npostgres:x:{uid}:\n")),
        ])),
        ..ConfigMap::default()
    }
}
