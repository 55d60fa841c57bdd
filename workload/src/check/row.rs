//! The rows of schema `workload`, out of PostgreSQL's text for composite values. Pure.
//!
//! Their columns are numbers and uuids, which are never quoted.

use crate::history::id::Id;

/// One row of one of our tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// workload.accounts
    Account {
        /// Number.
        id: i64,
        /// Balance at first.
        initial: i64,
        /// Balance now.
        balance: i64,
    },
    /// workload.transfers
    Transfer {
        /// The write.
        id: Id,
        /// Its run.
        run: Id,
        /// Paying account.
        from: i64,
        /// Receiving account.
        to: i64,
        /// How much.
        amount: i64,
    },
    /// workload.list_heads
    ListHead {
        /// Which list.
        list: i64,
        /// How long it says that it is.
        length: u64,
    },
    /// workload.lists
    ListItem {
        /// Which list.
        list: i64,
        /// Position, from one.
        pos: u64,
        /// The write.
        id: Id,
        /// Its run.
        run: Id,
    },
    /// workload.ids
    Unique {
        /// The write.
        id: Id,
        /// Its run.
        run: Id,
    },
    /// workload.counters
    Counter {
        /// The run that counts.
        run: Id,
        /// Which counter.
        counter: u32,
        /// Its value.
        n: u64,
    },
    /// workload.registers; what it should hold is for checkers of histories to say.
    Register,
}

/// Reads the row `text` of the table `workload.{table}`; none if it isn't one.
pub fn parse(table: &str, text: &[u8]) -> Option<Row> {
    let text = std::str::from_utf8(text).ok()?;
    let inner = text.strip_prefix('(')?.strip_suffix(')')?;
    let fields: Vec<&str> = inner.split(',').collect();
    Some(match (table, fields.as_slice()) {
        ("accounts", [id, initial, balance]) => Row::Account {
            id: id.parse().ok()?,
            initial: initial.parse().ok()?,
            balance: balance.parse().ok()?,
        },
        ("transfers", [id, run, from, to, amount]) => Row::Transfer {
            id: id.parse().ok()?,
            run: run.parse().ok()?,
            from: from.parse().ok()?,
            to: to.parse().ok()?,
            amount: amount.parse().ok()?,
        },
        ("list_heads", [list, length]) => {
            Row::ListHead { list: list.parse().ok()?, length: length.parse().ok()? }
        }
        ("lists", [list, pos, id, run]) => Row::ListItem {
            list: list.parse().ok()?,
            pos: pos.parse().ok()?,
            id: id.parse().ok()?,
            run: run.parse().ok()?,
        },
        ("ids", [id, run, _writer, _seq]) => Row::Unique { id: id.parse().ok()?, run: run.parse().ok()? },
        ("counters", [run, counter, n]) => {
            Row::Counter { run: run.parse().ok()?, counter: counter.parse().ok()?, n: n.parse().ok()? }
        }
        ("registers", [_run, _register, _value, _version, _replaced]) => Row::Register,
        _ => return None,
    })
}
