//! The front, `pgpool-operator proxy`: clients on one side, the nodes on the other.
//!
//! It hears the agents of all nodes, sends each new connection to the node that its port stands for (the
//! primary, or any node that may be read from) and passes bytes. A session whose node is shut, restarts
//! or loses its lease is ended at once; nothing is sent to a node without a lease. TLS and logging in are
//! the client's and the node's matter; the front doesn't look into the bytes.
mod feed;
mod health;
mod hub;
mod metrics;
mod route;
mod session;
mod startup;
mod table;
#[cfg(test)]
mod tests;

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{feed::Agent, hub::Hub, route::Kind, startup::Refusal};
use crate::{
    link::{Book, Client, Identity, LinkError, bind},
    names::{self, PoolArgs},
};

/// Sessions get this long to end by themselves when the front is shut down.
const DRAIN: Duration = Duration::from_secs(20);
/// For so long of it new clients are still let in: those that were sent here before the Service knew.
const LATECOMERS: Duration = Duration::from_secs(3);
/// Clients that are being told that the front is full; more than these are closed without a word.
const TOLD_AT_ONCE: usize = 64;
/// Wait after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the front is told at its start.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The pool.
    #[command(flatten)]
    pub of: PoolArgs,
    /// How many nodes it has.
    #[arg(long, env = "PGPOOL_NODES", value_parser = clap::value_parser!(u8).range(1..=15))]
    pub nodes: u8,
    /// Clients that are served at once, both ports together.
    #[arg(long, env = "PGPOOL_MAX_CONNECTIONS", default_value_t = 1000)]
    pub max_connections: u32,
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
}

/// A running front.
pub(in crate::proxy) struct Front {
    pool: String,
    domain: String,
    book: Book,
    hub: Arc<Hub>,
    places: Arc<Semaphore>,
    told: Arc<Semaphore>,
    /// Ends all sessions.
    stop: CancellationToken,
    sessions: TaskTracker,
}

/// Runs the front until SIGTERM or SIGINT.
pub async fn run(args: Args) -> Result<(), ProxyError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ProxyError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ProxyError::Signal)?;
    let identity = Identity::load(Path::new(names::TLS_DIR))?;
    let listen = |port| bind(port).map_err(|source| ProxyError::Listen { port, source });
    let doors = Doors {
        primary: listen(names::POSTGRES_PORT)?,
        read: listen(names::FRONT_READ_PORT)?,
        health: listen(names::HEALTH_PORT)?,
    };
    let client = Client::new(identity);
    let front = Front::new(&args, Book::Proved(client.proved()));
    let quit = async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    };
    front.run(&args, client, doors, quit).await;
    Ok(())
}

/// The ports.
struct Doors {
    primary: TcpListener,
    read: TcpListener,
    health: TcpListener,
}

impl Front {
    fn new(args: &Args, book: Book) -> Arc<Self> {
        Arc::new(Self {
            pool: args.of.pool.clone(),
            domain: names::domain(&args.of.pool, &args.of.namespace),
            book,
            hub: Hub::new(args.nodes),
            places: Arc::new(Semaphore::new(
                args.max_connections.try_into().unwrap_or(Semaphore::MAX_PERMITS),
            )),
            told: Arc::new(Semaphore::new(TOLD_AT_ONCE)),
            stop: CancellationToken::new(),
            sessions: TaskTracker::new(),
        })
    }

    async fn run(self: Arc<Self>, args: &Args, client: Client, doors: Doors, quit: impl Future<Output = ()>) {
        let mut tasks = JoinSet::new();
        for index in 0..args.nodes {
            let host = names::node_host(&self.pool, index, &self.domain);
            let agent = Agent { index, host, pool_uid: args.of.uid.clone() };
            tasks.spawn(agent.follow(self.hub.clone(), client.clone()));
        }
        let hub = self.hub.clone();
        tasks.spawn(async move { hub.sweep().await });
        let hub = self.hub.clone();
        tasks.spawn(async move {
            if let Err(error) = health::serve(doors.health, hub).await {
                tracing::error!(%error, "probes and metrics aren't answered any more");
            }
        });
        let mut accepting = JoinSet::new();
        accepting.spawn(self.clone().accept(Kind::Primary, doors.primary));
        accepting.spawn(self.clone().accept(Kind::Read, doors.read));
        quit.await;
        tracing::info!("shutting down; sessions get {DRAIN:?}");
        self.hub.drain();
        sleep(LATECOMERS).await;
        accepting.shutdown().await;
        self.sessions.close();
        if timeout(DRAIN.saturating_sub(LATECOMERS), self.sessions.wait()).await.is_err() {
            self.stop.cancel();
            self.sessions.wait().await;
        }
    }

    /// Lets clients in, for ever.
    async fn accept(self: Arc<Self>, kind: Kind, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((client, from)) => self.admit(kind, client, from),
                Err(error) => {
                    tracing::warn!(%error, route = kind.name(), "can't accept a client");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, kind: Kind, client: TcpStream, from: SocketAddr) {
        let front = self.clone();
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            self.sessions.spawn(async move {
                session::serve(front, kind, client).await;
                drop(place);
            });
        } else if let Ok(told) = self.told.clone().try_acquire_owned() {
            tracing::info!(%from, "the front is full: a client is turned away");
            self.sessions.spawn(async move {
                session::turn_away(&front, kind, client, Refusal::Full).await;
                drop(told);
            });
        } else {
            front.hub.metrics.refused(kind, Refusal::Full);
        }
    }
}
