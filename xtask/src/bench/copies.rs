//! The same data by `pg_basebackup` alone, and by `tar` over TLS: from the donor's pod to a pod of the pool's
//! image on the Kubernetes node of the recovered one, with the recovery Job's certificate.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use super::pool::{DATA, NAME, Pool};
use crate::error::{Error, Result, refused};
use crate::progress::until_every;
use crate::run;

/// The pod that copies.
pub const POD: &str = "copier";
/// Where `tar` is received, and the same as Linux writes it (proc(5), /proc/net/tcp).
const PORT: (u16, &str) = (5999, ":176F ");
/// How long the pod may take to run, and openssl to listen.
const LIMIT: Duration = Duration::from_secs(120);
/// How often that is looked at; each look starts a kubectl.
const LOOK: Duration = Duration::from_millis(300);
/// Share of the data, in percent, below which a copy by `tar` is not whole: the donor changes meanwhile.
const WHOLE: u64 = 99;

/// A running pod with a scratch volume.
pub struct Copier<'p> {
    pool: &'p Pool<'p>,
}

impl<'p> Copier<'p> {
    /// Starts it beside a node.
    pub fn start(pool: &'p Pool<'p>, node: u8) -> Result<Self> {
        let neighbour = pool.object(&["pod", &Pool::pod(node)])?;
        pool.apply(&json!({ "apiVersion": "v1", "kind": "List",
            "items": [policy(pool.namespace()), pod(pool.namespace(), &neighbour)] }))?;
        until_every(LOOK, "start of the copying pod", LIMIT, || {
            let ready = run::output(&mut pool.script(POD, "test -e /run/pgpool/complete")?)?;
            Ok(if ready.status.success() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&ready.stderr).into())
            })
        })?;
        Ok(Self { pool })
    }

    /// Ends it.
    pub fn stop(self) -> Result<()> {
        run::captured(&mut self.pool.kubectl(&["delete", "pod", POD])?)?;
        run::captured(&mut self.pool.kubectl(&["delete", "networkpolicy", POD])?).map(drop)
    }

    /// Seconds of `pg_basebackup` with the options of the recovery Job (src/recover/backup.rs).
    pub fn basebackup(&self, donor: u8) -> Result<f64> {
        let said = run::captured(&mut self.pool.script(POD, &basebackup(self.pool.namespace(), donor))?)?;
        let mut times = said.split_whitespace().map(clock);
        match (times.next().flatten(), times.next().flatten()) {
            (Some(begun), Some(ended)) => Ok(ended - begun),
            _ => refused(format!("pg_basebackup in {POD} told no times: {said}")),
        }
    }

    /// Seconds of `tar` over TLS, the files' way to the disk included, as in `pg_basebackup`. The donor's clock
    /// gives the begin and the receiver's the end: on the embedded cluster they are the same.
    pub fn tar(&self, donor: u8, data: u64) -> Result<f64> {
        let address =
            self.pool.object(&["pod", POD])?["status"]["podIP"].as_str().unwrap_or_default().to_owned();
        let mut receiver = self.pool.script(POD, &receive())?;
        receiver.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            receiver.spawn().map_err(|source| Error::Start { command: run::shown(&receiver), source })?;
        let sent = self.listening().and_then(|()| self.pool.exec(donor, &send(&address)));
        if sent.is_err() {
            // Nothing will come any more; the pod's own end is the namespace's.
            let _ = child.kill();
        }
        let out = child.wait_with_output();
        let out = out.map_err(|source| Error::Start { command: run::shown(&receiver), source })?;
        let begun = sent?;
        let (said, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        let words: Vec<&str> = said.split_whitespace().collect();
        let (Some(begun), Some(ended)) = (clock(begun.trim()), words.first().copied().and_then(clock)) else {
            return refused(format!("tar over TLS from node {donor} told no times: {begun}{said}{errors}"));
        };
        let came = words.get(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        if !out.status.success() || came < data / 100 * WHOLE {
            return refused(format!(
                "tar over TLS brought {came} of {data} bytes from node {donor}: {errors}"
            ));
        }
        Ok(ended - begun)
    }

    fn listening(&self) -> Result<()> {
        let look = format!("cat /proc/net/tcp /proc/net/tcp6 | grep --quiet '{}.* 0A '", PORT.1);
        until_every(LOOK, "openssl that listens", LIMIT, || {
            let found = run::output(&mut self.pool.script(POD, &look)?)?;
            Ok(if found.status.success() { Ok(()) } else { Err("not yet".to_owned()) })
        })
    }
}

/// A time as bash gives it: seconds since 1970.
fn clock(word: &str) -> Option<f64> {
    word.parse().ok()
}

fn basebackup(namespace: &str, donor: u8) -> String {
    let host = format!("{}.{NAME}-nodes.{namespace}.svc", Pool::pod(donor));
    let run = "/run/pgpool";
    let conninfo = format!(
        "host={host} port=5432 user=pgpool_replication application_name=bench sslmode=verify-full \
         sslrootcert={run}/ca.crt sslcert={run}/tls.crt sslkey={run}/tls.key gssencmode=disable \
         connect_timeout=10 keepalives_idle=5 keepalives_interval=5 keepalives_count=3 tcp_user_timeout=20000 \
         options=-cwal_sender_timeout=60s"
    );
    format!(
        "rm -rf /scratch/copy; begun=$EPOCHREALTIME; \
         pg_basebackup -D /scratch/copy -d '{conninfo}' -X stream --checkpoint=fast --no-password --progress \
         --compress=server-lz4 2>/scratch/said || {{ tail -n 5 /scratch/said >&2; exit 1; }}; \
         echo $begun $EPOCHREALTIME; rm -rf /scratch/copy"
    )
}

/// A pipe that is never read from keeps openssl from sending anything of its own.
fn receive() -> String {
    let (port, tls) = (PORT.0, "-cert tls.crt -key tls.key -CAfile ca.crt");
    format!(
        "rm -rf /scratch/copy /scratch/pipe; mkdir /scratch/copy; mkfifo /scratch/pipe; exec 3<>/scratch/pipe; \
         cd /run/pgpool; openssl s_server -accept {port} -naccept 1 -quiet {tls} -Verify 1 <&3 2>/scratch/said \
         | tar --extract --directory=/scratch/copy || {{ tail -n 5 /scratch/said >&2; exit 1; }}; \
         cd /scratch/copy; find . -type f -exec sync {{}} +; echo $EPOCHREALTIME; \
         du --bytes --summarize . | cut -f1; rm -rf /scratch/copy"
    )
}

/// What `pg_basebackup` leaves out is left out; files that change while they are read are expected.
fn send(address: &str) -> String {
    format!(
        "cd {DATA}; echo $EPOCHREALTIME; {{ tar --create --exclude='./pg_wal/*' --exclude=./postmaster.pid . \
         2>/dev/null || test $? = 1; }} | openssl s_client -connect {address}:{} -quiet -no_ign_eof -nocommands \
         -cert /run/pgpool/tls.crt -key /run/pgpool/tls.key -CAfile /run/pgpool/ca.crt >/dev/null 2>&1",
        PORT.0
    )
}

/// Lets the pod come to the nodes' Postgres; the pool's own policies stay.
fn policy(namespace: &str) -> Value {
    json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": POD, "namespace": namespace },
        "spec": {
            "podSelector": { "matchLabels": {
                "pgpool-operator.dev/pool": NAME, "pgpool-operator.dev/part": "node" } },
            "policyTypes": ["Ingress"],
            "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "bench": POD } } }],
                "ports": [{ "port": 5432, "protocol": "TCP" }] }] } })
}

/// A pod with the image, user and Kubernetes node of another, and the recovery Job's certificate.
fn pod(namespace: &str, neighbour: &Value) -> Value {
    let container = &neighbour["spec"]["containers"][0];
    let start =
        "umask 077; cp /etc/pgpool/tls/* /run/pgpool/; touch /run/pgpool/complete; exec sleep infinity";
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": POD, "namespace": namespace, "labels": { "bench": POD } },
        "spec": {
            "nodeName": neighbour["spec"]["nodeName"],
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            // sleep as PID 1 hears no SIGTERM.
            "terminationGracePeriodSeconds": 1,
            "securityContext": neighbour["spec"]["securityContext"],
            "containers": [{ "name": "copier", "image": container["image"], "imagePullPolicy": "IfNotPresent",
                "command": ["bash", "-euc", start], "securityContext": container["securityContext"],
                "volumeMounts": [{ "name": "scratch", "mountPath": "/scratch" },
                    { "name": "run", "mountPath": "/run/pgpool" },
                    { "name": "tls", "mountPath": "/etc/pgpool/tls", "readOnly": true }] }],
            "volumes": [{ "name": "scratch", "emptyDir": {} },
                { "name": "run", "emptyDir": { "medium": "Memory" } },
                { "name": "tls", "secret": { "secretName": format!("{NAME}-recovery-tls"), "defaultMode": 288 } }] } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_the_one_that_is_looked_for() {
        assert_eq!(format!(":{:04X} ", PORT.0), PORT.1);
    }

    #[test]
    fn the_copier_stands_beside_its_neighbour() {
        let neighbour = json!({ "spec": { "nodeName": "n3", "securityContext": { "runAsUser": 5432 },
            "containers": [{ "image": "pg", "securityContext": { "privileged": false } }] } });
        let pod = pod("x", &neighbour);
        assert_eq!(pod["spec"]["nodeName"], "n3");
        assert_eq!(pod["spec"]["containers"][0]["image"], "pg");
        assert_eq!(pod["spec"]["securityContext"]["runAsUser"], 5432);
    }

    #[test]
    fn a_time_keeps_its_fraction() {
        assert_eq!(clock("1700000000.5"), Some(1_700_000_000.5));
        assert_eq!(clock("x"), None);
    }
}
