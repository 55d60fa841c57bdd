//! The embedded cluster: etcd, Kubernetes and three nodes on one machine, each node a process tree with its own
//! pid, mount, network, host name and ipc namespaces, its own disk (a folder) and its own cable to a switch.
//!
//! It needs root, and a kernel with veth, bridge, nftables and overlayfs; no Docker, no registry, no internet.

mod config;
pub mod enter;
pub mod etcd;
pub mod faults;
pub mod init;
pub mod layout;
mod lifecycle;
mod machine;
mod pki;
pub mod routes;
mod services;
mod supervisor;
mod volumes;

pub use layout::{Cluster, Machine};
pub use lifecycle::{crash, down, load, status, up, up_as};

/// How a cluster is made.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Seconds until the pods of a lost node are deleted.
    pub toleration: u32,
    /// MiB of a file system of its own for the volumes of each node; they are a folder of the host's disk where none is
    /// wanted.
    pub volumes: Option<u32>,
}

/// Seconds until the pods of a lost node are deleted. A kubelet may take half a minute to be seen again after an
/// outage of the API server; healthy pods must outlive that.
pub const TOLERATION: u32 = 120;
