//! What the kubelet is told: of the agent alone, and whether clients may be sent here.
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::agent::health;

/// The port of the probes of node 1, which has just been started.
struct Probed {
    at: SocketAddr,
    shared: Arc<Shared>,
    _serving: AbortOnDropHandle<()>,
    _volume: TempDir,
}

impl Probed {
    async fn start() -> Self {
        let volume = tempfile::tempdir().unwrap();
        let shared = shared(1, &volume);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let router = health::router(Arc::clone(&shared));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { at, shared, _serving: AbortOnDropHandle::new(serving), _volume: volume }
    }

    /// The answer: its code, and what it says.
    async fn ask(&self, path: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(self.at).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// The codes of `/livez` and `/readyz`.
    async fn codes(&self) -> (u16, u16) {
        (self.ask("/livez").await.0, self.ask("/readyz").await.0)
    }
}

#[tokio::test]
async fn an_agent_whose_gate_is_shut_lives_and_is_not_ready() {
    let probed = Probed::start().await;
    probed.shared.lock().report.message = "it replays".to_owned();
    assert_eq!(probed.ask("/livez").await.0, 200, "a Postgres that recovers is never killed for it");
    assert_eq!(probed.ask("/readyz").await, (503, "it replays\n".to_owned()));
    {
        let mut inner = probed.shared.lock();
        (inner.report.role, inner.report.open) = (Role::Standby, true);
    }
    assert_eq!(probed.codes().await, (200, 503), "its gate is open, and it has no lease");
    probed.shared.lock().report.role = Role::Primary;
    assert_eq!(probed.codes().await, (200, 200));
    probed.shared.lock().ending = true;
    assert_eq!(probed.codes().await, (200, 503), "it serves nobody any more");
}
