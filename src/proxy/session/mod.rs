//! One client: from its arrival to its end.
mod guest;
mod held;
mod running;

use std::{io, net, net::SocketAddr, sync::Arc, time::Duration};

use rustix::net::sockopt;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, error::Elapsed, timeout, timeout_at},
};

use self::guest::Guest;
use super::{
    Front, cancel,
    login::{self, Arrival, LoginError},
    node::{self, NodeError},
    route::Kind,
};
use crate::{clock, names};

/// How long is waited for a client, and for a node in its place.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time that a client has to say who it is and to prove it. What it is held for by others doesn't count.
    pub login: Duration,
    /// Time that a client is held while no node serves it.
    pub hold: Duration,
    /// Time that a node has to take a login: another one may be quicker.
    pub greeting: Duration,
}

impl Default for Limits {
    /// Half of PostgreSQL's `authentication_timeout`; a node has the time for two tries within what a client is held.
    fn default() -> Self {
        let [login, hold, greeting] = [30, 10, 5].map(Duration::from_secs);
        Self { login, hold, greeting }
    }
}

/// Time for a connection to a node, TLS included.
const DIAL: Duration = Duration::from_secs(2);
/// Time for a last word to a client.
const FAREWELL: Duration = Duration::from_secs(3);

/// Silence after which the kernel asks whether a client or a node is still there; how often, and how many
/// times in vain. A lost machine sends no farewell.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(5), 6);

/// Serves a client until it is done. `arriving` is its place among those who are logging in.
pub async fn serve(
    front: Arc<Front>,
    kind: Kind,
    client: net::TcpStream,
    from: SocketAddr,
    arriving: OwnedSemaphorePermit,
) {
    let came = clock::now();
    // A future has room for its largest part as long as it lives: an idle session has none for a login.
    let begun = Box::pin(begin(&front, kind, client, from)).await;
    drop(arriving);
    if let Ok(Some(_)) = &begun {
        front.hub.metrics.logged_in(kind, clock::now().since(came));
    }
    match begun {
        Ok(Some(session)) => session.run().await,
        Ok(None) => {}
        Err(error) => {
            if let Some(reason) = error.reason() {
                front.hub.metrics.refused(kind, reason);
            }
            tracing::debug!(%from, %error, route = kind.name(), "a client got no session");
        }
    }
}

async fn begin(
    front: &Arc<Front>,
    kind: Kind,
    client: net::TcpStream,
    from: SocketAddr,
) -> Result<Option<Box<running::Running>>, LoginError> {
    let client = TcpStream::from_std(client)?;
    prepare(&client)?;
    let deadline = Instant::now() + front.limits.login;
    let served = front.certificate.current();
    let arrived = tokio::select! {
        arrived = timeout_at(deadline, login::arrive(client, &served)) => arrived.map_err(late)??,
        () = front.stop.cancelled() => return Ok(None),
    };
    match arrived {
        Arrival::Cancel(message, mut held) => {
            cancel::pass_on(front, &message).await;
            timeout(FAREWELL, held.shutdown()).await.ok();
            Ok(None)
        }
        Arrival::Session(client, startup) => {
            let (front, binding) = (Arc::clone(front), served.binding);
            let guest = Guest { front, kind, from, client: *client, startup, binding, deadline };
            Box::new(guest).come_in().await
        }
    }
}

fn late(_: Elapsed) -> LoginError {
    LoginError::Io(io::ErrorKind::TimedOut.into())
}

/// Says this to a client that has to go, and waits a little until it has heard.
async fn last_words(client: &mut login::Secure, message: &[u8]) {
    let told = async {
        client.write_all(message).await?;
        client.shutdown().await?;
        login::drain(client).await;
        Ok::<_, io::Error>(())
    };
    timeout(FAREWELL, told).await.ok();
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE.0)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE.1)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE.2)?;
    Ok(())
}

/// A connection to a node, behind TLS.
pub async fn dial(front: &Front, index: u8) -> Result<node::Secure, NodeError> {
    let host = front.host(index);
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in front.book.find(&host, names::POSTGRES_PORT).await? {
        match TcpStream::connect(address).await {
            Ok(socket) => {
                prepare(&socket)?;
                return node::secure(socket, &host, front.link.identity()).await;
            }
            Err(error) => last = error,
        }
    }
    Err(last.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of what is kept of a session from its arrival to its end.
    fn room<F>(
        _: impl FnOnce(Arc<Front>, Kind, net::TcpStream, SocketAddr, OwnedSemaphorePermit) -> F,
    ) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_session_has_no_room_for_what_is_rare() {
        let room = room(serve);
        assert!(room <= 2048, "{room} bytes");
    }
}
