//! The front, `pgpool-operator proxy`: clients on one side, the nodes on the other.
//!
//! It hears the agents of all nodes, and sends each new session to the node that its port stands for (the primary, or
//! any node that may be read from). TLS ends here; a client proves its password to the front, which logs in to the
//! node with what the proof gives away and with its own certificate, without which nodes let no user in. Then bytes
//! are passed, and followed by the headers of their messages. Nothing is sent to a node without a lease. While the
//! primary hands over, sessions wait between two transactions; those that have nothing at their node go on at the next
//! one, and the others are told why they end.
mod abandoned;
mod auth;
mod cancel;
mod certificate;
mod crowd;
mod desk;
mod feed;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod health;
mod hold;
mod hub;
mod lane;
mod lease;
mod login;
mod metrics;
mod node;
mod peers;
mod places;
mod refusal;
mod relay;
mod route;
mod screen;
mod session;
mod state;
mod table;
#[cfg(test)]
mod tests;
mod threads;
mod wait;
mod wire;

use std::{
    io,
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    abandoned::Abandoned, cancel::Keys, certificate::Certificate, desk::Desk, feed::Agent, hub::Hub,
    metrics::Reason, peers::Peers, places::Places, route::Kind, session::Limits, threads::Threads,
};
use crate::{
    link::{Book, Client, Identity, LinkError, bind},
    names::{self, MAX_NODES, PoolArgs},
};

/// Sessions get this long to end by themselves when the front is shut down.
const DRAIN: Duration = Duration::from_secs(20);
/// For so long of it new clients are still let in: those that were sent here before the Service knew.
const LATECOMERS: Duration = Duration::from_secs(3);
/// Clients that are logging in, for each that may have a session. They have proved nothing yet, and take no place from
/// those who have.
const ARRIVING: usize = 2;
/// As many may be logging in even where very few may have a session: health checks, cancel requests, and those who are
/// told that the front is full.
const ARRIVING_AT_LEAST: usize = 64;
/// Cancel requests for sessions of this front that are passed on at once, and those that other fronts are asked about.
const CANCELS: (usize, usize) = (16, 8);
/// Wait after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the front is told at its start.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The pool.
    #[command(flatten)]
    pub of: PoolArgs,
    /// Clients that are served at once, both ports together.
    #[arg(long, env = "PGPOOL_MAX_CONNECTIONS", default_value_t = 1000)]
    pub max_connections: u32,
    /// Of them those of one user, if that is limited.
    #[arg(long, env = "PGPOOL_MAX_CONNECTIONS_PER_USER")]
    pub max_connections_per_user: Option<u32>,
}

/// Why the front can't run.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Its certificates.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A port.
    #[error("can't listen on port {port}: {source}")]
    Listen {
        /// The port.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// A signal handler.
    #[error("can't wait for signals: {0}")]
    Signal(io::Error),
    /// The threads for sessions.
    #[error("can't start a thread: {0}")]
    Threads(io::Error),
}

/// How often is looked for what no event tells: a lease goes by, a question got lost.
#[derive(Clone, Copy, Debug)]
struct Intervals {
    /// Bounds of the pause between two questions for a node's lease.
    asks: (Duration, Duration),
    /// The longest wait of a client for news.
    look: Duration,
}

impl Intervals {
    const USUAL: Self = Self { asks: feed::ASKS, look: wait::LOOK };
}

/// A running front.
pub(in crate::proxy) struct Front {
    pool: String,
    uid: String,
    domain: String,
    book: Book,
    peers: Peers,
    link: Client,
    certificate: Certificate,
    hub: Arc<Hub>,
    desk: Desk,
    limits: Limits,
    /// Clients that are served at most.
    max_connections: u32,
    /// For clients that have logged in.
    places: Arc<Places>,
    /// For clients that have not.
    arriving: Arc<Semaphore>,
    cancels: Semaphore,
    questions: Semaphore,
    keys: Arc<Keys>,
    abandoned: Arc<Abandoned>,
    intervals: Intervals,
    /// Ends sessions as soon as they are idle.
    drain: CancellationToken,
    /// Ends all sessions.
    stop: CancellationToken,
    sessions: TaskTracker,
}

/// Runs the front until SIGTERM or SIGINT. On the caller's runtime runs what keeps the leases, and clients are accepted;
/// sessions have threads of their own.
pub async fn run(args: Args) -> Result<(), ProxyError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ProxyError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ProxyError::Signal)?;
    let identity = Identity::load(Path::new(names::TLS_DIR))?;
    let listen = |port| bind(port).map_err(|source| ProxyError::Listen { port, source });
    let doors = Doors {
        primary: listen(names::POSTGRES_PORT)?,
        read: listen(names::FRONT_READ_PORT)?,
        peers: listen(names::AGENT_PORT)?,
        health: listen(names::HEALTH_PORT)?,
    };
    let certificate = Certificate::load(&[Path::new(names::SERVER_TLS_DIR), Path::new(names::TLS_DIR)])?;
    let link = Client::new(identity);
    let peers = Peers::new(names::peers_host(&args.of.pool, &args.of.namespace), Book::default());
    let (book, limits) = (Book::Proved(link.proved()), Limits::default());
    let front = Front::new(&args, book, peers, link, certificate, limits, Intervals::USUAL);
    let threads = Threads::for_each_core().map_err(ProxyError::Threads)?;
    let quit = async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    };
    front.run(&args, doors, threads.into(), quit).await;
    Ok(())
}

/// The ports.
struct Doors {
    primary: TcpListener,
    read: TcpListener,
    peers: TcpListener,
    health: TcpListener,
}

impl Front {
    fn new(
        args: &Args,
        book: Book,
        peers: Peers,
        link: Client,
        certificate: Certificate,
        limits: Limits,
        intervals: Intervals,
    ) -> Arc<Self> {
        let count = |connections: u32| connections.try_into().unwrap_or(Semaphore::MAX_PERMITS);
        let places = count(args.max_connections);
        let arriving = places.saturating_mul(ARRIVING).clamp(ARRIVING_AT_LEAST, Semaphore::MAX_PERMITS);
        Arc::new(Self {
            pool: args.of.pool.clone(),
            uid: args.of.uid.clone(),
            domain: names::domain(&args.of.pool, &args.of.namespace),
            book,
            peers,
            certificate,
            hub: Hub::new(),
            desk: Desk::new(link.apart()),
            link,
            limits,
            max_connections: args.max_connections,
            places: Places::new(places, args.max_connections_per_user.map(count)),
            arriving: Arc::new(Semaphore::new(arriving)),
            cancels: Semaphore::new(CANCELS.0),
            questions: Semaphore::new(CANCELS.1),
            keys: Arc::default(),
            abandoned: Arc::default(),
            intervals,
            drain: CancellationToken::new(),
            stop: CancellationToken::new(),
            sessions: TaskTracker::new(),
        })
    }

    /// Host name of a node.
    fn host(&self, index: u8) -> String {
        names::node_host(&self.pool, index, &self.domain)
    }

    async fn run(
        self: Arc<Self>,
        args: &Args,
        doors: Doors,
        threads: Arc<Threads>,
        quit: impl Future<Output = ()>,
    ) {
        let mut tasks = JoinSet::new();
        let hosts: Arc<[String]> = (0..MAX_NODES).map(|index| self.host(index)).collect();
        for (index, host) in (0..).zip(hosts.iter().cloned()) {
            let (pool_uid, abandoned) = (args.of.uid.clone(), self.abandoned.clone());
            let asks = self.intervals.asks;
            let agent = Agent { index, host, pool_uid, hosts: hosts.clone(), abandoned, asks };
            tasks.spawn(agent.follow(self.hub.clone(), self.link.clone()));
        }
        let hub = self.hub.clone();
        tasks.spawn(async move { hub.search().await });
        let hub = self.hub.clone();
        tasks.spawn(async move { hub.sweep().await });
        let front = self.clone();
        tasks.spawn(async move {
            if let Err(error) = health::serve(doors.health, front).await {
                tracing::error!(%error, "probes and metrics aren't answered any more");
            }
        });
        tasks.spawn(peers::answer(self.clone(), doors.peers));
        let mut accepting = JoinSet::new();
        accepting.spawn(self.clone().accept(Kind::Primary, doors.primary, threads.clone()));
        accepting.spawn(self.clone().accept(Kind::Read, doors.read, threads.clone()));
        quit.await;
        tracing::info!("shutting down; sessions get {DRAIN:?}");
        self.hub.drain();
        sleep(LATECOMERS).await;
        accepting.shutdown().await;
        self.sessions.close();
        self.drain.cancel();
        if timeout(DRAIN.saturating_sub(LATECOMERS), self.sessions.wait()).await.is_err() {
            self.stop.cancel();
            self.sessions.wait().await;
        }
    }

    /// Lets clients in, for ever.
    async fn accept(self: Arc<Self>, kind: Kind, listener: TcpListener, threads: Arc<Threads>) {
        loop {
            // Each runtime has its own register of sockets: the session's enters it anew.
            let accepted = listener.accept().await.and_then(|(client, from)| Ok((client.into_std()?, from)));
            match accepted {
                Ok((client, from)) => self.admit(kind, client, from, &threads),
                Err(error) => {
                    tracing::warn!(%error, route = kind.name(), "can't accept a client");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, kind: Kind, client: TcpStream, from: SocketAddr, threads: &Threads) {
        let Ok(arriving) = self.arriving.clone().try_acquire_owned() else {
            self.hub.metrics.refused(kind, Reason::Crowd);
            return crowd::turn_away(&client);
        };
        let session = session::serve(self.clone(), kind, client, from, arriving);
        threads.spawn(&self.sessions, session);
    }
}
