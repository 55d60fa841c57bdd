//! N: the synchronous names of the primary (R1, R15), as they stand in its volume and in
//! `synchronous_standby_names`.
use serde::{Deserialize, Serialize};

use crate::api::v1alpha1::{Member, Record};

/// Names of walreceivers begin with this.
const PREFIX: &str = "pgpool_";

/// A name that no walreceiver ever has: while it stands in N, every commit waits.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Filler {
    /// Stands for a moment when N grows from none to one: a commit that is seen to wait for it
    /// proves that commits wait at all (only the checkpointer knows that N isn't empty).
    Gate,
    /// Stands while fewer nodes are attached than `minAttached` (R15).
    Nobody,
}

impl Filler {
    /// The name in `synchronous_standby_names`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gate => "pgpool_gate",
            Self::Nobody => "pgpool_nobody",
        }
    }
}

/// A node whose name stands in N.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    /// The node.
    pub member: Member,
    /// Epoch of the record when the name came in, raised before the node is written into a record:
    /// a write of that epoch may still put the node into the record. The name may leave only when
    /// a later record is known.
    pub epoch: i64,
}

/// N. The agent keeps it in the volume, fsynced before PostgreSQL is told.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Names {
    /// The nodes, the newest first.
    pub listed: Vec<Listed>,
    /// A name that nobody has, in front of them.
    pub filler: Option<Filler>,
    /// Longest lease in milliseconds that a node in N may hold: what a restarted primary waits out.
    pub lease_ms: u32,
}

impl Names {
    /// N of a primary that is about to start its Postgres: what stood in the volume, and every
    /// other attached node.
    pub fn at_start(record: &Record, me: u8, stored: Option<Self>, lease_ms: u32) -> Self {
        let mut names = stored.unwrap_or_default();
        names.lease_ms = names.lease_ms.max(lease_ms);
        names.cover(record, me);
        names
    }

    /// Puts in every attached node other than `me` that is missing. True if one was.
    pub fn cover(&mut self, record: &Record, me: u8) -> bool {
        let mut changed = false;
        for member in record.attached.iter().filter(|m| m.index != me) {
            if !self.holds(member) {
                self.listed.insert(0, Listed { member: member.clone(), epoch: record.epoch });
                changed = true;
            }
        }
        changed
    }

    /// Whether a node's name stands in N.
    pub fn holds(&self, member: &Member) -> bool {
        self.listed.iter().any(|l| l.member == *member)
    }

    /// The epoch under which a node's name came in, or was last written into a record.
    pub fn since(&self, member: &Member) -> Option<i64> {
        self.listed.iter().find(|l| l.member == *member).map(|l| l.epoch)
    }

    /// Whether N is empty, so that no commit waits for anybody.
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty() && self.filler.is_none()
    }

    /// The place of a node's name, counted from 1: its walsender's `sync_priority` once it uses this list.
    pub fn place(&self, member: &Member) -> Option<i32> {
        let at = self.listed.iter().position(|l| l.member == *member)?;
        i32::try_from(at + 1 + usize::from(self.filler.is_some())).ok()
    }

    /// The value of `synchronous_standby_names`; empty when N is.
    pub fn render(&self) -> String {
        let filler = self.filler.iter().map(|f| f.name().to_owned());
        let names: Vec<String> = filler
            .chain(self.listed.iter().map(|l| application_name(&l.member)))
            .map(|name| format!("\"{}\"", name.replace('"', "\"\"")))
            .collect();
        if names.is_empty() { String::new() } else { format!("{} ({})", names.len(), names.join(", ")) }
    }
}

/// `application_name` of a node's walreceiver; unique by incarnation, since two walreceivers of one
/// name would each satisfy the same place of N.
pub fn application_name(member: &Member) -> String {
    format!("{PREFIX}{}_{}", member.index, member.incarnation)
}

/// The node that a walreceiver belongs to.
pub fn parse_application_name(name: &str) -> Option<Member> {
    let (index, incarnation) = name.strip_prefix(PREFIX)?.split_once('_')?;
    let plain = !index.is_empty() && index.bytes().all(|b| b.is_ascii_digit()) && !incarnation.is_empty();
    let index = if plain { index.parse().ok()? } else { return None };
    Some(Member { index, incarnation: incarnation.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(index: u8, incarnation: &str) -> Listed {
        Listed { member: Member { index, incarnation: incarnation.to_owned() }, epoch: 1 }
    }

    #[test]
    fn the_list_waits_for_every_name_in_it() {
        let mut names = Names::default();
        assert_eq!(names.render(), "");
        names.listed.push(listed(2, "abc"));
        assert_eq!(names.render(), r#"1 ("pgpool_2_abc")"#);
        names.filler = Some(Filler::Gate);
        names.listed.push(listed(1, "d\"e"));
        assert_eq!(names.render(), r#"3 ("pgpool_gate", "pgpool_2_abc", "pgpool_1_d""e")"#);
        assert_eq!(names.place(&names.listed[1].member), Some(3));
    }

    #[test]
    fn a_name_leads_back_to_its_node() {
        let member = Member { index: 14, incarnation: "0123456789ab".to_owned() };
        assert_eq!(parse_application_name(&application_name(&member)), Some(member));
        for other in [
            "pgpool_gate",
            "pgpool_nobody",
            "pgpool_1_",
            "pgpool__a",
            "pgpool_+1_a",
            "walreceiver",
            "pgpool_300_a",
        ] {
            assert_eq!(parse_application_name(other), None, "{other}");
        }
    }
}
