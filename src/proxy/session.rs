//! One client: from its arrival to its end.
use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustix::net::sockopt;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, error::Elapsed, timeout, timeout_at},
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
    wait::Wait,
    wire::{message::error_texts, startup::Startup},
};
use crate::{
    messages::{LoginAnswer, LoginQuestion},
    names,
};

/// Time that a client has to say who it is and to prove it, as in PostgreSQL's `authentication_timeout`, but half.
const LOGIN: Duration = Duration::from_secs(30);
/// Time that a client is held while no node serves it.
const HOLD: Duration = Duration::from_secs(10);
/// Time for a connection to a node, TLS included.
const DIAL: Duration = Duration::from_secs(2);
/// Time for a last word to a client.
const FAREWELL: Duration = Duration::from_secs(3);

/// Silence after which the kernel asks whether a client or a node is still there; how often, and how many
/// times in vain. A lost machine sends no farewell.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(5), 6);

/// A client that has said what it wants.
struct Guest {
    front: Arc<Front>,
    kind: Kind,
    from: SocketAddr,
    client: login::Secure,
    startup: Startup,
    binding: Binding,
    /// Until when it must have proved who it is; what it is held for by others doesn't count.
    deadline: Instant,
}

/// Serves a client until it is done. `arriving` is its place among those who are logging in.
pub async fn serve(
    front: Arc<Front>,
    kind: Kind,
    client: TcpStream,
    from: SocketAddr,
    arriving: OwnedSemaphorePermit,
) {
    let begun = begin(&front, kind, client, from).await;
    drop(arriving);
    match begun {
        Ok(Some(Begun { guest, seat, node, place })) => guest.pass(place, seat, node).await,
        Ok(None) => {}
        Err(error) => tracing::debug!(%from, %error, route = kind.name(), "a client got no session"),
    }
}

/// Places of a session at the front and on a node, and the connection to that.
type Places = (OwnedSemaphorePermit, Seat, node::Secure);

/// A session that has begun.
struct Begun {
    guest: Box<Guest>,
    seat: Seat,
    node: node::Secure,
    place: OwnedSemaphorePermit,
}

async fn begin(
    front: &Arc<Front>,
    kind: Kind,
    client: TcpStream,
    from: SocketAddr,
) -> Result<Option<Begun>, LoginError> {
    prepare(&client)?;
    let deadline = Instant::now() + LOGIN;
    let served = front.certificate.current();
    let arrived = tokio::select! {
        arrived = timeout_at(deadline, login::arrive(client, &served)) => arrived.map_err(late)??,
        () = front.stop.cancelled() => return Ok(None),
    };
    match arrived {
        Arrival::Cancel(message, held) => {
            cancel::pass_on(front, kind, &message).await;
            drop(held);
            Ok(None)
        }
        Arrival::Session(client, startup) => {
            let (front, binding) = (Arc::clone(front), served.binding);
            let guest = Guest { front, kind, from, client: *client, startup, binding, deadline };
            Box::pin(Box::new(guest).come_in()).await
        }
    }
}

fn late(_: Elapsed) -> LoginError {
    LoginError::Io(io::ErrorKind::TimedOut.into())
}

impl Guest {
    /// Lets the client in, unless the front is shut down before.
    async fn come_in(mut self: Box<Self>) -> Result<Option<Begun>, LoginError> {
        let front = Arc::clone(&self.front);
        let done = tokio::select! {
            done = self.log_in() => Some(done),
            () = front.stop.cancelled() => None,
        };
        match done {
            Some(Ok(Some((place, seat, node)))) => Ok(Some(Begun { guest: self, seat, node, place })),
            Some(Ok(None)) => Ok(None),
            Some(Err(error)) => Err(error),
            None => Err(self.turn_away(Refusal::Drained).await),
        }
    }

    async fn log_in(&mut self) -> Result<Option<Places>, LoginError> {
        if self.front.is_full() {
            return Err(self.turn_away(Refusal::Full).await);
        }
        if let Some(fatal) = login::refused(&self.startup) {
            return Err(login::tell(&mut self.client, fatal).await);
        }
        if let Some(message) = self.startup.negotiation() {
            self.client.write_all(&message).await?;
        }
        let nobody = if self.kind == Kind::Primary { Refusal::NoPrimary } else { Refusal::NoNode };
        let asked = Instant::now();
        let Ok(answer) = timeout_at(asked + HOLD, self.ask_for_verifier()).await else {
            return Err(self.turn_away(nobody).await);
        };
        self.deadline += asked.elapsed();
        let Ok(verifier) = answer.verifier.parse::<Verifier>() else {
            return Err(self.turn_away(Refusal::Md5).await);
        };
        let key = self.prove(&verifier, answer.genuine).await?;
        let Ok(place) = Arc::clone(&self.front.places).try_acquire_owned() else {
            return Err(self.turn_away(Refusal::Full).await);
        };
        let (mut seat, node) = match timeout(HOLD, self.find_node(&key, &verifier)).await {
            Ok(Ok((seat, node))) => (seat, node),
            Ok(Err(NodeError::Refused(said))) => {
                last_words(&mut self.client, &said.bytes()).await;
                return Ok(None);
            }
            Ok(Err(_)) | Err(_) => return Err(self.turn_away(nobody).await),
        };
        login::admit(&mut self.client).await?;
        seat.count();
        Ok(Some((place, seat, node)))
    }

    /// Has the client prove its password.
    async fn prove(&mut self, verifier: &Verifier, genuine: bool) -> Result<ClientKey, LoginError> {
        let (user, verifier) = (self.startup.user().unwrap_or_default().to_owned(), verifier.clone());
        let check = if genuine { Check::Password(verifier) } else { Check::InVain(verifier) };
        let proof = login::prove(&mut self.client, &user, check, self.binding.clone());
        let proved = timeout_at(self.deadline, proof).await.map_err(late)?;
        if let Err(LoginError::Told(fatal)) = &proved
            && fatal.code == login::WRONG_PASSWORD
        {
            // The nodes see nothing of it: who guesses passwords is seen here or nowhere.
            tracing::info!(from = %self.from, ?user, route = self.kind.name(), "{}", fatal.message);
            self.front.hub.metrics.refused(self.kind, Refusal::Password);
        }
        proved
    }

    async fn turn_away(&mut self, why: Refusal) -> LoginError {
        self.front.hub.metrics.refused(self.kind, why);
        farewell(&mut self.client, why).await
    }

    /// What a node has stored of the role's password; waits for one as long as it is let.
    async fn ask_for_verifier(&self) -> LoginAnswer {
        let user = self.startup.user().unwrap_or_default().to_owned();
        let question = LoginQuestion { user };
        let mut wait = Wait::new(&self.front, self.kind);
        loop {
            let seat = wait.seat().await;
            match self.front.desk.verifier(seat.index, &self.front.host(seat.index), &question).await {
                Ok(answer) => return answer,
                Err(error) => {
                    tracing::debug!(node = seat.index, %error, "a node's agent gives no verifier");
                    wait.failed(&seat);
                }
            }
        }
    }

    /// Logs in to a node, or to another one where that fails for its own reasons.
    async fn find_node(
        &self,
        key: &ClientKey,
        verifier: &Verifier,
    ) -> Result<(Seat, node::Secure), NodeError> {
        let mut wait = Wait::new(&self.front, self.kind);
        loop {
            let seat = wait.seat().await;
            match self.try_to_log_in(&seat, key, verifier).await {
                Ok(node) => {
                    self.front.desk.takes_logins(seat.index);
                    return Ok((seat, node));
                }
                Err(NodeError::Refused(said)) if !is_passing(&said.body) => {
                    return Err(NodeError::Refused(said));
                }
                Err(error) => {
                    self.front.desk.refuses_logins(seat.index, &error);
                    wait.failed(&seat);
                }
            }
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

    async fn pass(mut self: Box<Self>, place: OwnedSemaphorePermit, seat: Seat, mut node: node::Secure) {
        let traffic = self.front.hub.metrics.traffic(self.kind, seat.index);
        let mut relay = Relay::new(&mut self.client, &mut node, &seat.tenure, traffic);
        let mut draining = false;
        let (end, why) = loop {
            tokio::select! {
                () = seat.tenure.ended() => break (End::Dropped, Some(Refusal::NodeLeft)),
                () = self.front.stop.cancelled() => {
                    let quiet = relay.is_quiet();
                    let why = if quiet { Refusal::Drained } else { Refusal::Interrupted };
                    break (End::ClientGone, Some(why));
                }
                () = self.front.drain.cancelled(), if !draining => {
                    draining = true;
                    relay.end_when_idle();
                }
                end = &mut relay => {
                    let why = match end {
                        End::Dropped => Some(Refusal::NodeLeft),
                        End::NodeLost => Some(Refusal::NodeLost),
                        End::Malformed => Some(Refusal::Protocol),
                        End::Idle => Some(Refusal::Drained),
                        End::ClientGone | End::NodeSaid => None,
                    };
                    break (end, why);
                }
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
        drop((node, place, seat));
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
    let fatal = why.fatal();
    last_words(client, &fatal.bytes()).await;
    LoginError::Told(fatal)
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

/// Whether a node that refuses a session may give one in a moment, or another node may: it is starting or stopping, or
/// its gate is shut.
fn is_passing(body: &[u8]) -> bool {
    let (code, message) = error_texts(body);
    matches!(code.as_str(), "57P01" | "57P02" | "57P03")
        || (code == "28000" && message.contains("pg_hba.conf"))
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
