//! Passes the bytes of a session both ways, and follows the headers of the messages in them.
use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use super::lease::Tenure;
use super::metrics::Traffic;
use super::state::{Kept, State};
use super::wire::{
    cycle::Cycle,
    walk::{Part, Walk},
};
use crate::clock;

/// Bytes that are passed on at once: the most that a TLS record holds.
const BUFFER: usize = 16 * 1024;
/// Buffers that a thread keeps for its next sessions.
const SPARE: usize = 64;
/// Buffers that are passed one way before the other way has its turn.
const AT_A_TURN: usize = 8;
/// Time for what a node said before it stopped taking anything.
const LAST_WORD: Duration = Duration::from_millis(500);

thread_local! {
    /// A session that waits needs none: a thousand idle clients share these.
    static BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

fn borrow_buffer() -> Box<[u8]> {
    let spare = BUFFERS.with(|spare| spare.borrow_mut().pop());
    spare.unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice())
}

fn give_back(buffer: Box<[u8]>) {
    BUFFERS.with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < SPARE {
            spare.push(buffer);
        }
    });
}

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

/// Bytes under way in one direction.
#[derive(Default)]
struct Lane {
    buffer: Option<Box<[u8]>>,
    begin: usize,
    end: usize,
    /// Where in the stream the receiver is.
    walk: Walk,
    /// The last message that the receiver has got, at least in part.
    last: u8,
    unflushed: bool,
    /// When what is under way was read.
    read: Option<Instant>,
}

/// What a lane asks of the session that it is a part of.
trait Watch {
    /// Whether what comes next may be sent: a message of this kind, or more of one that has begun.
    fn may_send(&self, next: Option<u8>) -> bool;
    /// So many bytes were passed on.
    fn carried(&self, bytes: u64);
    /// The receiver has got this, which was read at this time.
    fn passed(&mut self, part: Part<'_>, read: Instant);
}

struct Up<'a> {
    tenure: &'a Tenure,
    /// The node is sent nothing any more.
    shut: bool,
    cycle: &'a mut Cycle,
    state: &'a mut State,
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

    fn passed(&mut self, part: Part<'_>, read: Instant) {
        self.state.asked(part);
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
}

impl Watch for Down<'_> {
    fn may_send(&self, next: Option<u8>) -> bool {
        !(self.withholds && next == Some(b'E') && self.cycle.is_quiet())
    }

    fn carried(&self, bytes: u64) {
        self.traffic.to_client.inc_by(bytes);
    }

    fn passed(&mut self, part: Part<'_>, read: Instant) {
        self.state.answered(part);
        if let Part::Begins(seen) = part {
            self.cycle.answered(seen);
            if seen.tag == b'Z' {
                self.traffic.added.observe(read.elapsed().as_secs_f64());
            }
        }
    }
}

/// Why a lane has ended.
enum Cause {
    /// Nothing comes any more.
    Over,
    /// The one who is read from is lost.
    Reading,
    /// The one who is written to is lost.
    Writing,
    /// Nothing may be sent any more.
    Forbidden,
    /// The stream can't be followed.
    Malformed,
}

impl Lane {
    /// Passes on what there is. After a few buffers the other lane has its turn.
    fn poll<R, W>(
        &mut self,
        from: &mut R,
        to: &mut W,
        mut watch: impl Watch,
        context: &mut Context<'_>,
    ) -> Poll<Cause>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut turns = 0;
        loop {
            if self.begin < self.end {
                if !watch.may_send(self.next()) {
                    return Poll::Ready(Cause::Forbidden);
                }
                match ready!(self.poll_send(to, &mut watch, context)) {
                    Ok(()) => continue,
                    Err(cause) => return Poll::Ready(cause),
                }
            }
            if turns == AT_A_TURN {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            turns += 1;
            match self.poll_fill(from, context) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Cause::Over),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Cause::Reading),
                Poll::Pending => {
                    self.return_buffer();
                    if self.unflushed {
                        if !watch.may_send(None) {
                            return Poll::Ready(Cause::Forbidden);
                        }
                        match ready!(Pin::new(to).poll_flush(context)) {
                            Ok(()) => self.unflushed = false,
                            Err(_) => return Poll::Ready(Cause::Writing),
                        }
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// True while nothing is under way here.
    fn is_empty(&self) -> bool {
        self.begin == self.end && self.is_between()
    }

    /// True while the receiver has whole messages, whatever is still to be sent.
    fn is_between(&self) -> bool {
        !self.unflushed && self.walk.at_boundary()
    }

    /// The kind of the message that begins with the next byte.
    fn next(&self) -> Option<u8> {
        let bytes = self.buffer.as_deref().unwrap_or_default();
        bytes.get(self.begin).copied().filter(|_| self.walk.at_boundary())
    }

    /// Forgets what was not sent.
    fn forget(&mut self) {
        *self = Self::default();
    }

    fn return_buffer(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            give_back(buffer);
        }
    }

    fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        from: &mut R,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let buffer = self.buffer.get_or_insert_with(borrow_buffer);
        let mut room = ReadBuf::new(buffer);
        ready!(Pin::new(from).poll_read(context, &mut room))?;
        (self.begin, self.end) = (0, room.filled().len());
        self.read = Some(Instant::now());
        Poll::Ready(Ok(self.end))
    }

    /// What the receiver has taken is walked over: so one knows whether it is between two messages.
    fn poll_send<W: AsyncWrite + Unpin>(
        &mut self,
        to: &mut W,
        watch: &mut impl Watch,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Cause>> {
        let bytes = self.buffer.as_deref().unwrap_or_default();
        let bytes = &bytes[self.begin..self.end];
        let sent = match ready!(Pin::new(to).poll_write(context, bytes)) {
            Ok(0) | Err(_) => return Poll::Ready(Err(Cause::Writing)),
            Ok(sent) => sent,
        };
        self.unflushed = true;
        let last = &mut self.last;
        let read = self.read.unwrap_or_else(Instant::now);
        let walked = self.walk.over(&bytes[..sent], |part| {
            if let Part::Begins(seen) = part {
                *last = seen.tag;
            }
            watch.passed(part, read);
        });
        watch.carried(sent as u64);
        self.begin += sent;
        Poll::Ready(walked.map_err(|_| Cause::Malformed))
    }
}

/// Where a session stands; goes on when it is moved to another node.
#[derive(Default)]
pub struct Flow {
    up: Lane,
    down: Lane,
    cycle: Cycle,
    state: State,
    /// The lane that is looked at first has the other's turn the next time: neither can starve the other.
    down_first: bool,
}

impl Flow {
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
        self.down.walk.at_boundary()
    }

    /// Whether the client has said that it goes.
    fn is_leaving(&self) -> bool {
        self.up.last == b'X'
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
        let Flow { up, cycle, state, .. } = &mut *self.flow;
        let shut = self.mode == Mode::Questions;
        let watch = Up { tenure: self.tenure, shut, cycle, state, traffic: &self.traffic };
        match ready!(up.poll(self.client, self.node, watch, context)) {
            Cause::Over | Cause::Reading => Poll::Ready(Pause::End(End::ClientGone)),
            // It goes: nothing has to be found for that.
            Cause::Forbidden if up.next() == Some(b'X') => Poll::Ready(Pause::End(End::ClientGone)),
            Cause::Forbidden => Poll::Ready(Pause::Forbidden),
            Cause::Malformed => Poll::Ready(Pause::End(End::Malformed)),
            Cause::Writing => {
                self.deaf = Some(Box::pin(sleep(LAST_WORD)));
                Poll::Pending
            }
        }
    }

    fn poll_down(&mut self, context: &mut Context<'_>) -> Poll<Pause> {
        let withholds = !self.frank && self.flow.up.is_between() && !self.flow.is_leaving();
        let Flow { up, down, cycle, state, .. } = &mut *self.flow;
        let watch = Down { cycle, state, traffic: &self.traffic, withholds };
        let cause = ready!(down.poll(self.node, self.client, watch, context));
        Poll::Ready(match cause {
            Cause::Over | Cause::Reading => Pause::End(lost(up, down)),
            Cause::Writing => Pause::End(End::ClientGone),
            Cause::Forbidden => Pause::Farewell,
            Cause::Malformed => Pause::End(End::Malformed),
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
