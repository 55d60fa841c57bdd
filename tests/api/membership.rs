//! The rules of the record: each illegal change is refused by the server itself, each legal one accepted.
use std::collections::BTreeMap;

use kube::Api;
use kube::api::PostParams;
use kube::core::{ApiResource, DynamicObject};
use pgpool_operator::api::v1alpha1::{PgPoolMembership, Record};
use pgpool_operator::membership::record;
use serde_json::{Value, json};

use super::cluster::{Cluster, Report, words};

/// A spec that is accepted.
pub const SPEC: &str = "{poolUid: 4f2a9c77, nodes: 3, attach: [0, 1, 2], domain: birch-nodes.forest.svc, \
    archiveMaxBytes: 1000, archiveRetentionSeconds: 1000, \
    timings: {heartbeatMs: 250, detachAfterMs: 1500, leaseMs: 2000, graceMs: 3000, detachLagMs: 30000}}";

/// The records of a pool's life, in their order: (name, record). The server must take each after the one before.
const LIFE: &[(&str, &str)] = &[
    (
        "first",
        "{epoch: 1, phase: Serving, primary: 0, attached: [{index: 0, incarnation: a}], timeline: 1, forkLsn: 0/0}",
    ),
    (
        "two",
        "{epoch: 2, phase: Serving, primary: 0, attached: [{index: 0, incarnation: a}, {index: 1, incarnation: b}], timeline: 1, forkLsn: 0/0}",
    ),
    (
        "three",
        "{epoch: 3, phase: Serving, primary: 0, attached: [{index: 0, incarnation: a}, {index: 1, incarnation: b}, {index: 2, incarnation: c}], timeline: 1, forkLsn: 0/0}",
    ),
    (
        "electing",
        "{epoch: 4, phase: Electing, primary: 0, attached: [{index: 0, incarnation: a}, {index: 1, incarnation: b}, {index: 2, incarnation: c}], timeline: 1, forkLsn: 0/0}",
    ),
    (
        "elected",
        "{epoch: 5, phase: Serving, primary: 1, attached: [{index: 1, incarnation: b}, {index: 2, incarnation: c}], timeline: 2, forkLsn: 0/5000000}",
    ),
    (
        "back",
        "{epoch: 6, phase: Serving, primary: 1, attached: [{index: 0, incarnation: d}, {index: 1, incarnation: b}, {index: 2, incarnation: c}], timeline: 2, forkLsn: 0/5000000}",
    ),
];

/// Legal changes: from which record, and what becomes of it (fields laid over it).
const LEGAL: &[(&str, &str, &str)] = &[
    (
        "remove a standby",
        "three",
        "{epoch: 4, attached: [{index: 0, incarnation: a}, {index: 2, incarnation: c}]}",
    ),
    ("remove both standbys", "three", "{epoch: 4, attached: [{index: 0, incarnation: a}]}"),
    ("only the epoch", "three", "{epoch: 4, reason: nothing}"),
    ("nothing", "three", "{}"),
    (
        "lose a node while electing",
        "electing",
        "{epoch: 5, attached: [{index: 0, incarnation: a}, {index: 1, incarnation: b}]}",
    ),
    ("the old primary is chosen again", "electing", "{epoch: 5, phase: Serving}"),
    (
        "the old primary is chosen again, on a new timeline",
        "electing",
        "{epoch: 5, phase: Serving, timeline: 2, forkLsn: 0/4000000}",
    ),
    (
        "one node is left",
        "electing",
        "{epoch: 5, phase: Serving, primary: 2, timeline: 2, attached: [{index: 2, incarnation: c}]}",
    ),
];

/// Illegal changes: from which record, what becomes of it, and the message.
const ILLEGAL: &[(&str, &str, &str, &str)] = &[
    (
        "a successor without an election",
        "three",
        "{epoch: 4, successor: 1}",
        "successor and stopped belong to an election",
    ),
    (
        "the word of a primary in office",
        "three",
        "{epoch: 4, stopped: true}",
        "successor and stopped belong to an election",
    ),
    ("the same epoch", "three", "{reason: other}", "raises the epoch by exactly 1"),
    ("an epoch skipped", "three", "{epoch: 5}", "raises the epoch by exactly 1"),
    ("an epoch back", "three", "{epoch: 2}", "raises the epoch by exactly 1"),
    ("nobody attached", "first", "{epoch: 2, attached: []}", "attached in body should have at least 1 items"),
    (
        "the primary leaves",
        "three",
        "{epoch: 4, attached: [{index: 1, incarnation: b}]}",
        "the primary is an attached node",
    ),
    ("the primary was never there", "first", "{epoch: 2, primary: 2}", "the primary is an attached node"),
    (
        "another primary without an election",
        "three",
        "{epoch: 4, primary: 1, timeline: 2}",
        "the primary changes only by an election",
    ),
    (
        "another primary with the Electing write",
        "three",
        "{epoch: 4, primary: 1, phase: Electing}",
        "the primary changes only by an election",
    ),
    (
        "another primary while electing",
        "electing",
        "{epoch: 5, primary: 1}",
        "the primary changes only by an election",
    ),
    (
        "another primary on the old timeline",
        "electing",
        "{epoch: 5, phase: Serving, primary: 1}",
        "another primary begins a new timeline",
    ),
    (
        "a node added with the Electing write",
        "two",
        "{epoch: 3, phase: Electing, attached: [{index: 0, incarnation: a}, {index: 1, incarnation: b}, {index: 2, incarnation: c}]}",
        "a node is added only by a primary in office",
    ),
    (
        "a node added while electing",
        "electing",
        "{epoch: 5, attached: [{index: 0, incarnation: z}, {index: 1, incarnation: b}, {index: 2, incarnation: c}]}",
        "a node is added only by a primary in office",
    ),
    (
        "a node added by the election",
        "electing",
        "{epoch: 5, phase: Serving, primary: 1, timeline: 2, attached: [{index: 0, incarnation: z}, {index: 1, incarnation: b}]}",
        "a node is added only by a primary in office",
    ),
    (
        "two added at once",
        "first",
        "{epoch: 2, attached: [{index: 0, incarnation: a}, {index: 1, incarnation: b}, {index: 2, incarnation: c}]}",
        "nodes are added one at a time",
    ),
    (
        "one swapped for another",
        "two",
        "{epoch: 3, attached: [{index: 0, incarnation: a}, {index: 2, incarnation: c}]}",
        "either adds or removes",
    ),
    (
        "new data under the same index",
        "two",
        "{epoch: 3, attached: [{index: 0, incarnation: a}, {index: 1, incarnation: z}]}",
        "either adds or removes",
    ),
    (
        "new data under the primary",
        "first",
        "{epoch: 2, attached: [{index: 0, incarnation: z}]}",
        "either adds or removes",
    ),
    (
        "one node twice",
        "two",
        "{epoch: 3, attached: [{index: 0, incarnation: a}, {index: 1, incarnation: b}, {index: 1, incarnation: z}]}",
        "each node stands in the record once",
    ),
    ("a timeline back", "elected", "{epoch: 6, timeline: 1}", "the timeline never goes down"),
    (
        "a timeline back in an election",
        "back-electing",
        "{epoch: 8, phase: Serving, primary: 2, timeline: 1}",
        "the timeline never goes down",
    ),
    (
        "a timeline without an election",
        "three",
        "{epoch: 4, timeline: 2}",
        "a new timeline is handed out only by an election",
    ),
    (
        "a timeline with the Electing write",
        "three",
        "{epoch: 4, phase: Electing, timeline: 2}",
        "a new timeline is handed out only by an election",
    ),
    ("an unknown phase", "three", "{epoch: 4, phase: Waiting}", "Unsupported value: \"Waiting\""),
    (
        "an index out of bounds",
        "first",
        "{epoch: 2, attached: [{index: 0, incarnation: a}, {index: 15, incarnation: b}]}",
        "should be less than or equal to 14",
    ),
    (
        "an index beyond the pool",
        "two",
        "{epoch: 3, attached: [{index: 0, incarnation: a}, {index: 1, incarnation: b}, {index: 3, incarnation: c}]}",
        "belongs to no node of the pool",
    ),
    (
        "no incarnation",
        "first",
        "{epoch: 2, attached: [{index: 0, incarnation: a}, {index: 1, incarnation: ''}]}",
        "should be at least 1 chars long",
    ),
];

/// First records that are refused.
const BAD_FIRST: &[(&str, &str)] = &[
    ("a first record of epoch 2", "{epoch: 2}"),
    ("a first record while electing", "{phase: Electing}"),
    ("a first record of two nodes", "{attached: [{index: 0, incarnation: a}, {index: 1, incarnation: b}]}"),
    ("a first record of another node", "{primary: 1, attached: [{index: 1, incarnation: a}]}"),
];

/// Changes of the spec: what is laid over it, and the message; accepted where there is none.
const SPEC_CHANGES: &[(&str, &str, Option<&str>)] = &[
    ("another uid", "{poolUid: ffffffff}", Some("the id of a pool never changes")),
    ("another bootstrap node", "{bootstrap: 1}", Some("the bootstrap node can't be changed")),
    ("adopting afterwards", "{adopts: true}", Some("whether the pool adopts data can't be changed")),
    ("another mode", "{clusteringMode: NativeReplication}", Some("the clustering mode can't be changed")),
    ("a node wished twice", "{attach: [0, 1, 1]}", Some("each node stands in attach once")),
    ("a node wished that isn't there", "{attach: [0, 1, 3]}", Some("attach holds indices below nodes")),
    (
        "more nodes needed than there are",
        "{minAttached: 4}",
        Some("attach holds indices below nodes, and minAttached doesn't go beyond"),
    ),
    ("all nodes needed", "{minAttached: 3}", None),
    ("a fence around nobody", "{fenced: [15]}", Some("should be less than or equal to 14")),
    (
        "a switchover to nobody",
        "{switchover: {id: a1, timeline: 1, to: 15}}",
        Some("spec.switchover.to in body should be less than or equal to 14"),
    ),
    ("a switchover", "{switchover: {id: a1, timeline: 1, to: 1}}", None),
    (
        "too great a weight",
        "{loadBalancing: {weights: {'0': 1001}}}",
        Some("spec.loadBalancing.weights: at most 1000 each"),
    ),
    ("a great weight", "{loadBalancing: {weights: {'0': 1000}}}", None),
    ("a node detached", "{attach: [0, 2]}", None),
    ("suspended", "{suspend: true}", None),
    ("parameters", "{parameters: {work_mem: 8MB}}", None),
];

type Memberships = Api<DynamicObject>;

/// Leads one object through a pool's life, and tries every change from a copy of each record on.
pub async fn check(cluster: &Cluster, report: &mut Report) {
    let resource = ApiResource::erase::<PgPoolMembership>(&());
    let api: Memberships = Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &resource);
    first_records(&api, report).await;
    let stages = live(&api, report).await;
    for (case, from, change) in LEGAL {
        report.holds(&format!("{case}: the agents' own check"), agents_take(&stages[*from], change));
        report.accepted(case, write(&api, &stages[*from], change, true).await);
    }
    for (case, from, change, message) in ILLEGAL {
        // How many nodes the pool has stands in the spec, which this check doesn't see.
        if *case != "an index beyond the pool" {
            report.holds(&format!("{case}: the agents' own check"), !agents_take(&stages[*from], change));
        }
        report.refused(case, write(&api, &stages[*from], change, true).await, message);
    }
    let mut without = stages["three"].clone();
    without.data.as_object_mut().unwrap().remove("status");
    let got = replace_status(&api, &without, true).await;
    report.refused("the record removed", got, "the record can't be removed");
    stale(&api, &stages["three"], report).await;
    specs(&api, &stages["three"], report).await;
}

/// The first record of a pool.
async fn first_records(api: &Memberships, report: &mut Report) {
    let blank = create(api, "blank").await;
    let message = "the first record has epoch 1 (a later one where the pool adopts data) and holds the bootstrap node alone, \
                   as the primary";
    for (case, change) in BAD_FIRST {
        let mut next = blank.clone();
        next.data["status"] = laid_over(LIFE[0].1, change);
        report.refused(case, replace_status(api, &next, true).await, message);
    }
    adopting(api, report, message).await;
    let mut with_status = json!({
        "apiVersion": "pgpool-operator.dev/v1alpha1", "kind": "PgPoolMembership",
        "metadata": {"name": "given"}, "spec": yaml(SPEC),
    });
    with_status["status"] = yaml(LIFE[2].1);
    let given: DynamicObject = serde_json::from_value(with_status).unwrap();
    let made = api.create(&PostParams::default(), &given).await.unwrap();
    report.holds("a record isn't brought in with the object", made.data.get("status").is_none());
}

/// A pool that goes on with the data of node 2 of an earlier one may begin at any epoch, and in no other way than others.
async fn adopting(api: &Memberships, report: &mut Report, message: &str) {
    let given = |name: &str, change: &str| {
        json!({
            "apiVersion": "pgpool-operator.dev/v1alpha1", "kind": "PgPoolMembership",
            "metadata": {"name": name}, "spec": laid_over(SPEC, change),
        })
    };
    let beyond = serde_json::from_value(given("beyond", "{bootstrap: 3, adopts: true}")).unwrap();
    let got = api.create(&PostParams::default(), &beyond).await.map_err(|error| words(&error));
    let wish = "until there is a record the bootstrap node is one of the nodes";
    report.refused("a bootstrap node beyond the nodes", got, wish);
    let object = serde_json::from_value(given("adopting", "{bootstrap: 2, adopts: true}")).unwrap();
    let mut object: DynamicObject = api.create(&PostParams::default(), &object).await.unwrap();
    let first = "{epoch: 13, phase: Serving, primary: 2, attached: [{index: 2, incarnation: a}], timeline: 5, forkLsn: 0/0}";
    for (case, change) in [
        ("adopting, while electing", "{phase: Electing}"),
        ("adopting, two nodes", "{attached: [{index: 1, incarnation: b}, {index: 2, incarnation: a}]}"),
        ("adopting, another node", "{primary: 0, attached: [{index: 0, incarnation: a}]}"),
    ] {
        object.data["status"] = laid_over(first, change);
        report.refused(case, replace_status(api, &object, true).await, message);
    }
    object.data["status"] = laid_over(first, "{epoch: 0}");
    let got = replace_status(api, &object, true).await;
    report.refused("adopting, no epoch", got, "should be greater than or equal to 1");
    object.data["status"] = yaml(first);
    let Some(mut object) =
        report.accepted("adopting, a later epoch", replace_status(api, &object, false).await)
    else {
        return;
    };
    report.refused(
        "an epoch skipped after that",
        write(api, &object, "{epoch: 15}", true).await,
        "by exactly 1",
    );
    // Once there is a record any node may go, and the spec may have fewer than it began with.
    for change in [
        "{epoch: 14, attached: [{index: 0, incarnation: b}, {index: 2, incarnation: a}]}",
        "{epoch: 15, phase: Electing}",
        "{epoch: 16, phase: Serving, primary: 0, timeline: 6, attached: [{index: 0, incarnation: b}]}",
    ] {
        let case = format!("adopting, then {change}");
        match report.accepted(&case, write(api, &object, change, false).await) {
            Some(written) => object = written,
            None => return,
        }
    }
    object.data["spec"] = laid_over(SPEC, "{bootstrap: 2, adopts: true, nodes: 2, attach: [0]}");
    let dry = PostParams { dry_run: true, ..Default::default() };
    let got = api.replace("adopting", &dry, &object).await.map_err(|error| words(&error));
    report.accepted("fewer nodes than it began with", got);
}

/// For each record of a life an object that stands there.
async fn live(api: &Memberships, report: &mut Report) -> BTreeMap<&'static str, DynamicObject> {
    let mut stages = BTreeMap::new();
    for (last, (name, _)) in LIFE.iter().enumerate() {
        let mut object = create(api, name).await;
        for (step, record) in &LIFE[..=last] {
            object.data["status"] = yaml(record);
            let case = format!("{step} on the way to {name}");
            match report.accepted(&case, replace_status(api, &object, false).await) {
                Some(written) => object = written,
                None => break,
            }
        }
        stages.insert(*name, object);
    }
    let electing = write(api, &stages["back"], "{epoch: 7, phase: Electing}", false).await;
    if let Some(object) = report.accepted("a second election", electing) {
        stages.insert("back-electing", object);
    }
    stages
}

/// A write with the resourceVersion of an older read is refused.
async fn stale(api: &Memberships, read: &DynamicObject, report: &mut Report) {
    let first = write(api, read, "{epoch: 4}", false).await;
    report.accepted("a write after the last read", first);
    let second = write(api, read, "{epoch: 4, reason: late}", false).await;
    report.refused("a write after somebody else's", second, "the object has been modified");
}

async fn specs(api: &Memberships, object: &DynamicObject, report: &mut Report) {
    let name = object.metadata.name.clone().unwrap();
    let dry = PostParams { dry_run: true, ..Default::default() };
    for (case, change, message) in SPEC_CHANGES {
        let mut next = api.get(&name).await.unwrap();
        next.data["spec"] = laid_over(SPEC, change);
        let got = api.replace(&name, &dry, &next).await.map_err(|error| words(&error));
        match message {
            Some(message) => report.refused(case, got, message),
            None => drop(report.accepted(case, got)),
        }
    }
    let mut next = api.get(&name).await.unwrap();
    next.data["status"]["epoch"] = json!(77);
    let got = api.replace(&name, &dry, &next).await.map_err(|error| words(&error));
    if let Some(answer) = report.accepted("a record sent with the spec is left out", got) {
        report.holds("the record stays", answer.data["status"]["epoch"] == json!(4));
    }
}

async fn create(api: &Memberships, name: &str) -> DynamicObject {
    let object = json!({
        "apiVersion": "pgpool-operator.dev/v1alpha1", "kind": "PgPoolMembership",
        "metadata": {"name": name}, "spec": yaml(SPEC),
    });
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
}

/// Writes the record of `from` with a change laid over it.
async fn write(
    api: &Memberships,
    from: &DynamicObject,
    change: &str,
    dry_run: bool,
) -> Result<DynamicObject, String> {
    let mut next = from.clone();
    for (field, value) in yaml(change).as_object().into_iter().flatten() {
        next.data["status"][field] = value.clone();
    }
    replace_status(api, &next, dry_run).await
}

/// Whether the check that the agents make before they write takes the change: it must agree with the server.
fn agents_take(from: &DynamicObject, change: &str) -> bool {
    let old: Record = serde_json::from_value(from.data["status"].clone()).unwrap();
    let mut next = from.data["status"].clone();
    for (field, value) in yaml(change).as_object().into_iter().flatten() {
        next[field] = value.clone();
    }
    serde_json::from_value::<Record>(next).is_ok_and(|new| record::check(Some(&old), &new, 0, false).is_ok())
}

async fn replace_status(
    api: &Memberships,
    object: &DynamicObject,
    dry_run: bool,
) -> Result<DynamicObject, String> {
    let params = PostParams { dry_run, ..Default::default() };
    let name = object.metadata.name.clone().unwrap();
    api.replace_status(&name, &params, object).await.map_err(|error| words(&error))
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn laid_over(base: &str, change: &str) -> Value {
    let mut value = yaml(base);
    for (field, new) in yaml(change).as_object().into_iter().flatten() {
        value[field] = new.clone();
    }
    value
}
