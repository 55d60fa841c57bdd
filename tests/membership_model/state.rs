//! The states of the model: small numbers in place of names, ages in place of moments.
use pgpool_operator::membership::names::Filler;

/// Nodes at most; node 0 is the primary.
pub const NODES: usize = 3;
/// L in ticks. R is one tick.
pub const LEASE: u8 = 2;
/// Ages are counted in ticks, up to this. A stamp, an answer or a silence of L is as good as an older one.
pub const OLD: u8 = LEASE;
/// A lease that was given L + 1 ticks ago has been waited out.
pub const OVER: u8 = LEASE + 1;

/// A row of the epoch table in the WAL is `ROW | id`; a commit is its number.
pub const ROW: u8 = 0x80;

/// The record: by node, the number of the attached copy of the data, 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rec {
    pub epoch: u8,
    pub attached: [u8; NODES],
}

/// A name in N: node, copy, epoch under which it came in.
pub type Name = (u8, u8, u8);

/// N.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct List {
    pub names: Vec<Name>,
    pub filler: Option<Filler>,
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
    pub running: bool,
}

/// What the primary knows of a node by its beats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Known {
    pub said: Option<Said>,
    pub counted: Option<u8>,
    /// Age of the sending of the last lease, and the stamp that it echoed.
    pub granted: Option<(u8, Option<Mark>)>,
}

/// A walsender: its own priority and number of synchronous standbys, as of the list that it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sender {
    pub copy: u8,
    pub priority: u8,
    pub number: u8,
    /// Highest position that the standby has reported as applied.
    pub applied: u8,
    /// False once the standby is gone and the walsender hasn't noticed.
    pub live: bool,
}

/// Node 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "a state of the model: each may flip by itself")]
pub struct Primary {
    pub up: bool,
    pub open: bool,
    pub wal: Vec<u8>,
    /// What it showed when it opened for having found it in its WAL.
    pub shown: u8,
    pub list: List,
    /// The checkpointer has told the sessions that commits wait.
    pub flag: bool,
    pub gate_seen: bool,
    pub record: Rec,
    pub must_read: bool,
    pub read_since_start: bool,
    pub start: Option<u8>,
    /// Commits whose sessions wait.
    pub waiting: u8,
    /// Node, copy, epoch of its name and row of the last nonce.
    pub growth: Option<(u8, u8, u8, u8)>,
    /// By node: copy, whether equal, newest row.
    pub tables: [Option<(u8, bool, u8)>; NODES],
    /// Ticks since the start.
    pub started: u8,
    pub senders: [Option<Sender>; NODES],
    pub known: [Known; NODES],
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "a state of the model: each may flip by itself")]
pub struct Standby {
    /// Its agent runs.
    pub up: bool,
    /// Its Postgres runs.
    pub running: bool,
    pub copy: u8,
    /// Bytes of the primary's WAL that it has, and that it has applied.
    pub received: u8,
    pub applied: u8,
    pub boot: u8,
    pub record: Rec,
    pub open: bool,
    /// Sessions came in, in this start: they outlive a shut gate.
    pub sessions: bool,
    /// Age of the last "I serve nobody".
    pub word: Option<u8>,
    pub target: Option<u8>,
    pub caught_up: bool,
    /// Rest of the read lease, and of the copy of it that a front holds: that one outlives a restart.
    pub rest: u8,
    pub front: u8,
    /// The last beat to it, and the lease before: each may arrive late.
    pub beat: Option<Note>,
    pub late: Option<Note>,
}

/// What may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    pub commits: u8,
    pub primary_crashes: u8,
    pub standby_crashes: u8,
    pub losses: u8,
    pub wishes: u8,
    pub ticks: u8,
}

/// The world.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub api: Rec,
    /// Writes on their way to the API: the epoch that they replace, and the new record. They outlive
    /// their writer.
    pub writes: Vec<(u8, Rec)>,
    pub primary: Primary,
    /// By index; the first is never used.
    pub standbys: Vec<Standby>,
    pub wished: [bool; NODES],
    pub acknowledged: u8,
    pub left: Budget,
    /// The decider has proposed a record that the API server refuses.
    pub illegal: bool,
}

impl Primary {
    pub fn end(&self) -> u8 {
        u8::try_from(self.wal.len()).expect("the WAL is short")
    }

    /// Commits among the first entries of the WAL.
    pub fn commits(&self, up_to: u8) -> u8 {
        self.wal.iter().take(usize::from(up_to)).filter(|e| *e & ROW == 0).fold(0, |mask, e| mask | 1 << e)
    }

    /// Ids of the rows of the epoch table among the first entries of the WAL.
    pub fn rows(&self, up_to: u8) -> Vec<u8> {
        self.wal.iter().take(usize::from(up_to)).filter(|e| *e & ROW != 0).map(|e| e & !ROW).collect()
    }

    pub fn push_row(&mut self) -> u8 {
        let id = u8::try_from(self.rows(self.end()).len()).expect("few rows") + 1;
        self.wal.push(ROW | id);
        id
    }

    pub fn holds(&self, node: usize, copy: u8) -> bool {
        self.list.names.iter().any(|n| usize::from(n.0) == node && n.1 == copy)
    }
}

impl Standby {
    /// Whether a front may be answered by it.
    pub fn readable(&self) -> bool {
        self.running && self.sessions && self.front > 0
    }
}

pub fn older(age: &mut u8, most: u8) {
    *age = (*age + 1).min(most);
}
