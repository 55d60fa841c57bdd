//! Which services each machine runs, with their arguments.

use super::layout::{AUDIT_LOG, BIN, ETC, ETCD, Machine, SERVICES, VOLUME_PLUGINS};

/// A program that PID 1 keeps running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// What orders and log files call it.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
}

impl Service {
    /// A service from its command line, split at white space.
    pub fn new(name: &str, command: &str) -> Self {
        Self { name: name.to_owned(), command: command.split_whitespace().map(String::from).collect() }
    }
}

/// The services of a machine. Pods of a lost node are deleted after `toleration` seconds.
pub fn of(machine: Machine, toleration: u32) -> Vec<Service> {
    let proxy = Service::new("proxy", &format!("{BIN}/kube kube-proxy --config {ETC}/proxy.yaml"));
    match machine {
        Machine::Switch => Vec::new(),
        Machine::Client => vec![proxy],
        Machine::Control => control(toleration),
        Machine::Node(_) => {
            let ip = machine.address().map(|a| a.to_string()).unwrap_or_default();
            vec![
                Service::new(
                    "containerd",
                    &format!("containerd --config {ETC}/containerd.toml --log-level warn"),
                ),
                Service::new(
                    "kubelet",
                    &format!(
                        "{BIN}/kube kubelet --config {ETC}/kubelet.yaml --kubeconfig {ETC}/kubelet.kubeconfig
                        --hostname-override {machine} --node-ip {ip}"
                    ),
                ),
                proxy,
                Service::new(
                    "netpol",
                    &format!("{BIN}/netpol -kubeconfig {ETC}/netpol.kubeconfig -node {machine}"),
                ),
            ]
        }
    }
}

fn control(toleration: u32) -> Vec<Service> {
    let ip = Machine::Control.address().map(|a| a.to_string()).unwrap_or_default();
    vec![
        // Fast rather than durable: nothing here has to outlive the host.
        Service::new(
            "etcd",
            &format!(
                "{BIN}/etcd --data-dir {ETCD} --unsafe-no-fsync --log-level warn
                --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379
                --listen-peer-urls http://127.0.0.1:2380"
            ),
        ),
        // Aggregator routing: this machine has no kube-proxy, so webhooks are called by pod address. PodNodeSelector and
        // PodTolerationRestriction: a namespace may say by annotations where its pods go.
        Service::new(
            "apiserver",
            &format!(
                "{BIN}/kube kube-apiserver --etcd-servers=http://127.0.0.1:2379
                --service-cluster-ip-range={SERVICES} --advertise-address={ip} --bind-address=0.0.0.0
                --secure-port=6443 --tls-cert-file={ETC}/apiserver.crt --tls-private-key-file={ETC}/apiserver.key
                --client-ca-file={ETC}/ca.crt --service-account-key-file={ETC}/sa.pub
                --service-account-signing-key-file={ETC}/sa.key
                --service-account-issuer=https://kubernetes.default.svc --authorization-mode=Node,RBAC
                --kubelet-client-certificate={ETC}/kubelet-client.crt
                --kubelet-client-key={ETC}/kubelet-client.key
                --kubelet-preferred-address-types=InternalIP --allow-privileged=true
                --enable-admission-plugins=NodeRestriction,PodNodeSelector,PodTolerationRestriction
                --enable-aggregator-routing=true
                --audit-policy-file={ETC}/audit.yaml --audit-log-path={AUDIT_LOG}
                --default-not-ready-toleration-seconds={toleration}
                --default-unreachable-toleration-seconds={toleration}"
            ),
        ),
        // Without leader election a restarted one works at once instead of after 15 s.
        Service::new(
            "controllers",
            &format!(
                "{BIN}/kube kube-controller-manager --kubeconfig={ETC}/controllers.kubeconfig
                --service-account-private-key-file={ETC}/sa.key --root-ca-file={ETC}/ca.crt
                --use-service-account-credentials=true --cluster-signing-cert-file={ETC}/ca.crt
                --cluster-signing-key-file={ETC}/ca.key --leader-elect=false --node-monitor-period=1s
                --node-monitor-grace-period=8s --node-startup-grace-period=20s --node-eviction-rate=10
                --kube-api-qps=100 --kube-api-burst=200 --flex-volume-plugin-dir={VOLUME_PLUGINS}"
            ),
        ),
        Service::new(
            "scheduler",
            &format!("{BIN}/kube kube-scheduler --kubeconfig={ETC}/scheduler.kubeconfig --leader-elect=false"),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_toleration_reaches_the_api_server() {
        let all = of(Machine::Control, 7);
        let apiserver = all.iter().find(|s| s.name == "apiserver").unwrap();
        let flags =
            ["--default-not-ready-toleration-seconds=7", "--default-unreachable-toleration-seconds=7"];
        assert!(flags.iter().all(|f| apiserver.command.iter().any(|a| a == f)));
    }

    #[test]
    fn no_folder_of_the_host_is_made_for_plugins() {
        let all = of(Machine::Control, 7);
        let controllers = all.iter().find(|s| s.name == "controllers").unwrap();
        assert!(controllers.command.iter().any(|a| a == "--flex-volume-plugin-dir=/var/lib/volume-plugins"));
    }

    #[test]
    fn a_node_runs_what_makes_it_a_node() {
        let names: Vec<String> = of(Machine::Node(2), 1).into_iter().map(|s| s.name).collect();
        assert_eq!(names, ["containerd", "kubelet", "proxy", "netpol"]);
    }
}
