//! What must hold for whatever bytes come from a client, a node or another part: nothing breaks, memory is bounded, what
//! is passed on is what came, and it makes no difference how the network cuts it.
//!
//! `cargo xtask fuzz` looks for bytes that break one of these; `cargo test` tries some that were made up, and messages
//! of every kind.
#![allow(clippy::missing_panics_doc, reason = "to panic is how a breach is told")]
mod logins;
mod passing;
mod peers;
mod side;
#[cfg(test)]
mod tests;

pub use logins::{node, scram, startup};
pub use passing::{relay, screen};
pub use peers::peers;

/// Takes an input apart.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// The next byte; zero after the end.
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// So many bytes, or what there is.
    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// What is left of it.
    fn rest(self) -> &'a [u8] {
        self.0
    }

    fn is_over(&self) -> bool {
        self.0.is_empty()
    }
}
