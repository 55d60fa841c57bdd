//! Passes the bytes of a session both ways, and knows where it stands.
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep, sleep},
};

use super::cancel::Cancels;
use super::lane::{BUFFER, Cause, Lane, Watch};
use super::lease::Tenure;
use super::metrics::Traffic;
use super::screen::{Screen, Screened, Then, explained};
use super::state::{self, Kept, State};
use super::wire::{
    cycle::Cycle,
    walk::{Header, Part, Walk},
};
use crate::clock;

/// Time for what a node said before it stopped taking anything.
const LAST_WORD: Duration = Duration::from_millis(500);

/// How the passing ended.
#[derive(Debug)]
pub enum End {
    /// The client has gone, or said that it would.
    ClientGone,
    /// The node ended the session and said why.
    NodeSaid,
    /// The node's side broke off without a word.
    NodeLost,
    /// One side doesn't speak PostgreSQL's protocol.
    Malformed,
    /// The client asks for what it may not have.
    Refused,
}

/// Why it was left for a moment; it can go on.
#[derive(Debug)]
pub enum Pause {
    /// It is over.
    End(End),
    /// No transaction is open and nothing is under way, as it was waited for.
    Idle,
    /// The client has asked something that the node may not be sent.
    Forbidden,
    /// The node says to a session that has asked nothing that it ends.
    Farewell,
    /// The node says that something is done, and it may have been cancelled (R12).
    Doubt,
}

/// What is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything.
    All,
    /// Everything, until no transaction is open and nothing is under way.
    UntilIdle,
    /// What the node says; the client waits.
    Answers,
    /// Nothing; it is waited for what the client asks.
    Questions,
}

struct Up<'a> {
    tenure: &'a Tenure,
    /// The node is sent nothing any more.
    shut: bool,
    cycle: &'a mut Cycle,
    state: &'a mut State,
    screen: &'a mut Screen,
    refused: &'a mut bool,
    cancels: &'a Cancels,
    traffic: &'a Traffic,
}

impl Watch for Up<'_> {
    /// Looked at when something is sent, so that a front that was frozen sends nothing under a lease that is over.
    fn may_send(&self, _: Option<u8>) -> bool {
        !self.shut && self.tenure.may_send(clock::now())
    }

    fn carried(&self, bytes: u64) {
        self.traffic.to_node.inc_by(bytes);
    }

    fn screen(&mut self, bytes: &[u8], _: &Walk) -> Screened {
        let seen = self.screen.over(bytes, BUFFER);
        *self.refused |= matches!(seen.then, Then::Replace(..));
        seen
    }

    fn passed(&mut self, part: Part<'_>, read: Instant) {
        self.state.asked(part);
        if self.state.commits() {
            self.cancels.commits(true);
        }
        if let Part::Begins(seen) = part
            && self.cycle.asked(seen.tag)
        {
            self.traffic.questions.inc();
            self.traffic.added.observe(read.elapsed().as_secs_f64());
        }
    }
}

struct Down<'a> {
    cycle: &'a mut Cycle,
    state: &'a mut State,
    traffic: &'a Traffic,
    /// An error that nobody asked for isn't passed on: with it the node ends the session.
    withholds: bool,
    cancels: &'a Cancels,
    /// The message that comes next is behind a barrier.
    proved: &'a mut bool,
    /// An error may be about what took the place of a refused text.
    refused: bool,
}

impl Down<'_> {
    /// Looks at an error that comes next: it is passed on, or something else is, or it isn't there as a whole.
    fn explain(bytes: &[u8]) -> Then {
        match Header::of(bytes).map(Header::total) {
            Some(total) if total > BUFFER => Then::Nothing,
            Some(total) if total <= bytes.len() => {
                explained(&bytes[..total]).map_or(Then::Nothing, |instead| Then::Replace(total, instead))
            }
            _ => Then::More,
        }
    }
}

impl Watch for Down<'_> {
    fn may_send(&self, next: Option<u8>) -> bool {
        let success = next == Some(b'C') || (next == Some(b'Z') && !self.cycle.has_failed());
        if success && self.cancels.cast_doubt() && !*self.proved {
            return false;
        }
        !(self.withholds && next == Some(b'E') && self.cycle.is_quiet())
    }

    fn carried(&self, bytes: u64) {
        self.traffic.to_client.inc_by(bytes);
    }

    /// What comes after the end of an answer is looked at by itself; after a cancel request each message is, and after a
    /// refusal each error.
    fn screen(&mut self, bytes: &[u8], walk: &Walk) -> Screened {
        if self.refused && walk.at_boundary() && bytes.first() == Some(&b'E') {
            let then = Self::explain(bytes);
            if then != Then::Nothing {
                return Screened { cleared: 0, then };
            }
        }
        let cleared = match self.cancels.cast_doubt() {
            _ if walk.in_header() => walk.left(),
            false => answer_end(bytes, walk.left(), self.refused),
            true if walk.at_boundary() => 1,
            true => walk.left(),
        };
        Screened { cleared: cleared.min(bytes.len()), then: Then::Nothing }
    }

    fn passed(&mut self, part: Part<'_>, read: Instant) {
        if let Part::Begins(seen) = part {
            self.cycle.answered(seen);
        }
        self.state.answered(part, self.cycle.is_quiet());
        if let Part::Begins(seen) = part {
            *self.proved = false;
            if seen.tag == b'Z' {
                self.cancels.commits(self.state.commits());
                // What was sent ahead may be what the request has hit.
                if self.cycle.is_quiet() {
                    self.cancels.done();
                }
                self.traffic.added.observe(read.elapsed().as_secs_f64());
            }
        }
    }
}

/// Bytes up to the end of the next answer, or all; the first `left` belong to a message that has begun. With `errors` no
/// further than to the next error, but for one at the very beginning.
fn answer_end(bytes: &[u8], left: usize, errors: bool) -> usize {
    let mut at = left;
    while let Some(tag) = bytes.get(at) {
        if errors && *tag == b'E' && at > 0 {
            return at;
        }
        let Some(header) = Header::of(&bytes[at..]) else { break };
        at = at.saturating_add(header.total());
        if header.tag == b'Z' {
            return at;
        }
    }
    bytes.len()
}

/// Where a session stands; goes on when it is moved to another node.
#[derive(Default)]
pub struct Flow {
    up: Lane,
    down: Lane,
    cycle: Cycle,
    state: State,
    screen: Screen,
    /// A text of the client's was refused.
    refused: bool,
    cancels: Arc<Cancels>,
    /// The node's next message is behind a barrier.
    proved: bool,
    /// The lane that is looked at first has the other's turn the next time: neither can starve the other.
    down_first: bool,
}

impl Flow {
    /// Of a session that has just begun, to which such requests are passed on.
    pub fn new(cancels: Arc<Cancels>) -> Self {
        Self { cancels, ..Self::default() }
    }

    /// All that was committed before is on every attached node: what the node says next may be believed.
    pub fn is_proved(&mut self) {
        self.proved = true;
    }

    /// Whether no transaction is open and nothing is under way, but for what the node was not sent yet.
    pub fn is_idle(&self) -> bool {
        self.cycle.is_idle() && self.up.is_between() && self.down.is_between()
    }

    /// Whether it has nothing at its node that it would lose, and wishes to go on.
    pub fn is_bare(&self) -> bool {
        self.state.kept().is_none() && !self.is_leaving()
    }

    /// Whether it could go on at another node right now.
    pub fn is_movable(&self) -> bool {
        self.is_idle() && self.is_bare()
    }

    /// What it would lose at another node.
    pub fn kept(&self) -> Option<Kept> {
        self.state.kept()
    }

    /// Whether nothing that the node was asked is unanswered.
    pub fn is_quiet(&self) -> bool {
        self.cycle.is_quiet() && self.up.is_empty() && self.down.is_empty()
    }

    /// Whether the client is between two messages: then it can be told something.
    pub fn can_tell(&self) -> bool {
        self.down.at_boundary()
    }

    /// Whether the client has said that it goes.
    fn is_leaving(&self) -> bool {
        self.up.last == b'X'
    }

    /// Why what the client asks next can't be asked at another node: it goes by what was prepared or seen before.
    pub fn refers(&self) -> Option<Kept> {
        let asked = self.up.pending();
        match asked.first() {
            Some(b'B' | b'D' | b'E') => Some(Kept::Prepared),
            Some(b'Q' | b'P') => state::asks_for_the_past(asked).then_some(Kept::Sequence),
            _ => None,
        }
    }

    /// Bytes of memory that are kept for both ways.
    #[cfg(any(test, fuzzing))]
    pub fn room(&self) -> usize {
        self.up.room() + self.down.room()
    }

    /// What the former node said, and the client was not told, counts no more.
    pub fn forget_answers(&mut self) {
        self.down.forget();
    }
}

/// A session's two sides, as long as it is at one node.
pub struct Relay<'a, C, N> {
    client: &'a mut C,
    node: &'a mut N,
    tenure: &'a Tenure,
    flow: &'a mut Flow,
    traffic: Traffic,
    mode: Mode,
    /// The node may tell the client itself that the session ends.
    frank: bool,
    /// The node takes nothing any more; what it said before is waited for so long.
    deaf: Option<Pin<Box<Sleep>>>,
}

impl<'a, C, N> Relay<'a, C, N> {
    /// Of two that have logged in.
    pub fn new(
        client: &'a mut C,
        node: &'a mut N,
        tenure: &'a Tenure,
        flow: &'a mut Flow,
        traffic: Traffic,
    ) -> Self {
        Self { client, node, tenure, flow, traffic, mode: Mode::All, frank: false, deaf: None }
    }

    /// Where the session stands.
    pub fn flow(&self) -> &Flow {
        self.flow
    }

    /// What is passed on from now on.
    pub fn set(&mut self, mode: Mode) {
        self.mode = mode;
        if mode == Mode::Questions {
            // The node isn't listened to any more either.
            self.deaf = None;
        }
    }

    /// The connection to the client.
    pub fn client(&self) -> &C {
        self.client
    }

    /// The connection to the node.
    pub fn node(&self) -> &N {
        self.node
    }

    /// From now on the node may say that the session ends.
    pub fn be_frank(&mut self) {
        self.frank = true;
    }

    fn is_done(&self) -> bool {
        self.mode == Mode::UntilIdle && self.flow.is_idle() && self.flow.down.is_empty()
    }
}

impl<C, N> Relay<'_, C, N>
where
    C: AsyncRead + AsyncWrite + Unpin,
    N: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_up(&mut self, context: &mut Context<'_>) -> Poll<Pause> {
        let Flow { up, cycle, state, screen, refused, cancels, .. } = &mut *self.flow;
        let (tenure, traffic, shut) = (self.tenure, &self.traffic, self.mode == Mode::Questions);
        let watch = Up { tenure, shut, cycle, state, screen, refused, cancels, traffic };
        match ready!(up.poll(self.client, self.node, watch, context)) {
            Cause::Over | Cause::Reading => Poll::Ready(Pause::End(End::ClientGone)),
            // It goes: nothing has to be found for that.
            Cause::Forbidden if up.next() == Some(b'X') => Poll::Ready(Pause::End(End::ClientGone)),
            Cause::Forbidden => Poll::Ready(Pause::Forbidden),
            Cause::Malformed => Poll::Ready(Pause::End(End::Malformed)),
            Cause::Refused => Poll::Ready(Pause::End(End::Refused)),
            Cause::Writing => {
                self.deaf = Some(Box::pin(sleep(LAST_WORD)));
                Poll::Pending
            }
        }
    }

    fn poll_down(&mut self, context: &mut Context<'_>) -> Poll<Pause> {
        let withholds = !self.frank && self.flow.up.is_between() && !self.flow.is_leaving();
        let Flow { up, down, cycle, state, cancels, proved, refused, .. } = &mut *self.flow;
        let (traffic, refused) = (&self.traffic, *refused);
        let watch = Down { cycle, state, traffic, withholds, cancels, proved, refused };
        let cause = ready!(down.poll(self.node, self.client, watch, context));
        Poll::Ready(match cause {
            Cause::Over | Cause::Reading => Pause::End(lost(up, down)),
            Cause::Writing => Pause::End(End::ClientGone),
            Cause::Forbidden if down.next() == Some(b'E') => Pause::Farewell,
            Cause::Forbidden => Pause::Doubt,
            Cause::Malformed | Cause::Refused => Pause::End(End::Malformed),
        })
    }

    /// What a node that takes nothing any more has still to say.
    fn poll_last_word(&mut self, context: &mut Context<'_>) -> Poll<Pause> {
        if let Poll::Ready(pause) = self.poll_down(context) {
            return Poll::Ready(pause);
        }
        match &mut self.deaf {
            Some(patience) => {
                let over =
                    ready!(patience.as_mut().poll(context).map(|()| lost(&self.flow.up, &self.flow.down)));
                Poll::Ready(Pause::End(over))
            }
            None => Poll::Pending,
        }
    }
}

impl<C, N> Future for Relay<'_, C, N>
where
    C: AsyncRead + AsyncWrite + Unpin,
    N: AsyncRead + AsyncWrite + Unpin,
{
    type Output = Pause;

    /// May be polled again after it was ready, unless that was the end.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Pause> {
        let relay = &mut *self;
        if relay.is_done() {
            return Poll::Ready(Pause::Idle);
        }
        relay.flow.down_first = !relay.flow.down_first;
        let down_first = relay.flow.down_first;
        for down in [down_first, !down_first] {
            if relay.deaf.is_some() {
                break;
            }
            let polled = match (down, relay.mode) {
                (true, Mode::Questions) | (false, Mode::Answers) => continue,
                (true, _) => relay.poll_down(context),
                (false, _) => relay.poll_up(context),
            };
            if polled.is_ready() {
                return polled;
            }
        }
        if relay.deaf.is_some() {
            return relay.poll_last_word(context);
        }
        if relay.is_done() { Poll::Ready(Pause::Idle) } else { Poll::Pending }
    }
}

/// The node's side has ended: by the client's wish, with a word of its own, or without one.
fn lost(up: &Lane, down: &Lane) -> End {
    match (up.last, down.last) {
        (b'X', _) => End::ClientGone,
        (_, b'E') => End::NodeSaid,
        _ => End::NodeLost,
    }
}
