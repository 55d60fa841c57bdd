//! The parts of the protocol that a test may switch off, to show that the checker misses them.

/// One part of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Rule {
    /// R1: a node leaves the record before its name leaves N.
    ShrinkRecordFirst = 1 << 0,
    /// R1: a name leaves N only once a record later than the one it came in under has been written.
    NameNeedsOwnWrite = 1 << 1,
    /// R1: the lease of a removed node is waited out.
    LeaseWait = 1 << 2,
    /// R1: a node's name stands in N before the node stands in the record.
    GrowNamesFirst = 1 << 3,
    /// R1: every walsender is seen using the new list.
    GrowPriorities = 1 << 4,
    /// R1: from none to one, a commit is seen waiting.
    GrowGate = 1 << 5,
    /// R1: a nonce is read on the new node.
    GrowNonce = 1 << 6,
    /// R3: a lease runs from the stamp that the beat echoes, not from its arrival.
    LeaseFromStamp = 1 << 7,
    /// R3: the first lease of a start waits until the node has caught up.
    LeaseCaughtUp = 1 << 8,
    /// R3: a lease belongs to one start of Postgres; until the first of a start the gate is shut.
    LeaseOfThisBoot = 1 << 9,
    /// R4: a restarted primary counts every name in N as holding a lease given at its start.
    RestartCountsLeases = 1 << 10,
    /// R6 (c): a primary opens when every attached standby has applied what it had at its start.
    OpenCaughtUp = 1 << 11,
    /// R7: a copy of the data is known by its incarnation, not by its place.
    Incarnation = 1 << 12,
    /// R2: a vote counts for the epoch that it was given in.
    VoteOfThisEpoch = 1 << 13,
    /// R2: a primary that is alive and has voted is chosen; its position means nothing.
    IncumbentFirst = 1 << 14,
    /// R2: the furthest is chosen.
    ChooseFurthest = 1 << 15,
    /// R2: who is ahead of the chosen one is left out.
    AttachNotAhead = 1 << 16,
    /// R2: a voter follows nobody any more when it says how far it is.
    VoteFenced = 1 << 17,
    /// R4: a new primary waits for the old one's own lease.
    OfficeWaitsForPrimary = 1 << 18,
    /// R4: a new primary waits for the leases of standbys that were left out.
    OfficeWaitsForStandbys = 1 << 19,
    /// R4: after a restart of its agent it waits from then on.
    OfficeWaitSurvives = 1 << 20,
    /// R4: no reads and no leases without the answers of every node of record ∪ N.
    OwnLease = 1 << 21,
    /// R4: N counts for the own lease, not only the record.
    OwnLeaseNeedsNames = 1 << 22,
    /// R4: leases are given only under the own lease.
    GrantUnderOwnLease = 1 << 23,
    /// R4: an answer counts for a beat of the epoch that the node knows.
    AnswerOfThisEpoch = 1 << 24,
    /// R5: after its word a primary serves no more in that epoch.
    WordBinds = 1 << 25,
    /// A change is written over the very version of the record that it was decided by.
    CompareAndSwap = 1 << 26,
    /// R9: an old primary follows only if its WAL ends at or before the fork.
    JoinProved = 1 << 27,
    /// R9: the whole epoch table is compared before a node is added.
    TablesCompared = 1 << 28,
    /// Every office has a timeline of its own.
    TimelineReserved = 1 << 29,
    /// R4: to learn that it is attached counts as an answer of the node: leases from before needed none.
    AttachedIsAnswer = 1 << 30,
    /// R7: data belongs to one pool and knows how far its record was: an object that was made anew, and counts its epochs
    /// from the beginning, is another one's.
    SamePool = 1 << 31,
    /// R5: the word stands in the volume, and binds the agent that is started after it was given.
    WordSurvives = 1 << 32,
    /// R4: a new primary waits for every office under which it has answered, not only for the last one.
    EveryOffice = 1 << 33,
    /// R9: a voter that was started again before it read the choice knows by the record where its timeline was left.
    ForkByRecord = 1 << 34,
    /// R9: that holds of nodes alone that the record counts.
    ForkOfVoters = 1 << 35,
    /// R6 (c): a primary opens when no node that has left the record, and lacks what is shown here, may answer under a lease.
    OpenLeaseWait = 1 << 36,
}

/// Which parts are in force. The product always uses [`Rules::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules(u64);

impl Rules {
    /// The protocol.
    pub const ALL: Self = Self(u64::MAX);

    /// The protocol with one part missing; for tests.
    #[must_use]
    pub const fn without(self, rule: Rule) -> Self {
        Self(self.0 & !(rule as u64))
    }

    /// Whether a part is in force.
    pub const fn has(self, rule: Rule) -> bool {
        self.0 & rule as u64 != 0
    }
}
