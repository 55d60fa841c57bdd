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
    time::{Sleep, sleep},
};

use super::hub::Tenure;
use super::metrics::Traffic;
use super::wire::{
    cycle::Cycle,
    walk::{Seen, Walk},
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
    /// The node may not be spoken to any more.
    Dropped,
    /// One side doesn't speak PostgreSQL's protocol.
    Malformed,
    /// It was to end as soon as nothing was under way in it, and nothing is.
    Idle,
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
}

/// What a lane asks of the session that it is a part of.
trait Watch {
    /// Whether anything may be sent.
    fn may_send(&self) -> bool;
    /// So many bytes were passed on.
    fn carried(&self, bytes: u64);
    /// The receiver has got a message, at least in part.
    fn passed(&mut self, seen: Seen);
}

struct Up<'a> {
    tenure: &'a Tenure,
    cycle: &'a mut Cycle,
    traffic: &'a Traffic,
}

impl Watch for Up<'_> {
    /// Looked at when something is sent, so that a front that was frozen sends nothing under a lease that is over.
    fn may_send(&self) -> bool {
        self.tenure.stands(clock::now())
    }

    fn carried(&self, bytes: u64) {
        self.traffic.to_node.inc_by(bytes);
    }

    fn passed(&mut self, seen: Seen) {
        if self.cycle.asked(seen.tag) {
            self.traffic.questions.inc();
        }
    }
}

struct Down<'a> {
    cycle: &'a mut Cycle,
    traffic: &'a Traffic,
}

impl Watch for Down<'_> {
    fn may_send(&self) -> bool {
        true
    }

    fn carried(&self, bytes: u64) {
        self.traffic.to_client.inc_by(bytes);
    }

    fn passed(&mut self, seen: Seen) {
        self.cycle.answered(seen);
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
                if !watch.may_send() {
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
                        if !watch.may_send() {
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
        self.begin == self.end && !self.unflushed && self.walk.at_boundary()
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
        let walked = self.walk.over(&bytes[..sent], |seen| {
            *last = seen.tag;
            watch.passed(seen);
        });
        watch.carried(sent as u64);
        self.begin += sent;
        Poll::Ready(walked.map_err(|_| Cause::Malformed))
    }
}

/// A session between a client and a node.
pub struct Relay<'a, C, N> {
    client: &'a mut C,
    node: &'a mut N,
    tenure: &'a Tenure,
    up: Lane,
    down: Lane,
    cycle: Cycle,
    traffic: Traffic,
    /// It ends as soon as it is idle.
    ending: bool,
    /// The lane that is looked at first has the other's turn the next time: neither can starve the other.
    down_first: bool,
    /// The node takes nothing any more; what it said before is waited for so long.
    deaf: Option<Pin<Box<Sleep>>>,
}

impl<'a, C, N> Relay<'a, C, N> {
    /// Of two that have logged in.
    pub fn new(client: &'a mut C, node: &'a mut N, tenure: &'a Tenure, traffic: Traffic) -> Self {
        Self {
            client,
            node,
            tenure,
            up: Lane::default(),
            down: Lane::default(),
            cycle: Cycle::default(),
            traffic,
            ending: false,
            down_first: false,
            deaf: None,
        }
    }

    /// Whether the client is between two messages: then it can be told something.
    pub fn can_tell(&self) -> bool {
        self.down.walk.at_boundary()
    }

    /// Whether nothing that the node was asked is unanswered.
    pub fn is_quiet(&self) -> bool {
        self.cycle.is_quiet() && self.up.is_empty() && self.down.is_empty()
    }

    /// Ends as soon as no transaction is open and nothing is under way.
    pub fn end_when_idle(&mut self) {
        self.ending = true;
    }

    fn is_done(&self) -> bool {
        self.ending && self.is_quiet() && self.cycle.is_idle()
    }
}

impl<C, N> Relay<'_, C, N>
where
    C: AsyncRead + AsyncWrite + Unpin,
    N: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_up(&mut self, context: &mut Context<'_>) -> Poll<End> {
        let watch = Up { tenure: self.tenure, cycle: &mut self.cycle, traffic: &self.traffic };
        match ready!(self.up.poll(self.client, self.node, watch, context)) {
            Cause::Over | Cause::Reading => Poll::Ready(End::ClientGone),
            Cause::Forbidden => Poll::Ready(End::Dropped),
            Cause::Malformed => Poll::Ready(End::Malformed),
            Cause::Writing => {
                self.deaf = Some(Box::pin(sleep(LAST_WORD)));
                Poll::Pending
            }
        }
    }

    fn poll_down(&mut self, context: &mut Context<'_>) -> Poll<End> {
        let watch = Down { cycle: &mut self.cycle, traffic: &self.traffic };
        let cause = ready!(self.down.poll(self.node, self.client, watch, context));
        Poll::Ready(match cause {
            Cause::Over | Cause::Reading => lost(&self.up, &self.down),
            Cause::Writing | Cause::Forbidden => End::ClientGone,
            Cause::Malformed => End::Malformed,
        })
    }

    /// What a node that takes nothing any more has still to say.
    fn poll_last_word(&mut self, context: &mut Context<'_>) -> Poll<End> {
        if let Poll::Ready(end) = self.poll_down(context) {
            return Poll::Ready(end);
        }
        match &mut self.deaf {
            Some(patience) => patience.as_mut().poll(context).map(|()| lost(&self.up, &self.down)),
            None => Poll::Pending,
        }
    }
}

impl<C, N> Future for Relay<'_, C, N>
where
    C: AsyncRead + AsyncWrite + Unpin,
    N: AsyncRead + AsyncWrite + Unpin,
{
    type Output = End;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<End> {
        let relay = &mut *self;
        if relay.is_done() {
            return Poll::Ready(End::Idle);
        }
        relay.down_first = !relay.down_first;
        for down in [relay.down_first, !relay.down_first] {
            if relay.deaf.is_some() {
                break;
            }
            let polled = if down { relay.poll_down(context) } else { relay.poll_up(context) };
            if polled.is_ready() {
                return polled;
            }
        }
        if relay.deaf.is_some() {
            return relay.poll_last_word(context);
        }
        if relay.is_done() { Poll::Ready(End::Idle) } else { Poll::Pending }
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
