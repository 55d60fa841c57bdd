//! What this node's Postgres is told: the file's content by role, and where a standby finds its primary.
use std::collections::BTreeMap;
use std::net::IpAddr;

use super::node::Node;
use crate::api::v1alpha1::{Member, Phase};
use crate::config::postgresql::{NodeConfig, Upstream};
use crate::membership::names::{Filler, Names, application_name};
use crate::messages::Role;
use crate::names;

/// The address in `primary_conninfo`. With a machine a part of the cluster's DNS may be lost, and a walreceiver that
/// waits for a name server can't be ended: each vote would wait for it (R2).
#[derive(Debug, Default)]
pub struct UpstreamAddress {
    primary: Option<u8>,
    at: Option<IpAddr>,
}

impl UpstreamAddress {
    /// The address of that primary, if it is known.
    pub fn of(&self, primary: u8) -> Option<IpAddr> {
        if self.primary == Some(primary) { self.at } else { None }
    }

    /// Takes what is `known` of the address of `primary`, but breaks no stream that runs.
    fn learn(&mut self, primary: u8, known: Option<IpAddr>, streaming: bool) {
        if self.primary != Some(primary) || !streaming {
            (self.primary, self.at) = (Some(primary), known);
        }
    }
}

impl Node {
    /// Learns where the record's primary is: where its agent has proved by certificate to be. What is known is
    /// renewed by the questions that are asked of it while nothing is received ([`Self::ask_primary`]).
    pub(super) fn find_upstream(&mut self, primary: u8) {
        let Some((object, _)) = &self.object else { return };
        let host = names::node_host(&self.shared.env.pool, primary, &object.spec.domain);
        let streaming = self.shared.lock().report.streaming;
        self.upstream.learn(primary, self.link.proved().get(&host), streaming);
    }

    /// Whether the primary was proved to be at another address than the one that is followed; that is learnt then.
    pub(super) fn finds_primary_elsewhere(&mut self, primary: u8) -> bool {
        let Some((object, _)) = &self.object else { return false };
        let host = names::node_host(&self.shared.env.pool, primary, &object.spec.domain);
        let known = self.link.proved().get(&host);
        let elsewhere = known.is_some() && known != self.upstream.of(primary);
        if elsewhere {
            self.upstream.learn(primary, known, false);
        }
        elsewhere
    }

    /// The configuration of this node, as a standby of the record's primary or as the primary.
    pub(super) fn config(&self, member: &Member, role: Role) -> Option<NodeConfig> {
        let (object, _) = self.object.as_ref()?;
        let record = object.status.as_ref()?;
        let env = &self.shared.env;
        // A voter follows nobody, and neither does the one that was chosen.
        let voted_on = record.phase == Phase::Electing && record.attached.contains(member);
        let follows = role == Role::Standby && record.primary != env.index && !voted_on;
        let upstream = follows.then(|| Upstream {
            host: names::node_host(&env.pool, record.primary, &object.spec.domain),
            address: self.upstream.of(record.primary),
            application_name: application_name(member),
            archives: !record.attached.contains(member) || self.lacks_wal(),
        });
        Some(NodeConfig {
            major: self.programs.as_ref()?.major,
            pool: env.pool.clone(),
            index: env.index,
            storage_bytes: env.storage_bytes,
            parameters: object.spec.parameters.clone(),
            // On a standby the list is never empty: only the checkpointer tells sessions that commits wait, and
            // it must have done so long before this node is a primary (streaming-facts: 1.2).
            synchronous: match role {
                Role::Primary => self.names.render(),
                _ => Names { filler: Some(Filler::Gate), ..Names::default() }.render(),
            },
            upstream,
            floors: if role == Role::Standby { self.floors.clone() } else { BTreeMap::new() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_changes_only_while_nothing_is_received() {
        let (old, new) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut upstream = UpstreamAddress::default();
        assert_eq!(upstream.of(0), None);
        upstream.learn(0, None, false);
        upstream.learn(0, Some(old), true);
        assert_eq!(upstream.of(0), None, "the stream by DNS's word goes on");
        upstream.learn(0, Some(old), false);
        upstream.learn(0, Some(new), true);
        assert_eq!(upstream.of(0), Some(old));
        upstream.learn(0, Some(new), false);
        assert_eq!(upstream.of(0), Some(new));
        assert_eq!(upstream.of(1), None, "another primary is elsewhere");
        upstream.learn(1, Some(old), true);
        assert_eq!((upstream.of(0), upstream.of(1)), (None, Some(old)));
    }
}
