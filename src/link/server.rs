//! Serves a router to the other parts of the pool.
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use super::{Identity, peer_of};
use crate::messages::Peer;

/// Time for a handshake; after it the connection is dropped.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Connections at once; more are dropped as they come. A pool of 15 nodes needs fewer than 100.
const CONNECTIONS: usize = 512;
/// Time that answers under way get when the server is shut down; streams never end by themselves.
const DRAIN: Duration = Duration::from_secs(1);
/// A kept connection on which nothing is asked is closed.
const IDLE: Duration = Duration::from_secs(60);
/// Wait after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Silence after which the kernel asks whether the other side is still there.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Milliseconds that sent bytes may stay unacknowledged before the connection is given up.
const USER_TIMEOUT_MS: u32 = 10_000;

/// Who sent the request, from its certificate; an extractor for handlers under [`serve`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller(pub Peer);

/// Where the request came from; an extractor for handlers under [`serve`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin(pub IpAddr);

/// The caller may not do this: answered 403.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(String);

impl Caller {
    /// The index of the calling node; anybody else is refused.
    pub fn node(&self) -> Result<u8, Refused> {
        match self.0 {
            Peer::Node(index) => Ok(index),
            _ => Err(self.refused()),
        }
    }

    /// Passes the operator only.
    pub fn operator(&self) -> Result<(), Refused> {
        self.one_of(|peer| *peer == Peer::Operator)
    }

    /// Passes those that `allowed` is true for.
    pub fn one_of(&self, allowed: impl FnOnce(&Peer) -> bool) -> Result<(), Refused> {
        if allowed(&self.0) { Ok(()) } else { Err(self.refused()) }
    }

    fn refused(&self) -> Refused {
        Refused(format!("not for {:?}", self.0))
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        let peer = parts.extensions.get::<Peer>().cloned();
        peer.map(Self).ok_or_else(|| Refused("the caller isn't known".into()))
    }
}

impl<S: Sync> FromRequestParts<S> for Origin {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        parts.extensions.get::<Self>().copied().ok_or_else(|| Refused("the caller isn't known".into()))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (StatusCode::FORBIDDEN, self.0).into_response()
    }
}

/// Listens on `port` of every address of this machine, IPv6 and IPv4 alike where there are both.
pub fn bind(port: u16) -> io::Result<TcpListener> {
    let any =
        [SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))];
    let socket = std::net::TcpListener::bind(any.as_slice())?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

/// Serves `router` to parts of pool `pool_uid` until `shutdown`. Each request carries its sender as a
/// [`Peer`] in its extensions; take it by [`Caller`]. Handshakes don't hold up the accepting.
pub async fn serve(
    listener: TcpListener,
    identity: Identity,
    pool_uid: String,
    router: Router,
    shutdown: CancellationToken,
) {
    let door = Door { identity, pool_uid: pool_uid.into(), router, shutdown: shutdown.clone() };
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((socket, from)) => {
                let Ok(place) = places.clone().try_acquire_owned() else {
                    tracing::warn!(%from, "too many connections between the parts: one is refused");
                    continue;
                };
                let door = door.clone();
                connections.spawn(async move {
                    door.admit(socket, from).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let drained = timeout(DRAIN, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        connections.shutdown().await;
    }
}

#[derive(Clone)]
struct Door {
    identity: Identity,
    pool_uid: Arc<str>,
    router: Router,
    shutdown: CancellationToken,
}

impl Door {
    async fn admit(self, socket: TcpStream, from: SocketAddr) {
        let shaken = tokio::select! {
            shaken = timeout(HANDSHAKE, self.handshake(socket)) => shaken,
            () = self.shutdown.cancelled() => return,
        };
        match shaken {
            Ok(Ok((stream, peer))) => self.answer(stream, peer, from).await,
            Ok(Err(reason)) => tracing::info!(%from, %reason, "a connection between the parts was refused"),
            Err(_) => tracing::info!(%from, "no handshake within {HANDSHAKE:?}"),
        }
    }

    async fn handshake(&self, socket: TcpStream) -> Result<(TlsStream<TcpStream>, Peer), String> {
        prepare(&socket).map_err(|error| error.to_string())?;
        let acceptor = TlsAcceptor::from(self.identity.current().server);
        let stream = acceptor.accept(socket).await.map_err(|error| error.to_string())?;
        let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let (uid, peer) =
            peer_of(leaf.ok_or("it showed no certificate")?).map_err(|error| error.to_string())?;
        if *uid != *self.pool_uid {
            return Err(format!("it belongs to pool {uid}"));
        }
        Ok((stream, peer))
    }

    async fn answer(self, stream: TlsStream<TcpStream>, peer: Peer, from: SocketAddr) {
        let router = TowerToHyperService::new(self.router);
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            request.extensions_mut().insert(Origin(from.ip().to_canonical()));
            hyper::service::Service::call(&router, request)
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(IDLE);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%from, %error, "a connection between the parts ended");
        }
    }
}

/// Sends small messages at once, and notices a partner that went without a word.
pub(super) fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE)?;
    sockopt::set_tcp_keepcnt(socket, 1)?;
    sockopt::set_tcp_user_timeout(socket, USER_TIMEOUT_MS)?;
    Ok(())
}
