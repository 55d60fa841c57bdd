//! A record that was put back to an older state, as by an etcd restored from a backup, or made anew under the same name (R7).
//! Whoever has seen more serves nothing under it, and whoever hears of more doesn't either: else a primary that was away while the
//! epoch rose would remove the nodes that refuse, bring the epoch up to theirs, and copy over what only they have.
use crate::api::v1alpha1::Record;
use crate::clock::Moment;

/// The latest epoch that another node has told of, and when that was heard of first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The epoch; 0 before anything was heard.
    pub epoch: i64,
    /// Who told.
    pub index: u8,
    /// When it was heard. Who told had read it before that.
    pub at: Moment,
}

impl Told {
    /// Takes a node's word for the epoch that it knows.
    pub fn hear(&mut self, epoch: i64, index: u8, now: Moment) {
        if epoch > self.epoch {
            *self = Self { epoch, index, at: now };
        }
    }

    /// Whether a record of this epoch, read by a call that began at `asked`, may be older than the one that was told of: then
    /// nothing is written that follows from it.
    pub fn is_ahead(&self, epoch: i64, asked: Moment) -> bool {
        epoch < self.epoch && asked <= self.at
    }
}

/// Why a record of this epoch, read by a call that began at `asked`, can't be the one that this node knows up to `seen`. Reads are
/// consistent: what another node had read before this one began is in it.
pub fn why(epoch: i64, asked: Moment, seen: i64, told: &Told) -> Option<String> {
    if epoch < seen {
        return Some(format!(
            "the record is at epoch {epoch}, this node has seen {seen}: it was lost or restored"
        ));
    }
    let later = epoch < told.epoch && asked > told.at;
    later.then(|| {
        format!(
            "the record is at epoch {epoch}, node {} has seen {}: it was lost or restored",
            told.index, told.epoch
        )
    })
}

/// Why a record isn't the one that this node knows, though its epoch is the same. Each write of a record raises the epoch, so there is
/// one of each: the pool went on from an older state in another way.
pub fn forked(known: Option<&Record>, read: Option<&Record>) -> Option<String> {
    let (known, read) = known.zip(read)?;
    (known.epoch == read.epoch && known != read).then(|| {
        format!(
            "the record at epoch {} is another one than this node has seen: it was lost or restored, and went on",
            read.epoch
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1alpha1::{Member, Phase};

    const fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    fn told(epoch: i64, millis: u64) -> Told {
        let mut told = Told::default();
        told.hear(epoch, 2, at(millis));
        told
    }

    #[test]
    fn what_this_node_has_seen_counts_at_once() {
        assert!(why(6, at(1), 7, &Told::default()).is_some_and(|why| why.contains("this node has seen 7")));
        assert_eq!(why(7, at(1), 7, &Told::default()), None);
        assert_eq!(why(8, at(1), 7, &Told::default()), None);
    }

    #[test]
    fn what_another_node_has_seen_counts_against_a_read_that_began_later() {
        let told = told(9, 100);
        assert_eq!(why(8, at(99), 7, &told), None, "the read may have been answered before that epoch");
        assert_eq!(why(8, at(100), 7, &told), None);
        assert!(why(8, at(101), 7, &told).is_some_and(|why| why.contains("node 2 has seen 9")));
        assert_eq!(why(9, at(101), 7, &told), None);
        assert_eq!(why(10, at(101), 7, &told), None);
    }

    #[test]
    fn nothing_is_written_until_a_read_that_began_later() {
        let told = told(9, 100);
        assert!(told.is_ahead(8, at(99)) && told.is_ahead(8, at(100)));
        assert!(!told.is_ahead(8, at(101)), "that one is put back, which is another matter");
        assert!(!told.is_ahead(9, at(99)));
        assert!(!Told::default().is_ahead(1, at(0)));
    }

    #[test]
    fn the_first_word_for_the_latest_epoch_counts() {
        let mut told = told(9, 100);
        told.hear(9, 1, at(200));
        told.hear(8, 1, at(300));
        assert_eq!(told, Told { epoch: 9, index: 2, at: at(100) });
        told.hear(10, 1, at(400));
        assert_eq!(told, Told { epoch: 10, index: 1, at: at(400) });
    }

    #[test]
    fn of_each_epoch_there_is_one_record() {
        let known = Record {
            epoch: 9,
            phase: Phase::Serving,
            primary: 1,
            attached: vec![Member { index: 1, incarnation: "copy1".to_owned() }],
            timeline: 3,
            fork_lsn: "0/3000028".to_owned(),
            successor: None,
            stopped: false,
            reason: String::new(),
        };
        let other = Record { primary: 2, ..known.clone() };
        assert!(forked(Some(&known), Some(&other)).is_some_and(|why| why.contains("epoch 9 is another one")));
        assert_eq!(forked(Some(&known), Some(&known)), None);
        assert_eq!(forked(Some(&known), Some(&Record { epoch: 10, ..other })), None);
        assert_eq!((forked(None, Some(&known)), forked(Some(&known), None)), (None, None));
    }
}
