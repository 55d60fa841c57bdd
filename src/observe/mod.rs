//! The world of one pool, looked at once: Kubernetes by consistent lists or as its watches have brought it, agents by their
//! reports.
mod agents;
mod answer;
mod cache;
mod claims;
mod kubernetes;
mod secrets;
mod spare;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;
use kube::Client;
use rand::Rng as _;
use thiserror::Error;

use crate::api::v1alpha1::{PgPool, PgPoolMembership, Record};
use crate::model::{MembershipSeen, Memory, NodeSeen, Observed, ValidPool};
use crate::names;

pub use agents::{Agents, AgentsError};
pub use answer::said;
pub use cache::Cache;
pub use claims::Volumes;
use kubernetes::Lists;
pub use spare::{slim, slim_pod};

/// Why a pool could not be looked at.
#[derive(Debug, Error)]
pub enum ObserveError {
    /// The Kubernetes API didn't answer as hoped.
    #[error("{what} of pool {pool}: {}", said(source))]
    Api {
        /// What was asked for.
        what: &'static str,
        /// The pool.
        pool: String,
        /// The API's answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// The agents can't be talked to.
    #[error(transparent)]
    Agents(#[from] AgentsError),
}

/// Looks: at a cache where one is given, which may be behind, else by consistent lists. Agents are asked either way.
pub async fn observe(
    client: &Client,
    agents: &Agents,
    raw: &PgPool,
    pool: &ValidPool,
    memory: Memory,
    now: Timestamp,
    cache: Option<&Cache>,
) -> Result<Observed, ObserveError> {
    let lists = Lists::look(client, pool, cache).await?;
    let membership = kubernetes::membership(client, pool, cache).await?;
    let status = raw.status.clone().unwrap_or_default();
    let pool_uid = membership.as_ref().map(|m: &PgPoolMembership| m.spec.pool_uid.clone());
    let secrets = secrets::read(client, pool, &lists, status.bootstrapped).await?;
    let record = membership.as_ref().and_then(|membership| membership.status.as_ref());
    let mut nodes = nodes(pool, &lists, record);
    claims::look_for_lost(client, pool, &lists, &mut nodes, cache.map(|cache| &cache.volumes)).await?;
    claims::look_for_fixed(client, pool, &lists, &mut nodes).await?;
    if let (Some(uid), Some(secret)) =
        (&pool_uid, lists.secret(&names::part_tls_secret(pool.name(), "operator")))
    {
        reports(agents, pool, uid, secret, &mut nodes).await?;
    }
    Ok(Observed {
        membership: membership.map(|membership| MembershipSeen {
            deleting: membership.metadata.deletion_timestamp.is_some(),
            spec: membership.spec,
            record: membership.status,
        }),
        jobs: workloads::jobs(pool, &lists),
        proxy: workloads::proxy(pool, &lists),
        live: lists.live(pool),
        claims: claims::all(&lists),
        pods: lists.pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect(),
        secrets,
        nodes,
        status,
        // Eight digits: the name of the Job must fit into a label.
        fresh_id: hex(8),
        fresh_uid: hex(32),
        memory,
        now,
    })
}

fn hex(digits: usize) -> String {
    let mut random = rand::rng();
    (0..digits).filter_map(|_| char::from_digit(random.random_range(0..16), 16)).collect()
}

/// The nodes of the spec, and those beyond them that are still there.
fn nodes(pool: &ValidPool, lists: &Lists, record: Option<&Record>) -> BTreeMap<u8, NodeSeen> {
    let mut indices: BTreeSet<u8> = (0..pool.nodes).collect();
    indices.extend(lists.sets.iter().filter_map(workloads::index));
    indices.extend(lists.pods.iter().filter(|pod| workloads::is_node(pod)).filter_map(workloads::index));
    indices.extend(record.into_iter().flat_map(|record| record.attached.iter().map(|member| member.index)));
    if pool.deleting {
        // Volumes of nodes that were removed before go with the pool too.
        indices.extend(lists.claims.iter().filter_map(workloads::index));
    }
    indices
        .into_iter()
        .map(|index| {
            let seen = NodeSeen {
                set: workloads::set(pool, lists, index),
                pod: workloads::pod(pool, lists, index),
                claim: claims::claim(pool, lists, index),
                report: None,
            };
            (index, seen)
        })
        .collect()
}

async fn reports(
    agents: &Agents,
    pool: &ValidPool,
    pool_uid: &str,
    secret: &k8s_openapi::api::core::v1::Secret,
    nodes: &mut BTreeMap<u8, NodeSeen>,
) -> Result<(), ObserveError> {
    agents.learn(&pool.key, secret)?;
    let at = |seen: &NodeSeen| seen.pod.as_ref().and_then(|pod| pod.address.as_ref()?.parse().ok());
    let asked: Vec<(u8, IpAddr)> =
        nodes.iter().filter_map(|(index, seen)| Some((*index, at(seen)?))).collect();
    let answers = agents.reports(pool, pool_uid, &asked).await;
    for ((index, _), answer) in asked.into_iter().zip(answers) {
        if let Some(seen) = nodes.get_mut(&index) {
            seen.report = Some(answer);
        }
    }
    Ok(())
}
