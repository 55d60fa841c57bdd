//! Names, addresses and folders of a cluster.
//!
//! All of its network lies in namespaces of its own, so every cluster has the same addresses.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::error::{Result, refused};

/// The Kubernetes nodes.
pub const NODES: [Machine; 3] = [Machine::Node(1), Machine::Node(2), Machine::Node(3)];
/// Every machine, in the order of starting: the switch first, since the others are plugged into it.
pub const MACHINES: [Machine; 6] = [
    Machine::Switch,
    Machine::Control,
    Machine::Client,
    Machine::Node(1),
    Machine::Node(2),
    Machine::Node(3),
];
/// Addresses of Services.
pub const SERVICES: &str = "10.96.0.0/16";
/// Addresses of all pods.
pub const PODS: &str = "10.244.0.0/16";
/// The Service address of the cluster's DNS.
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The Service address of the API server.
pub const KUBERNETES: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Where a machine finds its own certificates and configuration.
pub const ETC: &str = "/var/lib/pgpool-node";
/// Where etcd has its data, on its machine.
pub const ETCD: &str = "/var/lib/etcd";
/// Where the API server writes down what accounts of pods ask of it, on its machine.
pub const AUDIT_LOG: &str = "/var/log/audit.log";
/// Where Kubernetes looks for plugins of volumes, on each machine; there are none. It makes the folder, by default one that
/// machines have in common with the host, where it would outlive them.
pub const VOLUME_PLUGINS: &str = "/var/lib/volume-plugins";
/// Where a machine finds the cluster's programs.
pub const BIN: &str = "/mnt";

/// One process tree with namespaces of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// A bridge without a way out; network faults are made here.
    Switch,
    /// etcd, API server, controllers, scheduler.
    Control,
    /// Where tests and commands of the host run.
    Client,
    /// A Kubernetes node, counted from 1.
    Node(u8),
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch => f.write_str("sw"),
            Self::Control => f.write_str("cp"),
            Self::Client => f.write_str("client"),
            Self::Node(number) => write!(f, "n{number}"),
        }
    }
}

impl Machine {
    /// The machine of this name.
    pub fn named(name: &str) -> Result<Self> {
        match MACHINES.into_iter().find(|m| m.to_string() == name) {
            Some(machine) => Ok(machine),
            None => refused(format!("no machine is called {name}: there are sw, cp, client, n1, n2, n3")),
        }
    }

    /// Its address on the switch's network; the switch has none.
    pub fn address(self) -> Option<Ipv4Addr> {
        let last = match self {
            Self::Switch => return None,
            Self::Client => 1,
            Self::Control => 10,
            Self::Node(number) => 10 + number,
        };
        Some(Ipv4Addr::new(10, 77, 0, last))
    }

    /// The addresses of the pods on a node.
    pub fn pods(self) -> Option<String> {
        match self {
            Self::Node(number) => Some(format!("10.244.{number}.0/24")),
            _ => None,
        }
    }

    /// The name of its port at the switch.
    pub fn port(self) -> String {
        format!("p-{self}")
    }
}

/// The address of the API server, as clients use it.
pub fn api_server() -> String {
    Machine::Control.address().map(|ip| format!("https://{ip}:6443")).unwrap_or_default()
}

/// One cluster, known by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    name: String,
}

impl Cluster {
    /// Names are short and plain, since they become parts of paths and of cgroups.
    pub fn named(name: &str) -> Result<Self> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 20 || !name.chars().all(plain) || name.starts_with('-') {
            return refused(format!("{name:?} is no name of a cluster: at most 20 of a-z, 0-9 and -"));
        }
        Ok(Self { name: name.to_owned() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder above those of all clusters' disks.
    pub fn all_disks() -> PathBuf {
        let [disks, _] = Self::folders();
        resolved(disks)
    }

    /// The folder above those of all clusters' process ids, sockets and kubeconfigs.
    pub fn all_runs() -> PathBuf {
        let [_, runs] = Self::folders();
        resolved(runs)
    }

    /// Both, by the names that were given to them.
    pub fn folders() -> [PathBuf; 2] {
        [
            folder("PGPOOL_CLUSTER_STATE", "/var/lib/pgpool-cluster"),
            folder("PGPOOL_CLUSTER_RUN", "/run/pgpool-cluster"),
        ]
    }

    /// The disks of this cluster's machines.
    pub fn disks(&self) -> PathBuf {
        Self::all_disks().join(&self.name)
    }

    /// The disk of one machine.
    pub fn disk(&self, machine: Machine) -> PathBuf {
        self.disks().join(machine.to_string())
    }

    /// What accounts of pods have asked of the API server ([`AUDIT_LOG`]).
    pub fn audit_log(&self) -> PathBuf {
        self.disk(Machine::Control).join(AUDIT_LOG.trim_start_matches('/'))
    }

    /// The programs that this cluster's machines run.
    pub fn bin(&self) -> PathBuf {
        self.disks().join("bin")
    }

    /// The cluster's own copy of this program: a build replaces the original while machines run.
    pub fn xtask(&self) -> PathBuf {
        self.bin().join("xtask")
    }

    /// Process ids, sockets, kubeconfig.
    pub fn run(&self) -> PathBuf {
        Self::all_runs().join(&self.name)
    }

    /// The kubeconfig of its administrator, good inside the cluster's network.
    pub fn kubeconfig(&self) -> PathBuf {
        self.run().join("kubeconfig")
    }

    /// There once the start has come to its end: a cluster without it is the remains of a broken start.
    pub fn finished(&self) -> PathBuf {
        self.run().join("finished")
    }

    /// The name servers of commands inside the cluster's network.
    pub fn resolv_conf(&self) -> PathBuf {
        self.run().join("resolv.conf")
    }

    /// Where PID 1 of a machine takes orders.
    pub fn socket(&self, machine: Machine) -> PathBuf {
        self.run().join(format!("{machine}.socket"))
    }

    /// The cgroup of a machine, below each hierarchy's root.
    pub fn cgroup(&self, machine: Machine) -> String {
        format!("{}/{}/{machine}", Self::ALL_CGROUPS, self.name)
    }

    /// The cgroup above those of all clusters.
    pub const ALL_CGROUPS: &str = "pgpool-cluster";
}

fn folder(variable: &str, default: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| PathBuf::from(default), PathBuf::from)
}

/// The path without links, by which the kernel knows what is mounted there; as it is where nothing is there yet.
fn resolved(path: PathBuf) -> PathBuf {
    path.canonicalize().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_known_by_the_path_that_the_kernel_has_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let (real, link) = (dir.join("real"), dir.join("link"));
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert_eq!(resolved(link.clone()), link);
        std::fs::create_dir(&real).unwrap();
        assert_eq!(resolved(link), real);
    }

    #[test]
    fn a_cluster_name_cannot_leave_its_folder() {
        for bad in ["", "..", "a/b", "A", "-x", "a b", "aaaaaaaaaaaaaaaaaaaaa"] {
            assert!(Cluster::named(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Cluster::named("test-2").unwrap().cgroup(Machine::Node(2)), "pgpool-cluster/test-2/n2");
    }

    #[test]
    fn machines_are_found_by_the_names_they_show() {
        for machine in MACHINES {
            assert_eq!(Machine::named(&machine.to_string()).unwrap(), machine);
        }
        assert!(Machine::named("n4").is_err());
    }

    #[test]
    fn addresses_and_pod_networks_do_not_collide() {
        let mut all: Vec<String> =
            MACHINES.iter().filter_map(|m| m.address()).map(|a| a.to_string()).collect();
        all.extend(MACHINES.iter().filter_map(|m| m.pods()));
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!((all.len(), count), (8, 8));
    }
}
