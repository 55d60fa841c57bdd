//! Peers of NetworkPolicies that people name.
use std::str::FromStr;

use k8s_openapi::api::networking::v1::NetworkPolicyPeer;

/// Who may come in where a policy lets these in; nobody when there are none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Peers(pub Vec<NetworkPolicyPeer>);

impl FromStr for Peers {
    type Err = String;

    /// Reads a list in JSON. A peer that selects nothing would be everybody, or nobody: it is refused.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let peers: Vec<NetworkPolicyPeer> =
            serde_json::from_str(text).map_err(|error| format!("no list of NetworkPolicyPeers: {error}"))?;
        if peers.contains(&NetworkPolicyPeer::default()) {
            return Err("a peer needs a namespaceSelector, a podSelector or an ipBlock".to_owned());
        }
        Ok(Self(peers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_peers_is_read_and_what_names_nobody_is_refused() {
        let text = r#"[{"namespaceSelector": {"matchLabels": {"team": "watch"}}, "podSelector": {}}]"#;
        let Peers(peers) = text.parse().unwrap();
        let labels = peers[0].namespace_selector.as_ref().unwrap().match_labels.as_ref().unwrap();
        assert_eq!(labels["team"], "watch");
        assert!(peers[0].pod_selector.is_some() && peers[0].ip_block.is_none());
        assert_eq!("[]".parse(), Ok(Peers::default()));
        for text in ["", "{}", "[{}]", r#"[{"podselector": {}}]"#, r#"[{"podSelector": 1}]"#] {
            assert!(text.parse::<Peers>().is_err(), "{text}");
        }
    }
}
