//! Every example is accepted as it stands.
use super::cluster::{Cluster, Report};
use super::manifests::examples;

/// Creates the pools of each example as a dry run, in the namespace of the test.
pub async fn check(cluster: &Cluster, report: &mut Report) {
    for (file, mut object) in examples() {
        if object["kind"] == "PgPool" {
            object["metadata"]["namespace"] = cluster.namespace.clone().into();
            let got = cluster.try_create("pgpools", &object).await;
            report.accepted(&file, got);
        }
    }
}
