//! What `restore-wal` has to know, kept for it in the volume: the pool's history ([`Lineage`]), and how many nodes there are.
use super::node::{Node, StepError};
use super::observe::StandbyFacts;
use super::volume::{read_json, write_json, write_replaceable};
use crate::api::v1alpha1::Record;
use crate::archive::{Branch, Lineage, NodeCount};
use crate::membership::joining::ControlData;
use crate::membership::{joining, lsn};
use crate::names;

impl Node {
    fn lineage_path(&self) -> std::path::PathBuf {
        self.volume.conf().join(names::LINEAGE)
    }

    /// Takes note of how many nodes the pool has: archived WAL may be at one that came after this pod was started. That it can't be
    /// written holds up nothing: it is tried again with the next read of the record.
    pub(super) fn note_count(&self, nodes: u8) {
        self.shared.lock().nodes = Some(nodes);
        let path = self.volume.conf().join(names::NODE_COUNT);
        let noted: Option<NodeCount> = read_json(&path).ok().flatten();
        if noted.is_some_and(|noted| noted.nodes == nodes) {
            return;
        }
        if let Err(error) = write_replaceable(&path, &NodeCount { nodes }) {
            tracing::warn!(%error, "how many nodes there are can't be noted for restore-wal");
        }
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
        match self.streamed_history(record.timeline) {
            Some(history) => self.write_lineage(record.timeline, &history),
            None => Ok(()),
        }
    }

    /// The history file that came with a timeline. One without a line keeps a number from being used
    /// (`make_room` in `office.rs`), and says nothing.
    pub(super) fn streamed_history(&self, timeline: u32) -> Option<Vec<joining::Fork>> {
        if timeline == 1 {
            return Some(Vec::new());
        }
        let path = self.volume.data().join("pg_wal").join(format!("{timeline:08X}.history"));
        let history = joining::parse_history(&std::fs::read_to_string(path).ok()?)?;
        Some(history).filter(|history| !history.is_empty())
    }

    /// What a voter knows of the history of the record's timeline where nobody tells it: what it noted when it followed the
    /// choice, or what the record says of a choice that it never read. That is noted now, so that it takes nothing from an
    /// archive that goes past the fork. A choice that it never heard of may be left out: that lies behind the end of its WAL,
    /// so it proves the same.
    pub(super) fn voters_history(
        &mut self,
        record: &Record,
        control: &ControlData,
        held: u32,
    ) -> Result<Option<Vec<joining::Fork>>, StepError> {
        let Some(me) = self.shared.lock().member.clone() else { return Ok(None) };
        let Some(fork) = joining::fork_of_voter(record, &me, control, held) else { return Ok(None) };
        self.extend_lineage(record)?;
        let knows = |history: &Vec<joining::Fork>| history.iter().any(|f| f.timeline == fork.timeline);
        Ok(Some(self.noted_history(record.timeline).filter(knows).unwrap_or_else(|| vec![fork])))
    }

    /// What this node has noted of a timeline's history when it followed a choice.
    fn noted_history(&self, timeline: u32) -> Option<Vec<joining::Fork>> {
        let noted: Lineage = read_json(&self.lineage_path()).ok()??;
        let whole = noted.branches.last().is_some_and(|last| last.timeline == timeline && last.end.is_none());
        let fork = |branch: &Branch| Some(joining::Fork { timeline: branch.timeline, at: branch.end? });
        let forks: Vec<joining::Fork> = noted.branches.iter().filter_map(fork).collect();
        (whole && !forks.is_empty() && forks.len() + 1 == noted.branches.len()).then_some(forks)
    }
}
