//! Breaking a cluster, and healing it.
//!
//! Network faults are made at the switch, in one nftables table a machine or pair of machines, so that each can
//! be healed alone. Faults inside a machine are orders to its PID 1.

use super::layout::{Cluster, MACHINES, Machine};
use super::{init, lifecycle, machine};
use crate::error::{Result, refused};
use crate::run;

/// The netfilter queue that holds delayed packets.
const QUEUE: &str = "7";
/// The service that answers the queue.
const DELAYER: &str = "netq";

/// What can be broken.
#[derive(Debug, Clone, PartialEq, Eq, clap::Subcommand)]
pub enum Fault {
    /// Power cut: all processes of the node end at once; its disk stays
    Kill {
        /// n1, n2, n3 or cp
        node: String,
    },
    /// Power the node on; with SERVICE, start that service again after `stop`
    Start {
        /// n1, n2, n3 or cp
        node: String,
        /// A service that was stopped
        service: Option<String>,
    },
    /// Pull the network cable
    Isolate {
        /// n1, n2, n3, cp or client
        node: String,
    },
    /// Undo all network faults of the node, and start and thaw its services
    Heal {
        /// n1, n2, n3, cp or client
        node: String,
    },
    /// Nothing that the node sends arrives
    Mute {
        /// n1, n2, n3, cp or client
        node: String,
    },
    /// Nothing arrives at the node
    Deaf {
        /// n1, n2, n3, cp or client
        node: String,
    },
    /// The two do not see each other; both see the rest
    Part {
        /// n1, n2, n3, cp or client
        node: String,
        /// The other one
        other: String,
    },
    /// Lose some of the frames that the node sends
    Loss {
        /// n1, n2, n3, cp or client
        node: String,
        /// Percent of the frames
        #[arg(value_parser = clap::value_parser!(u8).range(1..=100))]
        percent: u8,
    },
    /// Delay each packet that the node sends
    Delay {
        /// n1, n2, n3 or cp
        node: String,
        /// Such as 100ms
        #[arg(value_parser = duration)]
        time: String,
        /// Random time on top, such as 20ms
        #[arg(value_parser = duration, default_value = "0s")]
        jitter: String,
    },
    /// Connections to the port of the node are reset at once, new and old
    Reject {
        /// n1, n2, n3 or cp
        node: String,
        /// TCP port
        port: u16,
    },
    /// Kill a service and keep it down: etcd, apiserver, controllers, scheduler; containerd, kubelet, proxy, netpol
    Stop {
        /// n1, n2, n3, cp or client
        node: String,
        /// The service
        service: String,
    },
    /// Kill a service, which comes back after 0.5 s. Restarting kubelet ends its back-off after an outage
    Restart {
        /// n1, n2, n3, cp or client
        node: String,
        /// The service
        service: String,
    },
    /// Stop a service in its tracks, with its connections open
    Freeze {
        /// n1, n2, n3, cp or client
        node: String,
        /// The service
        service: String,
    },
    /// Let a frozen service go on
    Thaw {
        /// n1, n2, n3, cp or client
        node: String,
        /// The service
        service: String,
    },
}

/// A number and a unit, as Go reads it.
fn duration(text: &str) -> std::result::Result<String, String> {
    let number = ["ms", "us", "s"].iter().find_map(|unit| text.strip_suffix(unit));
    match number {
        Some(number) if number.parse::<f64>().is_ok_and(|n| n >= 0.0) => Ok(text.to_owned()),
        _ => Err("a time such as 100ms".to_owned()),
    }
}

/// Makes the fault.
pub fn make(cluster: &Cluster, fault: &Fault, toleration: u32) -> Result<()> {
    let named = |name: &str| match Machine::named(name)? {
        Machine::Switch => refused("the switch itself has no faults"),
        machine => Ok(machine),
    };
    let order = |node: &str, verb: &str, service: &str| {
        init::order(cluster, named(node)?, &format!("{verb} {service}")).map(drop)
    };
    match fault {
        Fault::Kill { node } => lifecycle::node_kill(cluster, named(node)?),
        Fault::Start { node, service: None } => lifecycle::node_start(cluster, named(node)?, toleration),
        Fault::Start { node, service: Some(service) } => order(node, "start", service),
        Fault::Isolate { node } => {
            machine::at_switch(cluster, &["link", "set", &named(node)?.port(), "down"])
        }
        Fault::Heal { node } => heal(cluster, named(node)?),
        Fault::Mute { .. } | Fault::Deaf { .. } | Fault::Part { .. } | Fault::Loss { .. } => {
            filter(cluster, &rules(fault)?)
        }
        Fault::Delay { node, time, jitter } => delay(cluster, named(node)?, time, jitter),
        Fault::Reject { node, port } => reject(cluster, named(node)?, *port),
        Fault::Stop { node, service } => order(node, "stop", service),
        Fault::Restart { node, service } => order(node, "restart", service),
        Fault::Freeze { node, service } => order(node, "freeze", service),
        Fault::Thaw { node, service } => order(node, "thaw", service),
    }
}

/// The nftables table of a fault at the switch, made anew in one transaction.
fn rules(fault: &Fault) -> Result<String> {
    let port = |name: &str| Machine::named(name).map(Machine::port);
    let (table, rules) = match fault {
        Fault::Mute { node } => (format!("mute-{node}"), format!("iifname {} drop", port(node)?)),
        Fault::Deaf { node } => (format!("deaf-{node}"), format!("oifname {} drop", port(node)?)),
        Fault::Loss { node, percent } => (
            format!("loss-{node}"),
            format!("iifname {} numgen random mod 100 < {percent} drop", port(node)?),
        ),
        Fault::Part { node, other } => {
            if node == other {
                return refused("a node cannot be parted from itself");
            }
            let (a, b) = (port(node)?, port(other)?);
            (
                pair(Machine::named(node)?, Machine::named(other)?),
                format!("iifname {a} oifname {b} drop; iifname {b} oifname {a} drop"),
            )
        }
        _ => return refused("no fault of the switch"),
    };
    Ok(format!(
        "table bridge {table}\ndelete table bridge {table}\n\
         table bridge {table} {{ chain f {{ type filter hook forward priority 0; {rules}; }}; }}\n"
    ))
}

/// The name of the table that parts two machines, whichever is named first.
fn pair(a: Machine, b: Machine) -> String {
    let mut names = [a.to_string(), b.to_string()];
    names.sort();
    format!("part-{}-{}", names[0], names[1])
}

fn filter(cluster: &Cluster, rules: &str) -> Result<()> {
    let switch = machine::need(cluster, Machine::Switch)?;
    run::fed(machine::in_network(switch, "nft").args(["-f", "-"]), rules).map(drop)
}

/// Packets wait in a netfilter queue, since not every kernel has netem. Without netq they pass freely.
fn delay(cluster: &Cluster, machine: Machine, time: &str, jitter: &str) -> Result<()> {
    let pid = machine::need(cluster, machine)?;
    let words = format!("{DELAYER} {DELAYER} -queue {QUEUE} -delay {time} -jitter {jitter}");
    init::order(cluster, machine, &format!("run {words}"))?;
    let rule = ["-o", "eth0", "-j", "NFQUEUE", "--queue-num", QUEUE, "--queue-bypass"];
    let iptables = |action: &str| {
        let mut iptables = machine::in_network(pid, "iptables");
        iptables.args(["-t", "mangle", action, "POSTROUTING"]).args(rule);
        iptables
    };
    if run::output(&mut iptables("-C"))?.status.success() {
        return Ok(());
    }
    run::captured(&mut iptables("-A")).map(drop)
}

fn reject(cluster: &Cluster, machine: Machine, port: u16) -> Result<()> {
    let pid = machine::need(cluster, machine)?;
    let rules = format!(
        "table inet fault\ndelete table inet fault\ntable inet fault {{ chain f {{ \
         type filter hook input priority -10; tcp dport {port} reject with tcp reset; }}; \
         chain g {{ type filter hook forward priority -10; tcp dport {port} reject with tcp reset; }}; }}\n"
    );
    run::fed(machine::in_network(pid, "nft").args(["-f", "-"]), &rules).map(drop)
}

fn heal(cluster: &Cluster, machine: Machine) -> Result<()> {
    let mut tables: Vec<String> = ["mute", "deaf", "loss"].map(|kind| format!("{kind}-{machine}")).to_vec();
    tables.extend(MACHINES.into_iter().map(|other| pair(machine, other)));
    // Creating before deleting makes the deletion succeed whether or not there was such a fault.
    let rules: Vec<String> =
        tables.iter().map(|t| format!("table bridge {t}\ndelete table bridge {t}\n")).collect();
    filter(cluster, &rules.concat())?;
    let Some(pid) = machine::init_pid(cluster, machine) else {
        return Ok(());
    };
    machine::at_switch(cluster, &["link", "set", &machine.port(), "up"])?;
    let table = "table inet fault\ndelete table inet fault\n";
    run::fed(machine::in_network(pid, "nft").args(["-f", "-"]), table)?;
    run::captured(machine::in_network(pid, "iptables").args(["-t", "mangle", "-F", "POSTROUTING"]))?;
    init::order(cluster, machine, "heal").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_parted_and_healed_under_one_name() {
        let part = |a: &str, b: &str| rules(&Fault::Part { node: a.into(), other: b.into() }).unwrap();
        assert!(part("n2", "n1").starts_with("table bridge part-n1-n2\n"));
        assert!(part("n1", "n2").contains("iifname p-n1 oifname p-n2 drop; iifname p-n2 oifname p-n1 drop"));
        assert!(rules(&Fault::Part { node: "n1".into(), other: "n1".into() }).is_err());
        assert!(rules(&Fault::Mute { node: "n9".into() }).is_err());
    }

    #[test]
    fn mute_and_deaf_look_at_opposite_ends_of_the_cable() {
        assert!(rules(&Fault::Mute { node: "n3".into() }).unwrap().contains("iifname p-n3 drop"));
        assert!(rules(&Fault::Deaf { node: "n3".into() }).unwrap().contains("oifname p-n3 drop"));
    }

    #[test]
    fn times_need_a_unit() {
        assert!(duration("100ms").is_ok() && duration("1.5s").is_ok());
        for bad in ["100", "ms", "-1s", "1h; reboot"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
