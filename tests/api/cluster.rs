//! The cluster under test, and what was seen there.
use std::time::Duration;

use k8s_openapi::ClusterResourceScope;
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, Resource, ResourceExt as _};
use pgpool_operator::api;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::guard::policy_name;

/// How long the cluster may take to serve a new definition or to remove a namespace.
const PATIENCE: Duration = Duration::from_secs(60);

/// A namespace of this test in a cluster that serves the custom resources.
pub struct Cluster {
    pub client: Client,
    pub namespace: String,
    /// Definitions that weren't there before; they are removed again.
    made: Vec<String>,
}

impl Cluster {
    /// Makes the namespace, and the definitions where the cluster has none.
    pub async fn prepare() -> Self {
        let client = Client::try_default().await.expect("KUBECONFIG names a cluster");
        let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
        let mut made = Vec::new();
        for crd in api::crds() {
            let name = crd.name_any();
            if crds.get_opt(&name).await.unwrap().is_none() {
                crds.create(&PostParams::default(), &crd).await.unwrap();
                made.push(name.clone());
            }
            let established = await_condition(crds.clone(), &name, conditions::is_crd_established());
            tokio::time::timeout(PATIENCE, established).await.expect("the definition is served").unwrap();
        }
        let metadata = ObjectMeta { generate_name: Some("api-test-".to_owned()), ..Default::default() };
        let namespace = Namespace { metadata, ..Default::default() };
        let spaces: Api<Namespace> = Api::all(client.clone());
        let namespace = spaces.create(&PostParams::default(), &namespace).await.unwrap().name_any();
        Self { client, namespace, made }
    }

    /// Removes what was made.
    pub async fn remove(self) {
        let policy = policy_name(&self.namespace);
        remove::<ValidatingAdmissionPolicyBinding>(&self.client, &policy).await;
        remove::<ValidatingAdmissionPolicy>(&self.client, &policy).await;
        let spaces: Api<Namespace> = Api::all(self.client.clone());
        let uid = spaces.get(&self.namespace).await.unwrap().uid().unwrap();
        spaces.delete(&self.namespace, &DeleteParams::background()).await.unwrap();
        let gone = await_condition(spaces, &self.namespace, conditions::is_deleted(&uid));
        tokio::time::timeout(PATIENCE, gone).await.expect("the namespace goes").unwrap();
        for name in &self.made {
            remove::<CustomResourceDefinition>(&self.client, name).await;
        }
    }

    /// Sends an object to `plural` as `kubectl create --dry-run=server` does: unknown fields are errors.
    /// The answer is the object as it would be stored, or what the server says.
    pub async fn try_create(&self, plural: &str, object: &Value) -> Result<Value, String> {
        let path = format!("/apis/pgpool-operator.dev/v1alpha1/namespaces/{}/{plural}", self.namespace);
        let body = serde_json::to_vec(object).unwrap();
        let mut request = kube::core::Request::new(&path).create(&PostParams::default(), body).unwrap();
        // kube has no parameter for the strictness that kubectl asks for.
        *request.uri_mut() = format!("{path}?dryRun=All&fieldValidation=Strict").parse().unwrap();
        self.client.request(request).await.map_err(|error| words(&error))
    }
}

/// Deletes an object that stands in no namespace, where it is there.
async fn remove<K>(client: &Client, name: &str)
where
    K: Resource<Scope = ClusterResourceScope, DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let api: Api<K> = Api::all(client.clone());
    if api.get_opt(name).await.unwrap().is_some() {
        api.delete(name, &DeleteParams::background()).await.unwrap();
    }
}

/// What the server says.
pub fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// A PgPool of this name with this spec, written as YAML.
pub fn pool(name: &str, spec: &str) -> Value {
    let spec: Value = serde_saphyr::from_str(spec).unwrap_or_else(|error| panic!("{name}: {error}"));
    json!({
        "apiVersion": "pgpool-operator.dev/v1alpha1", "kind": "PgPool",
        "metadata": {"name": name}, "spec": spec,
    })
}

/// What was seen: every case counts, and every wrong one is told at the end.
#[derive(Default)]
pub struct Report {
    cases: usize,
    wrong: Vec<String>,
    /// Everything that the server said.
    said: String,
}

impl Report {
    /// The case must have been accepted.
    pub fn accepted<T>(&mut self, case: &str, got: Result<T, String>) -> Option<T> {
        self.cases += 1;
        got.map_err(|error| self.wrong.push(format!("{case}: refused: {error}"))).ok()
    }

    /// The case must have been refused with these words among others.
    pub fn refused<T>(&mut self, case: &str, got: Result<T, String>, wish: &str) {
        self.cases += 1;
        if let Err(error) = &got {
            self.said.push_str(error);
        }
        match got {
            Ok(_) => self.wrong.push(format!("{case}: accepted; expected: {wish}")),
            Err(error) if error.contains(wish) => {}
            Err(error) => self.wrong.push(format!("{case}: expected: {wish}\n    got: {error}")),
        }
    }

    /// A plain expectation.
    pub fn holds(&mut self, case: &str, holds: bool) {
        self.cases += 1;
        if !holds {
            self.wrong.push(format!("{case}: doesn't hold"));
        }
    }

    /// Fails when something was wrong, or when a rule of the definitions was never seen to refuse anything.
    pub fn finish(mut self) {
        for crd in api::crds() {
            let mut messages = Vec::new();
            collect(&serde_json::to_value(&crd.spec).unwrap(), &mut messages);
            let unseen = messages.iter().filter(|message| !self.said.contains(message.as_str()));
            self.wrong.extend(unseen.map(|message| format!("no case is refused with: {message}")));
        }
        println!("{} cases, {} wrong", self.cases, self.wrong.len());
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
    }
}

/// The messages of all rules in a schema.
fn collect(schema: &Value, messages: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            for rule in fields.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten()
            {
                messages.push(rule["message"].as_str().unwrap().to_owned());
            }
            fields.values().for_each(|field| collect(field, messages));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, messages)),
        _ => {}
    }
}
