//! crds/, the chart's copies and the reference are what src/api says, and the examples are what it reads.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it finds the unexpected")]

#[path = "common/bad_pools.rs"]
mod bad_pools;
#[path = "common/examples.rs"]
mod examples;
#[path = "common/generated.rs"]
mod generated;
#[path = "common/reference.rs"]
mod reference;

use std::fmt::Write as _;

use generated::generated;
use kube::ResourceExt as _;
use pgpool_operator::api::v1alpha1::PgPool;
use pgpool_operator::{api, crds};
use serde_json::Value;

#[test]
fn the_generated_definitions_are_up_to_date() {
    for crd in api::crds() {
        let name = crd.spec.names.plural.clone();
        let text = crds::to_yaml(&crd).unwrap();
        generated(&format!("crds/{name}.yaml"), &text, "crds");
        generated(&format!("charts/pgpool-operator/templates/crds/{name}.yaml"), &template(&text), "crds");
    }
}

/// The definition as a template: Helm neither upgrades nor keeps a definition by itself.
fn template(crd: &str) -> String {
    // Braces of the schema's own texts must not be read as Helm's.
    assert!(!crd.contains("{{"), "the definition holds what Helm would run");
    let kept = "metadata:\n  annotations:\n    helm.sh/resource-policy: keep\n  labels:\n    {{- include \"pgpool-operator.labels\" . | nindent 4 }}\n";
    let body = crd.replacen("metadata:\n", kept, 1);
    assert_ne!(body, crd, "the definition has no metadata");
    format!("{{{{- if .Values.crds.install }}}}\n{body}{{{{- end }}}}\n")
}

#[test]
fn the_reference_is_up_to_date() {
    for crd in api::crds() {
        let name = crd.spec.names.singular.clone().unwrap();
        generated(&format!("docs/reference/{name}.md"), &reference::page(&crd), "crds");
    }
}

#[test]
fn the_table_of_bad_manifests_is_up_to_date() {
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    let mut text = "# What is refused at once\n\nWritten by a test from what another one tries on a real API server: the spec of a \
         PgPool, and words of the answer. Nothing is changed then. What is only found out later is in \
         [bad-input.md](../bad-input.md).\n\n| spec | answer |\n|---|---|\n"
        .to_owned();
    let specs = bad_pools::BAD.iter().map(|(_, spec, answer)| (cell(spec), cell(answer)));
    let names = bad_pools::BAD_NAMES.iter().map(|name| {
        (format!("metadata: {{name: {name}}}"), "a pool's name has at most 40 characters".to_owned())
    });
    for (bad, answer) in specs.chain(names) {
        writeln!(text, "| `{bad}` | {answer} |").unwrap();
    }
    generated("docs/reference/bad-manifests.md", &text, "crds");
}

#[test]
fn every_field_is_described() {
    for crd in api::crds() {
        let missing = reference::undescribed(&crd);
        assert!(missing.is_empty(), "{}: no description of {missing:?}", crd.name_any());
    }
}

#[test]
fn the_examples_are_read_without_loss() {
    let mut pools = 0;
    for (file, document) in examples::examples() {
        if document["kind"] != "PgPool" {
            assert_eq!(document["kind"], "Namespace", "{file}: this test knows nothing of it");
            continue;
        }
        pools += 1;
        let pool: PgPool = serde_json::from_value(document.clone()).unwrap_or_else(|e| panic!("{file}: {e}"));
        let again = serde_json::to_value(&pool).unwrap();
        let mut lost = Vec::new();
        missing("", &document, &again, &mut lost);
        assert!(lost.is_empty(), "{file}: not read: {lost:?}");
    }
    assert!(pools >= 4, "only {pools} pools in examples/");
}

/// Paths that stand in `written` and not, or with another value, in `read`.
fn missing(path: &str, written: &Value, read: &Value, lost: &mut Vec<String>) {
    match written {
        Value::Object(fields) => {
            for (field, value) in fields {
                missing(&format!("{path}.{field}"), value, &read[field], lost);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                missing(&format!("{path}[{index}]"), value, &read[index], lost);
            }
        }
        value if value != read => lost.push(format!("{path}: {value} became {read}")),
        _ => {}
    }
}

#[test]
fn the_full_example_shows_every_field() {
    let schema = serde_json::to_value(&api::crds()[0].spec.versions[0].schema).unwrap();
    let (_, full) = examples::examples().into_iter().find(|(file, _)| file == "full.yaml").unwrap();
    let mut absent = Vec::new();
    shown("spec", &schema["openAPIV3Schema"]["properties"]["spec"], &full["spec"], &mut absent);
    // A pool has one source of SQL.
    absent.retain(|path| path != "spec.bootstrap.sql.secret");
    assert!(absent.is_empty(), "examples/full.yaml lacks {absent:?}");
}

/// Paths of the schema's own fields (not those of Kubernetes' types) that the manifest doesn't show.
fn shown(path: &str, schema: &Value, value: &Value, absent: &mut Vec<String>) {
    let foreign = ["affinity", "topologySpread", "tolerations", "imagePullSecrets"];
    for (field, inner) in schema["properties"].as_object().into_iter().flatten() {
        let here = format!("{path}.{field}");
        let inner = if inner["type"] == "array" { &inner["items"] } else { inner };
        let place = if value[field].is_array() { &value[field][0] } else { &value[field] };
        if value.get(field).is_none() {
            absent.push(here);
        } else if !foreign.contains(&field.as_str()) {
            shown(&here, inner, place, absent);
        }
    }
}
