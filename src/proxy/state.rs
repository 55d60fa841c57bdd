//! What a session has at its node and would lose with it, as far as it was seen to pass.
//!
//! The node's own words count first: the tag of each command that it has done, and each setting that it reports. What
//! they don't tell is looked for among the words of statements; a word in a literal counts too, and then a session is
//! taken for one that can't be moved though it could. What functions do unseen isn't known (docs/limits.md).
use super::wire::{
    walk::{Part, Seen},
    words::{Word, Words},
};

/// Letters of a command's tag that are looked at.
const TAG: usize = 12;

/// Why a session can't go on at another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// A setting was changed.
    Setting,
    /// A statement was prepared.
    Prepared,
    /// There is a temporary table.
    Temporary,
    /// A cursor lives longer than its transaction.
    Cursor,
    /// It listens.
    Listening,
    /// It holds an advisory lock.
    Lock,
    /// A sequence's last value was asked for.
    Sequence,
    /// A procedure or a block of code was run, which may have left anything.
    Code,
}

impl Kept {
    /// For people, in a sentence with "it has".
    pub fn text(self) -> &'static str {
        match self {
            Self::Setting => "settings of its own",
            Self::Prepared => "prepared statements",
            Self::Temporary => "temporary tables",
            Self::Cursor => "a cursor that outlives its transaction",
            Self::Listening => "channels that it listens to",
            Self::Lock => "advisory locks",
            Self::Sequence => "asked for a sequence's last value",
            Self::Code => "run a block of code or a procedure",
        }
    }
}

/// The words before the last one that matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Before {
    #[default]
    Nothing,
    /// After which TEMP makes something temporary.
    Creates,
    /// After which HOLD makes a cursor last.
    With,
}

/// What is known of a session.
#[derive(Debug, Default)]
pub struct State {
    kept: Option<Kept>,
    /// A statement without a name was parsed, and hasn't been executed yet.
    parsed: bool,
    words: Words,
    before: Before,
    tag: [u8; TAG],
    tag_length: u8,
}

impl State {
    /// What it would lose; nothing: another node can take it over between two transactions.
    pub fn kept(&self) -> Option<Kept> {
        self.kept.or(self.parsed.then_some(Kept::Prepared))
    }

    /// Takes what the node was sent.
    pub fn asked(&mut self, part: Part<'_>) {
        match part {
            Part::Begins(Seen { tag, first }) => self.question(tag, first),
            Part::Body(b'Q' | b'P', piece) => self.text(piece),
            Part::Body(..) => {}
        }
    }

    fn question(&mut self, tag: u8, first: Option<u8>) {
        match tag {
            b'P' if first != Some(0) => self.keep(Kept::Prepared),
            b'P' => self.parsed = true,
            b'Q' | b'E' => self.parsed = false,
            _ => {}
        }
        self.words.begin();
        self.before = Before::Nothing;
    }

    fn text(&mut self, piece: &[u8]) {
        let (mut found, mut before) = (None, self.before);
        self.words.over(piece, |word| {
            found = found.or(kept_by(word, before));
            before = before_next(word);
        });
        self.before = before;
        if let Some(kept) = found {
            self.keep(kept);
        }
    }

    /// Takes what the client was sent.
    pub fn answered(&mut self, part: Part<'_>) {
        match part {
            // What the login reported isn't seen here.
            Part::Begins(Seen { tag: b'S', .. }) => self.keep(Kept::Setting),
            Part::Begins(Seen { tag: b'C', .. }) => self.tag_length = 0,
            Part::Body(b'C', piece) => self.done(piece),
            _ => {}
        }
    }

    /// The tag of a command that was done (PostgreSQL documentation, "CommandComplete"); it may come in pieces.
    fn done(&mut self, piece: &[u8]) {
        for &byte in piece {
            let at = usize::from(self.tag_length);
            let Some(place) = self.tag.get_mut(at) else { return };
            *place = byte;
            self.tag_length += 1;
            if byte == 0 || at + 1 == TAG {
                let tag = &self.tag[..=at];
                match tag.strip_suffix(&[0]).unwrap_or(tag) {
                    b"DISCARD ALL" => (self.kept, self.parsed) = (None, false),
                    b"SET" => self.keep(Kept::Setting),
                    b"LISTEN" => self.keep(Kept::Listening),
                    b"DO" | b"CALL" | b"LOAD" => self.keep(Kept::Code),
                    tag if tag.starts_with(b"PREPARE") => self.keep(Kept::Prepared),
                    _ => {}
                }
                self.tag_length = u8::MAX;
                return;
            }
        }
    }

    fn keep(&mut self, kept: Kept) {
        self.kept.get_or_insert(kept);
    }
}

fn kept_by(word: &Word, before: Before) -> Option<Kept> {
    match word.as_bytes() {
        b"temp" | b"temporary" if before == Before::Creates => Some(Kept::Temporary),
        b"hold" if before == Before::With => Some(Kept::Cursor),
        b"set_config" | b"setseed" => Some(Kept::Setting),
        b"currval" | b"lastval" => Some(Kept::Sequence),
        b"dblink_connect" | b"dblink_connect_u" => Some(Kept::Code),
        word if word.starts_with(b"pg_temp") => Some(Kept::Temporary),
        word if word.starts_with(b"pg_advisory_lock") || word.starts_with(b"pg_try_advisory_lock") => {
            Some(Kept::Lock)
        }
        _ => None,
    }
}

fn before_next(word: &Word) -> Before {
    match word.as_bytes() {
        b"create" | b"replace" | b"local" | b"global" | b"into" => Before::Creates,
        b"with" => Before::With,
        _ => Before::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::wire::{message::encode, walk::Walk};

    fn ask(state: &mut State, tag: u8, body: &[u8]) {
        let bytes = encode(tag, body);
        let mut walk = Walk::default();
        // In pieces, as the network pleases.
        for piece in bytes.chunks(3) {
            walk.over(piece, |part| state.asked(part)).unwrap();
        }
    }

    fn answer(state: &mut State, tag: u8, body: &[u8]) {
        let bytes = encode(tag, body);
        let mut walk = Walk::default();
        for piece in bytes.chunks(3) {
            walk.over(piece, |part| state.answered(part)).unwrap();
        }
    }

    fn after(text: &str) -> Option<Kept> {
        let mut state = State::default();
        ask(&mut state, b'Q', format!("{text}\0").as_bytes());
        state.kept()
    }

    #[test]
    fn statements_that_leave_something_are_known_by_their_words() {
        for (text, kept) in [
            ("create temp table t ()", Kept::Temporary),
            ("CREATE LOCAL TEMPORARY VIEW v AS SELECT 1", Kept::Temporary),
            ("create or replace temp view v as select 1", Kept::Temporary),
            ("select 1 into temp t", Kept::Temporary),
            ("create table pg_temp.t ()", Kept::Temporary),
            ("declare c cursor with hold for select 1", Kept::Cursor),
            ("select pg_advisory_lock(1)", Kept::Lock),
            ("select pg_try_advisory_lock_shared(1)", Kept::Lock),
            ("select set_config('a.b', 'c', false)", Kept::Setting),
            ("select currval('s')", Kept::Sequence),
        ] {
            assert_eq!(after(text), Some(kept), "{text}");
        }
    }

    #[test]
    fn usual_statements_leave_nothing() {
        for text in [
            "select temp from weather where hold",
            "insert into temperature values (1)",
            "select pg_advisory_xact_lock(1)",
            "update t set a = 1; commit",
            "with holds as (select 1) select * from holds",
        ] {
            assert_eq!(after(text), None, "{text}");
        }
    }

    #[test]
    fn the_nodes_own_word_counts() {
        for (tag, kept) in [
            ("SET", Some(Kept::Setting)),
            ("LISTEN", Some(Kept::Listening)),
            ("PREPARE", Some(Kept::Prepared)),
            ("PREPARE TRANSACTION", Some(Kept::Prepared)),
            ("DO", Some(Kept::Code)),
            ("CALL", Some(Kept::Code)),
            ("SELECT 1", None),
            ("SETTLE", None),
            ("INSERT 0 1", None),
            ("DROP TABLE", None),
        ] {
            let mut state = State::default();
            answer(&mut state, b'C', format!("{tag}\0").as_bytes());
            assert_eq!(state.kept(), kept, "{tag}");
            answer(&mut state, b'C', b"DISCARD ALL\0");
            assert_eq!(state.kept(), None, "after {tag}");
        }
        let mut state = State::default();
        answer(&mut state, b'S', b"TimeZone\0UTC\0");
        assert_eq!(state.kept(), Some(Kept::Setting));
    }

    #[test]
    fn a_statement_is_prepared_until_it_was_executed() {
        let mut state = State::default();
        ask(&mut state, b'P', b"\0select 1\0\0\0");
        ask(&mut state, b'S', b"");
        assert_eq!(state.kept(), Some(Kept::Prepared), "a driver may bind it in the next batch");
        ask(&mut state, b'B', b"\0\0\0\0\0\0\0\0");
        ask(&mut state, b'E', b"\0\0\0\0\0");
        assert_eq!(state.kept(), None);
        ask(&mut state, b'P', b"s1\0select 1\0\0\0");
        ask(&mut state, b'E', b"\0\0\0\0\0");
        assert_eq!(state.kept(), Some(Kept::Prepared), "it has a name");
    }
}
