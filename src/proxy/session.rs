//! One client: from its arrival to its end.
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustix::net::sockopt;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt, BufReader, copy_buf},
    net::TcpStream,
    time::timeout,
};

use super::{
    Front,
    hub::{Seat, Tenure},
    route::Kind,
    startup::{Refusal, refuse},
};
use crate::{clock, names};

/// Time that a client is held while no node serves it.
const HOLD: Duration = Duration::from_secs(10);
/// Time for a connection to a node.
const DIAL: Duration = Duration::from_secs(2);
/// Pause before nodes that could not be reached are tried again, unless something changes before.
const AGAIN: Duration = Duration::from_millis(250);
/// Bytes held in each direction of a session.
const BUFFER: usize = 16 * 1024;

/// Silence after which the kernel asks whether a client or a node is still there; how often, and how many
/// times in vain. A lost machine sends no farewell.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(5), 6);

/// How a session ended.
#[derive(Debug)]
enum End {
    /// One of the two closed it.
    Closed,
    /// Its node may not be spoken to any more.
    Dropped,
    /// The front is being shut down.
    Drained,
}

/// Serves a client until it is done.
pub async fn serve(front: Arc<Front>, kind: Kind, mut client: TcpStream) {
    prepare(&client).ok();
    let found = tokio::select! {
        found = timeout(HOLD, find(&front, kind)) => found,
        () = front.stop.cancelled() => return,
    };
    let Ok((seat, mut node)) = found else {
        let why = if kind == Kind::Primary { Refusal::NoPrimary } else { Refusal::NoNode };
        return turn_away(&front, kind, client, why).await;
    };
    let end = tokio::select! {
        () = seat.tenure.ended() => End::Dropped,
        () = front.stop.cancelled() => End::Drained,
        passed = pass(&mut client, &mut node, &seat.tenure) => match passed {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => End::Dropped,
            Err(_) | Ok(()) => End::Closed,
        },
    };
    if matches!(end, End::Dropped) {
        front.hub.metrics.dropped(kind, seat.index);
        // What is still on its way to the node is thrown away.
        sockopt::set_socket_linger(&node, Some(Duration::ZERO)).ok();
    }
    tracing::debug!(node = seat.index, route = kind.name(), ?end, "a session ended");
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE.0)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE.1)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE.2)?;
    Ok(())
}

/// Tells a client why it isn't served.
pub async fn turn_away(front: &Front, kind: Kind, mut client: TcpStream, why: Refusal) {
    front.hub.metrics.refused(kind, why);
    if let Err(error) = refuse(&mut client, why).await {
        tracing::debug!(%error, reason = why.name(), "a client left before it was told");
    }
}

/// A place and a connection; waits for them as long as it is let.
async fn find(front: &Front, kind: Kind) -> (Seat, TcpStream) {
    let mut changes = front.hub.changes();
    let mut tried = Vec::new();
    loop {
        changes.mark_unchanged();
        while let Some(seat) = front.hub.take(kind, &tried) {
            match dial(front, &seat).await {
                Ok(node) => return (seat, node),
                Err(error) => {
                    tracing::debug!(node = seat.index, %error, "a node can't be reached");
                    tried.push(seat.index);
                }
            }
        }
        if tried.is_empty() {
            changes.changed().await.ok();
        } else {
            timeout(AGAIN, changes.changed()).await.ok();
            tried.clear();
        }
    }
}

async fn dial(front: &Front, seat: &Seat) -> io::Result<TcpStream> {
    let host = names::node_host(&front.pool, seat.index, &front.domain);
    let connecting = async {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in front.book.find(&host, names::POSTGRES_PORT).await? {
            match TcpStream::connect(address).await {
                Ok(node) => {
                    prepare(&node)?;
                    return Ok(node);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    tokio::select! {
        dialled = timeout(DIAL, connecting) => dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
        () = seat.tenure.ended() => Err(io::ErrorKind::NotConnected.into()),
    }
}

/// Passes bytes both ways until one side is done. A client that shuts its sending side may still read
/// what comes; when the node is done, the session is.
async fn pass(client: &mut TcpStream, node: &mut TcpStream, tenure: &Tenure) -> io::Result<()> {
    let (from_client, mut to_client) = client.split();
    let (from_node, to_node) = node.split();
    let mut to_node = Guarded { inner: to_node, tenure };
    let up = async {
        copy_buf(&mut BufReader::with_capacity(BUFFER, from_client), &mut to_node).await?;
        to_node.shutdown().await?;
        std::future::pending::<io::Result<()>>().await
    };
    let down = async {
        copy_buf(&mut BufReader::with_capacity(BUFFER, from_node), &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::select! { ended = up => ended, ended = down => ended }
}

/// Sends to a node, but only while it may be spoken to: checked at the moment of each sending, so that a
/// front that was frozen sends nothing under a lease that is over.
struct Guarded<'a, W> {
    inner: W,
    tenure: &'a Tenure,
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Guarded<'_, W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.tenure.stands(clock::now()) {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
