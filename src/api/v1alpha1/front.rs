//! How clients reach a pool: the front, its Services, its certificates.
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::{OBJECT_NAME, rules};
use super::{Resources, Span};

/// How new sessions of `NAME-ro` are spread over the attached nodes. Sessions that are there stay where they are.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancing {
    /// Weight by node index; 1 where left out. Of sessions that are open at once a node with twice the weight gets twice as
    /// many, those that write counted; one with 0 gets only what no other node can take.
    #[schemars(extend("maxProperties" = 15))]
    #[schemars(extend("x-kubernetes-validations" = rules(&[("self.all(k, self[k] <= 1000)", "spec.loadBalancing.weights: at most 1000 each")])))]
    pub weights: BTreeMap<String, u32>,
    /// Whether the primary takes reads by its weight as well; if not, it has weight 0.
    pub primary: bool,
}

impl LoadBalancing {
    /// What counts for a node.
    pub fn weight(&self, index: u8, primary: bool) -> u32 {
        if primary && !self.primary {
            return 0;
        }
        self.weights.get(&index.to_string()).copied().unwrap_or(1)
    }
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
    /// CPU and memory of each. It has a thread for each processor that it may use, eight at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// The Services of the front.
    pub service: ProxyService,
    /// Connections that one pod of the front takes at most.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_connections: u32,
    /// Connections of one user that one pod of the front takes at most, both Services together; not limited when left
    /// out. What `ALTER ROLE … CONNECTION LIMIT` says is counted by each node for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_connections_per_user: Option<u32>,
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            replicas: 2,
            resources: None,
            service: ProxyService::default(),
            max_connections: 1000,
            max_connections_per_user: None,
        }
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
