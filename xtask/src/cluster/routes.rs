//! Addresses that no real pod has: what is sent to them is answered by programs on the client's machine.

use super::layout::{Cluster, MACHINES, Machine};
use super::machine;
use crate::error::Result;
use crate::run;

/// The words of `ip route` by which a machine finds a network that is on the client's.
fn route(machine: Machine, network: &str) -> Option<Vec<String>> {
    let client = Machine::Client.address()?;
    match machine {
        // All of it is the machine's own, without an address being given to a link (ip-route(8), type `local`).
        Machine::Client => Some(["local", network, "dev", "lo"].map(String::from).to_vec()),
        Machine::Node(_) => Some(vec![network.to_owned(), "via".to_owned(), client.to_string()]),
        Machine::Switch | Machine::Control => None,
    }
}

/// Has a network, such as `10.245.0.0/16`, lead to the client's machine, whose programs may listen at each of its addresses.
pub fn lead_to_client(cluster: &Cluster, network: &str) -> Result<()> {
    for machine in MACHINES {
        if let Some(words) = route(machine, network) {
            let pid = machine::need(cluster, machine)?;
            run::captured(machine::in_network(pid, "ip").args(["route", "replace"]).args(words))?;
        }
    }
    Ok(())
}

/// Takes it back; what isn't there any more is no error.
pub fn forget(cluster: &Cluster, network: &str) -> Result<()> {
    for machine in MACHINES {
        if let (Some(words), Some(pid)) = (route(machine, network), machine::init_pid(cluster, machine)) {
            run::output(machine::in_network(pid, "ip").args(["route", "delete"]).args(words))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_send_to_the_client_what_the_client_takes_for_its_own() {
        let words = |machine| route(machine, "10.245.0.0/16").map(|words| words.join(" "));
        assert_eq!(words(Machine::Client).as_deref(), Some("local 10.245.0.0/16 dev lo"));
        assert_eq!(words(Machine::Node(3)).as_deref(), Some("10.245.0.0/16 via 10.77.0.1"));
        assert_eq!((words(Machine::Switch), words(Machine::Control)), (None, None));
    }
}
