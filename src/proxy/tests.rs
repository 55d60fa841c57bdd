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
    routing::{get, post},
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

use postgres_protocol::{
    authentication::sasl::{ChannelBinding, ScramSha256},
    message::frontend,
};
use rustls::ClientConfig;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    auth::Binding,
    login::Check,
    table::tests::report,
    wire::{
        message::{self, encode},
        startup::{self, First, SSL_REQUEST},
    },
    *,
};
use crate::{
    clock,
    link::{
        serve,
        testing::{Authority, acceptor},
    },
    messages::{LoginAnswer, LoginQuestion, NodeReport, Role},
    pki::{SaltKey, scram_verifier},
};

const PATIENCE: Duration = Duration::from_secs(40);
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

/// Logs in whoever shows a certificate of the pool and proves the password, says its index and then echoes.
async fn postgres(listener: TcpListener, identity: Identity, index: u8) {
    let acceptor = acceptor(&identity);
    loop {
        let (mut socket, _) = listener.accept().await.unwrap();
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            assert_eq!(startup::read(&mut socket).await.unwrap(), First::Tls);
            socket.write_all(b"S").await.unwrap();
            let mut socket = acceptor.accept(socket).await.unwrap();
            let First::Startup(asked) = startup::read(&mut socket).await.unwrap() else {
                return said_to(index, "cancel");
            };
            let check = Check::Password(verifier(asked.user().unwrap()).parse().unwrap());
            login::prove(&mut socket, "app", check, Binding::None).await.unwrap();
            login::admit(&mut socket).await.unwrap();
            socket.write_all(&[encode(b'D', &[index]), encode(b'Z', b"I")].concat()).await.unwrap();
            socket.flush().await.unwrap();
            let (mut from, mut to) = tokio::io::split(socket);
            tokio::io::copy(&mut from, &mut to).await.ok();
        });
    }
}

/// What the nodes have heard beside sessions.
static HEARD: std::sync::Mutex<Vec<(u8, &str)>> = std::sync::Mutex::new(Vec::new());

fn said_to(index: u8, what: &'static str) {
    HEARD.lock().unwrap().push((index, what));
}

fn verifier(user: &str) -> String {
    scram_verifier(&SaltKey::of("a key"), user, "secret")
}

async fn stored(Json(question): Json<LoginQuestion>) -> Json<LoginAnswer> {
    let genuine = question.user == "app";
    Json(LoginAnswer { verifier: verifier(&question.user), genuine })
}

struct Pool {
    nodes: Vec<Node>,
    trusting: Arc<ClientConfig>,
    _dir: TempDir,
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
            let router = Router::new()
                .route("/v1/report", get(one))
                .route("/v1/watch", get(all))
                .route("/v1/login", post(stored))
                .with_state(agent);
            let (listener, address) = listen().await;
            agents.insert(host.clone(), address);
            let serving = serve(listener, identity.clone(), "u".into(), router, CancellationToken::new());
            let (listener, address) = listen().await;
            postgreses.insert(host, address);
            let tasks = [tokio::spawn(serving), tokio::spawn(postgres(listener, identity, index))];
            nodes.push(Node { says, mute, _tasks: tasks.map(AbortOnDropHandle::new), _dir: dir });
        }
        let args = Args {
            of: PoolArgs { pool: "rain".into(), namespace: "weather".into(), uid: "u".into() },
            nodes: u8::try_from(roles.len()).unwrap(),
            max_connections,
        };
        let (identity, dir) = authority.identity("u/proxy", &["front"]);
        let link = Client::with_book(identity, Book::Fixed(Arc::new(agents)));
        let certificate = Certificate::load(&[dir.path()]).unwrap();
        let front = Front::new(&args, Book::Fixed(Arc::new(postgreses)), link, certificate);
        let ((primary, a), (read, b), (health, c)) = (listen().await, listen().await, listen().await);
        let (quit, quitting) = oneshot::channel();
        let hub = front.hub.clone();
        let running = tokio::spawn(async move {
            let quit = async move { quitting.await.unwrap_or(()) };
            front.run(&args, Doors { primary, read, health }, quit).await;
        });
        let serving = roles.iter().filter(|role| **role != Role::Stopped).count();
        timeout(PATIENCE, all_heard(&hub, serving)).await.expect("not all nodes were heard");
        let trusting = Arc::new(authority.trusting());
        Self { nodes, trusting, _dir: dir, primary: a, read: b, health: c, quit: Some(quit), running }
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

type Session = TlsStream<TcpStream>;

impl Pool {
    /// A client behind TLS that has said who it is.
    async fn knock(&self, to: SocketAddr, parameters: &[(&str, &str)]) -> Session {
        let mut socket = TcpStream::connect(to).await.unwrap();
        socket.write_all(&SSL_REQUEST).await.unwrap();
        assert_eq!(socket.read_u8().await.unwrap(), b'S');
        let connector = TlsConnector::from(self.trusting.clone());
        let mut session = connector.connect("front".try_into().unwrap(), socket).await.unwrap();
        let mut buffer = bytes::BytesMut::new();
        frontend::startup_message(parameters.iter().copied(), &mut buffer).unwrap();
        session.write_all(&buffer).await.unwrap();
        session
    }

    /// Logs in; gives the session and the node that answered.
    async fn connect(&self, to: SocketAddr) -> (Session, u8) {
        let mut session = self.knock(to, &[("user", "app")]).await;
        prove(&mut session, "secret").await.unwrap();
        let hello = timeout(PATIENCE, message::read(&mut session)).await.unwrap().unwrap();
        assert_eq!(hello.tag, b'D');
        let ready = timeout(PATIENCE, message::read(&mut session)).await.unwrap().unwrap();
        assert_eq!(ready.tag, b'Z');
        (session, hello.body[0])
    }
}

/// Proves a password by a client library's own code; the error is the front's.
async fn prove(session: &mut Session, password: &str) -> Result<(), String> {
    let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
    loop {
        let said = timeout(PATIENCE, message::read(session)).await.unwrap().unwrap();
        let answer = match said.authentication() {
            Some((0, _)) => return Ok(()),
            Some((10, names)) => {
                assert_eq!(names, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
                message::sasl_initial("SCRAM-SHA-256", std::str::from_utf8(scram.message()).unwrap())
            }
            Some((11, challenge)) => {
                scram.update(challenge).unwrap();
                encode(b'p', scram.message())
            }
            Some((12, last)) => {
                scram.finish(last).unwrap();
                continue;
            }
            _ => return Err(message::error_texts(&said.body).0),
        };
        session.write_all(&answer).await.unwrap();
    }
}

async fn echoes(session: &mut Session) -> bool {
    let sent = session.write_all(&encode(b'd', b"ping")).await.is_ok();
    sent && message::read(session).await.is_ok_and(|echo| echo.tag == b'd' && echo.body == b"ping")
}

/// Waits until the session is ended; gives the code that it was told.
async fn ended(session: &mut Session) -> String {
    let said = timeout(PATIENCE, message::read(session)).await.expect("the session was left open");
    said.map(|said| message::error_texts(&said.body).0).unwrap_or_default()
}

const POOL: [Role; 3] = [Role::Primary, Role::Standby, Role::Standby];

#[tokio::test]
async fn sessions_go_where_their_port_says() {
    let pool = Pool::start(&POOL, 100).await;
    let (mut writer, node) = pool.connect(pool.primary).await;
    assert_eq!(node, 0);
    assert!(echoes(&mut writer).await);
    let mut readers = Vec::new();
    let mut seen = Vec::new();
    for _ in 0..5 {
        let (reader, node) = pool.connect(pool.read).await;
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
    let (mut writer, _) = pool.connect(pool.primary).await;
    let mut readers = HashMap::new();
    for _ in 0..3 {
        let (reader, node) = pool.connect(pool.read).await;
        readers.insert(node, reader);
    }
    // Another epoch by itself ends nothing: it changes with every node that comes or goes.
    pool.say(0, |said| said.epoch = 4);
    pool.say(2, |said| said.open = false);
    assert_eq!(ended(readers.get_mut(&2).unwrap()).await, "57P01");
    assert!(echoes(&mut writer).await && echoes(readers.get_mut(&1).unwrap()).await);

    // A standby that was restarted: whoever was connected before was so to another process.
    pool.say(1, |said| said.boot = "b2".into());
    assert_eq!(ended(readers.get_mut(&1).unwrap()).await, "57P01");
    let metrics = pool.health("/metrics").await;
    assert!(metrics.contains("connections_dropped_total{route=\"read\",node=\"1\"} 1\n"), "{metrics}");
    assert!(echoes(&mut writer).await);

    // The primary is followed to another node.
    pool.say(0, |said| (said.role, said.open) = (Role::Stopped, false));
    assert_eq!(ended(&mut writer).await, "57P01");
    pool.say(1, |said| (said.role, said.epoch) = (Role::Primary, 5));
    assert_eq!(pool.connect(pool.primary).await.1, 1);
}

#[tokio::test]
async fn silence_longer_than_the_lease_ends_sessions() {
    let pool = Pool::start(&POOL, 100).await;
    let (mut writer, _) = pool.connect(pool.primary).await;
    pool.say(0, |said| said.lease_ms = 1500);
    assert!(echoes(&mut writer).await);
    pool.nodes[0].mute.store(true, Ordering::SeqCst);
    let begun = clock::now();
    assert_eq!(ended(&mut writer).await, "57P01");
    let took = clock::now().since(begun);
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn a_client_is_held_until_there_is_a_primary_or_told_that_there_is_none() {
    let pool = Arc::new(Pool::start(&[Role::Stopped, Role::Standby], 100).await);
    let begun = clock::now();
    let mut told = pool.knock(pool.primary, &[("user", "app")]).await;
    assert_eq!(pool.connect(pool.read).await.1, 1);
    assert_eq!(ended(&mut told).await, "57P03");
    assert!(clock::now().since(begun) > Duration::from_secs(8));

    let held = pool.clone();
    let late = tokio::spawn(async move { held.connect(held.primary).await.1 });
    tokio::task::yield_now().await;
    pool.say(0, |said| said.role = Role::Primary);
    assert_eq!(late.await.unwrap(), 0);
}

#[tokio::test]
async fn a_full_front_says_so() {
    let pool = Pool::start(&POOL, 1).await;
    let (mut first, _) = pool.connect(pool.primary).await;
    let mut second = pool.knock(pool.primary, &[("user", "app")]).await;
    assert_eq!(ended(&mut second).await, "53300");
    assert!(echoes(&mut first).await);
    drop(first);
    while pool.health("/metrics").await.contains("connections{route=\"primary\",node=\"0\"} 1\n") {
        tokio::task::yield_now().await;
    }
    let mut third = pool.connect(pool.primary).await.0;
    assert!(echoes(&mut third).await);
}

#[tokio::test]
async fn strangers_learn_nothing() {
    let pool = Pool::start(&POOL, 100).await;
    let told = async |user: &str, password: &str| {
        prove(&mut pool.knock(pool.primary, &[("user", user)]).await, password).await
    };
    assert_eq!(told("app", "secret").await, Ok(()));
    assert_eq!(told("app", "Secret").await, Err("28P01".into()));
    assert_eq!(told("nobody", "secret").await, Err("28P01".into()), "whose verifier is made up");
    let mut nameless = pool.knock(pool.primary, &[("database", "app")]).await;
    assert_eq!(ended(&mut nameless).await, "28000");
    let mut replica = pool.knock(pool.primary, &[("user", "app"), ("replication", "database")]).await;
    assert_eq!(ended(&mut replica).await, "0A000");
    let twice = [("user", "app"), ("replication", "off"), ("replication", "database")];
    assert_eq!(ended(&mut pool.knock(pool.primary, &twice).await).await, "08P01");
    let metrics = pool.health("/metrics").await;
    assert!(metrics.contains("refused_total{route=\"primary\",reason=\"password\"} 2\n"), "{metrics}");
}

#[tokio::test]
async fn nothing_is_said_without_tls_and_nothing_before_it_counts() {
    let pool = Pool::start(&POOL, 100).await;
    let mut plain = TcpStream::connect(pool.primary).await.unwrap();
    let mut buffer = bytes::BytesMut::new();
    frontend::startup_message([("user", "app")], &mut buffer).unwrap();
    plain.write_all(&buffer).await.unwrap();
    let said = timeout(PATIENCE, message::read(&mut plain)).await.unwrap().unwrap();
    assert_eq!(message::error_texts(&said.body).0, "28000");

    // What comes unencrypted behind the question is taken for TLS, and is none (CVE-2021-23214).
    let mut sly = TcpStream::connect(pool.primary).await.unwrap();
    sly.write_all(&[SSL_REQUEST.as_slice(), &buffer].concat()).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, sly.read_to_end(&mut answer)).await.expect("it was left open").ok();
    assert_eq!(answer[0], b'S');
    assert!(!answer[1..].contains(&b'R') || answer[1] == 0x15, "an alert at most: {answer:?}");
}

#[tokio::test]
async fn a_cancel_request_reaches_the_nodes_before_the_client_is_let_go() {
    let pool = Pool::start(&POOL, 100).await;
    let mut socket = TcpStream::connect(pool.read).await.unwrap();
    socket.write_all(&[0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 2]).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.is_empty());
    let mut heard: Vec<u8> = HEARD.lock().unwrap().iter().map(|(node, _)| *node).collect();
    heard.sort_unstable();
    assert_eq!(heard, [0, 1, 2]);
}

#[tokio::test]
async fn whoever_says_nothing_takes_no_place() {
    let pool = Pool::start(&POOL, 1).await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(TcpStream::connect(pool.primary).await.unwrap());
        silent.push(TcpStream::connect(pool.read).await.unwrap());
    }
    let _unproved = pool.knock(pool.primary, &[("user", "app")]).await;
    assert!(echoes(&mut pool.connect(pool.primary).await.0).await);
}

#[tokio::test]
async fn a_front_that_is_shut_down_lets_sessions_finish() {
    let mut pool = Pool::start(&POOL, 100).await;
    let (mut idle, _) = pool.connect(pool.primary).await;
    let (mut busy, _) = pool.connect(pool.primary).await;
    busy.write_all(&encode(b'Q', b"")).await.unwrap();
    assert_eq!(message::read(&mut busy).await.unwrap().tag, b'Q');
    let mut unproved = pool.knock(pool.primary, &[("user", "app")]).await;
    assert_eq!(message::read(&mut unproved).await.unwrap().tag, b'R');
    pool.quit.take().unwrap().send(()).unwrap();
    while pool.health("/readyz").await.starts_with("HTTP/1.1 200") {
        tokio::task::yield_now().await;
    }
    let (mut latecomer, _) = pool.connect(pool.primary).await;
    assert!(echoes(&mut idle).await && echoes(&mut latecomer).await);
    drop(latecomer);
    // Who has nothing under way goes first, and knows that nothing was lost.
    let said = timeout(PATIENCE, message::read(&mut idle)).await.unwrap().unwrap();
    assert_eq!(message::error_texts(&said.body).0, "57P01");
    assert!(!String::from_utf8_lossy(&said.body).contains("committed or not"));
    drop(idle);
    assert!(echoes(&mut busy).await);
    let metrics = pool.health("/metrics").await;
    assert!(metrics.contains("pgpool_front_statements_total{route=\"primary\",node=\"0\"} 1\n"), "{metrics}");
    // Who stays to the end of the time is told so.
    let said = timeout(PATIENCE, message::read(&mut busy)).await.unwrap().unwrap();
    assert_eq!(message::error_texts(&said.body).0, "57P01");
    assert!(String::from_utf8_lossy(&said.body).contains("committed or not"));
    assert_eq!(ended(&mut unproved).await, "57P01");
    drop((busy, unproved));
    timeout(Duration::from_secs(10), &mut pool.running).await.expect("it waits for nobody").unwrap();
    assert!(TcpStream::connect(pool.primary).await.is_err());
}
