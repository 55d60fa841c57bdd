//! What the chart gives a Prometheus and a Grafana, and the pages about it, speak of metrics that there are.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it finds the unexpected")]

#[path = "common/generated.rs"]
mod generated;
#[path = "common/helm.rs"]
mod helm;
#[path = "common/monitoring.rs"]
mod monitoring;
#[path = "common/promql.rs"]
mod promql;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use generated::generated;
use helm::{chart, template, template_of};
use monitoring::{FOREIGN, expressions, file, rules, used};
use pgpool_operator::names;
use pgpool_operator::telemetry::{Kind, Metric, front, node, operator};
use promql::{Named, named};
use serde_json::{Value, json};

/// Labels that the scraper gives each target.
const TARGET: [&str; 7] = ["namespace", "pod", "container", "job", "pool", "node", "part"];

/// Everything switched on.
const ON: [&str; 6] = [
    "--set",
    "monitoring.podMonitor.enabled=true",
    "--set",
    "monitoring.rules.enabled=true",
    "--set",
    "monitoring.dashboard.enabled=true",
];

fn all() -> impl Iterator<Item = &'static Metric> {
    operator::ALL.iter().chain(node::ALL).chain(front::ALL)
}

fn entry(name: &str) -> Option<&'static Metric> {
    all().find(|metric| metric.names().iter().any(|known| known == name))
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(root(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn rules_and_dashboard_ask_for_metrics_and_labels_that_there_are() {
    let mut wrong = Vec::new();
    for (place, text) in expressions() {
        let Named { metrics, grouped } = named(&text);
        assert!(!metrics.is_empty(), "{place} asks for nothing: {text}");
        let mut labels: BTreeSet<&str> = TARGET.into();
        for (name, chosen) in &metrics {
            let known: &[&str] = match entry(name) {
                Some(metric) => metric.labels,
                None if FOREIGN.contains(&name.as_str()) => &["alertname", "alertstate"],
                None => {
                    wrong.push(format!("{place}: there is no metric {name}"));
                    continue;
                }
            };
            labels.extend(known.iter().copied());
            labels.extend(name.ends_with("_bucket").then_some("le"));
            for label in chosen.iter().filter(|label| !labels.contains(label.as_str())) {
                wrong.push(format!("{place}: {name} has no label {label}"));
            }
        }
        wrong.extend(
            grouped
                .iter()
                .filter(|label| !labels.contains(label.as_str()))
                .map(|label| format!("{place}: nothing there has the label {label}")),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(used().len() > 40, "only {:?}", used());
}

#[test]
fn what_an_expression_names_is_found() {
    let text = r#"sum by (pool) (rate(pgpool_x_total{route=~"a|b", reason != 'c'}[$__rate_interval])) > 0.5
                  unless on (pool) up offset 5m or vector(1e3)"#;
    let found = named(text);
    let labels = |list: &[&str]| list.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>();
    let metrics =
        [("pgpool_x_total".to_owned(), labels(&["route", "reason"])), ("up".to_owned(), Vec::new())];
    assert_eq!(found, Named { metrics: metrics.into(), grouped: ["pool".to_owned()].into() });
}

#[test]
fn every_alert_says_how_bad_it_is_and_what_to_do() {
    let page = read("docs/observability.md");
    let index = read("docs/runbooks/README.md");
    let mut names = BTreeSet::new();
    for rule in rules() {
        let name = rule["alert"].as_str().unwrap().to_owned();
        assert!(name.starts_with("PgPool"), "{name}");
        assert!(["critical", "warning"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{name}");
        assert!(rule["for"].is_string(), "{name}");
        let annotations = rule["annotations"].as_object().unwrap();
        let keys: Vec<&str> = annotations.keys().map(String::as_str).collect();
        assert_eq!(keys, ["description", "runbook", "summary"]);
        for (key, text) in annotations {
            let text = text.as_str().unwrap();
            assert!(!text.is_empty() && !text.contains('\n'), "{name}: {key}");
        }
        let runbook = annotations["runbook"].as_str().unwrap();
        assert!(runbook.starts_with("docs/runbooks/") && root(runbook).is_file(), "{name}: {runbook}");
        assert!(page.contains(&format!("`{name}`")), "docs/observability.md doesn't tell of {name}");
        assert!(index.contains(&format!("`{name}`")), "docs/runbooks/README.md doesn't tell of {name}");
        assert!(names.insert(name.clone()), "{name} is there twice");
    }
    let tests = read("tests/prometheus/alerts.yaml");
    for name in names {
        assert!(tests.contains(&format!("\"{name}\"")), "tests/prometheus/alerts.yaml doesn't try {name}");
    }
}

#[test]
fn the_reference_of_metrics_is_up_to_date() {
    let mut out = "# Metrics\n\nMade from the code by `UPDATE=1 cargo test --test monitoring`; not edited by hand.\n\n\
        A counter grows from 0 with each start of its process. A histogram has `_bucket`, `_sum` and `_count`. Labels of the\n\
        target (`namespace`, `pod`, `pool`, `node`, `part`) are the scraper's to add:\n\
        [observability](../observability.md).\n"
        .to_owned();
    for (title, list) in [
        ("Operator, port 8080", operator::ALL),
        ("Node, port 5481", node::ALL),
        ("Front, port 5481", front::ALL),
    ] {
        write!(out, "\n## {title}\n\n| metric | kind | labels | what |\n|---|---|---|---|\n").unwrap();
        for Metric { name, kind, labels, help } in list {
            let kind = match kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
                Kind::Info => "info",
            };
            let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
            writeln!(out, "| `{name}` | {kind} | {labels} | {help} |").unwrap();
        }
    }
    generated("docs/reference/metrics.md", &out, "monitoring");
}

fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            pages(&path, found);
        } else if path.extension().is_some_and(|end| end == "md") {
            found.push(path);
        }
    }
}

#[test]
fn pages_name_metrics_that_there_are() {
    let mut found = vec![root("README.md"), root("charts/pgpool-operator/README.md")];
    pages(&root("docs"), &mut found);
    let mut wrong = Vec::new();
    for page in found {
        let text = fs::read_to_string(&page).unwrap();
        for part in ["pgpool_operator_", "pgpool_node_", "pgpool_front_"] {
            for (at, _) in text.match_indices(part) {
                let name: String =
                    text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                // A file of the volume.
                let file = text[at + name.len()..].starts_with(".json");
                let histogram = all().any(|metric| metric.name == name && metric.kind == Kind::Histogram);
                if entry(&name).is_none() && !histogram && !file {
                    wrong.push(format!("{}: {name}", page.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "no such metric:\n{}", wrong.join("\n"));
}

fn objects(args: &[&str]) -> Vec<Value> {
    let text = template("pgpool-system", &[&["--set", "crds.install=false"], args].concat()).unwrap();
    serde_saphyr::from_multiple(&text).unwrap()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

#[test]
fn monitoring_is_rendered_when_it_is_asked_for_and_only_then() {
    let off = objects(&[]);
    for kind in ["PodMonitor", "PrometheusRule", "ConfigMap"] {
        assert!(of_kind(&off, kind).is_empty(), "{kind}");
    }
    let on = objects(&ON);
    assert_eq!(of_kind(&on, "PodMonitor").len(), 2);
    assert_eq!(on.len(), off.len() + 4);
    let groups: Value = serde_saphyr::from_str(&file("rules.yaml")).unwrap();
    assert_eq!(of_kind(&on, "PrometheusRule")[0]["spec"], groups, "what is tested is what is installed");
    let map = of_kind(&on, "ConfigMap")[0];
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    assert_eq!(map["data"]["pgpool.json"].as_str().unwrap(), file("dashboard.json"));
}

/// The chart's last words to who installs it, which `helm template` leaves out: they are made the object of a chart of their own.
fn notes(args: &[&str]) -> String {
    let own = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str| fs::copy(chart().join(from), own.path().join(to)).unwrap();
    fs::create_dir(own.path().join("templates")).unwrap();
    for file in ["Chart.yaml", "values.yaml", "values.schema.json", "templates/_helpers.tpl"] {
        copy(file, file);
    }
    copy("templates/NOTES.txt", "NOTES.txt");
    let object = r#"notes: {{ tpl (.Files.Get "NOTES.txt") . | toJson }}"#;
    fs::write(own.path().join("templates/notes.yaml"), object).unwrap();
    let text = template_of(own.path(), "pgpool-system", args).unwrap();
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    objects[0]["notes"].as_str().unwrap().to_owned()
}

#[test]
fn who_installs_pod_monitors_that_read_nothing_is_told() {
    let told = |args: &[&str]| {
        let notes = notes(args);
        assert!(notes.contains("Deployment pgpool-operator in namespace pgpool-system"), "{notes}");
        notes.contains("metrics.from names nobody")
    };
    let peer = ["--set", "metrics.from[0].podSelector.matchLabels.app=prometheus"];
    assert!(!told(&[]) && told(&ON) && !told(&[&ON[..], &peer].concat()));
}

#[test]
fn the_pod_monitors_find_the_pods_in_every_namespace_that_is_watched() {
    let monitors = |args: &[&str]| {
        let all = objects(&[&ON, args].concat());
        of_kind(&all, "PodMonitor").into_iter().cloned().collect::<Vec<Value>>()
    };
    let everywhere = monitors(&[]);
    let pools = &everywhere[1]["spec"];
    assert_eq!(pools["namespaceSelector"], json!({"any": true}));
    let part = json!({"key": names::LABEL_PART, "operator": "In", "values": ["node", "proxy"]});
    assert_eq!(pools["selector"]["matchExpressions"], json!([part]));
    let some =
        monitors(&["--set", "watchNamespaces={birch,oak}", "--set", "monitoring.podMonitor.interval=1m"]);
    assert_eq!(some[1]["spec"]["namespaceSelector"], json!({"matchNames": ["birch", "oak"]}));
    assert_eq!(some[0]["spec"]["podMetricsEndpoints"][0]["interval"], "1m");
    let deployment = objects(&[]);
    let deployment = of_kind(&deployment, "Deployment")[0];
    assert_eq!(everywhere[0]["spec"]["selector"], deployment["spec"]["selector"]);
    for monitor in &everywhere {
        assert_eq!(monitor["spec"]["podMetricsEndpoints"][0]["port"], "health");
    }
    assert_eq!(deployment["spec"]["template"]["spec"]["containers"][0]["ports"][0]["name"], "health");
}

#[test]
fn the_plain_configuration_gives_the_labels_that_the_pod_monitors_give() {
    let scrape: Value = serde_saphyr::from_str(&file("scrape.yaml")).unwrap();
    let job = scrape["scrape_configs"].as_array().unwrap().iter().find(|job| job["job_name"] == "pgpool");
    let plain = job.unwrap()["relabel_configs"].as_array().unwrap();
    let all = objects(&ON);
    let monitor = &of_kind(&all, "PodMonitor")[1]["spec"]["podMetricsEndpoints"][0];
    for relabeling in monitor["relabelings"].as_array().unwrap() {
        let same = json!({
            "source_labels": relabeling["sourceLabels"], "target_label": relabeling["targetLabel"],
        });
        assert!(plain.contains(&same), "{same}");
    }
    let given: BTreeSet<&str> = plain.iter().filter_map(|rule| rule["target_label"].as_str()).collect();
    let wanted: BTreeSet<&str> = TARGET.into_iter().filter(|label| *label != "job").collect();
    assert_eq!(given, wanted);
    for label in [names::LABEL_POOL, names::LABEL_NODE, names::LABEL_PART, names::LABEL_OPERATOR] {
        let meta = format!("__meta_kubernetes_pod_label_{}", label.replace(['.', '-', '/'], "_"));
        assert!(file("scrape.yaml").contains(&meta), "{meta}");
    }
}

#[test]
fn whoever_may_read_metrics_is_told_to_the_operator() {
    let told = |args: &[&str]| {
        let all = objects(args);
        let container = &of_kind(&all, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0];
        let found = container["env"].as_array().unwrap().iter().find(|env| env["name"] == "METRICS_FROM");
        found.map(|env| env["value"].as_str().unwrap().to_owned())
    };
    assert_eq!(told(&[]), None);
    let peer = r"metrics.from[0].namespaceSelector.matchLabels.kubernetes\.io/metadata\.name=monitoring";
    let text = told(&["--set", peer]).unwrap();
    let peers: pgpool_operator::resources::Peers = text.parse().unwrap();
    let selector = peers.0[0].namespace_selector.as_ref().unwrap();
    assert_eq!(selector.match_labels.as_ref().unwrap()["kubernetes.io/metadata.name"], "monitoring");
}
