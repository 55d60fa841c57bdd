//! One who speaks to the front: what it says comes in pieces, and what it is told is kept.
use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Input;

/// How a stream is cut: so many bytes, then so many, and so on from the beginning; with 0 the other one has to wait.
#[derive(Clone, Debug, Default)]
pub struct Cuts {
    sizes: Vec<usize>,
    at: usize,
}

impl Cuts {
    /// A few sizes, the large ones larger than what is looked at as a whole.
    pub fn of(input: &mut Input<'_>) -> Self {
        let count = usize::from(input.byte() % 16);
        let size = |byte: &u8| match usize::from(*byte) {
            small @ 0..=63 => small,
            large => (large - 62) * 31,
        };
        Self::new(input.bytes(count).iter().map(size).collect())
    }

    /// Of these sizes.
    pub fn new(mut sizes: Vec<usize>) -> Self {
        if sizes.iter().all(|size| *size == 0) {
            sizes.clear();
        }
        Self { sizes, at: 0 }
    }

    /// After so many turns without any progress there will be none.
    pub fn patience(&self) -> usize {
        self.sizes.len() + 1
    }

    /// The next size; all where there are none.
    pub fn next(&mut self) -> usize {
        let Some(size) = self.sizes.get(self.at % self.sizes.len().max(1)) else { return usize::MAX };
        self.at += 1;
        *size
    }
}

/// A client or a node.
pub struct Side<'a> {
    says: &'a [u8],
    /// So many bytes of it may be read as yet.
    pub due: usize,
    /// So many were read.
    pub said: usize,
    /// It says nothing more after that.
    closes: bool,
    reads: Cuts,
    writes: Cuts,
    /// What it was told.
    pub heard: Vec<u8>,
}

impl<'a> Side<'a> {
    /// One who will say this, once it is due.
    pub fn new(says: &'a [u8], cuts: &Cuts) -> Self {
        let (reads, writes) = (cuts.clone(), cuts.clone());
        Self { says, due: 0, said: 0, closes: false, reads, writes, heard: Vec::new() }
    }

    /// One who says this and goes.
    pub fn leaving(says: &'a [u8], cuts: &Cuts) -> Self {
        Self { due: says.len(), closes: true, ..Self::new(says, cuts) }
    }

    /// How far it has got.
    pub fn progress(&self) -> (usize, usize) {
        (self.said, self.heard.len())
    }
}

impl AsyncRead for Side<'_> {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let side = self.get_mut();
        let left = &side.says[side.said..side.due];
        if left.is_empty() {
            return if side.closes { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        let count = side.reads.next().min(left.len()).min(room.remaining());
        if count == 0 {
            return Poll::Pending;
        }
        room.put_slice(&left[..count]);
        side.said += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Side<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let side = self.get_mut();
        let count = side.writes.next().min(bytes.len());
        if count == 0 {
            return Poll::Pending;
        }
        side.heard.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Runs what ends, since those whom it speaks to end; asked again without being woken.
pub fn finish<F: Future>(work: F) -> F::Output {
    let mut work = pin!(work);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..1_000_000 {
        if let Poll::Ready(done) = work.as_mut().poll(&mut context) {
            return done;
        }
    }
    panic!("it never ends");
}
