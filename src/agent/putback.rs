//! A record that was put back, as by an etcd restored from a backup (R7): how it is noticed, and how the others come to know.
use std::sync::Arc;

use super::election::ASK;
use super::node::{Node, StepError};
use crate::api::v1alpha1::PgPoolMembership;
use crate::clock::{self, Moment};
use crate::link::LinkError;
use crate::membership::putback;
use crate::messages::NodeReport;
use crate::names;

impl Node {
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
    pub(super) fn ask_around(&self) {
        let Some((object, _)) = &self.object else { return };
        for index in (0..object.spec.nodes).filter(|index| *index != self.me()) {
            let host = names::node_host(&self.shared.env.pool, index, &object.spec.domain);
            let (link, shared, uid) = (self.link.clone(), Arc::clone(&self.shared), self.pool_uid.clone());
            tokio::spawn(async move {
                let answer: Result<NodeReport, LinkError> =
                    link.get_json(&host, names::AGENT_PORT, "/v1/report", ASK).await;
                match answer {
                    Ok(report) if report.index == index && report.pool_uid == uid => {
                        shared.lock().told.hear(report.seen, index, clock::now());
                    }
                    Ok(_) => {}
                    Err(error) => tracing::debug!(index, %error, "asked for the latest epoch"),
                }
            });
        }
    }
}
