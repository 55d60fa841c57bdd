//! Programs of PostgreSQL itself, by the front and at the primary's own port, as the same user and from the same pod: what
//! they say is the same, byte by byte. The scripts are in the folder `clients`. Drivers of several languages: what they see.
use std::time::Duration;

use pgpool_operator::names;
use serde_json::{Value, json};

use super::failover::primary;
use super::harness::{Failure, Outcome, ensure, failed};
use super::install::{authority, client_pod};
use super::pool::WHOLE;
use super::processes;
use super::world::{POOL, SPACE, World, call_within, until};

mod logins;

use logins::LOGINS;

/// What the pod is given to run.
const SCRIPTS: [(&str, &str); 9] = [
    ("ways.sh", include_str!("clients/ways.sh")),
    ("logins.sh", include_str!("clients/logins.sh")),
    ("said.sh", include_str!("clients/said.sh")),
    ("said.sql", include_str!("clients/said.sql")),
    ("bench.sh", include_str!("clients/bench.sh")),
    ("pipeline.sql", include_str!("clients/pipeline.sql")),
    ("dump.sh", include_str!("clients/dump.sh")),
    ("fill.sql", include_str!("clients/fill.sql")),
    ("large.sh", include_str!("clients/large.sh")),
];
/// On whatever a step makes here.
pub const LABEL: &str = "cluster-test-clients";
/// Memory that a front may take more for results of any size, in KiB: less than a tenth of what it passes on.
const TAKES: u64 = 16 << 10;
/// Says how many MB the longest result has, where it isn't this many.
const SIZE: (&str, u64) = ("PGPOOL_TEST_RESULT_MB", 200);
/// Longest time for a script; a step has little more.
const SCRIPT: Duration = Duration::from_secs(560);

/// A pod with PostgreSQL's programs and two databases, which a step has for itself.
struct Desk<'w> {
    world: &'w World,
    /// Its name, and that of its first database.
    name: &'static str,
    /// The primary's own name.
    node: String,
}

impl<'w> Desk<'w> {
    /// Makes it.
    async fn open(world: &'w World, name: &'static str) -> Outcome<Self> {
        let index = primary(world).await?;
        let desk = Self { world, name, node: names::node_host(POOL, index, &names::domain(POOL, SPACE)) };
        for database in desk.databases() {
            // Of a template in which PUBLIC may end sessions of its own, as in PostgreSQL's.
            let create = format!("CREATE DATABASE \"{database}\" OWNER app TEMPLATE template0");
            world.psql(index, "postgres", &create).await?;
        }
        world.apply(&desk.scripts()).await?;
        world.apply(&desk.pod()).await?;
        world.here(&["wait", "--for=condition=Ready", "pod", name, "--timeout=60s"]).await?;
        until("the node to be reached", WHOLE, || async {
            let script =
                format!("timeout 3 bash -c 'exec 3<>/dev/tcp/{}/{}'", desk.node, names::POSTGRES_PORT);
            world.here(&["exec", name, "--", "sh", "-c", &script]).await.map(drop)
        })
        .await?;
        Ok(desk)
    }

    fn databases(&self) -> [String; 2] {
        [self.name.to_owned(), format!("{}-restored", self.name)]
    }

    fn scripts(&self) -> Value {
        let data: serde_json::Map<String, Value> =
            SCRIPTS.iter().map(|(name, text)| ((*name).to_owned(), json!(text))).collect();
        let metadata = json!({"name": self.name, "namespace": SPACE, "labels": {LABEL: "true"}});
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    }

    /// The NetworkPolicy takes it for a recovery, which may reach nodes and which no Service leads to; nodes let it in by
    /// the certificate of one of them.
    fn pod(&self) -> Value {
        let mut pod = client_pod(self.name, SPACE, Some(POOL));
        pod["metadata"]["labels"] =
            json!({names::LABEL_POOL: POOL, names::LABEL_PART: "recovery", LABEL: "true"});
        pod["spec"]["securityContext"]["fsGroup"] = json!(1000);
        let certificate = json!({"secretName": names::node_tls_secret(POOL, 0), "defaultMode": 0o440});
        pod["spec"]["volumes"] = json!([
            authority(POOL),
            {"name": "own", "secret": certificate},
            {"name": "scripts", "configMap": {"name": self.name}},
        ]);
        let mount = |name: &str| json!({"name": name, "mountPath": format!("/{name}")});
        pod["spec"]["containers"][0]["volumeMounts"] = json!(["ca", "own", "scripts"].map(mount));
        pod
    }

    /// Runs one of the scripts.
    async fn run(&self, script: &str, input: &str) -> Outcome<String> {
        let [own, restored] = self.databases();
        let set = |name: &str, value: &str| format!("{name}={value}");
        let words =
            [set("FRONT", POOL), set("NODE", &self.node), set("OWN", &own), set("RESTORED", &restored)];
        let script = format!("bash /scripts/{script}");
        let mut args = vec!["exec", "-i", self.name, "--", "env"];
        args.extend(words.iter().map(String::as_str).chain(script.split(' ')));
        call_within(SCRIPT, "kubectl", &[&["-n", SPACE], &args[..]].concat(), Some(input)).await
    }

    /// Removes all of it.
    async fn close(self) -> Outcome {
        let index = primary(self.world).await?;
        self.world.here(&["delete", "pod,configmap", self.name, "--ignore-not-found"]).await?;
        for database in self.databases() {
            let drop = format!("DROP DATABASE IF EXISTS \"{database}\" WITH (FORCE)");
            self.world.psql(index, "postgres", &drop).await?;
        }
        Ok(())
    }
}

/// Runs a step's script on a desk of its own, which goes whatever comes of it.
async fn scripted(world: &World, name: &'static str, script: &str) -> Outcome {
    let desk = Desk::open(world, name).await?;
    let said = desk.run(script, "").await;
    let closed = desk.close().await;
    said?.lines().for_each(|line| println!("    {line}"));
    closed
}

/// psql: rows, notices, errors with all their fields, COPY, cursors, prepared statements, notifications, large objects, a
/// statement that is cancelled, a session that is ended.
pub async fn psql(world: &World) -> Outcome {
    scripted(world, "clients-psql", "said.sh").await
}

/// pgbench in its three protocols and with pipelines of libpq: no transaction fails or is lost.
pub async fn pgbench(world: &World) -> Outcome {
    scripted(world, "clients-pgbench", "bench.sh").await
}

/// A dump by the front is the one that is made at the primary, and is restored by the front into the same.
pub async fn dumps(world: &World) -> Outcome {
    scripted(world, "clients-dumps", "dump.sh").await
}

/// Logins with every mode of TLS and every wish for it come out as they should.
pub async fn logins(world: &World) -> Outcome {
    let desk = Desk::open(world, "clients-logins").await?;
    let settings: String = LOGINS.iter().flat_map(|login| [login.settings, "\n"]).collect();
    let said = desk.run("logins.sh", &settings).await;
    let closed = desk.close().await;
    let said = said?;
    closed?;
    let said: Vec<&str> = said.lines().collect();
    ensure(said.len() == 2 * LOGINS.len(), || format!("{} lines of {} logins", said.len(), LOGINS.len()))?;
    let mut wrong = Vec::new();
    for (login, said) in LOGINS.iter().zip(said.chunks(2)) {
        for (way, wanted, said) in
            [("front", login.front, said.first()), ("directly", login.node, said.get(1))]
        {
            let said = said.copied().unwrap_or_default();
            if !said.contains(wanted) {
                wrong.push(format!("{}, {way}: {wanted:?} was wanted, not {said:?}", login.settings));
            }
        }
    }
    ensure(wrong.is_empty(), || wrong.join("\n    "))?;
    println!("    {} kinds of logins on both ways", LOGINS.len());
    Ok(())
}

/// Results and uploads of any size, also in one message and for a client that stops reading for a while, pass a front in
/// little memory.
pub async fn large(world: &World) -> Outcome {
    let (name, usual) = SIZE;
    let size: u64 = std::env::var(name).map_or(Ok(usual), |size| size.parse())?;
    let desk = Desk::open(world, "clients-large").await?;
    let passed = async {
        let fronts = processes::fronts(world).await?;
        let before =
            fronts.iter().map(|front| processes::forget_peak(*front)).collect::<Outcome<Vec<u64>>>()?;
        desk.run(&format!("large.sh front {size}"), "").await?;
        let after = fronts.iter().map(|front| processes::peak(*front)).collect::<Outcome<Vec<u64>>>()?;
        let said = desk.run(&format!("large.sh directly {size}"), "").await?;
        Ok::<_, Failure>((before, after, said))
    }
    .await;
    let closed = desk.close().await;
    let (before, after, said) = passed?;
    closed?;
    println!("    {said}");
    println!("    {size} MB; fronts, KiB: {before:?} before, {after:?} at most meanwhile");
    let good = before.iter().zip(&after).all(|(before, after)| *after < before + TAKES);
    ensure(good && !before.is_empty(), || format!("fronts grew from {before:?} to {after:?} KiB"))
}

/// Drivers of several languages: what they see at the primary itself they see by the front. One that can't be had on this
/// machine is named.
pub async fn drivers(_: &World) -> Outcome {
    let Some(xtask) = std::env::var_os("PGPOOL_XTASK") else {
        return failed("PGPOOL_XTASK isn't set: `cargo xtask test cluster` does it");
    };
    let args = ["drivers", "--namespace", SPACE, "--directly", "--cached"];
    let said = call_within(SCRIPT, &xtask.to_string_lossy(), &args, None).await?;
    said.lines().filter(|line| line.starts_with("drivers: ")).for_each(|line| println!("    {line}"));
    Ok(())
}
