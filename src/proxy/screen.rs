//! Looks at what a client sends before it is sent: texts of statements that may not reach a node.
use super::guard::Guard;
use super::refusal::SETTING;
use super::wire::{
    message::{encode, error_response},
    walk::{HEADER, Header},
};

/// In place of a text that is refused a node gets one that it can't read, with or without parameters: so the error comes
/// where the client expects it, a transaction has failed as after any other error, and what follows is skipped to the next
/// Sync. What the client is told of it is the refusal (`explained`).
fn unreadable() -> String {
    format!("\"{}\"", SETTING[1])
}

/// What a client is told instead, where a node's error is about such a text.
pub fn explained(error: &[u8]) -> Option<Vec<u8>> {
    let text = unreadable();
    let is_ours = error.windows(text.len()).any(|part| part == text.as_bytes());
    is_ours.then(|| error_response("ERROR", SETTING))
}

/// What may be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Screened {
    /// So many of the bytes.
    pub cleared: usize,
    /// What comes after them.
    pub then: Then,
}

/// What is done with what may not be sent, or not yet.
#[derive(Debug, PartialEq, Eq)]
pub enum Then {
    /// There is nothing more.
    Nothing,
    /// It is a part of what has to be looked at as a whole.
    More,
    /// A message of so many bytes is refused; this takes its place.
    Replace(usize, Vec<u8>),
    /// A message that has been sent in part is refused.
    Break,
}

/// Where in the client's stream one is.
#[derive(Debug, Default)]
pub struct Screen {
    /// Bytes of a message that are still to come, and what looks at them if they are a text.
    left: usize,
    guard: Option<Guard>,
    /// What has begun is refused, however often it is looked at.
    broken: bool,
}

impl Screen {
    /// Looks at the bytes that follow those that were cleared. A text is cleared as a whole if it has no more than
    /// `room` bytes, else piece by piece.
    pub fn over(&mut self, bytes: &[u8], room: usize) -> Screened {
        let mut at = 0;
        loop {
            let piece = &bytes[at..(at + self.left).min(bytes.len())];
            self.broken = self.broken || self.guard.as_mut().is_some_and(|guard| guard.refuses(piece));
            if self.broken {
                return Screened { cleared: at, then: Then::Break };
            }
            at += piece.len();
            self.left -= piece.len();
            let Some(header) = Header::of(&bytes[at..]) else { break };
            let (total, is_text) = (header.total(), matches!(header.tag, b'Q' | b'P'));
            self.guard = None;
            if !is_text || total > room {
                (at, self.left) = (at + HEADER, total - HEADER);
                self.guard = is_text.then(Guard::default);
            } else {
                let Some(message) = bytes.get(at..at + total) else { break };
                if Guard::default().refuses(text(message)) {
                    return Screened { cleared: at, then: Then::Replace(total, replacement(message)) };
                }
                at += total;
            }
        }
        let then = if at < bytes.len() { Then::More } else { Then::Nothing };
        Screened { cleared: at, then }
    }
}

/// The text of a statement: what follows its name, where it may have one.
fn text(message: &[u8]) -> &[u8] {
    let body = &message[HEADER..];
    let name =
        if message[0] == b'P' { body.iter().position(|b| *b == 0).map_or(0, |end| end + 1) } else { 0 };
    &body[name..]
}

fn replacement(message: &[u8]) -> Vec<u8> {
    let body = &message[HEADER..];
    if message[0] == b'Q' {
        return encode(b'Q', format!("{}\0", unreadable()).as_bytes());
    }
    // A statement keeps its name.
    let name = body.split(|b| *b == 0).next().unwrap_or_default();
    encode(b'P', &[name, b"\0", unreadable().as_bytes(), b"\0\0\0"].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proxy::wire::message::error_texts;

    const ROOM: usize = 1024;

    #[test]
    fn a_text_waits_until_it_is_whole() {
        let bytes = [encode(b'S', b""), encode(b'Q', b"select 1\0")].concat();
        for end in 0..bytes.len() {
            let cleared = if end < 5 { 0 } else { 5 };
            let then = if end == 0 || end == 5 { Then::Nothing } else { Then::More };
            assert_eq!(Screen::default().over(&bytes[..end], ROOM), Screened { cleared, then }, "{end}");
        }
        let all = Screened { cleared: bytes.len(), then: Then::Nothing };
        assert_eq!(Screen::default().over(&bytes, ROOM), all);
    }

    #[test]
    fn what_is_refused_is_replaced() {
        let bad = encode(b'Q', b"set synchronous_commit = off\0");
        let bytes = [encode(b'Q', b"select 1\0"), bad.clone(), encode(b'X', b"")].concat();
        let Screened { cleared, then: Then::Replace(total, instead) } = Screen::default().over(&bytes, ROOM)
        else {
            panic!("it passed");
        };
        assert_eq!((cleared, total), (bytes.len() - bad.len() - 5, bad.len()));
        assert!(matches!(Screen::default().over(&instead, ROOM).then, Then::Nothing), "and that passes");
        let parse = encode(b'P', b"s1\0set local synchronous_commit to off\0\0\0");
        let Then::Replace(_, instead) = Screen::default().over(&parse, ROOM).then else {
            panic!("it passed")
        };
        assert!(instead[5..].starts_with(b"s1\0\"the setting") && instead.ends_with(b"pool\"\0\0\0"));
    }

    #[test]
    fn the_error_of_what_was_replaced_tells_why() {
        assert!(unreadable().len() < 2 + 63, "a longer identifier is cut, with a notice");
        let of = |text: &str| {
            [b"SERROR\0C42601\0Msyntax error at or near \"", text.as_bytes(), b"\"\0\0"].concat()
        };
        let told = explained(&of(&unreadable())).unwrap();
        assert_eq!(error_texts(&told[5..]), (SETTING[0].to_owned(), SETTING[1].to_owned()));
        assert!(told[5..].starts_with(b"SERROR\0VERROR\0"));
        assert_eq!(explained(&of("synchronous_commit")), None);
        assert_eq!(explained(&told), None, "once is enough");
    }

    #[test]
    fn a_name_is_no_text() {
        let named = encode(b'P', b"set synchronous_commit off\0select 1\0\0\0");
        assert_eq!(Screen::default().over(&named, ROOM).then, Then::Nothing);
        let parse = encode(b'P', b"set synchronous_commit off\0set synchronous_commit = off\0\0\0");
        let Then::Replace(_, instead) = Screen::default().over(&parse, ROOM).then else {
            panic!("it passed")
        };
        assert_eq!(Screen::default().over(&instead, ROOM).then, Then::Nothing, "once is enough");
    }

    #[test]
    fn a_text_that_is_too_long_is_looked_at_in_pieces() {
        // Its length ends with a letter, which is no part of the text.
        let beginning =
            [b"set synchronous_commit = off;".to_vec(), vec![b' '; 4 * ROOM + 0x41], vec![0]].concat();
        assert_eq!(Screen::default().over(&encode(b'Q', &beginning), ROOM).then, Then::Break);
        let text = [vec![b' '; 2 * ROOM], b"; set synchronous_commit = off\0".to_vec()].concat();
        let bytes = encode(b'Q', &text);
        let mut screen = Screen::default();
        let (one, other) = bytes.split_at(ROOM);
        assert_eq!(screen.over(one, ROOM), Screened { cleared: ROOM, then: Then::Nothing });
        assert_eq!(screen.over(other, ROOM).then, Then::Break);
    }

    #[test]
    fn a_text_that_is_refused_stays_so() {
        // What comes before it is sent first; then it is looked at again, and a word must not begin with its own end.
        let text = format!("set synchronous_commit = off; --{}\0", "x".repeat(2 * ROOM));
        let bytes = [encode(b'S', b""), encode(b'Q', text.as_bytes())].concat();
        let mut screen = Screen::default();
        let Screened { cleared, then: Then::Break } = screen.over(&bytes[..ROOM], ROOM) else {
            panic!("it passed");
        };
        assert_eq!(cleared, 10);
        assert_eq!(screen.over(&bytes[cleared..ROOM], ROOM), Screened { cleared: 0, then: Then::Break });
    }

    proptest! {
        #[test]
        fn harmless_messages_pass_however_they_are_cut(
            messages in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 1..6),
            cut in 1_usize..60,
        ) {
            let bytes: Vec<u8> = messages.iter().flat_map(|(tag, body)| encode(*tag, body)).collect();
            let (mut screen, mut at, mut end) = (Screen::default(), 0, 0);
            while at < bytes.len() {
                end = (end + cut).min(bytes.len());
                let seen = screen.over(&bytes[at..end], ROOM);
                at += seen.cleared;
                prop_assert!(matches!(seen.then, Then::Nothing | Then::More));
                prop_assert!(seen.then == Then::Nothing || end < bytes.len(), "it waits for what never comes");
            }
        }

        #[test]
        fn any_bytes_can_be_looked_at(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let seen = Screen::default().over(&bytes, ROOM);
            prop_assert!(seen.cleared <= bytes.len());
        }
    }
}
