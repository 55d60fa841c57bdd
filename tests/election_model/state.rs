//! The states of the model: small numbers in place of names, ages in place of moments.
use pgpool_operator::messages::Standing;

/// Nodes at most.
pub const NODES: usize = 3;
/// Entries of a WAL at most.
pub const CAP: usize = 28;
/// Records under which a node has answered within 2 L, at most.
pub const ANSWERS: usize = 10;
/// Ages are counted in ticks, up to this: older than twice the longest lease makes no difference.
pub const OLD: u8 = 4;

/// The record: by node, the number of the attached copy of the data, 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rec {
    pub epoch: u8,
    pub electing: bool,
    pub primary: u8,
    pub attached: [u8; NODES],
    pub timeline: u8,
    /// Where that timeline began.
    pub fork: u8,
    pub successor: Option<u8>,
    pub stopped: bool,
}

impl Rec {
    pub fn counts(&self, node: usize, copy: u8) -> bool {
        self.attached[node] == copy
    }

    pub fn serving(&self, node: usize) -> bool {
        !self.electing && usize::from(self.primary) == node
    }
}

/// What stands in the WAL: a timeline and what was written on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// A client's commit.
    Commit(u8),
    /// A row of the epoch table; the epoch in which it was written.
    Row(u8),
    /// The first record of a timeline: a promotion looks the same wherever it happens.
    Began,
}

/// An entry of the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    pub timeline: u8,
    pub what: What,
}

/// A WAL.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Wal {
    len: u8,
    entries: [Entry; CAP],
}

/// A vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ballot {
    pub epoch: u8,
    pub copy: u8,
    pub standing: Standing,
    pub timeline: u8,
    pub lsn: u8,
}

/// A stamp: the start of Postgres, and how long ago.
pub type Mark = (u8, u8);

/// A beat on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Note {
    /// Ticks since it was sent.
    pub sent: u8,
    pub epoch: u8,
    pub echo: Option<Mark>,
    pub flush: u8,
}

/// The last answer of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Said {
    pub copy: u8,
    pub epoch: u8,
    pub stamp: Mark,
    pub serves_nobody: bool,
    pub standby: bool,
}

/// What a primary knows of a node by its beats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Known {
    pub said: Option<Said>,
    pub counted: Option<u8>,
    /// Age of the sending of the last lease, and the stamp that it echoed.
    pub granted: Option<(u8, Option<Mark>)>,
}

/// A standby's lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lease {
    /// Age of the last "I serve nobody".
    pub word: Option<u8>,
    pub target: Option<u8>,
    pub caught_up: bool,
    pub rest: u8,
}

/// An answer that counted, by the record under which it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reply {
    pub primary: u8,
    pub attached: [u8; NODES],
    pub age: u8,
}

/// What a primary keeps in memory while its Postgres runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Office {
    /// Ticks since the start.
    pub started: u8,
    pub read_since_start: bool,
    pub start: Option<u8>,
    /// Commits whose sessions wait.
    pub waiting: u8,
    /// Node, copy, epoch of its name and row of the last nonce.
    pub growth: Option<(u8, u8, u8, u8)>,
    /// By node: copy, whether equal, newest row.
    pub tables: [Option<(u8, bool, u8)>; NODES],
    /// By node: copy, highest position reported as applied.
    pub senders: [Option<(u8, u8)>; NODES],
    pub known: [Known; NODES],
}

impl Office {
    pub const NONE: Self = Self {
        started: 0,
        read_since_start: false,
        start: None,
        waiting: 0,
        growth: None,
        tables: [None; NODES],
        senders: [None; NODES],
        known: [Known { said: None, counted: None, granted: None }; NODES],
    };
}

/// A node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "a state of the model: each may flip by itself")]
pub struct Node {
    /// Its agent runs.
    pub up: bool,
    /// Its Postgres runs.
    pub running: bool,
    /// Its data is, or was when it ended, a primary's.
    pub primary: bool,
    pub copy: u8,
    pub wal: Wal,
    pub applied: u8,
    /// Whom it follows.
    pub upstream: Option<u8>,
    pub view: Rec,
    pub must_read: bool,
    /// N: by node, copy (0 for none) and epoch under which it came in.
    pub names: [(u8, u8); NODES],
    pub open: bool,
    /// Sessions came in, in this start: they outlive a shut gate.
    pub sessions: bool,
    pub boot: u8,
    /// Epoch of its word, noted in the volume.
    pub word: Option<u8>,
    /// The Postgres of its office has ended in the life of this agent.
    pub ended: bool,
    /// The last timeline in which it has been open, noted in the volume.
    pub opened: u8,
    /// Its last answers that counted.
    pub answers: [Option<Reply>; ANSWERS],
    /// Ticks since the start of its agent.
    pub begun: Option<u8>,
    /// How long ago offices before could last count on it, for their own lease and for those they gave.
    pub owed: (Option<u8>, Option<u8>),
    pub vote: Option<Ballot>,
    /// A write on its way: the epoch that it replaces, and the record. It survives its writer.
    pub write: Option<(u8, Rec)>,
    pub office: Office,
    pub lease: Lease,
    /// Rest of the lease that a front knows: it outlives a restart.
    pub front: u8,
    /// The last beat of each other node to it.
    pub beats: [Option<Note>; NODES],
}

/// What may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    pub commits: u8,
    /// Ends of an agent together with its Postgres.
    pub crashes: u8,
    /// Ends of a Postgres alone.
    pub deaths: u8,
    pub ticks: u8,
    pub switches: u8,
    /// Wishes that change: a node is wanted, or isn't any more.
    pub wishes: u8,
    /// Times that the object of the record is deleted and made anew.
    pub remakes: u8,
}

/// The world.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub api: Rec,
    pub nodes: [Node; NODES],
    pub wished: [bool; NODES],
    pub acknowledged: u8,
    pub left: Budget,
    /// Steps taken, where they are counted.
    pub steps: u16,
    /// A decider has proposed a record that the API server refuses, or called a person.
    pub illegal: bool,
}

impl Wal {
    pub const EMPTY: Self = Self { len: 0, entries: [Entry { timeline: 0, what: What::Began }; CAP] };

    pub fn all(&self) -> &[Entry] {
        &self.entries[..usize::from(self.len)]
    }

    pub fn end(&self) -> u8 {
        self.len
    }

    pub fn has_room(&self) -> bool {
        usize::from(self.len) < CAP
    }

    pub fn push(&mut self, entry: Entry) {
        self.entries[usize::from(self.len)] = entry;
        self.len += 1;
    }

    /// Timeline of the last entry.
    pub fn timeline(&self) -> u8 {
        self.all().last().map_or(0, |e| e.timeline)
    }

    /// Commits among the first entries.
    pub fn commits(&self, up_to: u8) -> u8 {
        let mut mask = 0;
        for entry in self.all().iter().take(usize::from(up_to)) {
            if let What::Commit(number) = entry.what {
                mask |= 1 << number;
            }
        }
        mask
    }

    /// Commits on a timeline later than that one.
    pub fn commits_after(&self, timeline: u8) -> u8 {
        let later = self.all().iter().filter(|e| e.timeline > timeline);
        later.fold(0, |mask, e| if let What::Commit(number) = e.what { mask | 1 << number } else { mask })
    }

    pub fn is_prefix_of(&self, other: &Self) -> bool {
        other.all().starts_with(self.all())
    }
}

impl std::hash::Hash for Wal {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        for entry in self.all() {
            entry.hash(state);
        }
        state.write_u8(self.len);
    }
}

impl std::fmt::Debug for Wal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for entry in self.all() {
            match entry.what {
                What::Commit(number) => write!(f, "[{}:c{number}]", entry.timeline)?,
                What::Row(epoch) => write!(f, "[{}:row{epoch}]", entry.timeline)?,
                What::Began => write!(f, "[{}]", entry.timeline)?,
            }
        }
        Ok(())
    }
}

impl State {
    /// Whether a client's statement may be answered by the node.
    pub fn readable(&self, node: usize) -> bool {
        let n = &self.nodes[node];
        n.running && (n.open || n.sessions) && n.front > 0
    }

    /// Attached nodes that still have the copy of the data that the record counts.
    pub fn attached(&self) -> impl Iterator<Item = usize> {
        (0..NODES).filter(|&i| self.api.attached[i] != 0 && self.api.counts(i, self.nodes[i].copy))
    }
}

pub fn older(age: &mut u8, most: u8) {
    *age = (*age + 1).min(most);
}
