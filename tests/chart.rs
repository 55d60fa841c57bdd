//! The Helm chart: what it renders, what it refuses, and that it gives no more rights than are used.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it finds the unexpected")]

#[path = "common/generated.rs"]
mod generated;
#[path = "common/helm.rs"]
mod helm;
#[path = "common/values.rs"]
mod values;

use generated::generated;
use helm::{chart, helm, template};
use pgpool_operator::names;
use serde_json::{Value, json};
use values::Values;

/// Values that are rendered, each into a file of tests/golden/chart.
const RENDERED: &[(&str, &[&str])] = &[
    ("default", &["--set", "crds.install=false"]),
    (
        "namespaces",
        &["--set", "crds.install=false", "--set", "watchNamespaces={birch,oak}", "--set", "replicas=2"],
    ),
    (
        "bare",
        &[
            "--set",
            "crds.install=false",
            "--set",
            "rbac.create=false",
            "--set",
            "serviceAccount.create=false",
            "--set",
            "serviceAccount.name=given",
            "--set",
            "membershipGuard.enabled=false",
            "--set",
            "metrics.service.enabled=false",
        ],
    ),
    (
        "adorned",
        &[
            "--set",
            "crds.install=false",
            "--set",
            "image.repository=registry.example/pg/op",
            "--set",
            "image.tag=2.0",
            "--set",
            "image.pullPolicy=Always",
            "--set",
            "imagePullSecrets[0].name=login,imagePullSecrets[1].name=other",
            "--set",
            "podLabels.team=db",
            "--set",
            "podAnnotations.note=seen",
            "--set",
            "nodeSelector.disk=ssd",
            "--set",
            "tolerations[0].operator=Exists",
            "--set",
            "priorityClassName=high",
            "--set",
            "serviceAccount.annotations.a=b",
            "--set",
            "metrics.service.annotations.c=d",
            "--set",
            "logs.format=text",
            "--set",
            "metrics.from[0].podSelector.matchLabels.app=prometheus",
        ],
    ),
];

/// Values that are refused, and words of the message.
const REFUSED: &[(&[&str], &str)] = &[
    (&["--set", "replica=2"], "replica"),
    (&["--set", "replicas=many"], "replicas"),
    (&["--set", "image.pullPolicy=Sometimes"], "pullPolicy"),
    (&["--set", "image.repository="], "repository"),
    (&["--set", "watchNamespaces={Upper}"], "watchNamespaces"),
    (&["--set", "watchNamespaces={birch,birch}"], "watchNamespaces"),
    (&["--set", "crds.instal=true"], "instal"),
    (&["--set", "serviceAccount.create=false"], "serviceAccount.name: name the account to use"),
    (&["--kube-version", "1.29.0"], "kubeVersion"),
    (&["--set", "log=debug"], "log"),
    (&["--set", "logs.format=xml"], "format"),
    (&["--set", "metrics.from[0].podselector.a=b"], "podselector"),
    (&["--set-json", "metrics.from=[{}]"], "from"),
    (
        &["--set-json", r#"metrics.from=[{"ipBlock":{"cidr":"10.0.0.0/8"},"podSelector":{}}]"#],
        "/metrics/from/0",
    ),
    (&["--set-json", r#"metrics.from=[{"ipBlock":{}}]"#], "cidr"),
    (&["--set", "metrics.from[0].ipBlock.cidr=everywhere"], "cidr"),
    (&["--set", "metrics.from[0].ipBlock.cidr=10.0.0.0/33"], "cidr"),
    (&["--set", "metrics.from[0].ipBlock.cidr=2001:db8::/129"], "cidr"),
    (&["--set", "metrics.from[0].ipBlock.cidr=10.0.0.0/8,metrics.from[0].ipBlock.except={some}"], "except/0"),
    (&["--set", "metrics.from[0].podSelector.matchLabels.app=a b"], "matchLabels"),
    (
        &[
            "--set-json",
            r#"metrics.from=[{"podSelector":{"matchExpressions":[{"key":"app","operator":"Like","values":["a"]}]}}]"#,
        ],
        "/0/operator",
    ),
    (
        &[
            "--set-json",
            r#"metrics.from=[{"podSelector":{"matchExpressions":[{"key":"app","operator":"NotIn"}]}}]"#,
        ],
        "'values'",
    ),
    (
        &[
            "--set-json",
            r#"metrics.from=[{"podSelector":{"matchExpressions":[{"key":"app","operator":"Exists","values":["a"]}]}}]"#,
        ],
        "/0/values",
    ),
    (&["--set", "monitoring.podMonitor.interval=often"], "interval"),
    (&["--set", "monitoring.alerts.enabled=true"], "alerts"),
];

fn objects(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

#[test]
fn the_chart_has_no_fault_that_helm_knows() {
    let text = helm(&["lint", "--strict", chart().to_str().unwrap()]).unwrap();
    assert!(text.contains("0 chart(s) failed"), "{text}");
}

#[test]
fn the_rendered_manifests_are_as_they_were_read() {
    for (name, args) in RENDERED {
        let text = template("pgpool-system", args).unwrap();
        generated(&format!("tests/golden/chart/{name}.yaml"), &text, "chart");
    }
}

#[test]
fn wrong_values_are_refused() {
    for (args, message) in REFUSED {
        let said = template("pgpool-system", args).expect_err(message);
        assert!(said.contains(message), "{args:?}: {said}");
    }
}

#[test]
fn the_definitions_come_along_and_stay() {
    let all = objects(&template("pgpool-system", &[]).unwrap());
    let found = of_kind(&all, "CustomResourceDefinition");
    assert_eq!(found.len(), 2);
    for crd in found {
        assert_eq!(crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
        let name = crd["spec"]["names"]["plural"].as_str().unwrap();
        let place = chart().join(format!("../../crds/{name}.yaml"));
        let plain: Value = serde_saphyr::from_str(&std::fs::read_to_string(place).unwrap()).unwrap();
        assert_eq!(crd["spec"], plain["spec"], "{name}");
    }
}

#[test]
fn the_controller_fits_the_restricted_profile_and_carries_the_operators_label() {
    let all = objects(&template("pgpool-system", &[]).unwrap());
    let pod = &of_kind(&all, "Deployment")[0]["spec"]["template"];
    assert_eq!(pod["metadata"]["labels"][names::LABEL_OPERATOR], "true");
    let security = &pod["spec"]["securityContext"];
    assert_eq!(security["runAsNonRoot"], true);
    assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
    let container = &pod["spec"]["containers"][0]["securityContext"];
    assert_eq!(container["allowPrivilegeEscalation"], false);
    assert_eq!(container["readOnlyRootFilesystem"], true);
    assert_eq!(container["capabilities"]["drop"], json!(["ALL"]));
    // The controller keeps its certificates below /tmp.
    assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["mountPath"], "/tmp");
    assert_eq!(pod["spec"]["volumes"][0]["emptyDir"]["medium"], "Memory");
}

#[test]
fn a_list_of_namespaces_leaves_no_rights_elsewhere() {
    let all = objects(&template("pgpool-system", &["--set", "watchNamespaces={birch,oak}"]).unwrap());
    let operator = |object: &&&Value| object["metadata"]["name"] == "pgpool-operator";
    let cluster = of_kind(&all, "ClusterRole");
    let cluster = cluster.iter().find(operator).unwrap();
    let left = cluster["rules"].as_array().unwrap();
    let left: Vec<(&Value, &Value)> =
        left.iter().map(|rule| (&rule["resources"][0], &rule["verbs"])).collect();
    assert_eq!(
        json!(left),
        json!([["nodes", ["list"]], ["persistentvolumes", ["get"]], ["storageclasses", ["get"]]])
    );
    let roles = of_kind(&all, "Role");
    let places: Vec<&Value> =
        roles.iter().filter(operator).map(|role| &role["metadata"]["namespace"]).collect();
    assert_eq!(places, [&json!("birch"), &json!("oak")]);
    let everywhere = objects(&template("pgpool-system", &[]).unwrap());
    let everywhere = of_kind(&everywhere, "ClusterRole");
    let given = everywhere.iter().find(operator).unwrap()["rules"].as_array().unwrap().clone();
    assert_eq!(
        roles.iter().find(operator).unwrap()["rules"],
        json!(given[left.len()..]),
        "the same rights in both ways"
    );
}

#[test]
fn no_role_holds_everything() {
    let all = objects(&template("pgpool-system", &["--set", "watchNamespaces={birch}"]).unwrap());
    let more = objects(&template("pgpool-system", &[]).unwrap());
    let mut looked_at = 0;
    for object in all.iter().chain(&more).filter(|o| o["kind"] == "Role" || o["kind"] == "ClusterRole") {
        for rule in object["rules"].as_array().unwrap() {
            looked_at += 1;
            let text = rule.to_string();
            for too_much in ["\"*\"", "escalate", "impersonate", "\"bind\"", "pods/exec", "nodes/proxy"] {
                assert!(!text.contains(too_much), "{}: {text}", object["metadata"]["name"]);
            }
        }
    }
    assert!(looked_at > 20, "only {looked_at} rules were looked at");
}

/// Kubernetes lets nobody make a Role with rights that he doesn't hold.
#[test]
fn the_operator_holds_what_it_gives_to_the_agents() {
    let all = objects(&template("pgpool-system", &[]).unwrap());
    let roles = of_kind(&all, "ClusterRole");
    let operator = roles.iter().find(|role| role["metadata"]["name"] == "pgpool-operator").unwrap();
    let holds = |resource: &str, verb: &str| {
        operator["rules"].as_array().unwrap().iter().any(|rule| {
            rule["apiGroups"] == json!(["pgpool-operator.dev"])
                && rule["resources"].as_array().unwrap().contains(&json!(resource))
                && rule["verbs"].as_array().unwrap().contains(&json!(verb))
        })
    };
    for verb in ["get", "list", "watch"] {
        assert!(holds("pgpoolmemberships", verb), "{verb}");
    }
    assert!(holds("pgpoolmemberships/status", "update"));
}

#[test]
fn every_value_is_described_and_the_reference_is_up_to_date() {
    let read = |name: &str| std::fs::read_to_string(chart().join(name)).unwrap();
    let values = Values::read(&read("values.yaml"), &read("values.schema.json"));
    let faults = values.faults();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    generated("docs/reference/chart.md", &values.page(), "chart");
}

/// A small schema of values, and values as it wants them.
const TREES: (&str, &str) = (
    r##"{
        "definitions": {"texts": {"type": "object", "additionalProperties": {"type": "string"}}},
        "properties": {
            "global": {"type": "object"},
            "birch": {"type": "object", "properties": {
                "bark": {"enum": ["white", "grey"]},
                "leaves": {"type": "integer", "minimum": 0, "maximum": 9},
                "seeds": {"$ref": "#/definitions/texts"}
            }},
            "oak": {"type": "string", "minLength": 1}
        }
    }"##,
    "# Of the file.

# A tree.
birch:
  # White | grey,
  # mostly.
  bark: white
  # Few.
  leaves: 3
  # Many.
  seeds: {a: \"1\"}

# Another one.
oak: old
",
);

#[test]
fn the_reference_has_type_default_and_comment_of_each_value() {
    let (schema, whole) = TREES;
    let page = Values::read(whole, schema).page();
    let (_, rows) = page.split_once("|---|---|---|---|\n").unwrap();
    let rows: Vec<&str> = rows.lines().collect();
    assert_eq!(
        rows,
        [
            "| `birch` | object |  | A tree. |",
            "| `birch.bark` | `white`, `grey` | `white` | White \\| grey, mostly. |",
            "| `birch.leaves` | integer, 0 to 9 | `3` | Few. |",
            "| `birch.seeds` | map of strings | `{\"a\":\"1\"}` | Many. |",
            "| `oak` | string, not empty | `old` | Another one. |",
        ]
    );
}

#[test]
fn values_that_the_reference_would_not_tell_of_are_found() {
    let (schema, whole) = TREES;
    let faults = Values::read(whole, schema).faults();
    assert!(faults.is_empty(), "{faults:?}");
    for (good, bad, fault) in [
        ("  # Few.\n", "", "birch.leaves: no comment right above it in values.yaml"),
        ("  # Few.\n", "  # Few.\n\n", "birch.leaves: no comment right above it in values.yaml"),
        ("oak: old\n", "elm: old\n", "oak: it isn't in values.yaml"),
        (
            "{a: \"1\"}",
            "\n    # One.\n    a: \"1\"",
            "birch.seeds.a: a comment on what values.schema.json doesn't name",
        ),
    ] {
        let faults = Values::read(&whole.replace(good, bad), schema).faults();
        assert!(faults.contains(&fault.to_owned()), "{bad:?}: {faults:?}");
    }
}
