//! What the front knows of the nodes.
use crate::{
    clock::Moment,
    messages::{NodeReport, Role},
    names::MAX_NODES,
};

/// What a node last said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The copy of the data and the start of Postgres: a connection belongs to one of them.
    pub tenure: (Option<String>, String),
    /// Epoch that the node acts on.
    pub epoch: i64,
    /// What its Postgres is.
    pub role: Role,
    /// True while it lets clients in.
    pub open: bool,
    /// True while it hands over: who is there may finish, nobody new is sent there.
    pub draining: bool,
    /// Its weight for sessions that read.
    pub weight: u32,
    /// Its answers count for statements sent before this.
    pub lease: Moment,
}

/// The nodes by index. Facts come from the stream of each node, in order; a lease only from an answer to
/// a question, and counts from the sending of the question. A line of a stream may have been under way
/// for any length of time, so it never lengthens a lease.
#[derive(Clone, Debug)]
pub struct Table {
    entries: Vec<Option<Entry>>,
}

impl Table {
    /// A table of all nodes that there may be, of which nothing is known.
    pub fn new() -> Self {
        Self { entries: vec![None; usize::from(MAX_NODES)] }
    }

    /// What is known of a node.
    pub fn get(&self, index: u8) -> Option<&Entry> {
        self.entries.get(usize::from(index))?.as_ref()
    }

    /// The nodes that something is known of.
    pub fn nodes(&self) -> impl Iterator<Item = (u8, &Entry)> {
        (0..).zip(&self.entries).filter_map(|(index, entry)| Some((index, entry.as_ref()?)))
    }

    /// Takes a line of the node's stream that was read at `now`.
    pub fn told(&mut self, index: u8, report: &NodeReport, now: Moment) {
        let Some(place) = self.entries.get_mut(usize::from(index)) else { return };
        let mut entry = Entry {
            tenure: (report.incarnation.clone(), report.boot.clone()),
            epoch: report.epoch,
            role: report.role,
            open: report.open,
            draining: report.draining,
            weight: report.weight,
            lease: Moment::ZERO,
        };
        if let Some(former) = place.as_ref().filter(|former| former.tenure == entry.tenure && former.open) {
            entry.lease = former.lease.min(until(now, report));
        }
        *place = Some(entry);
    }

    /// Takes the answer to a question that was sent at `sent`. It counts only while it says what the
    /// stream says: an answer that overtook a line, or was overtaken by one, extends nothing.
    pub fn answered(&mut self, index: u8, report: &NodeReport, sent: Moment) {
        let Some(Some(entry)) = self.entries.get_mut(usize::from(index)) else { return };
        let same = entry.tenure.0 == report.incarnation
            && entry.tenure.1 == report.boot
            && entry.epoch == report.epoch
            && entry.role == report.role
            && entry.open == report.open;
        if same {
            entry.lease = until(sent, report);
        }
    }
}

fn until(from: Moment, report: &NodeReport) -> Moment {
    from.after(std::time::Duration::from_millis(report.lease_ms))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::proxy) fn report(index: u8, role: Role, epoch: i64, lease_ms: u64) -> NodeReport {
        NodeReport {
            pool_uid: "u".into(),
            incarnation: Some(format!("copy{index}")),
            epoch,
            seen: epoch,
            role,
            open: true,
            lease_ms,
            streaming: role == Role::Standby,
            ..NodeReport::unknown(index, "b1")
        }
    }

    fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    fn lease(table: &Table) -> Moment {
        table.get(0).map_or(Moment::ZERO, |entry| entry.lease)
    }

    #[test]
    fn a_line_never_lengthens_a_lease_and_an_answer_counts_from_the_question() {
        let mut table = Table::new();
        let node = report(0, Role::Standby, 3, 2000);
        table.answered(0, &node, at(0));
        assert_eq!(table.get(0), None, "an answer before the first line says nothing");
        table.told(0, &node, at(100));
        assert_eq!(lease(&table), Moment::ZERO);
        table.answered(0, &node, at(150));
        assert_eq!(lease(&table), at(2150));
        table.told(0, &node, at(1000));
        assert_eq!(lease(&table), at(2150));
        table.told(0, &report(0, Role::Standby, 3, 300), at(1000));
        assert_eq!(lease(&table), at(1300), "a line may shorten it");
    }

    #[test]
    fn an_answer_that_differs_from_the_stream_extends_nothing() {
        let open = report(0, Role::Standby, 3, 2000);
        let mut shut = open.clone();
        shut.open = false;
        let mut table = Table::new();
        table.told(0, &open, at(0));
        table.answered(0, &open, at(0));
        table.told(0, &shut, at(10));
        table.answered(0, &open, at(5));
        assert!(!table.get(0).unwrap().open);
        table.told(0, &open, at(20));
        assert_eq!(lease(&table), Moment::ZERO, "what was shut begins without a lease");
        let mut restarted = open.clone();
        restarted.boot = "b2".into();
        table.answered(0, &open, at(30));
        table.told(0, &restarted, at(40));
        assert_eq!(lease(&table), Moment::ZERO, "a lease belongs to one start");
        table.answered(0, &report(0, Role::Primary, 3, 2000), at(50));
        assert_eq!(lease(&table), Moment::ZERO);
    }
}
