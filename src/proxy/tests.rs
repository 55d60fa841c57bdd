//! The front between fake agents, fake nodes and clients, on the loopback interface.
use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    routing::get,
};
use futures::StreamExt;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::WatchStream;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{table::tests::report, *};
use crate::{
    clock,
    link::{serve, testing::Authority},
    messages::{NodeReport, Role},
};

const PATIENCE: Duration = Duration::from_secs(20);
/// Long, so that a busy machine ends no session that a test counts on.
const LEASE_MS: u64 = 15_000;

/// A fake agent and a fake Postgres that says its index and then echoes.
struct Node {
    says: watch::Sender<NodeReport>,
    mute: Arc<AtomicBool>,
    _tasks: [AbortOnDropHandle<()>; 2],
    _dir: TempDir,
}

#[derive(Clone)]
struct Agent {
    says: watch::Receiver<NodeReport>,
    mute: Arc<AtomicBool>,
}

async fn one(State(agent): State<Agent>) -> Json<NodeReport> {
    while agent.mute.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
    Json(agent.says.borrow().clone())
}

async fn all(State(agent): State<Agent>) -> Body {
    let lines = WatchStream::new(agent.says).map(|report| {
        let line = serde_json::to_string(&report).unwrap() + "\n";
        Ok::<_, Infallible>(Bytes::from(line))
    });
    Body::from_stream(lines)
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn postgres(listener: TcpListener, index: u8) {
    loop {
        let (mut socket, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            socket.write_all(&[index]).await.ok();
            let (mut from, mut to) = socket.split();
            tokio::io::copy(&mut from, &mut to).await.ok();
        });
    }
}

struct Pool {
    nodes: Vec<Node>,
    primary: SocketAddr,
    read: SocketAddr,
    health: SocketAddr,
    quit: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
}

impl Pool {
    async fn start(roles: &[Role], max_connections: u32) -> Self {
        let authority = Authority::new();
        let (mut agents, mut postgreses, mut nodes) = (HashMap::new(), HashMap::new(), Vec::new());
        for (index, role) in (0..).zip(roles) {
            let host = format!("rain-{index}-0.rain-nodes.weather.svc");
            let (identity, dir) = authority.identity(&format!("u/node/{index}"), &[&host]);
            let (says, mute) =
                (watch::Sender::new(report(index, *role, 3, LEASE_MS)), Arc::new(AtomicBool::new(false)));
            let agent = Agent { says: says.subscribe(), mute: mute.clone() };
            let router =
                Router::new().route("/v1/report", get(one)).route("/v1/watch", get(all)).with_state(agent);
            let (listener, address) = listen().await;
            agents.insert(host.clone(), address);
            let serving = serve(listener, identity, "u".into(), router, CancellationToken::new());
            let (listener, address) = listen().await;
            postgreses.insert(host, address);
            let tasks = [tokio::spawn(serving), tokio::spawn(postgres(listener, index))];
            nodes.push(Node { says, mute, _tasks: tasks.map(AbortOnDropHandle::new), _dir: dir });
        }
        let args = Args {
            of: PoolArgs { pool: "rain".into(), namespace: "weather".into(), uid: "u".into() },
            nodes: u8::try_from(roles.len()).unwrap(),
            max_connections,
        };
        let (identity, _dir) = authority.identity("u/proxy", &[]);
        let client = Client::with_book(identity, Book::Fixed(Arc::new(agents)));
        let front = Front::new(&args, Book::Fixed(Arc::new(postgreses)));
        let ((primary, a), (read, b), (health, c)) = (listen().await, listen().await, listen().await);
        let (quit, quitting) = oneshot::channel();
        let hub = front.hub.clone();
        let running = tokio::spawn(async move {
            let quit = async move { quitting.await.unwrap_or(()) };
            front.run(&args, client, Doors { primary, read, health }, quit).await;
        });
        let serving = roles.iter().filter(|role| **role != Role::Stopped).count();
        timeout(PATIENCE, all_heard(&hub, serving)).await.expect("not all nodes were heard");
        Self { nodes, primary: a, read: b, health: c, quit: Some(quit), running }
    }

    fn say(&self, index: usize, change: impl FnOnce(&mut NodeReport)) {
        self.nodes[index].says.send_modify(change);
    }

    async fn health(&self, path: &str) -> String {
        let mut socket = TcpStream::connect(self.health).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: front\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

/// Waits until so many nodes serve.
async fn all_heard(hub: &Arc<Hub>, serving: usize) {
    let mut changes = hub.changes();
    let mut seats: Vec<hub::Seat> = Vec::new();
    while seats.len() < serving {
        let tried: Vec<u8> = seats.iter().map(|seat| seat.index).collect();
        match hub.take(Kind::Read, &tried) {
            Some(seat) => seats.push(seat),
            None => changes.changed().await.unwrap(),
        }
    }
}

/// Connects and says which node answered.
async fn connect(to: SocketAddr) -> (TcpStream, u8) {
    let mut socket = TcpStream::connect(to).await.unwrap();
    let node = timeout(PATIENCE, socket.read_u8()).await.unwrap().unwrap();
    (socket, node)
}

async fn echoes(socket: &mut TcpStream) -> bool {
    let mut answer = [0; 4];
    socket.write_all(b"ping").await.is_ok()
        && socket.read_exact(&mut answer).await.is_ok()
        && &answer == b"ping"
}

async fn closes(socket: &mut TcpStream) {
    let read = timeout(PATIENCE, socket.read(&mut [0; 8])).await.expect("the session was left open");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

fn startup() -> Vec<u8> {
    let mut buffer = bytes::BytesMut::new();
    postgres_protocol::message::frontend::startup_message([("user", "app")], &mut buffer).unwrap();
    buffer.to_vec()
}

const POOL: [Role; 3] = [Role::Primary, Role::Standby, Role::Standby];

#[tokio::test]
async fn sessions_go_where_their_port_says() {
    let pool = Pool::start(&POOL, 100).await;
    let (mut writer, node) = connect(pool.primary).await;
    assert_eq!(node, 0);
    assert!(echoes(&mut writer).await);
    let mut readers = Vec::new();
    let mut seen = Vec::new();
    for _ in 0..5 {
        let (reader, node) = connect(pool.read).await;
        readers.push(reader);
        seen.push(node);
    }
    seen.push(0);
    seen.sort_unstable();
    assert_eq!(seen, [0, 0, 1, 1, 2, 2], "the fewest sessions first, the primary's writer counted");
    assert!(pool.health("/readyz").await.starts_with("HTTP/1.1 200"));
    let metrics = pool.health("/metrics").await;
    assert!(metrics.contains("pgpool_front_connections{route=\"primary\",node=\"0\"} 1\n"), "{metrics}");
}

#[tokio::test]
async fn a_node_that_leaves_takes_its_sessions_along_and_no_others() {
    let pool = Pool::start(&POOL, 100).await;
    let (mut writer, _) = connect(pool.primary).await;
    let mut readers = HashMap::new();
    for _ in 0..3 {
        let (reader, node) = connect(pool.read).await;
        readers.insert(node, reader);
    }
    // Another epoch by itself ends nothing: it changes with every node that comes or goes.
    pool.say(0, |said| said.epoch = 4);
    pool.say(2, |said| said.open = false);
    closes(readers.get_mut(&2).unwrap()).await;
    assert!(echoes(&mut writer).await && echoes(readers.get_mut(&1).unwrap()).await);

    // A standby that was restarted: whoever was connected before was so to another process.
    pool.say(1, |said| said.boot = "b2".into());
    closes(readers.get_mut(&1).unwrap()).await;
    let metrics = pool.health("/metrics").await;
    assert!(metrics.contains("connections_dropped_total{route=\"read\",node=\"1\"} 1\n"), "{metrics}");
    assert!(echoes(&mut writer).await);

    // The primary is followed to another node.
    pool.say(0, |said| (said.role, said.open) = (Role::Stopped, false));
    closes(&mut writer).await;
    pool.say(1, |said| (said.role, said.epoch) = (Role::Primary, 5));
    assert_eq!(connect(pool.primary).await.1, 1);
}

#[tokio::test]
async fn silence_longer_than_the_lease_ends_sessions() {
    let pool = Pool::start(&POOL, 100).await;
    let (mut writer, _) = connect(pool.primary).await;
    pool.say(0, |said| said.lease_ms = 1500);
    assert!(echoes(&mut writer).await);
    pool.nodes[0].mute.store(true, Ordering::SeqCst);
    let begun = clock::now();
    closes(&mut writer).await;
    let took = clock::now().since(begun);
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn a_client_is_held_until_there_is_a_primary_or_told_that_there_is_none() {
    let pool = Pool::start(&[Role::Stopped, Role::Standby], 100).await;
    let mut told = TcpStream::connect(pool.primary).await.unwrap();
    told.write_all(&startup()).await.unwrap();
    let held = tokio::spawn(connect(pool.primary));
    assert_eq!(connect(pool.read).await.1, 1);
    let mut answer = Vec::new();
    let begun = clock::now();
    timeout(PATIENCE, told.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(clock::now().since(begun) > Duration::from_secs(8));
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with('E') && text.contains("C57P03\0") && text.contains("no primary"), "{text}");
    held.abort();

    let late = tokio::spawn(connect(pool.primary));
    tokio::task::yield_now().await;
    pool.say(0, |said| said.role = Role::Primary);
    assert_eq!(late.await.unwrap().1, 0);
}

#[tokio::test]
async fn a_full_front_says_so() {
    let pool = Pool::start(&POOL, 1).await;
    let (mut first, _) = connect(pool.primary).await;
    let mut second = TcpStream::connect(pool.primary).await.unwrap();
    second.write_all(&startup()).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, second.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("C53300\0"));
    assert!(echoes(&mut first).await);
    drop(first);
    while pool.health("/metrics").await.contains("connections{route=\"primary\",node=\"0\"} 1\n") {
        tokio::task::yield_now().await;
    }
    let mut third = connect(pool.primary).await.0;
    assert!(echoes(&mut third).await);
}

#[tokio::test]
async fn a_front_that_is_shut_down_lets_sessions_finish() {
    let mut pool = Pool::start(&POOL, 100).await;
    let (mut session, _) = connect(pool.primary).await;
    pool.quit.take().unwrap().send(()).unwrap();
    while pool.health("/readyz").await.starts_with("HTTP/1.1 200") {
        tokio::task::yield_now().await;
    }
    let (mut latecomer, _) = connect(pool.primary).await;
    assert!(echoes(&mut session).await && echoes(&mut latecomer).await);
    drop((session, latecomer));
    timeout(Duration::from_secs(10), &mut pool.running).await.expect("it waits for nobody").unwrap();
    assert!(TcpStream::connect(pool.primary).await.is_err());
}
