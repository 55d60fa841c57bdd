//! The front between fake agents, fake nodes and clients, on the loopback interface.
mod events;
mod moves;
mod sessions;
mod strangers;

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
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
        message::{self, Message, encode},
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
    messages::{AbandonedSession, Leftover, LoginAnswer, LoginQuestion, NodeReport, Role},
    pki::{SaltKey, scram_verifier},
};

/// By this name the fronts find each other; here it is the front itself.
const PEERS: &str = "rain-proxy-peers.weather.svc";
const PATIENCE: Duration = Duration::from_secs(40);
/// Long, so that a busy machine ends no session that a test counts on.
const LEASE_MS: u64 = 15_000;

/// A fake agent and a fake Postgres that says its index and then echoes.
struct Node {
    says: watch::Sender<NodeReport>,
    mute: Arc<AtomicBool>,
    heard: Heard,
    /// The sessions that it was told to be over, each time.
    abandoned: watch::Receiver<Vec<Vec<AbandonedSession>>>,
    /// Ends all its sessions.
    ends: watch::Sender<()>,
    _tasks: [AbortOnDropHandle<()>; 2],
    _dir: TempDir,
}

#[derive(Clone)]
struct Agent {
    says: watch::Receiver<NodeReport>,
    mute: Arc<AtomicBool>,
    abandoned: watch::Sender<Vec<Vec<AbandonedSession>>>,
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

/// One has a statement under way when it is asked first.
async fn end(State(agent): State<Agent>, Json(sessions): Json<Vec<AbandonedSession>>) -> Json<Leftover> {
    let all: Vec<i32> = sessions.iter().map(|session| session.pid).collect();
    agent.abandoned.send_modify(|all| all.push(sessions));
    let busy = if agent.abandoned.borrow().len() == 1 { all } else { Vec::new() };
    Json(Leftover { ended: 0, busy })
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// The cancel requests that a node has heard.
type Heard = Arc<Mutex<Vec<Vec<u8>>>>;

/// Logs in whoever shows a certificate of the pool and proves the password, says its index and then echoes.
async fn postgres(
    listener: TcpListener,
    identity: Identity,
    index: u8,
    heard: Heard,
    ends: watch::Receiver<()>,
) {
    let acceptor = acceptor(&identity);
    loop {
        let (mut socket, _) = listener.accept().await.unwrap();
        let (acceptor, heard, mut ends) = (acceptor.clone(), heard.clone(), ends.clone());
        tokio::spawn(async move {
            assert_eq!(startup::read(&mut socket).await.unwrap(), First::Tls);
            socket.write_all(b"S").await.unwrap();
            let mut socket = acceptor.accept(socket).await.unwrap();
            let asked = match startup::read(&mut socket).await.unwrap() {
                First::Startup(asked) => asked,
                First::Cancel(request) => return heard.lock().unwrap().push(request),
                other => panic!("{other:?}"),
            };
            let check = Check::Password(verifier(asked.user().unwrap()).parse().unwrap());
            login::prove(&mut socket, "app", check, Binding::None).await.unwrap();
            let said = encode(b'S', format!("node\0{index}\0").as_bytes());
            login::admit(&mut socket, &said, &[0, 0, 0, index, 7, 7, 7, 7]).await.unwrap();
            loop {
                let message = tokio::select! {
                    message = message::read(&mut socket) => message.ok(),
                    _ = ends.changed() => Some(Message { tag: b'E', body: b"C57P01\0Mby the node\0\0".to_vec() }),
                };
                let Some(message) = message else { break };
                let sent = socket.write_all(&answer(&message)).await;
                if sent.is_err() || socket.flush().await.is_err() {
                    break;
                }
                if message.body.starts_with(b"C57P01") {
                    break drop(socket.shutdown().await);
                }
            }
        });
    }
}

/// A query is its command's tag; one without a tag stays unanswered. BEGIN opens a transaction, a block of code fails.
/// All else is echoed.
fn answer(message: &Message) -> Vec<u8> {
    if message.tag != b'Q' || message.body.is_empty() {
        return message.bytes();
    }
    if message.body.starts_with(b"DO ") {
        return [encode(b'E', b"CP0001\0\0"), encode(b'Z', b"I")].concat();
    }
    let state = if message.body == b"BEGIN\0" { b"T" } else { b"I" };
    [encode(b'C', &message.body), encode(b'Z', state)].concat()
}

fn verifier(user: &str) -> String {
    scram_verifier(&SaltKey::of("a key"), user, "secret")
}

async fn stored(Json(question): Json<LoginQuestion>) -> Json<LoginAnswer> {
    match question.user.as_str() {
        "md5" => Json(LoginAnswer { verifier: "md5".to_owned(), genuine: true }),
        user => Json(LoginAnswer { verifier: verifier(user), genuine: user == "app" }),
    }
}

struct Pool {
    nodes: Vec<Node>,
    trusting: Arc<ClientConfig>,
    _dir: TempDir,
    primary: SocketAddr,
    read: SocketAddr,
    health: SocketAddr,
    hub: Arc<Hub>,
    threads: Arc<Threads>,
    quit: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
}

impl Node {
    /// A node that is heard; also the addresses of its agent and its Postgres.
    async fn start(
        authority: &Authority,
        host: &str,
        index: u8,
        role: Role,
    ) -> (Self, SocketAddr, SocketAddr) {
        let (identity, dir) = authority.identity(&format!("u/node/{index}"), &[host]);
        let (says, mute) =
            (watch::Sender::new(report(index, role, 3, LEASE_MS)), Arc::new(AtomicBool::new(false)));
        let (told, abandoned) = watch::channel(Vec::new());
        let agent = Agent { says: says.subscribe(), mute: mute.clone(), abandoned: told };
        let router = Router::new()
            .route("/v1/report", get(one))
            .route("/v1/watch", get(all))
            .route("/v1/login", post(stored))
            .route("/v1/abandoned", post(end))
            .with_state(agent);
        let ((agents, agent), (postgreses, postgres_at)) = (listen().await, listen().await);
        let serving = serve(agents, identity.clone(), "u".into(), router, CancellationToken::new());
        let (heard, ends) = (Heard::default(), watch::Sender::new(()));
        let postgres = postgres(postgreses, identity, index, heard.clone(), ends.subscribe());
        let tasks = [tokio::spawn(serving), tokio::spawn(postgres)].map(AbortOnDropHandle::new);
        (Self { says, mute, heard, abandoned, ends, _tasks: tasks, _dir: dir }, agent, postgres_at)
    }
}

impl Pool {
    async fn start(roles: &[Role], max_connections: u32) -> Self {
        Self::limited(roles, max_connections, None).await
    }

    async fn limited(roles: &[Role], max_connections: u32, max_connections_per_user: Option<u32>) -> Self {
        Self::at_intervals(roles, max_connections, max_connections_per_user, Intervals::USUAL).await
    }

    async fn at_intervals(
        roles: &[Role],
        max_connections: u32,
        max_connections_per_user: Option<u32>,
        intervals: Intervals,
    ) -> Self {
        let authority = Authority::new();
        let (mut agents, mut postgreses, mut nodes) = (HashMap::new(), HashMap::new(), Vec::new());
        for (index, role) in (0..).zip(roles) {
            let host = format!("rain-{index}-0.rain-nodes.weather.svc");
            let (node, agent, postgres) = Node::start(&authority, &host, index, *role).await;
            agents.insert(host.clone(), agent);
            postgreses.insert(host, postgres);
            nodes.push(node);
        }
        let args = Args {
            of: PoolArgs { pool: "rain".into(), namespace: "weather".into(), uid: "u".into() },
            nodes: u8::try_from(roles.len()).unwrap(),
            max_connections,
            max_connections_per_user,
        };
        let (identity, dir) = authority.identity("u/proxy", &["front", PEERS]);
        let link = Client::with_book(identity, Book::Fixed(Arc::new(agents)));
        let certificate = Certificate::load(&[dir.path()]).unwrap();
        let ((primary, a), (read, b)) = (listen().await, listen().await);
        let ((peers, c), (health, d)) = (listen().await, listen().await);
        let book = Book::Fixed(Arc::new(HashMap::from([(PEERS.to_owned(), c)])));
        let others = Peers::new(PEERS.to_owned(), book);
        let front =
            Front::new(&args, Book::Fixed(Arc::new(postgreses)), others, link, certificate, intervals);
        let (quit, quitting) = oneshot::channel();
        let hub = front.hub.clone();
        let threads = Arc::new(Threads::start(3).unwrap());
        let ours = threads.clone();
        let running = tokio::spawn(async move {
            let quit = async move { quitting.await.unwrap_or(()) };
            front.run(&args, Doors { primary, read, peers, health }, ours, quit).await;
        });
        let serving = roles.iter().filter(|role| **role != Role::Stopped).count();
        timeout(PATIENCE, all_heard(&hub, serving)).await.expect("not all nodes were heard");
        let trusting = Arc::new(authority.trusting());
        let quit = Some(quit);
        Self { nodes, trusting, _dir: dir, primary: a, read: b, health: d, hub, threads, quit, running }
    }

    fn say(&self, index: usize, change: impl FnOnce(&mut NodeReport)) {
        self.nodes[index].says.send_modify(change);
    }

    /// Waits until the metrics have this line.
    async fn counts(&self, line: &str) {
        let counted = async {
            while !self.health("/metrics").await.contains(&format!("{line}\n")) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, counted).await.unwrap_or_else(|_| panic!("never: {line}"));
    }

    /// Waits until nobody is let in at the primary.
    async fn has_no_primary(&self) {
        let mut changes = self.hub.changes();
        while self.hub.take(Kind::Primary, &[]).is_some() {
            timeout(PATIENCE, changes.changed()).await.expect("it goes on").unwrap();
        }
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
        let (session, node, _) = self.log_in(to).await;
        (session, node)
    }

    /// The same, with the key by which it can be cancelled.
    async fn log_in(&self, to: SocketAddr) -> (Session, u8, [u8; 8]) {
        let mut session = self.knock(to, &[("user", "app")]).await;
        prove(&mut session, "secret").await.unwrap();
        let node = settled(&mut session).await;
        let key = hear(&mut session).await;
        assert_eq!((key.tag, hear(&mut session).await.tag), (b'K', b'Z'));
        (session, node, key.body.try_into().unwrap())
    }
}

async fn hear(session: &mut Session) -> Message {
    timeout(PATIENCE, message::read(session)).await.expect("nothing was said").unwrap()
}

/// The node that the session is told to be on.
async fn settled(session: &mut Session) -> u8 {
    let said = hear(session).await;
    assert_eq!(said.tag, b'S', "{said:?}");
    let text = String::from_utf8(said.body).unwrap();
    text.trim_matches('\0').strip_prefix("node\0").unwrap().parse().unwrap()
}

/// Asks a query, which is its command's tag; gives the first answer.
async fn ask(session: &mut Session, tag: &str) -> Message {
    session.write_all(&encode(b'Q', format!("{tag}\0").as_bytes())).await.unwrap();
    hear(session).await
}

/// Proves a password by a client library's own code; the error's code is the front's.
async fn prove(session: &mut Session, password: &str) -> Result<(), String> {
    prove_or_hear(session, password).await.map_err(|said| message::error_texts(&said.body).0)
}

/// The same; the error is what the front says.
async fn prove_or_hear(session: &mut Session, password: &str) -> Result<(), Message> {
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
            _ => return Err(said),
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
