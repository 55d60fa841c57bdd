//! The data of an earlier pool becomes this pool's (R7): a person has named this node (docs/adr/0025).
use std::fs;
use std::path::Path;

use super::initdb;
use super::node::{Next, Node, StepError};
use super::volume::{VolumeError, entries, sync_dir};
use crate::api::v1alpha1::MembershipSpec;
use crate::membership::joining;
use crate::membership::starting::{self, NodeFile};
use crate::names;

/// What belongs to offices of the earlier pool: N, the last office that was open, the word, the history. The longest
/// lease stays: it only makes a new primary wait.
const OFFICES: [&str; 4] = ["names.json", "office.json", "word.json", names::LINEAGE];

impl Node {
    /// Makes the copy this pool's, by one write of its node file; killed before that, it begins anew.
    pub(super) async fn take_up(
        &mut self,
        spec: &MembershipSpec,
        file: Option<NodeFile>,
    ) -> Result<Next, StepError> {
        let (Some(file), Some(programs)) = (file, self.programs.clone()) else { return Ok(Next::Wait) };
        if let Some(why) = other_version(&self.volume.data(), programs.major) {
            self.call_person(&why);
            return Ok(Next::Wait);
        }
        let Some(control) = self.control().await? else {
            self.call_person("the control file of the earlier pool's data can't be read");
            return Ok(Next::Wait);
        };
        self.say("takes up the data of an earlier pool");
        self.shared.changed();
        let (wal, archive) = (self.wal_names()?, entries(&self.volume.archive())?);
        let named = joining::newest_named(wal.iter().chain(&archive).map(String::as_str));
        let newest = control.newest_timeline(named);
        let new = starting::take_up(&file, &spec.pool_uid, initdb::new_incarnation(), newest);
        tracing::info!(before = file.pool_uid, after = ?new, "takes up the data of an earlier pool");
        self.forget_offices()?;
        self.volume.write_node(&new)?;
        Ok(Next::Again)
    }

    fn forget_offices(&self) -> Result<(), StepError> {
        let conf = self.volume.conf();
        for name in OFFICES {
            let path = conf.join(name);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(VolumeError::File { path, source }.into());
                }
                _ => {}
            }
        }
        Ok(sync_dir(&conf)?)
    }
}

/// Why this image's PostgreSQL can't use the data; what a person has to change.
fn other_version(data: &Path, major: u32) -> Option<String> {
    let said = fs::read_to_string(data.join("PG_VERSION")).unwrap_or_default();
    let said = said.trim();
    (said != major.to_string()).then(|| {
        format!(
            "the data of the earlier pool is of PostgreSQL {said}, and the image brings {major}: set spec.image to one of \
             the same major version"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_another_major_version_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("PG_VERSION"), "17\n").unwrap();
        assert_eq!(other_version(dir.path(), 17), None);
        assert!(other_version(dir.path(), 18).is_some_and(|why| why.contains("of PostgreSQL 17")));
        assert!(other_version(&dir.path().join("absent"), 17).is_some());
    }
}
