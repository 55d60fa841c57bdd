//! The chart's admission policy: the record of a pool isn't deleted by hand.
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{DeleteParams, PostParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client, Config};
use pgpool_operator::api::v1alpha1::PgPoolMembership;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::cluster::{Cluster, Report, pool, words};
use super::helm;
use super::membership::SPEC;

/// How long the server may take until it heeds a new policy, and between two looks.
const PATIENCE: Duration = Duration::from_secs(30);
const BETWEEN: Duration = Duration::from_millis(200);

const MESSAGE: &str = "can't be deleted while its PgPool is there: delete the PgPool instead";

/// Puts the policy up for the namespace of the test alone, and tries deletions as dry runs.
pub async fn check(cluster: &Cluster, report: &mut Report) {
    put_up(cluster).await;
    let client = cluster.client.clone();
    let keeper =
        make(&client, cluster, "pgpools", pool("guarded", "{nodes: 1, storage: {size: 1Gi}, suspend: true}"))
            .await;
    let record = |name: &str| {
        json!({
            "apiVersion": "pgpool-operator.dev/v1alpha1", "kind": "PgPoolMembership",
            "metadata": {"name": name},
            "spec": serde_saphyr::from_str::<Value>(SPEC).unwrap(),
        })
    };
    let mut owned = record("guarded");
    owned["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "pgpool-operator.dev/v1alpha1", "kind": "PgPool", "name": "guarded",
        "uid": keeper.metadata.uid,
    }]);
    make(&client, cluster, "pgpoolmemberships", owned).await;
    make(&client, cluster, "pgpoolmemberships", record("orphaned")).await;
    let refused = async {
        while delete(&client, cluster, "guarded").await.is_ok() {
            tokio::time::sleep(BETWEEN).await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("the policy is heeded");
    report.refused("a record deleted by hand", delete(&client, cluster, "guarded").await, MESSAGE);
    report.accepted("a record that nobody owns", delete(&client, cluster, "orphaned").await);
    let somebody = acting_as("system:serviceaccount:default:somebody").await;
    report.refused(
        "a record deleted by another account",
        delete(&somebody, cluster, "guarded").await,
        MESSAGE,
    );
    for account in [
        "system:serviceaccount:pgpool-system:pgpool-operator",
        "system:serviceaccount:kube-system:generic-garbage-collector",
        "system:serviceaccount:kube-system:namespace-controller",
    ] {
        report.accepted(account, delete(&acting_as(account).await, cluster, "guarded").await);
    }
}

/// The name of the policy while the test runs.
pub fn policy_name(namespace: &str) -> String {
    format!("{namespace}-membership")
}

async fn put_up(cluster: &Cluster) {
    let text = helm::template("pgpool-system", &["--show-only", "templates/guard.yaml"]).unwrap();
    let name = policy_name(&cluster.namespace);
    let mut policy: ValidatingAdmissionPolicy = of_kind(&text, "ValidatingAdmissionPolicy");
    policy.metadata.name = Some(name.clone());
    let here = [("kubernetes.io/metadata.name".to_owned(), cluster.namespace.clone())];
    let here = LabelSelector { match_labels: Some(here.into()), ..Default::default() };
    let spec = policy.spec.as_mut().unwrap();
    spec.match_constraints.as_mut().unwrap().namespace_selector = Some(here);
    let mut binding: ValidatingAdmissionPolicyBinding = of_kind(&text, "ValidatingAdmissionPolicyBinding");
    binding.metadata.name = Some(name.clone());
    binding.spec.as_mut().unwrap().policy_name = Some(name);
    let params = PostParams::default();
    Api::all(cluster.client.clone()).create(&params, &policy).await.unwrap();
    Api::all(cluster.client.clone()).create(&params, &binding).await.unwrap();
}

fn of_kind<T: DeserializeOwned>(text: &str, kind: &str) -> T {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    let one = all.into_iter().find(|object| object["kind"] == kind).unwrap();
    serde_json::from_value(one).unwrap()
}

fn resource(plural: &str) -> ApiResource {
    let mut resource = ApiResource::erase::<PgPoolMembership>(&());
    plural.clone_into(&mut resource.plural);
    resource
}

async fn make(client: &Client, cluster: &Cluster, plural: &str, object: Value) -> DynamicObject {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &cluster.namespace, &resource(plural));
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
}

async fn delete(client: &Client, cluster: &Cluster, name: &str) -> Result<(), String> {
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &cluster.namespace, &resource("pgpoolmemberships"));
    let params = DeleteParams { dry_run: true, ..Default::default() };
    api.delete(name, &params).await.map(drop).map_err(|error| words(&error))
}

/// A client that acts as this user, with every right: what is refused to it, the policy refuses.
async fn acting_as(user: &str) -> Client {
    let mut config = Config::infer().await.unwrap();
    config.auth_info.impersonate = Some(user.to_owned());
    config.auth_info.impersonate_groups = Some(vec!["system:masters".to_owned()]);
    Client::try_from(config).unwrap()
}
