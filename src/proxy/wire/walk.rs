//! Follows a stream of messages by their headers alone; bodies are passed on as they come.

/// Longest message that PostgreSQL takes, in bytes (`PQ_LARGE_MESSAGE_LIMIT`).
const LONGEST: u32 = 0x3fff_ffff;
/// Bytes of a header: tag and length.
pub const HEADER: usize = 5;

/// What stands before the body of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The message's kind.
    pub tag: u8,
    /// What it says of its length, which counts itself.
    length: u32,
}

impl Header {
    /// The header of the message that begins with these bytes, if it is there as a whole.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let &[tag, a, b, c, d] = bytes.first_chunk::<HEADER>()?;
        Some(Self { tag, length: u32::from_be_bytes([a, b, c, d]) })
    }

    /// Bytes of the whole message; a length that no message has counts as that of a bare header.
    pub fn total(self) -> usize {
        usize::try_from(self.length).unwrap_or(usize::MAX).saturating_add(1).max(HEADER)
    }

    /// Bytes of its body.
    fn body(self) -> Result<u32, Malformed> {
        let Self { tag, length } = self;
        length.checked_sub(4).filter(|body| *body <= LONGEST).ok_or(Malformed { tag, length })
    }
}

/// A message that begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its kind.
    pub tag: u8,
    /// The first byte of its body, if it has one: of ReadyForQuery the state of the transaction.
    pub first: Option<u8>,
}

/// What is walked over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// A message begins.
    Begins(Seen),
    /// Some of the body of a message of this kind.
    Body(u8, &'a [u8]),
}

/// A length that no message has: the stream can't be followed any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of kind {tag:#04x} says that it is {length} bytes long")]
pub struct Malformed {
    /// What it says to be.
    pub tag: u8,
    /// What it says of its length.
    pub length: u32,
}

/// Where in a stream one is.
#[derive(Clone, Debug, Default)]
pub struct Walk {
    header: [u8; HEADER],
    /// Bytes of the header that have come.
    have: usize,
    /// Bytes of the body that are still to come.
    body: u32,
    /// The body's first byte hasn't come.
    begins: bool,
}

impl Walk {
    /// True between two messages.
    pub fn at_boundary(&self) -> bool {
        self.have == 0 && self.body == 0
    }

    /// True within a header.
    pub fn in_header(&self) -> bool {
        self.have > 0
    }

    /// Bytes of the message under way that are surely still to come: of its header, or all of its body.
    pub fn left(&self) -> usize {
        if self.have > 0 { HEADER - self.have } else { usize::try_from(self.body).unwrap_or(usize::MAX) }
    }

    /// Walks over the bytes that come next; `seen` hears of each message once its header and the first byte of its
    /// body are there, and then of its body, piece by piece. After an error nothing of the stream means anything.
    pub fn over(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Part<'_>)) -> Result<(), Malformed> {
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.body > 0 {
                let tag = self.header[0];
                if std::mem::take(&mut self.begins) {
                    seen(Part::Begins(Seen { tag, first: Some(byte) }));
                }
                let step = usize::try_from(self.body).unwrap_or(usize::MAX).min(bytes.len());
                seen(Part::Body(tag, &bytes[..step]));
                self.body -= u32::try_from(step).unwrap_or(self.body);
                bytes = &bytes[step..];
                continue;
            }
            self.header[self.have] = byte;
            self.have += 1;
            bytes = rest;
            if self.have == HEADER {
                self.have = 0;
                self.enter(&mut seen)?;
            }
        }
        Ok(())
    }

    fn enter(&mut self, seen: &mut impl FnMut(Part<'_>)) -> Result<(), Malformed> {
        let Some(header) = Header::of(&self.header) else { return Ok(()) };
        match header.body()? {
            0 => seen(Part::Begins(Seen { tag: header.tag, first: None })),
            body => (self.body, self.begins) = (body, true),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proxy::wire::message::encode;

    #[test]
    fn messages_are_seen_however_they_are_cut() {
        let stream = [encode(b'T', b"abcdef"), encode(b'C', b""), encode(b'Z', b"T")].concat();
        let wanted = [(b'T', Some(b'a')), (b'C', None), (b'Z', Some(b'T'))];
        for size in 1..=stream.len() {
            let (mut walk, mut found, mut bodies) = (Walk::default(), Vec::new(), Vec::new());
            for piece in stream.chunks(size) {
                walk.over(piece, |part| match part {
                    Part::Begins(seen) => found.push((seen.tag, seen.first)),
                    Part::Body(_, piece) => bodies.extend_from_slice(piece),
                })
                .unwrap();
            }
            assert_eq!(found, wanted, "in pieces of {size}");
            assert_eq!(bodies, b"abcdefT");
            assert!(walk.at_boundary());
        }
    }

    #[test]
    fn a_length_that_none_has_ends_it() {
        for length in [0, 3, 0x4000_0005_u32] {
            let bytes = [b"d".as_slice(), &length.to_be_bytes()].concat();
            assert_eq!(Walk::default().over(&bytes, |_| {}), Err(Malformed { tag: b'd', length }));
        }
    }

    #[test]
    fn a_header_tells_how_long_a_message_is() {
        let message = encode(b'Q', b"select 1\0");
        assert!((0..HEADER).all(|end| Header::of(&message[..end]).is_none()));
        let header = Header::of(&message).unwrap();
        assert_eq!((header.tag, header.total(), header.body()), (b'Q', message.len(), Ok(9)));
        for (said, total) in [(0, HEADER), (4, HEADER), (u32::MAX, 1 << 32)] {
            let bytes = [b"d".as_slice(), &u32::to_be_bytes(said)].concat();
            assert_eq!(Header::of(&bytes).unwrap().total(), total);
        }
    }

    proptest! {
        #[test]
        fn the_boundaries_are_where_the_messages_end(
            messages in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..9)), 1..6),
        ) {
            let (mut walk, mut count) = (Walk::default(), 0);
            for (tag, body) in &messages {
                let bytes = encode(*tag, body);
                let mut seen = |part: Part<'_>| count += usize::from(matches!(part, Part::Begins(_)));
                for byte in &bytes[..bytes.len() - 1] {
                    walk.over(&[*byte], &mut seen).unwrap();
                    prop_assert!(!walk.at_boundary());
                }
                walk.over(&bytes[bytes.len() - 1..], &mut seen).unwrap();
                prop_assert!(walk.at_boundary());
            }
            prop_assert_eq!(count, messages.len());
        }

        #[test]
        fn any_bytes_are_walked_over(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = Walk::default().over(&bytes, |_| {});
        }
    }
}
