//! The front between fake agents, fake nodes and clients, on the loopback interface.
mod events;
mod fronts;
mod losses;
mod moves;
mod nodes;
mod sessions;
mod strangers;

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
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

use self::nodes::{Node, listen};
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

/// By this name the fronts find each other; where there is but one it finds itself.
const PEERS: &str = "rain-proxy-peers.weather.svc";
const PATIENCE: Duration = Duration::from_secs(40);
/// Long, so that a busy machine ends no session that a test counts on.
const LEASE_MS: u64 = 15_000;

/// What the fronts of a pool have in common.
struct Site {
    authority: Authority,
    args: Args,
    agents: Arc<HashMap<String, SocketAddr>>,
    postgreses: Arc<HashMap<String, SocketAddr>>,
    /// So many nodes serve at first.
    serving: usize,
}

impl Site {
    async fn new(
        roles: &[Role],
        max_connections: u32,
        max_connections_per_user: Option<u32>,
    ) -> (Self, Vec<Node>) {
        let authority = Authority::new();
        let (mut agents, mut postgreses, mut nodes) = (HashMap::new(), HashMap::new(), Vec::new());
        for (index, role) in (0..).zip(roles) {
            let host = format!("rain-{index}-0.rain-nodes.weather.svc");
            let (node, agent, postgres) = Node::start(&authority, &host, index, *role).await;
            node.says.send_modify(|report| report.nodes = u8::try_from(roles.len()).ok());
            agents.insert(host.clone(), agent);
            postgreses.insert(host, postgres);
            nodes.push(node);
        }
        let args = Args {
            of: PoolArgs { pool: "rain".into(), namespace: "weather".into(), uid: "u".into() },
            max_connections,
            max_connections_per_user,
        };
        let serving = roles.iter().filter(|role| **role != Role::Stopped).count();
        let (agents, postgreses) = (Arc::new(agents), Arc::new(postgreses));
        (Self { authority, args, agents, postgreses, serving }, nodes)
    }
}

/// A front, and the nodes of its pool.
struct Pool {
    /// None where they are those of another front.
    nodes: Vec<Node>,
    site: Arc<Site>,
    trusting: Arc<ClientConfig>,
    _dir: TempDir,
    primary: SocketAddr,
    read: SocketAddr,
    peers: SocketAddr,
    health: SocketAddr,
    front: Arc<Front>,
    hub: Arc<Hub>,
    threads: Arc<Threads>,
    quit: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
}

impl Pool {
    async fn start(roles: &[Role], max_connections: u32) -> Self {
        Self::with(roles, max_connections, None, Limits::default()).await
    }

    async fn with(
        roles: &[Role],
        max_connections: u32,
        max_connections_per_user: Option<u32>,
        limits: Limits,
    ) -> Self {
        Self::at(roles, max_connections, max_connections_per_user, limits, Intervals::USUAL).await
    }

    async fn at(
        roles: &[Role],
        max_connections: u32,
        max_connections_per_user: Option<u32>,
        limits: Limits,
        intervals: Intervals,
    ) -> Self {
        let (site, nodes) = Site::new(roles, max_connections, max_connections_per_user).await;
        let (peers, at) = listen().await;
        Self::begin(Arc::new(site), nodes, peers, &[at], limits, intervals).await
    }

    /// Two fronts of one pool, each of which finds both; the first one has the nodes.
    async fn pair(roles: &[Role]) -> (Self, Self) {
        let (site, nodes) = Site::new(roles, 100, None).await;
        let site = Arc::new(site);
        let ((one, a), (other, b)) = (listen().await, listen().await);
        let (limits, usual) = (Limits::default(), Intervals::USUAL);
        let first = Self::begin(site.clone(), nodes, one, &[a, b], limits, usual).await;
        let second = Self::begin(site, Vec::new(), other, &[a, b], limits, usual).await;
        (first, second)
    }

    /// A front that others find by this listener, and that finds them at these addresses.
    async fn begin(
        site: Arc<Site>,
        nodes: Vec<Node>,
        peers: TcpListener,
        all: &[SocketAddr],
        limits: Limits,
        intervals: Intervals,
    ) -> Self {
        let args = site.args.clone();
        let (identity, dir) = site.authority.identity("u/proxy", &["front", PEERS]);
        let link = Client::with_book(identity, Book::Fixed(site.agents.clone()));
        let certificate = Certificate::load(&[dir.path()]).unwrap();
        let ((primary, a), (read, b), (health, d)) = (listen().await, listen().await, listen().await);
        let c = peers.local_addr().unwrap();
        let book = Book::Several(Arc::new(HashMap::from([(PEERS.to_owned(), all.to_vec())])));
        let others = Peers::new(PEERS.to_owned(), book);
        let book = Book::Fixed(site.postgreses.clone());
        let front = Front::new(&args, book, others, link, certificate, limits, intervals);
        let (quit, quitting) = oneshot::channel();
        let (hub, threads) = (front.hub.clone(), Arc::new(Threads::start(3).unwrap()));
        let (ours, running) = (threads.clone(), front.clone());
        let running = tokio::spawn(async move {
            let quit = async move { quitting.await.unwrap_or(()) };
            running.run(&args, Doors { primary, read, peers, health }, ours, quit).await;
        });
        timeout(PATIENCE, all_heard(&hub, site.serving)).await.expect("not all nodes were heard");
        let trusting = Arc::new(site.authority.trusting());
        Self {
            nodes,
            site,
            trusting,
            _dir: dir,
            primary: a,
            read: b,
            peers: c,
            health: d,
            front,
            hub,
            threads,
            quit: Some(quit),
            running,
        }
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

    /// Waits until no request to cancel this session is on its way.
    async fn has_passed_on(&self, key: [u8; 8]) {
        let taken = async {
            while self.front.keys.pending(key) > 0 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, taken).await.expect("it is still on its way");
    }

    /// Waits until no thread has a session any more.
    async fn has_nobody(&self) {
        let over = async {
            while self.threads.sessions() != [0, 0, 0] {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, over).await.expect("a thread keeps a session that is over");
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
