//! What fronts are told, and when.
use std::pin::pin;

use futures::StreamExt as _;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::agent::http;
use crate::archive::Store;
use crate::messages::NodeReport;

/// So long a line isn't waited for.
const NEVER: Duration = Duration::from_secs(3600);

/// The epochs in so many lines that a front gets, with one at least `every` so often. Where it `changes` the report is another one
/// before each line but the first.
async fn told(every: Duration, changes: bool, lines: i64) -> Vec<i64> {
    let authority = Authority::new();
    let (identity, _tls) = authority.identity(&format!("{UID}/node/1"), &[host(1).as_str()]);
    let volume = tempfile::tempdir().unwrap();
    let shared = shared(1, &volume);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let others = Arc::new(HashMap::from([(host(1), listener.local_addr().unwrap())]));
    let store = Store::new(&volume.path().join("archive"));
    let router = http::telling(every, Arc::clone(&shared), store);
    let serving = crate::link::serve(listener, identity, UID.to_owned(), router, CancellationToken::new());
    let _serving = AbortOnDropHandle::new(tokio::spawn(serving));
    let (identity, _dir) = authority.identity(&format!("{UID}/proxy"), &[]);
    let client = Client::with_book(identity, Book::Fixed(others));
    let stream = client.get_stream::<NodeReport>(&host(1), names::AGENT_PORT, "/v1/watch", PATIENCE).await;
    let mut stream = pin!(stream.unwrap());
    let mut epochs = Vec::new();
    for epoch in 0..lines {
        if changes && epoch > 0 {
            shared.lock().report.epoch = epoch;
            shared.changed();
        }
        let line = timeout(PATIENCE, stream.next()).await.expect("no line came");
        epochs.push(line.unwrap().unwrap().epoch);
    }
    epochs
}

#[tokio::test]
async fn a_front_is_told_of_a_change_at_once() {
    assert_eq!(told(NEVER, true, 4).await, [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_front_is_told_again_where_nothing_changes() {
    assert_eq!(told(Duration::from_millis(1), false, 4).await, [0; 4]);
}
