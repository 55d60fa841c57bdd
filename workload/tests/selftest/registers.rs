//! The history of the registers, recorded on real servers: both checkers pass what is whole, and find what isn't.

use std::process::{Command, Output};

use crate::desk::{Desk, assert_good, json, workload};
use crate::support::Server;

/// Records for some seconds; reads go to each of the servers.
fn record(desk: &Desk, primary: &Server, standby: &Server) -> serde_json::Value {
    let mut command = workload();
    command.args(["run", "--insecure", "--prepare", "--writers=1", "--write-pause-ms=20", "--seconds=4"]);
    command.args(["--registers=4", "--register-writers=3", "--register-readers=2", "--register-beat-ms=20"]);
    command.args(["--write-host", &primary.endpoint(), "--read-host", &standby.endpoint()]);
    json(&command.arg("--journal").arg(desk.journal()).output().unwrap())
}

fn snapshots(desk: &Desk) -> Output {
    workload().args(["registers", "--journal"]).arg(desk.journal()).output().unwrap()
}

/// What porcupine says: the program that asks it isn't built by cargo, and named by PGPOOL_LINEARIZABLE where it is there.
fn linearizable(desk: &Desk) -> Option<Output> {
    let program = std::env::var_os("PGPOOL_LINEARIZABLE")?;
    Some(Command::new(program).arg(desk.journal()).output().unwrap())
}

/// The one run's findings.
fn findings(report: &serde_json::Value) -> &serde_json::Value {
    report["runs"].as_object().unwrap().values().next().unwrap()
}

#[test]
fn the_history_of_a_synchronous_pair_is_linearizable() {
    let desk = Desk::new();
    let mut primary = Server::primary("ottava", &["synchronous_commit=remote_apply"]);
    let standby = primary.standby("quinta", &["wal_retrieve_retry_interval=100ms"]);
    primary.restart_with(&["synchronous_standby_names=quinta"]);
    let summary = record(&desk, &primary, &standby);
    let counts = &summary["registers"];
    let count = |what: &str| counts[what].as_u64().unwrap();
    assert!(count("acked") > 100 && count("snapshots") > 100, "{summary:#}");
    assert_eq!((count("refused"), count("unknown"), count("unread")), (0, 0, 0), "{summary:#}");

    let output = snapshots(&desk);
    let report = json(&output);
    assert!(output.status.success(), "{report:#}");
    let findings = findings(&report);
    assert_eq!((&findings["registers"], &findings["counts"]), (&4.into(), counts), "{report:#}");
    assert!(findings["pairs"].as_u64().unwrap() > 0, "{report:#}");
    if let Some(output) = linearizable(&desk) {
        let report = json(&output);
        assert!(output.status.success(), "{report:#}");
        assert_eq!(report["operations"], count("acked") + 4 * count("snapshots"));
    }
    // The rows are as equal on both as all others.
    assert_good(&desk.check(&[("ottava", &primary), ("quinta", &standby)]));
}

#[test]
fn the_history_of_a_standby_that_lags_is_not() {
    let desk = Desk::new();
    let primary = Server::primary("ottava", &["synchronous_commit=local"]);
    let standby = primary.standby("quinta", &["recovery_min_apply_delay=300ms"]);
    record(&desk, &primary, &standby);

    let output = snapshots(&desk);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    let findings = findings(&report);
    assert!(findings["stale"]["examples"][0].as_str().unwrap().starts_with("quinta at "), "{report:#}");
    assert_eq!(findings["contradictions"]["count"], 0, "{report:#}");
    if let Some(output) = linearizable(&desk) {
        let report = json(&output);
        assert_eq!(output.status.code(), Some(1), "{report:#}");
        let first = report["verdict"][0].as_str().unwrap();
        assert!(first.starts_with("register 0 is not linearizable at node quinta"), "{report:#}");
        assert_eq!(report["registers"][0]["views"]["node ottava"], "Ok", "{report:#}");
    }
}
