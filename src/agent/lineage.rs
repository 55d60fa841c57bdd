//! The pool's history, kept for `restore-wal` ([`crate::archive::Lineage`]).
use super::node::{Node, StepError};
use super::observe::StandbyFacts;
use super::volume::{read_json, write_json};
use crate::api::v1alpha1::Record;
use crate::archive::{Branch, Lineage};
use crate::membership::{joining, lsn};
use crate::names;

impl Node {
    fn lineage_path(&self) -> std::path::PathBuf {
        self.volume.conf().join(names::LINEAGE)
    }

    /// Writes what a timeline and its history file say.
    pub(super) fn write_lineage(
        &mut self,
        timeline: u32,
        history: &[joining::Fork],
    ) -> Result<(), StepError> {
        let forks = history.iter().map(|f| Branch { timeline: f.timeline, end: Some(f.at) });
        let branches = forks.chain([Branch { timeline, end: None }]).collect();
        let lineage = Lineage { segment_bytes: self.segment_bytes, branches };
        write_json(&self.lineage_path(), &lineage)?;
        self.lineage = Some(timeline);
        Ok(())
    }

    /// A voter follows the primary that was chosen: the record says where the new timeline begins. Where the
    /// history before isn't known, nothing is taken from an archive until it is.
    pub(super) fn extend_lineage(&mut self, record: &Record) -> Result<(), StepError> {
        if self.lineage == Some(record.timeline) {
            return Ok(());
        }
        let known: Option<Lineage> = read_json(&self.lineage_path())?;
        let mut branches = known.map(|lineage| lineage.branches).unwrap_or_default();
        if branches.last().is_some_and(|last| last.timeline >= record.timeline) {
            return Ok(());
        }
        if let (Some(last), Some(fork)) = (branches.last_mut(), lsn::parse(&record.fork_lsn)) {
            last.end = Some(last.end.map_or(fork, |end| end.min(fork)));
        }
        branches.push(Branch { timeline: record.timeline, end: None });
        write_json(&self.lineage_path(), &Lineage { segment_bytes: self.segment_bytes, branches })?;
        Ok(())
    }

    /// Takes over the history of the timeline that is followed, from the file that came with it.
    pub(super) fn note_lineage(&mut self, record: &Record, facts: &StandbyFacts) -> Result<(), StepError> {
        let follows = facts.streaming && facts.timeline == Some(record.timeline);
        if self.lineage == Some(record.timeline) || !follows {
            return Ok(());
        }
        let path = self.volume.data().join("pg_wal").join(format!("{:08X}.history", record.timeline));
        let history = match std::fs::read_to_string(&path) {
            Ok(text) => joining::parse_history(&text),
            Err(_) => (record.timeline == 1).then(Vec::new),
        };
        match history {
            Some(history) => self.write_lineage(record.timeline, &history),
            None => Ok(()),
        }
    }
}
