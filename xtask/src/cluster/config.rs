//! The configuration of each machine, written onto its disk before it starts.

use std::path::Path;

use serde_json::{Value, json};

use super::layout::{Cluster, DNS, ETC, Machine, NODES, PODS, VOLUME_PLUGINS};
use crate::error::{OnFile, Result};
use crate::files;
use crate::images::UNUSED_PLUGINS;

/// Writes certificates and configuration of one machine; `pki` is what [`super::pki::create`] filled.
pub fn write(cluster: &Cluster, machine: Machine, pki: &Path) -> Result<()> {
    let disk = cluster.disk(machine);
    for dir in ["opt", "srv", "var/lib", "var/log", "var/tmp"] {
        files::make_dir(&disk.join(dir))?;
    }
    let etc = disk.join(ETC.trim_start_matches('/'));
    files::make_dir(&etc)?;
    let take = |from: &str, to: &str| {
        let from = pki.join(from);
        std::fs::copy(&from, etc.join(to)).on("copy", &from).map(drop)
    };
    let put = |name: &str, document: &Value| files::write(&etc.join(name), format!("{document:#}\n"));
    match machine {
        Machine::Switch => Ok(()),
        Machine::Control => {
            for file in files::walk(pki)? {
                let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                take(&name, &name)?;
            }
            put("audit.yaml", &audit())
        }
        Machine::Client => {
            take("proxy.kubeconfig", "proxy.kubeconfig")?;
            put("proxy.yaml", &kube_proxy(NODES[0]))
        }
        Machine::Node(_) => {
            take("ca.crt", "ca.crt")?;
            take("proxy.kubeconfig", "proxy.kubeconfig")?;
            take("netpol.kubeconfig", "netpol.kubeconfig")?;
            take(&format!("kubelet-{machine}.kubeconfig"), "kubelet.kubeconfig")?;
            put("proxy.yaml", &kube_proxy(machine))?;
            put("kubelet.yaml", &kubelet(cluster, machine))?;
            put("cni/10-pods.conflist", &pod_network(machine))?;
            files::write(&etc.join("containerd.toml"), containerd())
        }
    }
}

/// What is written down: who, what and how it ended, of accounts that pods have, but for those of Kubernetes itself.
fn audit() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "omitManagedFields": true,
        "rules": [
            { "level": "None", "userGroups": ["system:serviceaccounts:kube-system"] },
            { "level": "Metadata", "userGroups": ["system:serviceaccounts"] },
            { "level": "None" },
        ],
    })
}

/// `node` must exist: without a Node of its name kube-proxy waits for ever, silently.
fn kube_proxy(node: Machine) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": { "kubeconfig": format!("{ETC}/proxy.kubeconfig") },
        "hostnameOverride": node.to_string(),
        "mode": "nftables",
        "clusterCIDR": PODS,
        // Else it sets a sysctl that a network namespace does not have.
        "conntrack": { "maxPerCore": 0, "min": 0 },
    })
}

fn kubelet(cluster: &Cluster, node: Machine) -> Value {
    // The machines share the host's disk: a full one must not evict pods, nor delete images that nothing can
    // pull again.
    let evict = ["nodefs.available", "imagefs.available", "nodefs.inodesFree", "imagefs.inodesFree"];
    let mut evict: serde_json::Map<String, Value> =
        evict.into_iter().map(|signal| (signal.to_owned(), json!("1%"))).collect();
    evict.insert("memory.available".to_owned(), json!("100Mi"));
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": format!("{ETC}/ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "cgroupDriver": "cgroupfs",
        // Kubelets with the same root remove each other's cgroups.
        "cgroupRoot": format!("/{}", cluster.cgroup(node)),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "clusterDNS": [DNS.to_string()],
        "clusterDomain": "cluster.local",
        "failSwapOn": false,
        "failCgroupV1": false,
        // Pods must not inherit the host's name servers: look-ups would hang instead of failing.
        "resolvConf": "",
        "evictionHard": evict,
        "imageGCHighThresholdPercent": 100,
        // With the API server's grace period of 8 s: a dead node is NotReady after some 8 s.
        // That it lives is told by its lease; its status is written only when it differs.
        "nodeStatusUpdateFrequency": "2s",
        "nodeStatusReportFrequency": "1m",
        "nodeLeaseDurationSeconds": 4,
        "syncFrequency": "10s",
        "shutdownGracePeriod": "0s",
        "volumePluginDir": VOLUME_PLUGINS,
    })
}

fn pod_network(node: Machine) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    // On the tmpfs: addresses of containers that a power cut ended are free again.
                    "dataDir": "/run/cni-ipam",
                    "ranges": [[{ "subnet": node.pods() }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

fn containerd() -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [{UNUSED_PLUGINS}]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:dev"
  # Without CAP_SYS_RESOURCE no pod would start.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{ETC}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"#
    )
}

/// What commands inside the cluster's network use to look up names.
pub fn resolv_conf() -> String {
    format!("nameserver {DNS}\nsearch svc.cluster.local cluster.local\noptions ndots:5 timeout:1\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kubelet_has_a_cgroup_root_of_its_own_even_across_clusters() {
        let root = |cluster: &str, node| {
            let text = kubelet(&Cluster::named(cluster).unwrap(), node)["cgroupRoot"].to_string();
            text.trim_matches('"').to_owned()
        };
        assert_eq!(root("dev", NODES[0]), "/pgpool-cluster/dev/n1");
        assert_ne!(root("dev", NODES[0]), root("test", NODES[0]));
        assert_ne!(root("dev", NODES[0]), root("dev", NODES[1]));
    }

    #[test]
    fn no_folder_of_the_host_is_made_for_plugins() {
        let cluster = Cluster::named("dev").unwrap();
        assert_eq!(kubelet(&cluster, NODES[0])["volumePluginDir"], "/var/lib/volume-plugins");
    }

    #[test]
    fn the_client_borrows_the_name_of_a_node_that_exists() {
        assert_eq!(kube_proxy(NODES[0])["hostnameOverride"], "n1");
    }

    #[test]
    fn each_node_gives_its_pods_addresses_of_its_own() {
        let subnet = |n: Machine| pod_network(n)["plugins"][0]["ipam"]["ranges"][0][0]["subnet"].clone();
        assert_eq!(subnet(NODES[2]), "10.244.3.0/24");
        assert_ne!(subnet(NODES[0]), subnet(NODES[1]));
    }
}
