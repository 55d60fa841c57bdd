//! Cuts a stream of bytes into lines.
use bytes::{Bytes, BytesMut};

/// A line was longer than allowed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Holds the beginning of a line until its end has come.
pub(super) struct Lines {
    rest: BytesMut,
    /// Bytes of `rest` that are known to hold no end of line.
    seen: usize,
    limit: usize,
}

impl Lines {
    pub(super) fn new(limit: usize) -> Self {
        Self { rest: BytesMut::new(), seen: 0, limit }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
    }

    /// The next whole line without its end; empty lines are left out.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, TooLong> {
        while let Some(at) = self.rest[self.seen..].iter().position(|byte| *byte == b'\n') {
            let line = self.rest.split_to(self.seen + at + 1).freeze();
            self.seen = 0;
            if line.len() > self.limit {
                return Err(TooLong);
            }
            if line.len() > 1 {
                return Ok(Some(line.slice(..line.len() - 1)));
            }
        }
        self.seen = self.rest.len();
        if self.seen > self.limit { Err(TooLong) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lines_come_out_however_they_are_cut(
            lines in prop::collection::vec("[a-z]{1,20}", 0..10),
            cuts in prop::collection::vec(1usize..7, 1..60),
        ) {
            let text: String = lines.iter().fold(String::new(), |text, line| text + line + "\n\n");
            let mut left = text.as_bytes();
            let mut cutter = Lines::new(21);
            let mut found = Vec::new();
            for cut in cuts.iter().cycle() {
                if left.is_empty() {
                    break;
                }
                let (head, tail) = left.split_at((*cut).min(left.len()));
                cutter.push(head);
                left = tail;
                while let Some(line) = cutter.next().unwrap() {
                    found.push(String::from_utf8(line.to_vec()).unwrap());
                }
            }
            prop_assert_eq!(found, lines);
        }
    }

    #[test]
    fn a_line_without_end_is_given_up() {
        let mut lines = Lines::new(4);
        lines.push(b"abc");
        assert_eq!(lines.next(), Ok(None));
        lines.push(b"de");
        assert_eq!(lines.next(), Err(TooLong));
    }
}
