//! PostgreSQL's own synchronous replication, as a person sets it up by hand after its documentation ("Log-Shipping
//! Standby Servers"): three plain servers in pods of the pool's image, on the same machines and volumes of the same
//! kind, with the pool's own parameters but for those that say who follows whom. What it has not: leases, a membership, and
//! TLS between the servers unless that is asked for. Its WAL is archived by the documentation's example, `cp` where no
//! file is.

use std::time::Duration;

use serde_json::{Value, json};

use super::pool::{DATA, Pool};
use crate::error::{Error, Result};
use crate::progress::until_every;
use crate::run;

/// How long the servers may take until both standbys stream.
const LIMIT: Duration = Duration::from_secs(180);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// The headless Service through which the standbys find their primary.
const SERVICE: &str = "peers";
/// Parameters of the pool that the hand-made servers have of their own.
const OWN: [&str; 12] = [
    "archive_command",
    "cluster_name",
    "hba_file",
    "ident_file",
    "listen_addresses",
    "primary_conninfo",
    "primary_slot_name",
    "restore_command",
    "ssl",
    "ssl_ca_file",
    "synchronous_standby_names",
    "unix_socket_directories",
];

/// What the servers take over from the pool.
pub struct Model {
    pods: Vec<Value>,
    parameters: String,
}

impl Model {
    /// Of the running pool.
    pub fn of(pool: &Pool<'_>) -> Result<Self> {
        let pods = (0..3).map(|node| pool.object(&["pod", &Pool::pod(node)])).collect::<Result<_>>()?;
        let text = pool.exec(0, &format!("cat {DATA}/../conf/postgresql.conf"))?;
        Ok(Self { pods, parameters: shared(&text) })
    }

    /// initdb wants a name for the user that it runs as, which the image doesn't know.
    fn passwd(&self) -> String {
        let user = self.pods.first().map(|pod| pod["spec"]["securityContext"]["runAsUser"].to_string());
        format!("postgres:x:{0}:{0}::/data:/bin/bash\n", user.unwrap_or_default())
    }
}

/// The lines of the pool's file that hold for the hand-made servers too.
fn shared(text: &str) -> String {
    let own = |line: &&str| {
        let name = line.split(' ').next().unwrap_or_default();
        !OWN.contains(&name) && !name.starts_with("ssl_")
    };
    text.split_inclusive('\n').filter(own).collect()
}

/// A certificate for all of them, and its key.
fn certificate() -> Result<Value> {
    let failed = |source| Error::Certificate { name: SERVICE.to_owned(), source };
    let made = rcgen::generate_simple_self_signed([SERVICE.to_owned()]).map_err(failed)?;
    Ok(json!({ "tls.crt": made.cert.pem(), "tls.key": made.signing_key.serialize_pem() }))
}

/// Starts them and waits until both standbys are synchronous. Their connections are encrypted if `tls` says so: a libpq that
/// isn't told otherwise takes what the server offers.
pub fn start(pool: &Pool<'_>, model: &Model, tls: bool) -> Result<()> {
    let mut items = vec![
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": pool.namespace() } }),
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": SERVICE },
            "spec": { "clusterIP": "None", "publishNotReadyAddresses": true, "selector": { "bench": SERVICE },
                "ports": [{ "port": 5432 }] } }),
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": SERVICE },
            "data": { "postgresql.conf": model.parameters, "passwd": model.passwd() } }),
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": SERVICE }, "stringData": certificate()? }),
    ];
    items.extend(model.pods.iter().enumerate().map(|(index, like)| pod(index, like, tls)));
    pool.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": items }))?;
    until_every(LOOK, "two synchronous standbys", LIMIT, || {
        let text = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        let mut psql = pool.kubectl(&["exec", &name(0), "--", "psql", "-h", "/tmp", "-U", "postgres"])?;
        let said = run::output(psql.args(["-Atc", text]))?;
        let count = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        Ok(if count == "2" {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&said.stderr).into_owned() + &count)
        })
    })
}

/// Name of a server's pod.
pub fn name(index: usize) -> String {
    format!("peer-{index}")
}

fn script(index: usize, tls: bool) -> String {
    let first = format!(
        "initdb --pgdata=$D --data-checksums --username=postgres --auth=trust >/dev/null; \
         echo 'host all,replication all all trust' >>$D/pg_hba.conf; \
         echo \"synchronous_standby_names = '2 ({}, {})'\" >/data/names.conf",
        name(1).replace('-', "_"),
        name(2).replace('-', "_")
    );
    let other = format!(
        "touch /data/names.conf; until pg_basebackup --pgdata=$D --write-recovery-conf --create-slot \
         --slot=peer_{index} --dbname='host={}.{SERVICE} user=postgres'; do sleep 0.3; rm -rf $D; done",
        name(0)
    );
    let make = if index == 0 { first } else { other };
    let tls = if tls {
        "cp /tls/* /data; chmod 600 /data/tls.key; echo ssl=on >>/data/names.conf; \
                        echo \"ssl_cert_file='/data/tls.crt'\" >>/data/names.conf; \
                        echo \"ssl_key_file='/data/tls.key'\" >>/data/names.conf;"
    } else {
        ""
    };
    format!(
        "PATH=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1):$PATH; D=/data/pgdata; mkdir -p /data/archive; {make}; {tls} \
         {{ cat /conf/postgresql.conf /data/names.conf; \
         echo \"listen_addresses = '*'\"; echo \"unix_socket_directories = '/tmp'\"; \
         echo \"cluster_name = 'peer_{index}'\"; \
         echo \"archive_command = 'test ! -f /data/archive/%f && cp %p /data/archive/%f'\"; \
         }} >$D/postgresql.conf; chmod 700 $D; exec postgres -D $D"
    )
}

/// A server where a node of the pool was.
fn pod(index: usize, like: &Value, tls: bool) -> Value {
    let container = &like["spec"]["containers"][0];
    let claim = json!({ "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "16Gi" } } } });
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name(index), "labels": { "bench": SERVICE } },
        "spec": {
            "hostname": name(index), "subdomain": SERVICE,
            "nodeSelector": { "kubernetes.io/hostname": like["spec"]["nodeName"] },
            "restartPolicy": "Never", "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 5,
            "securityContext": like["spec"]["securityContext"],
            "containers": [{ "name": "postgres", "image": container["image"], "imagePullPolicy": "IfNotPresent",
                "command": ["bash", "-euc", script(index, tls)], "resources": container["resources"],
                "volumeMounts": [{ "name": "data", "mountPath": "/data" }, { "name": "tmp", "mountPath": "/tmp" },
                    { "name": "conf", "mountPath": "/conf" }, { "name": "tls", "mountPath": "/tls" },
                    { "name": "conf", "mountPath": "/etc/passwd", "subPath": "passwd" }] }],
            "volumes": [{ "name": "data", "ephemeral": { "volumeClaimTemplate": claim } },
                { "name": "tmp", "emptyDir": {} }, { "name": "conf", "configMap": { "name": SERVICE } },
                { "name": "tls", "secret": { "secretName": SERVICE } }] } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_have_the_pools_parameters_but_for_who_follows_whom() {
        let text = "shared_buffers = '64MB'\nssl = 'on'\nssl_cert_file = 'x'\nsynchronous_commit = 'remote_apply'\n\
                    synchronous_standby_names = '1 (\"a\")'\n";
        assert_eq!(shared(text), "shared_buffers = '64MB'\nsynchronous_commit = 'remote_apply'\n");
    }

    #[test]
    fn a_server_stands_where_the_node_stood() {
        let like = json!({ "spec": { "nodeName": "n2", "containers": [{ "image": "pg" }] } });
        let pod = pod(1, &like, false);
        assert_eq!(pod["spec"]["nodeSelector"]["kubernetes.io/hostname"], "n2");
        assert_eq!(pod["spec"]["containers"][0]["image"], "pg");
        assert!(script(0, false).contains("2 (peer_1, peer_2)") && !script(1, false).contains("initdb"));
        assert!(script(1, true).contains("ssl=on") && !script(1, false).contains("ssl=on"));
    }
}
