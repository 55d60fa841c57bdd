//! A record that was put back, as by an etcd restored from a backup (R7): how it is noticed, and how the others come to know.
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::election::ASK;
use super::node::{Node, StepError};
use super::volume::{Volume, read_json, remove_durably, write_json};
use crate::api::v1alpha1::{PgPoolMembership, Record};
use crate::clock::{self, Moment};
use crate::link::LinkError;
use crate::membership::putback;
use crate::messages::NodeReport;
use crate::names;

/// Pause between two rounds of questions for the latest epoch.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// `refused.json`: that this node has refused a record that was put back. It goes on doing so, also after a restart and once that
/// record's epoch is above what was seen: what follows from it may lack what only this node has, which would be copied over. The
/// record that it knew, where it comes again, is right, and ends this.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// The pool.
    pool_uid: String,
    /// Why, for people.
    why: String,
    /// The last record that was taken for right; none where this agent had none yet.
    known: Option<Record>,
    /// It stands in the volume.
    #[serde(skip)]
    kept: bool,
}

impl Refusal {
    /// What an agent of this volume has noted for this pool. A file that can't be read isn't one that says nothing.
    pub(super) fn noted(volume: &Volume, pool_uid: &str) -> Option<Self> {
        let unread = |error| Self {
            pool_uid: pool_uid.to_owned(),
            why: format!("a record was refused, and why can't be read: {error}"),
            known: None,
            kept: true,
        };
        let noted: Option<Self> = read_json(&path(volume)).unwrap_or_else(|error| Some(unread(error)));
        noted.filter(|refusal| refusal.pool_uid == pool_uid)
    }
}

fn path(volume: &Volume) -> PathBuf {
    volume.conf().join("refused.json")
}

impl Node {
    /// Refuses an object that was read. Whatever fails on the way, it is refused.
    pub(super) fn refuse(&mut self, object: &PgPoolMembership, why: String) {
        // Another pool's record says nothing of this one's.
        if object.spec.pool_uid == self.pool_uid {
            self.note_refusal(&why);
        }
        self.foreign = Some(why);
        if let Err(error) = self.note_seen() {
            tracing::error!(%error, "the latest epoch can't be noted");
        }
    }

    fn note_refusal(&mut self, why: &str) {
        let known = {
            let mut inner = self.shared.lock();
            inner.report.put_back = true;
            inner.record.clone()
        };
        let refusal = Refusal { pool_uid: self.pool_uid.clone(), why: why.to_owned(), known, kept: false };
        let refusal = self.refusal.get_or_insert(refusal);
        if refusal.kept {
            return;
        }
        match write_json(&path(&self.volume), refusal) {
            Ok(()) => refusal.kept = true,
            Err(error) => {
                tracing::error!(%error, "that a record is refused can't be noted: a restart would forget it");
            }
        }
    }

    /// Takes an object that was read for this pool's record as it is. A note that can't be taken away goes on counting.
    pub(super) fn refuse_no_more(&mut self) -> Result<(), StepError> {
        if self.refusal.is_some() {
            remove_durably(&path(&self.volume))?;
            self.refusal = None;
            self.shared.lock().report.put_back = false;
        }
        self.foreign = None;
        Ok(())
    }

    /// Why an object, read by a call that began then, can't be this pool's record as its nodes know it. It isn't taken over, and
    /// nothing here serves until a person has looked.
    pub(super) fn is_foreign(
        &self,
        object: &PgPoolMembership,
        asked: Moment,
    ) -> Result<Option<String>, StepError> {
        let uid = &object.spec.pool_uid;
        if *uid != self.pool_uid {
            return Ok(Some(format!("the record belongs to pool {uid}, this node to {}", self.pool_uid)));
        }
        let never = |refusal: &&Refusal| refusal.known.is_none() || refusal.known != object.status;
        if let Some(refusal) = self.refusal.as_ref().filter(never) {
            return Ok(Some(refusal.why.clone()));
        }
        let noted = self.noted_epoch()?;
        let inner = self.shared.lock();
        let known = inner.record.as_ref();
        let seen = known.map_or(0, |record| record.epoch).max(noted);
        let epoch = object.status.as_ref().map_or(0, |record| record.epoch);
        Ok(putback::why(epoch, asked, seen, &inner.told)
            .or_else(|| putback::forked(known, object.status.as_ref())))
    }

    /// Where a record is refused, what this node has seen is told to the others, and what they told of is noted in the volume: neither
    /// goes with this agent.
    pub(super) fn note_seen(&self) -> Result<(), StepError> {
        let noted = self.noted_epoch()?;
        let told = {
            let mut inner = self.shared.lock();
            let me = inner.report.index;
            inner.told.hear(noted, me, clock::now());
            inner.told
        };
        Ok(self.volume.note_epoch(&self.pool_uid, told.epoch)?)
    }

    /// The epoch in this pool's volume.
    fn noted_epoch(&self) -> Result<i64, StepError> {
        let own = self.volume.node()?.filter(|file| file.pool_uid == self.pool_uid);
        Ok(own.map_or(0, |file| file.epoch))
    }

    /// Asks the other nodes, attached or not, for the latest epoch that they know of, before another primary is chosen: one
    /// that isn't counted by a record that was put back may be the one that knows. Nothing waits for the answers: what comes before a
    /// write counts ([`putback::Told::is_ahead`]).
    pub(super) fn ask_around(&mut self) {
        let Some((object, _)) = &self.object else { return };
        let now = clock::now();
        if self.asked_around.is_some_and(|at| now.since(at) < ASK_AGAIN) {
            return;
        }
        self.asked_around = Some(now);
        for index in (0..object.spec.nodes).filter(|index| *index != self.me()) {
            let host = names::node_host(&self.shared.env.pool, index, &object.spec.domain);
            let (link, shared) = (self.link.clone(), Arc::clone(&self.shared));
            tokio::spawn(async move {
                let answer: Result<NodeReport, LinkError> =
                    link.get_json(&host, names::AGENT_PORT, "/v1/report", ASK).await;
                match answer {
                    Ok(report) if report.index == index => shared.lock().hear_report(&report),
                    Ok(_) => {}
                    Err(error) => tracing::debug!(index, %error, "asked for the latest epoch"),
                }
            });
        }
    }
}
