//! Passes the bytes of a session both ways, and follows the headers of the messages in them.
use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::hub::Tenure;
use super::wire::walk::Walk;
use crate::clock;

/// Bytes that are passed on at once: the most that a TLS record holds.
const BUFFER: usize = 16 * 1024;
/// Buffers that a thread keeps for its next sessions.
const SPARE: usize = 64;

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
    fn poll<R, W>(
        &mut self,
        from: &mut R,
        to: &mut W,
        may_send: impl Fn() -> bool,
        context: &mut Context<'_>,
    ) -> Poll<Cause>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            if self.begin < self.end {
                if !may_send() {
                    return Poll::Ready(Cause::Forbidden);
                }
                match ready!(self.poll_send(to, context)) {
                    Ok(()) => continue,
                    Err(cause) => return Poll::Ready(cause),
                }
            }
            match self.poll_fill(from, context) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Cause::Over),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Cause::Reading),
                Poll::Pending => {
                    if let Some(buffer) = self.buffer.take() {
                        give_back(buffer);
                    }
                    if self.unflushed {
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
        let walked = self.walk.over(&bytes[..sent], |seen| *last = seen.tag);
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
}

impl<'a, C, N> Relay<'a, C, N> {
    /// Of two that have logged in.
    pub fn new(client: &'a mut C, node: &'a mut N, tenure: &'a Tenure) -> Self {
        Self { client, node, tenure, up: Lane::default(), down: Lane::default() }
    }

    /// Whether the client is between two messages: then it can be told something.
    pub fn can_tell(&self) -> bool {
        self.down.walk.at_boundary()
    }
}

impl<C, N> Future for Relay<'_, C, N>
where
    C: AsyncRead + AsyncWrite + Unpin,
    N: AsyncRead + AsyncWrite + Unpin,
{
    type Output = End;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<End> {
        let Self { client, node, tenure, up, down } = &mut *self;
        // Looked at when something is sent, so that a front that was frozen sends nothing under a lease that is over.
        let may_send = || tenure.stands(clock::now());
        if let Poll::Ready(cause) = up.poll(*client, *node, may_send, context) {
            return Poll::Ready(match cause {
                Cause::Over | Cause::Reading => End::ClientGone,
                Cause::Forbidden => End::Dropped,
                Cause::Malformed => End::Malformed,
                // What it said before it went is still to be read.
                Cause::Writing => match down.poll(*node, *client, || true, context) {
                    Poll::Ready(_) | Poll::Pending => lost(up, down),
                },
            });
        }
        let cause = ready!(down.poll(*node, *client, || true, context));
        Poll::Ready(match cause {
            Cause::Over | Cause::Reading => lost(up, down),
            Cause::Writing | Cause::Forbidden => End::ClientGone,
            Cause::Malformed => End::Malformed,
        })
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
