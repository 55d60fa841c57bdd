//! What a pool tells without its logs: to people by kubectl, and to a real Prometheus, which reads it from a pod's network by the
//! chart's own configuration and has the chart's own alerts.
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use pgpool_operator::names;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::failover::{primary, standby, taken_over};
use super::harness::{Failure, Outcome, ensure, failed};
use super::install::{self, client_pod, namespace};
use super::pool::{NODES, WHOLE, attached};
use super::processes::{first_of, kill_postgres};
use super::strangers::reaches;
use super::world::{POOL, SPACE as POOLS, SYSTEM, World, until};
use super::{load, monitoring};

/// Namespace of the Prometheus.
pub const SPACE: &str = "cluster-test-watch";
/// Its pod; the program runs on this machine, in that pod's network.
const POD: &str = "prometheus";
const PORT: u16 = 9090;
/// Names the program.
const PROGRAM: &str = "PGPOOL_PROMETHEUS";
/// The chart's value that lets it in.
const LET_IN: &str =
    r"metrics.from[0].namespaceSelector.matchLabels.kubernetes\.io/metadata\.name=cluster-test-watch";
/// Between two looks of the Prometheus at a target, and at the rules.
const EVERY: &str = "2s";
/// How long an alert waits here, which at night waits for minutes.
const FOR: &str = "2s";
/// Time for something to be read, and an alert to fire.
const SEEN: Duration = Duration::from_secs(60);
/// Longest time for one answer of the Prometheus.
const ANSWER: Duration = Duration::from_secs(10);
/// Lines of its log that are shown when something fails.
const SHOWN: usize = 15;

/// A Prometheus reads the pool: nobody does unless named; every target is up; a failover is seen; all that the rules and the
/// dashboard ask for is there; an alert fires, and ends.
pub async fn read(world: &World) -> Outcome {
    let done = watch(world).await;
    let closed = close(world).await;
    done?;
    closed
}

async fn watch(world: &World) -> Outcome {
    let pod = watcher(world).await?;
    for host in hosts(world).await? {
        ensure(!reaches(world, SPACE, POD, &host, names::HEALTH_PORT).await, || {
            format!("metrics at {host} can be read by somebody who wasn't named")
        })?;
    }
    install::helm_with(world, &[LET_IN]).await?;
    until("the policies to let the Prometheus in", SEEN, || async {
        for host in hosts(world).await? {
            let reached = reaches(world, SPACE, POD, &host, names::HEALTH_PORT).await;
            ensure(reached, || format!("{host} isn't reached"))?;
        }
        Ok(())
    })
    .await?;
    let prometheus = Prometheus::start(&pod)?;
    let done = looked_at(world, &prometheus).await;
    prometheus.end(done.is_err()).await;
    done
}

/// The pod in whose network it runs.
async fn watcher(world: &World) -> Outcome<Pod> {
    world.apply(&namespace(SPACE)).await?;
    until("the namespace's ServiceAccount", WHOLE, || async {
        world.kubectl(&["-n", SPACE, "get", "serviceaccount", "default"]).await.map(drop)
    })
    .await?;
    world.apply(&client_pod(POD, SPACE, None)).await?;
    world.kubectl(&["-n", SPACE, "wait", "--for=condition=Ready", "pod", POD, "--timeout=60s"]).await?;
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), SPACE);
    Ok(pods.get(POD).await?)
}

/// Nobody is named any more, and nobody comes in.
async fn close(world: &World) -> Outcome {
    install::helm(world).await?;
    if let Some(host) = hosts(world).await?.pop() {
        until("the policies to be shut again", SEEN, || async {
            ensure(!reaches(world, SPACE, POD, &host, names::HEALTH_PORT).await, || {
                format!("{host} is reached")
            })
        })
        .await?;
    }
    world.kubectl(&["delete", "namespace", SPACE, "--wait=false"]).await.map(drop)
}

/// Addresses of the nodes and the fronts.
async fn hosts(world: &World) -> Outcome<Vec<String>> {
    let mut found = Vec::new();
    for part in ["node", "proxy"] {
        found.extend(world.alive(part).await?.into_iter().filter_map(|pod| pod.status?.pod_ip));
    }
    Ok(found)
}

async fn looked_at(world: &World, prometheus: &Prometheus) -> Outcome {
    all_up(world, prometheus).await?;
    quiet(prometheus).await?;
    failed_over(world, prometheus).await?;
    detached(world, prometheus).await
}

/// Operator, nodes and fronts are read.
async fn all_up(world: &World, prometheus: &Prometheus) -> Outcome {
    let wanted = hosts(world).await?.len() + 1;
    until("every target to be up", SEEN, || async {
        let targets = prometheus.ask("/api/v1/targets?state=active").await?;
        let own = targets["activeTargets"].as_array().into_iter().flatten().filter(|target| {
            let labels = &target["labels"];
            labels["job"] == "pgpool-operator" || (labels["pool"] == POOL && labels["namespace"] == POOLS)
        });
        let own: Vec<&Value> = own.collect();
        let down = own.iter().find(|target| target["health"] != "up");
        ensure(down.is_none() && own.len() == wanted, || {
            format!(
                "{} of {wanted} targets; {}",
                own.len(),
                down.map(ToString::to_string).unwrap_or_default()
            )
        })
    })
    .await?;
    let nodes =
        prometheus.query(&format!("up{{pool=\"{POOL}\",namespace=\"{POOLS}\",part=\"node\"}}")).await?;
    let nodes: BTreeSet<&str> = nodes.iter().filter_map(|(labels, _)| labels["node"].as_str()).collect();
    let wanted = NODES.map(|node| node.to_string());
    let wanted: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
    ensure(nodes == wanted, || format!("nodes {nodes:?}"))
}

/// In a pool that is well none of these fires. How full this machine's disk is, is its own affair.
async fn quiet(prometheus: &Prometheus) -> Outcome {
    const LOUD: [&str; 7] = [
        "PgPoolUnavailable",
        "PgPoolNoPrimary",
        "PgPoolCommitsWait",
        "PgPoolFrontDown",
        "PgPoolNodeDetached",
        "PgPoolOperatorDown",
        "PgPoolNotScraped",
    ];
    // What is true all the time is pending at the first look and fires at the second.
    let mut looks = BTreeSet::from([prometheus.evaluated().await?]);
    until("two more looks at the rules", SEEN, async || {
        looks.insert(prometheus.evaluated().await?);
        ensure(looks.len() > 2, || format!("{looks:?}"))
    })
    .await?;
    let mut firing = prometheus.firing().await?;
    firing.retain(|alert| alert["pool"].is_null() || is_of_the_pool(alert));
    let names: BTreeSet<&str> = firing.iter().filter_map(|alert| alert["alertname"].as_str()).collect();
    println!("    alerts of a pool that is well: {names:?}");
    let loud = firing.iter().find(|alert| LOUD.iter().any(|name| alert["alertname"] == *name));
    ensure(loud.is_none(), || format!("{loud:?}"))
}

/// Whether the labels of an alert are those of the pool.
fn is_of_the_pool(labels: &Value) -> bool {
    labels["namespace"] == POOLS && labels["pool"] == POOL
}

/// The primary's Postgres is killed: who is the primary moves, and kubectl alone tells the story.
async fn failed_over(world: &World, prometheus: &Prometheus) -> Outcome {
    let old = primary(world).await?;
    is_primary(prometheus, old).await?;
    kill_postgres(world, old).await?;
    let new = taken_over(world, old).await?;
    is_primary(prometheus, new).await?;
    load::unharmed(world).await?;
    let counted = "sum(pgpool_operator_events_total{reason=\"PrimaryInOffice\"})";
    until("the operator to count it", SEEN, || async {
        let found = prometheus.query(counted).await?;
        ensure(found.iter().any(|(_, value)| *value >= 1.0), || format!("{found:?}"))
    })
    .await?;
    story(world, old, new).await
}

/// As the Prometheus has it, this node is the primary, and no other one.
async fn is_primary(prometheus: &Prometheus, node: u8) -> Outcome {
    let asked = format!("pgpool_node_is_primary{{pool=\"{POOL}\",namespace=\"{POOLS}\"}}");
    until(&format!("node {node} to be seen as the primary"), SEEN, || async {
        let all = prometheus.query(&asked).await?;
        let right = all.iter().all(|(labels, value)| (*value > 0.5) == is_of(labels, node));
        ensure(right && all.iter().any(|(labels, _)| is_of(labels, node)), || format!("{all:?}"))
    })
    .await
}

/// Whether labels are those of a node.
fn is_of(labels: &Value, node: u8) -> bool {
    labels["node"].as_str().and_then(|text| text.parse().ok()) == Some(node)
}

/// `get`, `describe` and the events say who took over from whom, why, and for how long nothing could be written.
async fn story(world: &World, old: u8, new: u8) -> Outcome {
    let row = world.here(&["get", "pgpool", POOL, "-o", "wide"]).await?;
    ensure(row.contains(&names::node_pod(POOL, new)), || row.clone())?;
    let changed = format!("node {new} is the primary now, node {old} was");
    let in_office = format!("node {new} is the primary after node {old}: ");
    let told = until("the story", SEEN, || async {
        let told = world.here(&["describe", "pgpool", POOL]).await?;
        let all = [changed.as_str(), in_office.as_str(), "Last Failover:", "PrimaryInOffice"];
        let missing = all.into_iter().find(|words| !told.contains(*words));
        ensure(missing.is_none(), || format!("no {missing:?} in\n{told}"))?;
        Ok(told)
    })
    .await?;
    let event = told.lines().rev().find(|line| line.contains(&in_office)).unwrap_or_default();
    println!("    {}", event.trim());
    ensure(event.contains("ms without one (detection "), || event.to_owned())
}

/// A node that is detached by wish is seen, an alert tells of it, and all that rules and dashboard ask for is there.
async fn detached(world: &World, prometheus: &Prometheus) -> Outcome {
    let node = standby(world).await?;
    world.ask_for("detach", &node.to_string()).await?;
    world.when("the node to leave", WHOLE, |status| !attached(status).contains(&node)).await?;
    let told = alert(prometheus, node, true).await;
    let there = everything(prometheus).await;
    world.ask_for("attach", &node.to_string()).await?;
    told?;
    there?;
    load::unharmed(world).await?;
    alert(prometheus, node, false).await
}

/// The alert of a node that isn't attached fires, or doesn't.
async fn alert(prometheus: &Prometheus, node: u8, wish: bool) -> Outcome {
    let what = if wish { "an alert of the node" } else { "the alert to end" };
    until(what, SEEN, || async {
        let firing = prometheus.firing().await?;
        let fires = firing.iter().any(|alert| {
            alert["alertname"] == "PgPoolNodeDetached" && is_of(alert, node) && is_of_the_pool(alert)
        });
        ensure(fires == wish, || format!("{firing:?}"))
    })
    .await
}

/// Every metric that the rules and the dashboard use has a value.
async fn everything(prometheus: &Prometheus) -> Outcome {
    let used = monitoring::used();
    until("a value of every metric that is used", SEEN, || async {
        let mut missing = Vec::new();
        for metric in &used {
            if prometheus.query(&format!("count({metric})")).await?.is_empty() {
                missing.push(metric);
            }
        }
        ensure(missing.is_empty(), || format!("{missing:?}"))
    })
    .await?;
    println!("    {} metrics of rules and dashboard have values", used.len());
    Ok(())
}

/// A running Prometheus. It ends with this value, by its process, whatever happens.
struct Prometheus {
    process: Child,
    address: String,
    files: TempDir,
}

impl Prometheus {
    /// In the network of a pod: it comes from where one in the cluster would.
    fn start(pod: &Pod) -> Outcome<Self> {
        let Some(program) = std::env::var_os(PROGRAM) else {
            return failed(format!("{PROGRAM} isn't set: `cargo xtask test cluster::observe` does it"));
        };
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
        let address =
            address.ok_or_else(|| Failure("the pod of the Prometheus has no address".to_owned()))?;
        let inside = first_of(pod)?;
        let files = tempfile::tempdir()?;
        let place = |name: &str| files.path().join(name);
        fs::write(place("rules.json"), rules()?.to_string())?;
        fs::write(
            place("prometheus.json"),
            configuration(&place("rules.json").display().to_string())?.to_string(),
        )?;
        let log = File::create(place("log"))?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{inside}/ns/net")).arg("--").arg(program);
        command.arg(format!("--config.file={}", place("prometheus.json").display()));
        command.arg(format!("--storage.tsdb.path={}", place("data").display()));
        command.arg(format!("--web.listen-address=0.0.0.0:{PORT}"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        Ok(Self { process: command.spawn()?, address, files })
    }

    /// Ends it; shows the end of its log where that is wanted.
    async fn end(mut self, show: bool) {
        // It may have ended by itself, and then its log says why.
        let _ = self.process.kill().await;
        let log = fs::read_to_string(self.files.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        for line in lines.iter().skip(lines.len().saturating_sub(SHOWN)).filter(|_| show) {
            println!("    prometheus: {line}");
        }
    }

    /// What its API says at this path.
    async fn ask(&self, path: &str) -> Outcome<Value> {
        let exchange = async {
            let mut stream = TcpStream::connect((self.address.as_str(), PORT)).await?;
            // Of this version an answer comes in one piece, and its end is the connection's.
            stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: prometheus\r\n\r\n").as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = tokio::time::timeout(ANSWER, exchange).await??;
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        let said: Value = serde_json::from_str(body).unwrap_or_default();
        ensure(said["status"] == "success", || format!("{path}: {answer}"))?;
        Ok(said["data"].clone())
    }

    /// The series that an expression gives now: labels and value.
    async fn query(&self, text: &str) -> Outcome<Vec<(Value, f64)>> {
        let data = self.ask(&format!("/api/v1/query?query={}", encoded(text))).await?;
        let series = data["result"].as_array().cloned().unwrap_or_default();
        let value =
            |one: &Value| one["value"][1].as_str().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN);
        Ok(series.iter().map(|one| (one["metric"].clone(), value(one))).collect())
    }

    /// When the rules were evaluated last.
    async fn evaluated(&self) -> Outcome<String> {
        let data = self.ask("/api/v1/rules?type=alert").await?;
        let at = data["groups"][0]["lastEvaluation"].as_str();
        at.map(str::to_owned).ok_or_else(|| Failure(format!("no rules: {data}")))
    }

    /// The labels of the alerts that fire now.
    async fn firing(&self) -> Outcome<Vec<Value>> {
        let data = self.ask("/api/v1/alerts").await?;
        let alerts = data["alerts"].as_array().into_iter().flatten();
        Ok(alerts.filter(|alert| alert["state"] == "firing").map(|alert| alert["labels"].clone()).collect())
    }
}

/// An expression as a part of a URL.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// The chart's rules, with less patience.
fn rules() -> Outcome<Value> {
    let mut file: Value = serde_saphyr::from_str(&monitoring::file("rules.yaml"))?;
    for group in file["groups"].as_array_mut().into_iter().flatten() {
        group["interval"] = json!(EVERY);
        for rule in group["rules"].as_array_mut().into_iter().flatten() {
            rule["for"] = json!(FOR);
        }
    }
    Ok(file)
}

/// The chart's plain configuration, from outside of the cluster. JSON is YAML.
fn configuration(rules: &str) -> Outcome<Value> {
    let kubeconfig = std::env::var("KUBECONFIG")?;
    let mut file: Value = serde_saphyr::from_str(&monitoring::file("scrape.yaml"))?;
    for job in file["scrape_configs"].as_array_mut().into_iter().flatten() {
        job["kubernetes_sd_configs"][0]["kubeconfig_file"] = json!(kubeconfig);
    }
    file["global"] = json!({"scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": EVERY});
    file["rule_files"] = json!([rules]);
    Ok(file)
}

/// Operator, nodes and fronts log an object of JSON a line, and PostgreSQL's own words are among them.
pub async fn logs(world: &World) -> Outcome {
    let node = names::node_pod(POOL, primary(world).await?);
    let front = format!("deployment/{}", names::proxy(POOL));
    for (space, of, container) in [
        (SYSTEM, "deployment/pgpool-operator", "controller"),
        (POOLS, &node, "postgres"),
        (POOLS, &front, "proxy"),
    ] {
        let text = world.kubectl(&["-n", space, "logs", of, "-c", container]).await?;
        let mut targets = BTreeSet::new();
        for line in text.lines() {
            let said: Value =
                serde_json::from_str(line).map_err(|error| Failure(format!("{of}: {error}: {line}")))?;
            let whole =
                said["timestamp"].is_string() && said["level"].is_string() && said["fields"].is_object();
            ensure(whole, || format!("{of}: {line}"))?;
            targets.insert(said["target"].as_str().unwrap_or_default().to_owned());
        }
        println!("    {of}: {} lines, of {targets:?}", text.lines().count());
        ensure(!targets.is_empty(), || format!("{of} logs nothing"))?;
        ensure(container != "postgres" || targets.contains("postgres"), || {
            format!("{of}: nothing of PostgreSQL")
        })?;
    }
    Ok(())
}
