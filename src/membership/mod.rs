//! The membership protocol: who counts in a pool, decided without losing an acknowledged commit or
//! answering with stale data (docs/membership.md; the rules R1 to R16 are named there).
//!
//! Everything here is pure: no clock, no I/O. An agent observes, asks a decider for the next action,
//! carries it out, observes again. Deciders look at levels, never at events, so that an agent that
//! dies between any two actions goes on from what it finds.
//!
//! | module | rules |
//! |---|---|
//! | [`record`] | the legal changes of the record, as the API server keeps them |
//! | [`names`] | N, the synchronous names of the primary (R1, R15) |
//! | [`primary`] | growing, shrinking, opening (R1, R6, R13, R15) |
//! | [`lease`] | read leases and the primary's own lease (R3, R4) |
//! | [`standby`] | when a standby lets clients in (R3) |
//! | [`election`] | who deposes a primary, and who is chosen (R2, R14) |
//! | [`unseen`] | what becomes of a standby that gives no session (R2, R7) |
//! | [`handover`] | until when a new primary stays behind its gate (R4) |
//! | [`starting`] | what a starting agent does with its volume (R7, R8) |
//! | [`joining`] | whether a node may follow without a copy, and epoch tables (R9) |
//! | [`putback`] | a record that is older than what was seen (R7) |
//! | [`wal_end`] | where the WAL of a stopped server ends (R9) |
//! | [`settings`] | PostgreSQL parameters that belong to the operator (R11) |

pub mod election;
pub mod handover;
pub mod joining;
pub mod lease;
pub mod lsn;
pub mod names;
pub mod primary;
pub mod putback;
pub mod record;
pub mod rules;
pub mod settings;
pub mod standby;
pub mod starting;
pub mod unseen;
pub mod wal_end;
