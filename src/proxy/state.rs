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
    /// The last value of a sequence, which is asked for.
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
            Self::Sequence => "the last value of a sequence, which was asked for",
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
    /// Texts of statements since nothing was under way.
    texts: u32,
    /// The last command that was done is DISCARD ALL.
    discarded: bool,
    words: Words,
    before: Before,
    /// No word of the text under way was seen yet.
    first: bool,
    /// The text under way ends a transaction.
    commits: bool,
    tag: [u8; TAG],
    tag_length: u8,
}

impl State {
    /// What it would lose; nothing: another node can take it over between two transactions.
    pub fn kept(&self) -> Option<Kept> {
        self.kept
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
            // One without a name is looked for when it is asked for again (`Flow::refers`).
            b'P' if first != Some(0) => self.keep(Kept::Prepared),
            // A function, called by its number.
            b'F' => self.keep(Kept::Code),
            _ => {}
        }
        self.texts = self.texts.saturating_add(u32::from(matches!(tag, b'Q' | b'P' | b'F')));
        self.words.begin();
        (self.before, self.first) = (Before::Nothing, true);
    }

    /// Whether the client has asked for a transaction to be committed, and is still to be answered.
    pub fn commits(&self) -> bool {
        self.commits
    }

    fn text(&mut self, piece: &[u8]) {
        let (mut found, mut before) = (None, self.before);
        let Self { words, first, commits, .. } = self;
        words.over(piece, |word| {
            *commits |= std::mem::take(first) && matches!(word.as_bytes(), b"commit" | b"end");
            found = found.or(kept_by(word, before));
            before = before_next(word);
        });
        self.before = before;
        if let Some(kept) = found {
            self.keep(kept);
        }
    }

    /// Takes what the client was sent; `quiet` once all that was asked is answered with it.
    pub fn answered(&mut self, part: Part<'_>, quiet: bool) {
        match part {
            // What the login reported isn't seen here.
            Part::Begins(Seen { tag: b'S', .. }) => self.keep(Kept::Setting),
            Part::Begins(Seen { tag: b'C', .. }) => self.tag_length = 0,
            Part::Begins(Seen { tag: b'Z', .. }) => {
                // What was asked ahead came after it, and is not discarded.
                if std::mem::take(&mut self.discarded) && quiet && self.texts <= 1 {
                    self.kept = None;
                }
                if quiet {
                    (self.commits, self.texts) = (false, 0);
                }
            }
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
                self.discarded = tag == b"DISCARD ALL\0";
                match tag.strip_suffix(&[0]).unwrap_or(tag) {
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
        b"set_config" | b"setseed" | b"pg_settings" => Some(Kept::Setting),
        b"dblink_connect" | b"dblink_connect_u" => Some(Kept::Code),
        word if word.starts_with(b"pg_temp") => Some(Kept::Temporary),
        word if word.starts_with(b"pg_advisory_lock") || word.starts_with(b"pg_try_advisory_lock") => {
            Some(Kept::Lock)
        }
        _ => None,
    }
}

/// Whether a text asks for the last value of a sequence, which its session alone has.
pub fn asks_for_the_past(text: &[u8]) -> bool {
    let mut found = false;
    Words::default().over(text, |word| found |= matches!(word.as_bytes(), b"currval" | b"lastval"));
    found
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
            walk.over(piece, |part| state.answered(part, true)).unwrap();
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
            ("update pg_settings set setting = 1 where name = 'work_mem'", Kept::Setting),
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
            // It tells of settings that it has reset.
            answer(&mut state, b'S', b"TimeZone\0UTC\0");
            answer(&mut state, b'Z', b"I");
            assert_eq!(state.kept(), None, "after {tag}");
        }
        let mut state = State::default();
        answer(&mut state, b'S', b"TimeZone\0UTC\0");
        assert_eq!(state.kept(), Some(Kept::Setting));
    }

    #[test]
    fn a_commit_is_under_way_until_it_is_answered() {
        for (text, wanted) in [
            ("COMMIT", true),
            ("  end", true),
            ("/**/Commit and chain", true),
            ("create table t () on commit drop", false),
            ("select 'commit'", false),
        ] {
            let mut state = State::default();
            ask(&mut state, b'Q', format!("{text}\0").as_bytes());
            assert_eq!(state.commits(), wanted, "{text}");
            answer(&mut state, b'Z', b"I");
            assert!(!state.commits());
        }
    }

    #[test]
    fn what_was_asked_ahead_is_not_discarded() {
        let mut state = State::default();
        ask(&mut state, b'Q', b"discard all\0");
        ask(&mut state, b'Q', b"select pg_advisory_lock(1)\0");
        answer(&mut state, b'C', b"DISCARD ALL\0");
        let ready = Part::Begins(Seen { tag: b'Z', first: Some(b'I') });
        state.answered(ready, false);
        assert_eq!(state.kept(), Some(Kept::Lock));
        answer(&mut state, b'C', b"SELECT 1\0");
        state.answered(ready, true);
        assert_eq!(state.kept(), Some(Kept::Lock));
    }

    #[test]
    fn a_prepared_statement_stays_by_its_name() {
        let mut state = State::default();
        ask(&mut state, b'P', b"\0select 1\0\0\0");
        assert_eq!(state.kept(), None);
        ask(&mut state, b'P', b"s1\0select 1\0\0\0");
        assert_eq!(state.kept(), Some(Kept::Prepared));
        assert!(asks_for_the_past(b"Q\0\0\0\x14select lastval()\0") && !asks_for_the_past(b"select 1\0"));
    }
}
