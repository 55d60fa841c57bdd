//! Peers of NetworkPolicies that people name.
use core::net::IpAddr;
use std::str::FromStr;

use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicyPeer};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use serde::Deserialize as _;
use serde_json::Value;

/// Who may come in where a policy lets these in; nobody when there are none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Peers(pub Vec<NetworkPolicyPeer>);

impl FromStr for Peers {
    type Err = String;

    /// Reads a list in JSON. Refused is what Kubernetes would refuse as a part of a policy, since no pool would get its policies,
    /// and what it would leave out of one: a peer without the field that was misspelt lets in more than was meant.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let told: Vec<Value> =
            serde_json::from_str(text).map_err(|error| format!("no list of NetworkPolicyPeers: {error}"))?;
        let peers = told.iter().map(|told| peer(told).map_err(|why| format!("the peer {told}: {why}")));
        peers.collect::<Result<_, _>>().map(Self)
    }
}

fn peer(told: &Value) -> Result<NetworkPolicyPeer, String> {
    let peer = NetworkPolicyPeer::deserialize(told).map_err(|error| error.to_string())?;
    if serde_json::to_value(&peer).ok().as_ref() != Some(told) {
        return Err(
            "it has a field that a NetworkPolicyPeer doesn't have, or an empty one, or lacks one".to_owned()
        );
    }
    let NetworkPolicyPeer { ip_block, namespace_selector, pod_selector } = &peer;
    let selectors: Vec<&LabelSelector> = namespace_selector.iter().chain(pod_selector).collect();
    match ip_block {
        Some(_) if !selectors.is_empty() => return Err("an ipBlock stands alone".to_owned()),
        Some(block) => check_block(block)?,
        // It would be everybody, or nobody.
        None if selectors.is_empty() => {
            return Err("it needs a namespaceSelector, a podSelector or an ipBlock".to_owned());
        }
        None => selectors.into_iter().try_for_each(check_selector)?,
    }
    Ok(peer)
}

/// What Kubernetes checks of an `ipBlock`.
fn check_block(block: &IPBlock) -> Result<(), String> {
    let whole = Network::read(&block.cidr)?;
    for text in block.except.iter().flatten() {
        if !whole.holds(&Network::read(text)?) {
            return Err(format!("{text} is no part of {}", block.cidr));
        }
    }
    Ok(())
}

/// Addresses that begin alike.
struct Network {
    /// The bits of the first address, from the left.
    bits: u128,
    /// Bits of an address: 32 or 128.
    width: u8,
    /// How many of them are the same in all.
    prefix: u8,
}

impl Network {
    /// Reads one in the form that every Kubernetes takes: newer ones refuse bits behind the prefix, and IPv4 in IPv6.
    fn read(text: &str) -> Result<Self, String> {
        Self::parse(text).ok_or_else(|| {
            format!("{text:?} is no CIDR such as 10.0.0.0/8 or 2001:db8::/32, without bits behind the prefix")
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let (bits, width) = match address.parse::<IpAddr>().ok()? {
            IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
            IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => return None,
            IpAddr::V6(address) => (address.to_bits(), 128),
        };
        let prefix: u8 = length.parse().ok()?;
        let plain = prefix <= width && length == prefix.to_string() && head(bits, prefix) == bits;
        plain.then_some(Self { bits, width, prefix })
    }

    /// Whether the other is a part of this, and not the whole.
    fn holds(&self, other: &Self) -> bool {
        self.width == other.width && self.prefix < other.prefix && head(other.bits, self.prefix) == self.bits
    }
}

/// The first bits, and nothing behind them.
fn head(bits: u128, prefix: u8) -> u128 {
    bits & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

/// What Kubernetes checks of a selector.
fn check_selector(selector: &LabelSelector) -> Result<(), String> {
    for (name, value) in selector.match_labels.iter().flatten() {
        check_label(name, [value])?;
    }
    for LabelSelectorRequirement { key, operator, values } in selector.match_expressions.iter().flatten() {
        let values = values.as_deref().unwrap_or_default();
        let fits = match operator.as_str() {
            "In" | "NotIn" => !values.is_empty(),
            "Exists" | "DoesNotExist" => values.is_empty(),
            _ => false,
        };
        if !fits {
            return Err(format!(
                "{key} {operator}: operators are In and NotIn with values, Exists and DoesNotExist without"
            ));
        }
        check_label(key, values)?;
    }
    Ok(())
}

/// Names and values of labels (Kubernetes documentation, "Labels and Selectors").
fn check_label<'a>(name: &str, values: impl IntoIterator<Item = &'a String>) -> Result<(), String> {
    let named =
        name.split_once('/').map_or(is_word(name), |(domain, name)| is_domain(domain) && is_word(name));
    if !named {
        return Err(format!("{name:?} is no name of a label"));
    }
    match values.into_iter().find(|value| !value.is_empty() && !is_word(value)) {
        Some(value) => Err(format!("{value:?} is no value of a label")),
        None => Ok(()),
    }
}

fn is_word(text: &str) -> bool {
    let end = |c: char| c.is_ascii_alphanumeric();
    let inner = |c: char| end(c) || matches!(c, '-' | '_' | '.');
    text.len() <= 63 && text.starts_with(end) && text.ends_with(end) && text.chars().all(inner)
}

fn is_domain(text: &str) -> bool {
    let end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let part =
        |part: &str| part.starts_with(end) && part.ends_with(end) && part.chars().all(|c| end(c) || c == '-');
    text.len() <= 253 && text.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_peers_is_read() {
        let text = r#"[{"namespaceSelector": {"matchLabels": {"team": "watch"}}, "podSelector": {}}]"#;
        let Peers(peers) = text.parse().unwrap();
        let labels = peers[0].namespace_selector.as_ref().unwrap().match_labels.as_ref().unwrap();
        assert_eq!(labels["team"], "watch");
        assert!(peers[0].pod_selector.is_some() && peers[0].ip_block.is_none());
        assert_eq!("[]".parse(), Ok(Peers::default()));
        for text in [
            r#"[{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "192.0.2.7/32"]}}]"#,
            r#"[{"ipBlock": {"cidr": "2001:db8::/32", "except": ["2001:db8:1::/48"]}}]"#,
            r#"[{"podSelector": {"matchLabels": {"example.com/App_1": "", "app": "x.y"}}}]"#,
            r#"[{"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a", ""]}]}}]"#,
            r#"[{"podSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}]"#,
            r#"[{"podSelector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist", "values": []}]}}]"#,
        ] {
            assert_eq!(text.parse::<Peers>().map(|Peers(peers)| peers.len()), Ok(1), "{text}");
        }
    }

    fn is_refused(text: &str, because: &str) {
        let said = text.parse::<Peers>().expect_err(text);
        assert!(said.contains(because), "{text}: {said}");
    }

    #[test]
    fn what_names_nobody_or_another_than_was_meant_is_refused() {
        for text in ["", "{}", "[1]", r#"[{"podSelector": 1}]"#] {
            assert!(text.parse::<Peers>().is_err(), "{text}");
        }
        is_refused("[{}]", "it needs a namespaceSelector");
        for text in [
            r#"[{"podselector": {}}]"#,
            r#"[{"namespaceSelector": {}, "podselector": {"matchLabels": {"app": "a"}}}]"#,
            r#"[{"namespaceSelector": {"matchlabels": {"team": "watch"}}}]"#,
            r#"[{"namespaceSelector": {}, "podSelector": null}]"#,
            r#"[{"ipBlock": {"except": ["10.0.0.0/8"]}}]"#,
            r#"[{"podSelector": {"matchExpressions": [{"operator": "Exists"}]}}]"#,
        ] {
            is_refused(text, "it has a field");
        }
    }

    #[test]
    fn an_ip_block_stands_alone_and_is_of_addresses() {
        is_refused(r#"[{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]"#, "stands alone");
        for cidr in [
            "",
            "everywhere",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0/8",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "010.0.0.0/8",
            "10.1.0.0/8",
            "::/129",
            "2001:db8::1/32",
            "::ffff:10.0.0.0/104",
            "fe80::%1/64",
        ] {
            is_refused(&format!(r#"[{{"ipBlock": {{"cidr": "{cidr}"}}}}]"#), "is no CIDR");
        }
        for except in ["10.0.0.0/8", "0.0.0.0/0", "11.0.0.0/16", "2001:db8::/32"] {
            let text = format!(r#"[{{"ipBlock": {{"cidr": "10.0.0.0/8", "except": ["{except}"]}}}}]"#);
            is_refused(&text, "is no part of 10.0.0.0/8");
        }
        is_refused(r#"[{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["some"]}}]"#, "is no CIDR");
    }

    #[test]
    fn selectors_are_of_labels() {
        for (key, operator, values) in [
            ("app", "In", "[]"),
            ("app", "Exists", r#"["a"]"#),
            ("app", "Like", r#"["a"]"#),
            ("app", "in", r#"["a"]"#),
        ] {
            let one = format!(r#"{{"key": "{key}", "operator": "{operator}", "values": {values}}}"#);
            is_refused(&format!(r#"[{{"podSelector": {{"matchExpressions": [{one}]}}}}]"#), "operators are");
        }
        let one = r#"{"key": "app", "operator": "In", "values": ["a b"]}"#;
        is_refused(
            &format!(r#"[{{"podSelector": {{"matchExpressions": [{one}]}}}}]"#),
            "no value of a label",
        );
        for (name, value, because) in [
            ("", "a", "no name"),
            ("-app", "a", "no name"),
            ("a/b/c", "a", "no name"),
            ("Example.com/app", "a", "no name"),
            ("app", "a/b", "no value"),
            ("app", "a.", "no value"),
        ] {
            let text = format!(r#"[{{"podSelector": {{"matchLabels": {{"{name}": "{value}"}}}}}}]"#);
            is_refused(&text, because);
        }
        let long = "x".repeat(64);
        is_refused(&format!(r#"[{{"podSelector": {{"matchLabels": {{"{long}": "a"}}}}}}]"#), "no name");
    }
}
