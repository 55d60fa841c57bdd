//! One direction of a session: bytes are read, looked at, and passed on; the headers of their messages are followed.
use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::screen::{Screened, Then};
use super::wire::walk::{Part, Walk};

/// Bytes that are passed on at once: the most that a TLS record holds.
pub const BUFFER: usize = if cfg!(fuzzing) { 512 } else { 16 * 1024 };
/// Buffers that a thread keeps for its next sessions. It passes on for one session at a time, so more are in use only
/// where somebody doesn't take what is sent.
const SPARE: usize = 16;
/// Buffers that are passed one way before the other way has its turn.
const AT_A_TURN: usize = 8;

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
        if spare.len() < SPARE && buffer.len() == BUFFER {
            spare.push(buffer);
        }
    });
}

/// Bytes under way in one direction.
#[derive(Default)]
pub struct Lane {
    buffer: Option<Box<[u8]>>,
    begin: usize,
    end: usize,
    /// Up to here it may be sent.
    cleared: usize,
    /// Where in the stream the receiver is.
    walk: Walk,
    /// The last message that the receiver has got, at least in part.
    pub last: u8,
    unflushed: bool,
    /// When what is under way was read.
    read: Option<Instant>,
}

/// What a lane asks of the session that it is a part of.
pub trait Watch {
    /// Whether what comes next may be sent: a message of this kind, or more of one that has begun.
    fn may_send(&self, next: Option<u8>) -> bool;
    /// So many bytes were passed on.
    fn carried(&self, bytes: u64);
    /// How much of what was read may be sent; what the receiver has got is walked over.
    fn screen(&mut self, bytes: &[u8], walk: &Walk) -> Screened;
    /// The receiver has got this, which was read at this time.
    fn passed(&mut self, part: Part<'_>, read: Instant);
}

/// Why a lane has ended.
pub enum Cause {
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
    /// What comes next is refused, and can't be replaced.
    Refused,
}

/// What comes next may not be sent, and nothing can take its place.
struct Refused;

impl Lane {
    /// Passes on what there is. After a few buffers the other lane has its turn.
    pub fn poll<R, W>(
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
                    // What came before it gets there.
                    if self.unflushed && watch.may_send(None) {
                        match ready!(Pin::new(to).poll_flush(context)) {
                            Ok(()) => self.unflushed = false,
                            Err(_) => return Poll::Ready(Cause::Writing),
                        }
                    }
                    return Poll::Ready(Cause::Forbidden);
                }
                if self.clear(&mut watch).is_err() {
                    return Poll::Ready(Cause::Refused);
                }
                if self.begin < self.cleared {
                    match ready!(self.poll_send(to, &mut watch, context)) {
                        Ok(()) => continue,
                        Err(cause) => return Poll::Ready(cause),
                    }
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

    /// Finds what of the buffer may be sent, unless it is known; nothing may, as long as a message isn't whole.
    fn clear(&mut self, watch: &mut impl Watch) -> Result<(), Refused> {
        if self.begin < self.cleared {
            return Ok(());
        }
        let seen = watch.screen(self.pending(), &self.walk);
        self.cleared += seen.cleared;
        match seen.then {
            // What comes before it is sent first.
            _ if seen.cleared > 0 => {}
            Then::Nothing | Then::More => {}
            Then::Replace(total, instead) => self.replace(total, &instead),
            Then::Break => return Err(Refused),
        }
        Ok(())
    }

    /// Puts something else, which may be sent, in the place of the message that comes next. If there is no room for it the
    /// buffer grows, by no more than that: it is sent before another message is replaced.
    fn replace(&mut self, total: usize, instead: &[u8]) {
        let former = self.buffer.take().unwrap_or_else(borrow_buffer);
        let rest = former.get(self.begin + total..self.end).unwrap_or_default();
        let end = instead.len() + rest.len();
        let mut buffer = if end > BUFFER { vec![0; end].into_boxed_slice() } else { borrow_buffer() };
        buffer[..instead.len()].copy_from_slice(instead);
        buffer[instead.len()..end].copy_from_slice(rest);
        give_back(former);
        (self.buffer, self.begin, self.cleared, self.end) = (Some(buffer), 0, instead.len(), end);
    }

    /// True while nothing is under way here.
    pub fn is_empty(&self) -> bool {
        self.begin == self.end && self.is_between()
    }

    /// True while the receiver has whole messages, whatever is still to be sent.
    pub fn is_between(&self) -> bool {
        !self.unflushed && self.walk.at_boundary()
    }

    /// What was read and not sent.
    pub fn pending(&self) -> &[u8] {
        self.buffer.as_deref().unwrap_or_default().get(self.begin..self.end).unwrap_or_default()
    }

    /// True while the receiver is between two messages.
    pub fn at_boundary(&self) -> bool {
        self.walk.at_boundary()
    }

    /// The kind of the message that begins with the next byte.
    pub fn next(&self) -> Option<u8> {
        let bytes = self.buffer.as_deref().unwrap_or_default();
        bytes.get(self.begin).copied().filter(|_| self.walk.at_boundary())
    }

    /// Bytes of memory that it keeps.
    #[cfg(any(test, fuzzing))]
    pub fn room(&self) -> usize {
        self.buffer.as_deref().map_or(0, <[u8]>::len)
    }

    /// Forgets what was not sent.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    fn return_buffer(&mut self) {
        if self.begin == self.end
            && let Some(buffer) = self.buffer.take()
        {
            give_back(buffer);
        }
    }

    fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        from: &mut R,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let buffer = self.buffer.get_or_insert_with(borrow_buffer);
        // What has to be looked at as a whole is kept until it is.
        buffer.copy_within(self.begin..self.end, 0);
        (self.begin, self.end, self.cleared) = (0, self.end - self.begin, 0);
        let mut room = ReadBuf::new(&mut buffer[self.end..]);
        ready!(Pin::new(from).poll_read(context, &mut room))?;
        let read = room.filled().len();
        self.end += read;
        self.read = Some(Instant::now());
        Poll::Ready(Ok(read))
    }

    /// What the receiver has taken is walked over: so one knows whether it is between two messages.
    fn poll_send<W: AsyncWrite + Unpin>(
        &mut self,
        to: &mut W,
        watch: &mut impl Watch,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Cause>> {
        let bytes = self.buffer.as_deref().unwrap_or_default();
        let bytes = &bytes[self.begin..self.cleared];
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
