//! How clients reach a pool: the front, its Services, its certificates.
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::{OBJECT_NAME, rules};
use super::{Resources, Span};

/// How reads are spread over the attached nodes.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancing {
    /// Weight by node index; 1 where left out.
    #[schemars(extend("maxProperties" = 15))]
    #[schemars(extend("x-kubernetes-validations" = rules(&[("self.all(k, self[k] == 1)", "spec.loadBalancing.weights: weights other than 1 come with the front; leave them out for now")])))]
    pub weights: BTreeMap<String, u32>,
    /// Whether `demo-ro` uses the primary as well.
    #[schemars(extend("x-kubernetes-validations" = rules(&[("self", "spec.loadBalancing.primary: leaving the primary out comes with the front; leave it out for now")])))]
    pub primary: bool,
}

impl Default for LoadBalancing {
    fn default() -> Self {
        Self { weights: BTreeMap::new(), primary: true }
    }
}

/// The front.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Proxy {
    /// Pods of the front, all active.
    #[schemars(range(min = 1, max = 20))]
    pub replicas: u8,
    /// CPU and memory of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// The Services of the front.
    pub service: ProxyService,
    /// Connections that one pod of the front takes at most.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_connections: u32,
}

impl Default for Proxy {
    fn default() -> Self {
        Self { replicas: 2, resources: None, service: ProxyService::default(), max_connections: 1000 }
    }
}

/// How the front is reached.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyService {
    /// Type of the Services `NAME` and `NAME-ro`.
    #[serde(rename = "type")]
    pub type_: ServiceType,
    /// Annotations put on them.
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
}

/// Type of a Service.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum ServiceType {
    /// Inside the cluster only.
    #[default]
    ClusterIP,
    /// On a port of every Kubernetes node.
    NodePort,
    /// Behind a load balancer.
    LoadBalancer,
}

impl ServiceType {
    /// As a Service spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

/// Certificates of the pool.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Tls {
    /// Secret of type kubernetes.io/tls with the certificate that clients see; one of the pool's own CA when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub server_secret: Option<String>,
    /// How long the certificates of the pool are valid; they are renewed after two thirds of it.
    #[schemars(extend("x-kubernetes-validations" = rules(&[("duration(self) >= duration('1h') && duration(self) <= duration('87600h')", "spec.tls.validity: between 1h and 87600h")])))]
    pub validity: TlsValidity,
}

/// How long a certificate is valid.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, JsonSchema)]
#[serde(transparent)]
pub struct TlsValidity(pub Span);

impl Default for TlsValidity {
    fn default() -> Self {
        Self(Span::from_secs(90 * 24 * 3600))
    }
}
