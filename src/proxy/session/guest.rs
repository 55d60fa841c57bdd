//! A client that logs in: to the front, and in its place to a node.
use std::{io, net::SocketAddr, sync::Arc};

use tokio::{
    io::AsyncWriteExt,
    time::{Instant, timeout, timeout_at},
};

use super::super::{
    Front,
    auth::{Binding, ClientKey, Login, Verifier},
    hub::Seat,
    login::{self, Check, LoginError},
    metrics::Reason,
    node::{self, Greeting, NodeError},
    places::Place,
    refusal::Refusal,
    route::Kind,
    wait::Wait,
    wire::{message::error_texts, startup::Startup},
};
use super::{
    DIAL, dial,
    held::{Unheld, held},
    last_words, late,
    running::Running,
};
use crate::messages::{LoginAnswer, LoginQuestion};

/// The SQLSTATE of a node that has no place for a session, as many as there are or of its role or database (PostgreSQL
/// docs, "PostgreSQL Error Codes").
const TOO_MANY: &str = "53300";

/// A client that has said what it wants.
pub struct Guest {
    pub front: Arc<Front>,
    pub kind: Kind,
    pub from: SocketAddr,
    pub client: login::Secure,
    pub startup: Startup,
    pub binding: Binding,
    /// Until when it must have proved who it is; what it is held for by others doesn't count.
    pub deadline: Instant,
}

/// With what a client is logged in to a node, as long as its session lasts.
pub struct Credentials {
    key: ClientKey,
    verifier: Verifier,
}

/// A login at a node.
pub struct Landing {
    /// The place there.
    pub seat: Seat,
    /// The connection.
    pub node: node::Secure,
    /// What the node said.
    pub greeting: Greeting,
}

/// A place at the front, with what a node was logged in to, and that.
type Admission = (Place, Credentials, Landing);

impl Guest {
    /// Lets the client in, unless the front is shut down before.
    pub async fn come_in(mut self: Box<Self>) -> Result<Option<Box<Running>>, LoginError> {
        let front = Arc::clone(&self.front);
        let done = tokio::select! {
            done = self.log_in() => Some(done),
            () = front.stop.cancelled() => None,
        };
        match done {
            Some(Ok(Some((place, credentials, landing)))) => {
                Ok(Some(Running::begin(self, place, credentials, landing).await?))
            }
            Some(Ok(None)) => Ok(None),
            Some(Err(error)) => Err(error),
            None => Err(self.turn_away(Refusal::Drained).await),
        }
    }

    async fn log_in(&mut self) -> Result<Option<Admission>, LoginError> {
        if self.front.places.is_full() {
            return Err(self.turn_away(Refusal::Full).await);
        }
        if let Some(fatal) = login::refused(&self.startup) {
            last_words(&mut self.client, &fatal.bytes()).await;
            return Err(LoginError::Told(fatal));
        }
        if let Some(message) = self.startup.negotiation() {
            timeout_at(self.deadline, self.client.write_all(&message)).await.map_err(late)??;
        }
        let hold = self.front.limits.hold;
        let nobody = if self.kind == Kind::Primary { Refusal::NoPrimary } else { Refusal::NoNode };
        let asked = Instant::now();
        let answer = match held(&self.client, hold, Box::pin(self.ask_for_verifier())).await {
            Ok(answer) => answer,
            Err(Unheld::Late) => return Err(self.turn_away(nobody).await),
            Err(Unheld::Gone) => return Ok(None),
        };
        self.deadline += asked.elapsed();
        let Ok(verifier) = answer.verifier.parse::<Verifier>() else {
            return Err(self.turn_away(Refusal::Md5).await);
        };
        let key = self.prove(&verifier, answer.genuine).await?;
        let place = match self.front.places.take(self.startup.user().unwrap_or_default()) {
            Ok(place) => place,
            Err(why) => return Err(self.turn_away(why).await),
        };
        let credentials = Credentials { key, verifier };
        match held(&self.client, hold, Box::pin(self.find_node(&credentials, false))).await {
            Ok(Ok(landing)) => Ok(Some((place, credentials, landing))),
            Ok(Err(NodeError::Refused(said))) => {
                let full = error_texts(&said.body).0 == TOO_MANY;
                let reason = if full { Reason::NodeFull } else { Reason::Node };
                self.front.hub.metrics.refused(self.kind, reason);
                last_words(&mut self.client, &said.bytes()).await;
                Ok(None)
            }
            Err(Unheld::Gone) => Ok(None),
            Ok(Err(_)) | Err(Unheld::Late) => Err(self.turn_away(nobody).await),
        }
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
        }
        proved
    }

    async fn turn_away(&mut self, why: Refusal) -> LoginError {
        if let Some(reason) = why.reason() {
            self.front.hub.metrics.refused(self.kind, reason);
        }
        let mut fatal = why.fatal();
        if why == Refusal::UserFull {
            // PostgreSQL's own words.
            let user = self.startup.user().unwrap_or_default();
            fatal.message = format!("too many connections for role \"{user}\"");
        }
        last_words(&mut self.client, &fatal.bytes()).await;
        LoginError::TurnedAway(why)
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

    /// Logs in to a node, or to another one where that fails for its own reasons. A session that is `moved` waits where
    /// its node is full: its own former place there may not be free yet.
    pub async fn find_node(&self, credentials: &Credentials, moved: bool) -> Result<Landing, NodeError> {
        let mut wait = Wait::new(&self.front, self.kind);
        loop {
            let seat = wait.seat().await;
            match self.try_to_log_in(&seat, credentials).await {
                Ok((node, greeting)) => {
                    self.front.desk.takes_logins(seat.index);
                    return Ok(Landing { seat, node, greeting });
                }
                Err(NodeError::Refused(said)) if !is_passing(&said.body, moved) => {
                    return Err(NodeError::Refused(said));
                }
                Err(error) => {
                    self.front.desk.refuses_logins(seat.index, &error);
                    wait.failed(&seat);
                }
            }
        }
    }

    /// Logs in to the node of this place.
    pub async fn try_to_log_in(
        &self,
        seat: &Seat,
        credentials: &Credentials,
    ) -> Result<(node::Secure, Greeting), NodeError> {
        let login = Login::new(credentials.key.clone())?;
        let work = async {
            let dialled = timeout(DIAL, dial(&self.front, seat.index)).await;
            let mut node = dialled.map_err(|_| NodeError::Late)??;
            let greeted = node::log_in(&mut node, &self.startup, login, &credentials.verifier);
            let greeting =
                timeout(self.front.limits.greeting, greeted).await.map_err(|_| NodeError::Late)??;
            Ok((node, greeting))
        };
        tokio::select! {
            done = work => done,
            () = seat.tenure.ended() => Err(io::Error::from(io::ErrorKind::NotConnected).into()),
        }
    }
}

/// Whether a node that refuses a session may give one in a moment, or another node may: it is starting or stopping, or
/// its gate is shut, or, for who may wait, it is full.
pub fn is_passing(body: &[u8], full: bool) -> bool {
    let (code, message) = error_texts(body);
    if full && code == TOO_MANY {
        return true;
    }
    matches!(code.as_str(), "57P01" | "57P02" | "57P03")
        || (code == "28000" && message.contains("pg_hba.conf"))
}
