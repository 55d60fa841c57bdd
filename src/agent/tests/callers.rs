//! Who may read what of an agent, which its certificate alone says.
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::agent::http;
use crate::archive::Store;
use crate::link::LinkError;

/// What is read: a report, the epoch table, and a file that isn't archived.
const PATHS: [&str; 3] = ["/v1/report", "/v1/table", "/v1/wal/000000010000000000000001"];

#[tokio::test]
async fn all_read_the_report_nodes_the_table_and_whoever_replays_or_copies_the_archive() {
    let authority = Authority::new();
    let (identity, _tls) = authority.identity(&format!("{UID}/node/1"), &[host(1).as_str()]);
    let volume = tempfile::tempdir().unwrap();
    let data = volume.path().join("pgdata");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("pgpool_node.json"), serde_json::to_vec(&node_file(1, 1)).unwrap()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let others = Arc::new(HashMap::from([(host(1), listener.local_addr().unwrap())]));
    let router = http::router(shared(1, &volume), Store::new(&volume.path().join("archive")));
    let serving = crate::link::serve(listener, identity, UID.to_owned(), router, CancellationToken::new());
    let _serving = AbortOnDropHandle::new(tokio::spawn(serving));
    // Its Postgres doesn't run: there is no table to be had.
    for (caller, expected) in [
        ("node/0", [200, 503, 404]),
        ("recovery", [200, 403, 404]),
        ("proxy", [200, 403, 403]),
        ("operator", [200, 403, 403]),
    ] {
        let (identity, _dir) = authority.identity(&format!("{UID}/{caller}"), &[]);
        let client = Client::with_book(identity, Book::Fixed(Arc::clone(&others)));
        for (path, expected) in PATHS.into_iter().zip(expected) {
            let answer = client.download(&host(1), names::AGENT_PORT, path, PATIENCE, &mut Vec::new()).await;
            let status = match answer {
                Ok(_) => 200,
                Err(LinkError::Status { status, .. }) => status,
                Err(error) => panic!("{caller}, {path}: {error}"),
            };
            assert_eq!(status, expected, "{caller}, {path}");
        }
    }
}
