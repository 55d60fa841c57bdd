//! A session that has begun: bytes are passed, it waits where it must, and goes on at another node where it can.
use std::{pin::Pin, time::Duration};

use futures::future::OptionFuture;
use rustix::net::sockopt;
use tokio::{
    io::AsyncWriteExt,
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::super::{
    Front, abandoned,
    cancel::{Key, Registered},
    hold::{Course, View, course},
    hub::Seat,
    lease::Standing,
    login::{self, LoginError},
    node::{self, Greeting, NodeError},
    places::Place,
    refusal::Refusal,
    relay::{End, Flow, Mode, Pause, Relay},
    route::Kind,
    wire::message::encode,
};
use super::{
    FAREWELL,
    guest::{Credentials, Guest, Landing, is_passing},
    held::{Unheld, gone, held},
    last_words, late,
};

/// A node that says that a session ends may say so of itself: its agent is heard no later than this.
const NEWS: Duration = Duration::from_secs(1);
/// Time until a commit that follows a cancelled one is on every attached node.
const BARRIER: Duration = Duration::from_secs(30);
/// What a node said before its time was over arrives no later than this.
const LATE: Duration = Duration::from_millis(300);
/// Between two tries to log in to a node that is full.
const AGAIN: Duration = Duration::from_millis(100);
/// Time for a node that is left to hear of it.
const PARTING: Duration = Duration::from_millis(200);

/// A session. Boxed, since each future through which it passed as a value would keep room for it.
pub struct Running {
    guest: Box<Guest>,
    place: Place,
    credentials: Credentials,
    seat: Seat,
    node: node::Secure,
    key: Registered,
    /// What the node calls it.
    theirs: Key,
    /// The connection to the node was broken off.
    broken_off: bool,
    /// The settings that the client was told of at last.
    told: Vec<u8>,
    flow: Flow,
}

/// Why the bytes are passed no further.
enum Turn {
    /// The session goes on at another node.
    Move,
    /// What the node says next is believed only behind a barrier.
    Doubt,
    /// It ends, for this reason; none: the client knows, or has gone.
    End(End, Option<Refusal>),
}

impl Running {
    /// Tells the client that it is in.
    pub async fn begin(
        mut guest: Box<Guest>,
        place: Place,
        credentials: Credentials,
        landing: Landing,
    ) -> Result<Box<Self>, LoginError> {
        let Landing { mut seat, node, greeting: Greeting { said: told, key: theirs } } = landing;
        let key = guest.front.keys.register(guest.kind, seat.index, theirs);
        timeout(FAREWELL, login::admit(&mut guest.client, &told, &key.key)).await.map_err(late)??;
        seat.count(false);
        let flow = Flow::new(key.cancels.clone());
        let broken_off = false;
        Ok(Box::new(Self { guest, place, credentials, seat, node, key, theirs, broken_off, told, flow }))
    }

    /// Runs until it is over.
    pub async fn run(mut self: Box<Self>) {
        let (end, why) = loop {
            match self.pass().await {
                // These are rare: an idle session has no room for them.
                Turn::Move => match Box::pin(self.go_on_elsewhere()).await {
                    Ok(()) => {}
                    Err(Stranded::Refusal(why)) => break (End::NodeLost, Some(why)),
                    Err(Stranded::Node(said)) => {
                        return Box::pin(last_words(&mut self.guest.client, &said)).await;
                    }
                    Err(Stranded::Deaf) => break (End::NodeLost, None),
                    Err(Stranded::Gone) => break (End::ClientGone, None),
                },
                Turn::Doubt => match Box::pin(self.prove()).await {
                    Ok(()) => self.flow.is_proved(),
                    Err(Stranded::Refusal(why)) => break (End::NodeLost, Some(why)),
                    Err(_) => break (End::ClientGone, None),
                },
                Turn::End(end, why) => break (end, why),
            }
        };
        Box::pin(self.end(&end, why)).await;
    }

    /// Passes bytes until something else has to be done.
    async fn pass(&mut self) -> Turn {
        let Self { guest, seat, node, flow, theirs, broken_off, .. } = self;
        let (front, kind) = (guest.front.clone(), guest.kind);
        let traffic = front.hub.metrics.traffic(kind, seat.index);
        let mut standing = seat.tenure.watch();
        let mut relay = Relay::new(&mut guest.client, node, &seat.tenure, flow, traffic);
        let mut wait = Waiting::new(front.limits.hold);
        loop {
            let stands = if wait.lost { Standing::Over } else { *standing.borrow_and_update() };
            let view = wait.view(stands, kind, relay.flow(), front.drain.is_cancelled());
            let mode = match course(view) {
                Course::Pass(mode) => mode,
                Course::Move => match relay.flow().refers() {
                    Some(kept) => return Turn::End(End::NodeLost, Some(Refusal::Stranded(Some(kept)))),
                    None => return Turn::Move,
                },
                Course::Drained => return Turn::End(End::ClientGone, Some(Refusal::Drained)),
                Course::End => {
                    return Turn::End(End::NodeLost, Some(parted(relay.flow(), Refusal::NodeLeft)));
                }
            };
            if wait.enters(mode, stands) {
                front.hub.metrics.waits(kind, seat.index, reason(stands));
            }
            if mode == Mode::Questions && stands == Standing::Over {
                break_off(&front, seat, relay.node(), *theirs, broken_off);
                seat.leave();
            }
            relay.set(mode);
            // Who isn't read may have gone all the same.
            let gone =
                (mode == Mode::Answers).then(|| -> Gone { Box::pin(gone(relay.client().get_ref().0)) });
            tokio::select! {
                Some(()) = OptionFuture::from(gone) => return Turn::End(End::ClientGone, None),
                _ = standing.changed(), if !wait.lost => {}
                () = sleep_until(wait.until(stands)), if mode == Mode::Answers
                    && (stands == Standing::Over || !view.tired) => {}
                () = front.stop.cancelled() => {
                    let quiet = relay.flow().is_quiet();
                    let why = if quiet { Refusal::Drained } else { Refusal::Interrupted };
                    return Turn::End(End::ClientGone, Some(why));
                }
                () = front.drain.cancelled(), if !view.draining => {}
                pause = &mut relay => match pause {
                    Pause::Idle => {}
                    Pause::Forbidden => wait.asked = true,
                    Pause::Farewell if !is_news(&mut standing).await => relay.be_frank(),
                    Pause::Farewell if relay.flow().is_idle() => wait.lost = true,
                    // One in a transaction can't go on. Its node wouldn't say what became of that, and says nothing more:
                    // to wait for it as for an answer would be to see the same word again and again.
                    Pause::Farewell => return Turn::End(End::NodeLost, Some(Refusal::NodeLeft)),
                    Pause::Doubt => return Turn::Doubt,
                    Pause::End(End::NodeLost) if relay.flow().is_movable() => wait.lost = true,
                    Pause::End(end) => {
                        let why = why_ended(&end, relay.flow());
                        return Turn::End(end, why);
                    }
                }
            }
        }
    }

    /// R12: commits something in the same node, and waits until every attached node has it. Then they have all that was
    /// committed before, also what was acknowledged too early since its wait was cancelled.
    async fn prove(&self) -> Result<(), Stranded> {
        let front = &self.guest.front;
        front.hub.metrics.doubted(self.guest.kind, self.seat.index);
        let proof = async {
            let mut node = loop {
                match self.guest.try_to_log_in(&self.seat, &self.credentials).await {
                    Ok((node, _)) => break node,
                    // It is full: somebody will leave.
                    Err(NodeError::Refused(said)) if is_passing(&said.body, true) => sleep(AGAIN).await,
                    Err(NodeError::Late) => {}
                    Err(error) => return Err(error),
                }
            };
            node::barrier(&mut node, self.guest.kind == Kind::Primary).await
        };
        let proved = tokio::select! {
            proved = held(&self.guest.client, BARRIER, proof) => proved,
            () = front.stop.cancelled() => return Err(Stranded::Refusal(Refusal::Doubtful)),
        };
        match proved {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                tracing::warn!(node = self.seat.index, %error, "a cancelled statement could not be confirmed");
                Err(Stranded::Refusal(Refusal::Doubtful))
            }
            Err(Unheld::Late) => Err(Stranded::Refusal(Refusal::Doubtful)),
            Err(Unheld::Gone) => Err(Stranded::Gone),
        }
    }

    /// Logs in to another node; the client notices nothing but the time.
    async fn go_on_elsewhere(&mut self) -> Result<(), Stranded> {
        let front = self.guest.front.clone();
        let from = self.seat.index;
        self.part().await;
        let landing = tokio::select! {
            found = held(&self.guest.client, front.limits.hold, self.guest.find_node(&self.credentials, true)) => match found {
                Ok(Ok(landing)) => landing,
                // Its password was changed, or its database dropped: the node's own words.
                Ok(Err(NodeError::Refused(said))) => return Err(Stranded::Node(said.bytes())),
                Err(Unheld::Gone) => return Err(Stranded::Gone),
                Ok(Err(_)) | Err(Unheld::Late) => return Err(Stranded::Refusal(Refusal::Stranded(None))),
            },
            () = front.stop.cancelled() => return Err(Stranded::Refusal(Refusal::Drained)),
        };
        let Landing { mut seat, node, greeting } = landing;
        seat.count(true);
        tracing::debug!(from, to = seat.index, route = self.guest.kind.name(), "a session was moved");
        self.key.points_to(seat.index, greeting.key);
        (self.seat, self.node, self.theirs, self.broken_off) = (seat, node, greeting.key, false);
        if greeting.said != self.told {
            let telling = async {
                self.guest.client.write_all(&greeting.said).await?;
                self.guest.client.flush().await
            };
            match timeout(FAREWELL, telling).await {
                Ok(Ok(())) => self.told = greeting.said,
                Ok(Err(_)) | Err(_) => return Err(Stranded::Deaf),
            }
        }
        Ok(())
    }

    /// Leaves the node in order, where it still listens: it need not wait for a session that nobody has any more.
    async fn part(&mut self) {
        self.flow.forget_answers();
        if matches!(self.seat.tenure.standing(), Standing::Lapsed | Standing::Over) {
            return break_off(&self.guest.front, &self.seat, &self.node, self.theirs, &mut self.broken_off);
        }
        let parting = async {
            self.node.write_all(&encode(b'X', &[])).await?;
            self.node.shutdown().await
        };
        timeout(PARTING, parting).await.ok();
    }

    async fn end(self: Box<Self>, end: &End, why: Option<Refusal>) {
        let Self { mut guest, place, seat, mut node, flow, theirs, mut broken_off, .. } = *self;
        tracing::debug!(node = seat.index, route = guest.kind.name(), ?end, ?why, "a session ended");
        if matches!(end, End::NodeLost) {
            guest.front.hub.metrics.dropped(guest.kind, seat.index);
        }
        if matches!(seat.tenure.standing(), Standing::Lapsed | Standing::Over) {
            break_off(&guest.front, &seat, &node, theirs, &mut broken_off);
        } else {
            timeout(FAREWELL, node.shutdown()).await.ok();
        }
        drop((node, place, seat));
        match why.filter(|_| flow.can_tell()) {
            Some(why) => {
                last_words(&mut guest.client, &why.fatal().bytes()).await;
            }
            None => drop(timeout(FAREWELL, guest.client.shutdown()).await),
        }
    }
}

/// The node is done with: what is still on its way to it is thrown away. It may not hear, so it is told once more by its agent.
fn break_off(front: &Front, seat: &Seat, node: &node::Secure, key: Key, done: &mut bool) {
    if std::mem::replace(done, true) {
        return;
    }
    if let Some(session) = abandoned::session(node, seat.tenure.boot(), key) {
        front.abandoned.note(seat.index, session);
    }
    sockopt::set_socket_linger(node.get_ref().0, Some(Duration::ZERO)).ok();
    rustix::net::shutdown(node.get_ref().0, rustix::net::Shutdown::Both).ok();
}

/// What a session waits for while it is at a node.
struct Waiting {
    /// So long it may be held.
    hold: Duration,
    /// The node's side has ended.
    lost: bool,
    /// The client has asked something that could not be sent.
    asked: bool,
    /// Since when it has been held.
    since: Option<Instant>,
    /// Since when its node's time is over.
    over: Option<Instant>,
}

impl Waiting {
    fn new(hold: Duration) -> Self {
        Self { hold, lost: false, asked: false, since: None, over: None }
    }

    fn view(&mut self, standing: Standing, kind: Kind, flow: &Flow, draining: bool) -> View {
        let now = Instant::now();
        if standing == Standing::Over {
            self.over.get_or_insert(now);
        }
        View {
            standing,
            kind,
            idle: flow.is_idle(),
            bare: flow.is_bare(),
            waiting: self.asked,
            draining,
            tired: self.since.is_some_and(|since| now >= since + self.hold),
            late: self.over.is_some_and(|since| now >= since + LATE),
        }
    }

    /// True when holding begins.
    fn enters(&mut self, mode: Mode, standing: Standing) -> bool {
        if standing == Standing::Serving {
            (self.asked, self.since) = (false, None);
        }
        let begins = mode == Mode::Answers && self.since.is_none();
        if begins {
            self.since = Some(Instant::now());
        }
        begins
    }

    /// When it has been held for long enough.
    fn until(&self, standing: Standing) -> Instant {
        match (standing, self.over) {
            (Standing::Over, Some(since)) => since + LATE,
            _ => self.since.unwrap_or_else(Instant::now) + self.hold,
        }
    }
}

/// Why a session that could have gone on did not.
enum Stranded {
    /// For a reason of the front's.
    Refusal(Refusal),
    /// The node that it was to go to said this.
    Node(Vec<u8>),
    /// The client took nothing of it, or only a part: nothing can be said behind that.
    Deaf,
    /// The client has gone meanwhile.
    Gone,
}

/// The end of a client that isn't read; an idle session has no room for it.
type Gone = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Whether a node that takes leave of one session does so of all: it doesn't serve as before.
async fn is_news(standing: &mut watch::Receiver<Standing>) -> bool {
    let leaves = standing.wait_for(|standing| *standing != Standing::Serving);
    timeout(NEWS, leaves).await.is_ok()
}

fn reason(standing: Standing) -> &'static str {
    if standing == Standing::Lapsed { "lapsed" } else { "leaving" }
}

/// What a client is told of an end that it didn't wish for and that nobody else has told it of.
fn why_ended(end: &End, flow: &Flow) -> Option<Refusal> {
    match end {
        End::NodeLost => Some(parted(flow, Refusal::NodeLost)),
        End::Malformed => Some(Refusal::Protocol),
        End::Refused => Some(Refusal::Setting),
        End::ClientGone | End::NodeSaid => None,
    }
}

/// What a session is told whose node has left or is lost; in one that is `busy` something may have been broken off.
fn parted(flow: &Flow, busy: Refusal) -> Refusal {
    if flow.is_idle() { Refusal::Stranded(flow.kept()) } else { busy }
}
