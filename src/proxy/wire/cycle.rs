//! Where a session stands between a client's question and the node's last word on it (PostgreSQL documentation, "Message
//! Flow"): each Query, Sync and `FunctionCall` is answered by one `ReadyForQuery`.
use super::walk::Seen;

/// What is under way in a session that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cycle {
    /// `ReadyForQuery` messages that are still to come.
    owed: u32,
    /// Of these the last so many are owed for a Sync.
    syncs: u32,
    /// Messages were sent that no Sync has followed yet.
    open: bool,
    /// The last word on a command was an error.
    failed: bool,
    /// The transaction's state as the node told it last: `I` idle, `T` in one, `E` in a failed one.
    state: u8,
}

impl Default for Cycle {
    /// After the login: idle.
    fn default() -> Self {
        Self { owed: 0, syncs: 0, open: false, failed: false, state: b'I' }
    }
}

impl Cycle {
    /// The node has been sent a message of this kind, at least in part. True where it ends a question: a `ReadyForQuery`
    /// is owed for it.
    pub fn asked(&mut self, tag: u8) -> bool {
        match tag {
            b'Q' | b'S' | b'F' => {
                self.syncs = if tag == b'S' { self.syncs.saturating_add(1) } else { 0 };
                (self.owed, self.open) = (self.owed.saturating_add(1), false);
                return true;
            }
            // Parts of a COPY belong to the statement that began it; a Flush asks for nothing new, and what ends a session
            // is no question.
            // A Sync before them may have been meant for the COPY, or not: more is owed then than comes, at worst.
            b'd' | b'c' | b'f' => self.syncs = 0,
            b'H' | b'X' => {}
            _ => self.open = true,
        }
        false
    }

    /// The client has been sent this, at least in part.
    pub fn answered(&mut self, seen: Seen) {
        match seen.tag {
            b'E' => self.failed = true,
            b'C' => self.failed = false,
            b'Z' => {
                self.failed = false;
                self.owed = self.owed.saturating_sub(1);
                self.syncs = self.syncs.min(self.owed);
                self.state = seen.first.unwrap_or_default();
            }
            // A Sync that came before the data of a COPY is ignored ("COPY Operations"); another one follows the data.
            b'G' if self.syncs > 0 => {
                self.owed = self.owed.saturating_sub(self.syncs);
                (self.syncs, self.open) = (0, true);
            }
            _ => {}
        }
    }

    /// True after an error, until something was done: what was under way has not been committed.
    pub fn has_failed(self) -> bool {
        self.failed
    }

    /// True while the node has nothing to do for the client: whatever was asked has been answered.
    pub fn is_quiet(self) -> bool {
        self.owed == 0 && !self.open
    }

    /// True while nothing would be lost with the session's place: it is quiet, and in no transaction.
    pub fn is_idle(self) -> bool {
        self.is_quiet() && self.state == b'I'
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(cycle: &mut Cycle, state: u8) {
        cycle.answered(Seen { tag: b'C', first: None });
        cycle.answered(Seen { tag: b'Z', first: Some(state) });
    }

    #[test]
    fn a_session_is_idle_between_its_transactions() {
        let mut cycle = Cycle::default();
        assert!(cycle.is_idle());
        cycle.asked(b'Q');
        assert!(!cycle.is_quiet());
        ready(&mut cycle, b'T');
        assert!(cycle.is_quiet() && !cycle.is_idle());
        cycle.asked(b'Q');
        ready(&mut cycle, b'I');
        assert!(cycle.is_idle());
    }

    #[test]
    fn whoever_sends_ahead_is_busy_until_the_last_answer() {
        let mut cycle = Cycle::default();
        for tag in *b"PBESPBE" {
            cycle.asked(tag);
        }
        ready(&mut cycle, b'I');
        assert!(!cycle.is_quiet(), "the second batch has no Sync yet");
        cycle.asked(b'S');
        assert!(!cycle.is_quiet());
        ready(&mut cycle, b'I');
        assert!(cycle.is_idle());
    }

    #[test]
    fn a_copy_is_one_question() {
        let mut cycle = Cycle::default();
        let questions: Vec<bool> = b"Qddc".iter().map(|tag| cycle.asked(*tag)).collect();
        assert_eq!(questions, [true, false, false, false]);
        cycle.answered(Seen { tag: b'G', first: Some(0) });
        assert!(!cycle.is_quiet());
        ready(&mut cycle, b'I');
        assert!(cycle.is_idle());
    }

    #[test]
    fn data_that_comes_behind_the_error_of_a_copy_is_nothing_new() {
        let mut cycle = Cycle::default();
        cycle.asked(b'Q');
        cycle.answered(Seen { tag: b'G', first: Some(0) });
        cycle.answered(Seen { tag: b'E', first: None });
        cycle.answered(Seen { tag: b'Z', first: Some(b'I') });
        for tag in *b"ddc" {
            cycle.asked(tag);
            assert!(cycle.is_idle());
        }
    }

    #[test]
    fn a_sync_before_the_data_of_a_copy_is_owed_nothing() {
        let mut cycle = Cycle::default();
        for tag in *b"PBES" {
            cycle.asked(tag);
        }
        cycle.answered(Seen { tag: b'G', first: Some(0) });
        assert!(!cycle.is_quiet(), "the data is still to come");
        for tag in *b"ddcS" {
            cycle.asked(tag);
        }
        assert!(!cycle.is_quiet());
        ready(&mut cycle, b'I');
        assert!(cycle.is_idle());
    }
}
