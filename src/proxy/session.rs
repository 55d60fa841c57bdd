//! One client: from its arrival to its end.
use std::{io, sync::Arc, time::Duration};

use rustix::net::sockopt;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Front,
    auth::{Binding, ClientKey, Login, Verifier},
    cancel,
    hub::Seat,
    login::{self, Arrival, Check, LoginError},
    node::{self, NodeError},
    refusal::Refusal,
    relay::{End, Relay},
    route::Kind,
    wire::{message::error_texts, startup::Startup},
};
use crate::{
    messages::{LoginAnswer, LoginQuestion},
    names,
};

/// Time that a client has to say who it is and to prove it.
const LOGIN: Duration = Duration::from_secs(30);
/// Time that a client is held while no node serves it.
const HOLD: Duration = Duration::from_secs(10);
/// Time for a connection to a node, TLS included.
const DIAL: Duration = Duration::from_secs(2);
/// Time for an answer of a node's agent.
const ANSWER: Duration = Duration::from_secs(1);
/// Pause before nodes that could not be reached are tried again, unless something changes before.
const AGAIN: Duration = Duration::from_millis(250);
/// Time for a last word to a client.
const FAREWELL: Duration = Duration::from_secs(3);

/// Silence after which the kernel asks whether a client or a node is still there; how often, and how many
/// times in vain. A lost machine sends no farewell.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(5), 6);

/// A client that has said what it wants.
struct Guest {
    front: Arc<Front>,
    kind: Kind,
    client: login::Secure,
    startup: Startup,
    binding: Binding,
}

/// Serves a client until it is done. `full`: there is no place for it, and it is told so.
pub async fn serve(front: Arc<Front>, kind: Kind, client: TcpStream, full: bool) {
    let begun = tokio::select! {
        begun = begin(&front, kind, client, full) => begun,
        () = front.stop.cancelled() => return,
    };
    match begun {
        Ok(Some((guest, seat, node))) => guest.pass(seat, node).await,
        Ok(None) => {}
        Err(error) => tracing::debug!(%error, route = kind.name(), "a client got no session"),
    }
}

/// A session that has begun; none where there is none to be.
type Begun = Option<(Box<Guest>, Seat, node::Secure)>;

async fn begin(front: &Arc<Front>, kind: Kind, client: TcpStream, full: bool) -> Result<Begun, LoginError> {
    prepare(&client)?;
    let served = front.certificate.current();
    let late = |_| LoginError::Io(io::ErrorKind::TimedOut.into());
    match timeout(LOGIN, login::arrive(client, &served)).await.map_err(late)?? {
        Arrival::Cancel(message, held) => {
            cancel::pass_on(front, kind, &message).await;
            drop(held);
            Ok(None)
        }
        Arrival::Session(client, startup) => {
            let (front, binding) = (Arc::clone(front), served.binding);
            let guest = Box::new(Guest { front, kind, client: *client, startup, binding });
            Box::pin(guest.come_in(full)).await
        }
    }
}

impl Guest {
    async fn come_in(mut self: Box<Self>, full: bool) -> Result<Begun, LoginError> {
        if full {
            return self.turn_away(Refusal::Full).await;
        }
        if let Some(fatal) = login::refused(&self.startup) {
            return Err(login::tell(&mut self.client, fatal).await);
        }
        if let Some(message) = self.startup.negotiation() {
            self.client.write_all(&message).await?;
        }
        let nobody = if self.kind == Kind::Primary { Refusal::NoPrimary } else { Refusal::NoNode };
        let deadline = Instant::now() + HOLD;
        let Ok(found) = timeout_at(deadline, self.ask_for_verifier()).await else {
            return self.turn_away(nobody).await;
        };
        let (seat, answer) = found;
        let Ok(verifier) = answer.verifier.parse::<Verifier>() else {
            return self.turn_away(Refusal::Md5).await;
        };
        let check =
            if answer.genuine { Check::Password(verifier.clone()) } else { Check::InVain(verifier.clone()) };
        let user = self.startup.user().unwrap_or_default().to_owned();
        let proof = login::prove(&mut self.client, &user, check, self.binding.clone());
        let late = |_| LoginError::Io(io::ErrorKind::TimedOut.into());
        let key = timeout(LOGIN, proof).await.map_err(late)??;
        match timeout(HOLD, self.log_in(seat, &key, &verifier)).await {
            Ok(Ok((seat, node))) => {
                login::admit(&mut self.client).await?;
                Ok(Some((self, seat, node)))
            }
            Ok(Err(NodeError::Refused(said))) => {
                self.client.write_all(&said.bytes()).await?;
                self.client.shutdown().await?;
                Ok(None)
            }
            Ok(Err(_)) | Err(_) => self.turn_away(nobody).await,
        }
    }

    async fn turn_away(&mut self, why: Refusal) -> Result<Begun, LoginError> {
        self.front.hub.metrics.refused(self.kind, why);
        Err(farewell(&mut self.client, why).await)
    }

    /// A place, and what its node has stored of the role's password; waits for them as long as it is let.
    async fn ask_for_verifier(&self) -> (Seat, LoginAnswer) {
        let user = self.startup.user().unwrap_or_default().to_owned();
        let question = LoginQuestion { user };
        let mut wait = Wait::new(&self.front, self.kind);
        loop {
            let seat = wait.seat().await;
            let host = self.front.host(seat.index);
            let link = &self.front.link;
            match link.post_json(&host, names::AGENT_PORT, "/v1/login", &question, ANSWER).await {
                Ok(answer) => return (seat, answer),
                Err(error) => {
                    tracing::debug!(node = seat.index, %error, "a node's agent gives no verifier");
                    wait.tried.push(seat.index);
                }
            }
        }
    }

    /// Logs in to the node of the place, or of another one where that fails for its own reasons.
    async fn log_in(
        &self,
        seat: Seat,
        key: &ClientKey,
        verifier: &Verifier,
    ) -> Result<(Seat, node::Secure), NodeError> {
        let mut wait = Wait::new(&self.front, self.kind);
        let mut seat = seat;
        loop {
            match self.try_to_log_in(&seat, key, verifier).await {
                Ok(node) => return Ok((seat, node)),
                Err(NodeError::Refused(said)) if !is_passing(&said.body) => {
                    return Err(NodeError::Refused(said));
                }
                Err(error) => {
                    tracing::debug!(node = seat.index, %error, "a node can't be logged in to");
                    wait.tried.push(seat.index);
                }
            }
            drop(seat);
            seat = wait.seat().await;
        }
    }

    async fn try_to_log_in(
        &self,
        seat: &Seat,
        key: &ClientKey,
        verifier: &Verifier,
    ) -> Result<node::Secure, NodeError> {
        let login = Login::new(key.clone())?;
        let work = async {
            let mut node = timeout(DIAL, dial(&self.front, seat.index))
                .await
                .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))?;
            node::log_in(&mut node, &self.startup, login, verifier).await?;
            Ok(node)
        };
        tokio::select! {
            done = work => done,
            () = seat.tenure.ended() => Err(io::Error::from(io::ErrorKind::NotConnected).into()),
        }
    }

    async fn pass(mut self, seat: Seat, mut node: node::Secure) {
        let mut relay = Relay::new(&mut self.client, &mut node, &seat.tenure);
        let (end, why) = tokio::select! {
            () = seat.tenure.ended() => (End::Dropped, Some(Refusal::NodeLeft)),
            () = self.front.stop.cancelled() => (End::ClientGone, Some(Refusal::Drained)),
            end = &mut relay => {
                let why = match end {
                    End::Dropped => Some(Refusal::NodeLeft),
                    End::NodeLost => Some(Refusal::NodeLost),
                    End::Malformed => Some(Refusal::Protocol),
                    End::ClientGone | End::NodeSaid => None,
                };
                (end, why)
            }
        };
        let can_tell = relay.can_tell();
        tracing::debug!(node = seat.index, route = self.kind.name(), ?end, ?why, "a session ended");
        if matches!(end, End::Dropped | End::NodeLost) {
            self.front.hub.metrics.dropped(self.kind, seat.index);
        }
        if matches!(end, End::Dropped) {
            // What is still on its way to the node is thrown away.
            sockopt::set_socket_linger(node.get_ref().0, Some(Duration::ZERO)).ok();
        } else {
            timeout(FAREWELL, node.shutdown()).await.ok();
        }
        drop((node, seat));
        match why.filter(|_| can_tell) {
            Some(why) => {
                farewell(&mut self.client, why).await;
            }
            None => drop(timeout(FAREWELL, self.client.shutdown()).await),
        }
    }
}

/// Tells a client that it has to go, and waits a little until it has heard.
async fn farewell(client: &mut login::Secure, why: Refusal) -> LoginError {
    let told = async {
        let error = login::tell(client, why.fatal()).await;
        login::drain(client).await;
        error
    };
    timeout(FAREWELL, told).await.unwrap_or_else(|_| LoginError::Told(why.fatal()))
}

/// Whether a node that refuses a session may give one in a moment, or another node may: it is starting or stopping, or
/// its gate is shut.
fn is_passing(body: &[u8]) -> bool {
    let (code, message) = error_texts(body);
    matches!(code.as_str(), "57P01" | "57P02" | "57P03")
        || (code == "28000" && message.contains("pg_hba.conf"))
}

/// Waits for places.
struct Wait<'a> {
    front: &'a Front,
    kind: Kind,
    changes: tokio::sync::watch::Receiver<()>,
    /// Nodes that did not serve just now.
    tried: Vec<u8>,
}

impl<'a> Wait<'a> {
    fn new(front: &'a Front, kind: Kind) -> Self {
        Self { front, kind, changes: front.hub.changes(), tried: Vec::new() }
    }

    async fn seat(&mut self) -> Seat {
        loop {
            self.changes.mark_unchanged();
            if let Some(seat) = self.front.hub.take(self.kind, &self.tried) {
                return seat;
            }
            if self.tried.is_empty() {
                self.changes.changed().await.ok();
            } else {
                timeout(AGAIN, self.changes.changed()).await.ok();
                self.tried.clear();
            }
        }
    }
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
