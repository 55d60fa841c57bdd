use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::desk::{Desk, Running, assert_found, assert_good, http, json, workload, wrote};
use crate::support::{self, Server};

/// Ends a run in the background whatever else happens.
const BOUND: &str = "--seconds=120";

/// Pause between two rounds of cancelling whoever waits.
const CANCEL_EVERY: Duration = Duration::from_millis(25);

#[test]
fn a_synchronous_pair_is_good_and_one_changed_row_on_it_is_found() {
    let desk = Desk::new();
    let mut primary = Server::primary("ottava", &["synchronous_commit=remote_apply"]);
    let standby = primary.standby("quinta", &["wal_retrieve_retry_interval=100ms"]);
    primary.restart_with(&["synchronous_standby_names=quinta"]);
    primary.sql("app", "CREATE TABLE public.\"Odd one\" (\"~r\" text, n float8, b bytea)");
    primary.sql(
        "app",
        "INSERT INTO \"Odd one\" SELECT s, random(), decode('00ff5c', 'hex') FROM unnest(
             array['a', 'B', E'tab\\tnl\\nbs\\\\', '\u{e9}', '', NULL, '#end {}', 'x,\"y\"']) AS s",
    );
    let mut command = workload();
    command.args(["run", "--insecure", "--prepare", "--writers=4", "--control=0", "--keep-serving", BOUND]);
    command.args(["--write-host", &primary.endpoint(), "--read-pause-ms=1"]);
    command.arg("--read-host").arg(format!("{},{}", primary.endpoint(), standby.endpoint()));
    let mut running = Running::start(command.arg("--journal").arg(desk.journal()));
    let port: u16 = running.line("control port ").parse().unwrap();
    running.seconds(2);
    assert!(http(port, "GET /summary").contains("\"finished\":false"));
    assert!(http(port, "POST /stop").starts_with("HTTP/1.1 200"));
    running.line("finished");
    assert!(http(port, "GET /summary").contains("\"finished\":true"));
    let journal = http(port, "GET /journal");
    assert!(journal.ends_with(&fs::read_to_string(desk.journal()).unwrap()));
    assert!(http(port, "GET /stop").starts_with("HTTP/1.1 405"));
    running.term();
    let output = running.output();
    let summary = json(&output);
    assert!(output.status.success(), "{summary:#}");
    assert_eq!((&summary["reads"]["stale"], &summary["writes"]["unknown"]), (&0.into(), &0.into()));
    assert_eq!(summary["reads_by_node"].as_object().unwrap().len(), 2, "{summary:#}");

    let pair = [("ottava", &primary), ("quinta", &standby)];
    let report = assert_good(&desk.check(&pair));
    assert_eq!(report["acked"], summary["writes"]["acked"]);
    // An ordinary client isn't shown the superuser's table.
    assert_eq!(report["comparison"]["tables"], 6);
    let report = assert_good(&desk.check_dumps(&pair, |dump| dump));
    assert_eq!(report["comparison"]["tables"], 7);

    standby.sql("app", "SELECT pg_promote()");
    standby.wait_for("SELECT pg_is_in_recovery()", "f");
    standby.sql("app", "UPDATE \"Odd one\" SET n = 7 WHERE \"~r\" = 'B'");
    assert_good(&desk.check(&pair));
    let report = assert_found(&desk.check_dumps(&pair, |dump| dump), &["DIFFERENT public.Odd one: 2"]);
    let rows = report["comparison"]["different"]["public.Odd one"]["examples"].to_string();
    assert!(
        rows.contains("on quinta, not on ottava: (B,7,") && rows.contains("on ottava, not on quinta: (B,")
    );
}

#[test]
fn a_lost_row_is_found_by_its_id() {
    let (desk, server) = (Desk::new(), Server::primary("terza", &[]));
    wrote(&server, &desk);
    assert_good(&desk.check(&[("terza", &server)]));
    let id = desk.acked("unique");
    server.sql("app", &format!("DELETE FROM workload.ids WHERE id = '{id}'"));
    let found = assert_found(&desk.check(&[("terza", &server)]), &["LOST on terza: 1"]);
    assert!(found["nodes"]["terza"]["findings"]["lost"]["examples"][0].as_str().unwrap().contains(&id));
}

#[test]
fn an_append_that_is_lost_and_a_counter_that_went_back_are_found() {
    let (desk, server) = (Desk::new(), Server::primary("terza", &[]));
    wrote(&server, &desk);
    let id = desk.acked("append");
    server.sql("app", &format!("DELETE FROM workload.lists WHERE id = '{id}'"));
    server.sql(
        "app",
        "UPDATE workload.counters SET n = n - 1 WHERE counter = (SELECT min(counter) FROM workload.counters)",
    );
    let output = desk.check(&[("terza", &server)]);
    assert_found(&output, &["LOST on terza: 1", "LISTS on terza: ", "COUNTERS on terza: 1"]);
}

#[test]
fn a_broken_bank_sum_is_found() {
    let (desk, server) = (Desk::new(), Server::primary("terza", &[]));
    wrote(&server, &desk);
    server.sql("app", "UPDATE workload.accounts SET balance = balance + 1 WHERE id = 3");
    let found = assert_found(&desk.check(&[("terza", &server)]), &["BANK on terza: 2; account 3 has"]);
    let sum = found["nodes"]["terza"]["findings"]["bank"]["examples"][1].to_string();
    assert!(sum.contains("have 100001 and should have 100000"), "{sum}");
}

#[test]
fn a_standby_that_lags_gives_stale_reads() {
    let desk = Desk::new();
    let primary = Server::primary("ottava", &["synchronous_commit=local"]);
    wrote(&primary, &desk);
    let standby = primary.standby("quinta", &["recovery_min_apply_delay=700ms"]);
    let mut command = workload();
    command.args(["run", "--insecure", "--writers=4", "--seconds=3", "--write-host", &primary.endpoint()]);
    command.arg("--read-host").arg(format!("{},{}", primary.endpoint(), standby.endpoint()));
    let output = command.arg("--journal").arg(desk.journal()).output().unwrap();
    let summary = json(&output);
    assert_eq!(output.status.code(), Some(1), "{summary:#}");
    let stale = summary["stale"].as_array().unwrap();
    assert!(!stale.is_empty());
    for read in stale {
        assert_eq!(read["node"], "127.0.0.1/quinta", "{read:#}");
        assert_eq!(read["endpoint"], standby.endpoint());
    }
    let shown = stale.iter().filter_map(|read| read["shown_after_us"].as_u64()).max().unwrap();
    assert!((100_000..5_000_000).contains(&shown), "{shown}");
    // All of it arrives in the end; that it came late stands in the journal.
    assert_found(&desk.check(&[("ottava", &primary), ("quinta", &standby)]), &["STALE: "]);
}

#[test]
fn a_commit_whose_wait_was_cancelled_is_not_acknowledged() {
    let desk = Desk::new();
    let mut server = Server::primary("terza", &[]);
    assert!(
        workload()
            .args(["prepare", "--insecure", "--write-host", &server.endpoint()])
            .status()
            .unwrap()
            .success()
    );
    server.restart_with(&["synchronous_standby_names=nobody"]);
    let mut command = workload();
    command.args([
        "write",
        "--insecure",
        "--writers=2",
        BOUND,
        "--max-writes=6",
        "--write-host",
        &server.endpoint(),
    ]);
    let mut running = Running::start(command.arg("--journal").arg(desk.journal()));
    while running.0.try_wait().unwrap().is_none() {
        server.sql("app", "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
        std::thread::sleep(CANCEL_EVERY);
    }
    let output = running.output();
    let summary = json(&output);
    assert_eq!(output.status.code(), Some(1), "{summary:#}");
    assert_eq!(
        (&summary["writes"]["acked"], &summary["writes"]["unknown"]),
        (&0.into(), &6.into()),
        "{summary:#}"
    );
    assert_eq!(summary["errors"]["write"]["cancelled_wait"]["count"], 6);
    assert_found(&desk.check(&[("terza", &server)]), &["NOTHING CHECKED"]);
}

#[test]
fn a_server_that_crashes_twice_under_load_is_good_and_the_stall_is_measured() {
    let desk = Desk::new();
    let mut server = Server::primary("terza", &[]);
    let mut running = Running::start(&mut desk.write(&server, &[BOUND]));
    for second in [1, 3] {
        running.seconds(second);
        server.stop("QUIT");
        server.start();
    }
    running.seconds(5);
    running.term();
    let output = running.output();
    let summary = json(&output);
    assert!(output.status.success(), "{summary:#}");
    assert!(
        summary["writes"]["unknown"].as_u64().unwrap() + summary["writes"]["refused"].as_u64().unwrap() > 0
    );
    assert!(summary["errors"]["write_connect"].is_object(), "{summary:#}");
    assert!(summary["longest_stall"]["ms"].as_u64().unwrap() > 30, "{summary:#}");
    assert_good(&desk.check(&[("terza", &server)]));
}

#[test]
fn a_run_that_was_killed_can_be_checked_and_a_dump_that_was_cut_short_can_not() {
    let (desk, server) = (Desk::new(), Server::primary("terza", &[]));
    let mut running = Running::start(&mut desk.write(&server, &[BOUND]));
    running.seconds(1);
    drop(running);
    assert_good(&desk.check(&[("terza", &server)]));
    wrote(&server, &desk);
    assert_good(&desk.check_dumps(&[("terza", &server)], |dump| dump));
    let output = desk.check_dumps(&[("terza", &server)], |mut dump| {
        dump.truncate(dump.len() * 2 / 3);
        dump
    });
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cut short"));
}

#[test]
fn the_writes_of_a_finished_journal_are_read_back() {
    let (desk, server) = (Desk::new(), Server::primary("terza", &[]));
    wrote(&server, &desk);
    let read = || {
        let mut command = workload();
        command.args([
            "read",
            "--insecure",
            "--seconds=1",
            "--read-pause-ms=0",
            "--nodes",
            &server.endpoint(),
        ]);
        command.arg("--journal").arg(desk.journal()).output().unwrap()
    };
    let output = read();
    assert!(output.status.success(), "{}", json(&output));
    server.sql("app", "DELETE FROM workload.ids");
    let output = read();
    assert_eq!(output.status.code(), Some(1));
    assert!(json(&output)["reads"]["stale"].as_u64().unwrap() > 0);
}

/// A CA and a certificate for `localhost`, PEM: (ca, certificate, key).
fn certificates() -> (String, String, String) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(params, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    (ca.pem(), leaf.pem(), key.serialize_pem())
}

#[test]
fn tls_is_verified_against_the_ca_and_the_name() {
    let desk = Desk::new();
    let mut server = Server::primary("terza", &[]);
    let (ca, certificate, key) = certificates();
    server.put("server.crt", &certificate);
    server.put("server.key", &key);
    let file = |name: &str| server.dir().join(name).display().to_string();
    let (cert, key) =
        (format!("ssl_cert_file={}", file("server.crt")), format!("ssl_key_file={}", file("server.key")));
    server.restart_with(&["ssl=on", &cert, &key]);
    let ca_file = |name: &str, text: &str| {
        let path = desk.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let prepare = |host: &str, ca: Option<&Path>| {
        let mut command = workload();
        if let Some(ca) = ca {
            command.env("PGSSLROOTCERT", ca);
        }
        command.args([
            "write",
            "--max-writes=1",
            "--seconds=3",
            "--write-host",
            &format!("{host}:{}", server.port),
        ]);
        command.output().unwrap()
    };
    let good = ca_file("good.pem", &ca);
    let mut first = workload();
    first.env("PGSSLROOTCERT", &good).args([
        "prepare",
        "--write-host",
        &format!("localhost:{}", server.port),
    ]);
    assert!(first.status().unwrap().success());
    assert!(prepare("localhost", Some(&good)).status.success());
    let wrong_name = prepare("127.0.0.1", Some(&good));
    assert_eq!(wrong_name.status.code(), Some(1));
    let refused = json(&wrong_name)["errors"]["write_connect"]["connection_lost"]["first"].to_string();
    assert!(refused.contains("certificate"), "{refused}");
    let other = prepare("localhost", Some(&ca_file("other.pem", &certificates().0)));
    assert_eq!((other.status.code(), &json(&other)["writes"]["acked"]), (Some(1), &0.into()));
    let blind = prepare("localhost", None);
    assert_eq!(blind.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&blind.stderr).contains("--insecure"));
}

#[test]
fn without_postgresql_one_line_says_what_to_install() {
    let empty = tempfile::tempdir().unwrap();
    let nowhere = empty.path().to_str().unwrap();
    for (pg_bindir, path) in [(Some(empty.path()), None), (None, Some(nowhere)), (None, None)] {
        let message = support::bindir(pg_bindir, path, empty.path()).unwrap_err();
        assert!(message.contains("apt-get install postgresql") && message.lines().count() == 1);
    }
}
