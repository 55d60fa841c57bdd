//! Every version that the record has while something goes on: what is true at the end may not have been all along.
use std::future::ready;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;
use kube::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::watch_object;
use pgpool_operator::api::v1alpha1::{PgPoolMembership, Phase, Record};
use tokio::task::JoinHandle;

use super::harness::{Failure, Outcome, ensure, failed};
use super::pool::WHOLE;
use super::world::{SPACE, World, until};

/// The versions since [`World::history`]; they are noted until this goes.
pub struct History {
    seen: Arc<Mutex<Vec<Record>>>,
    watch: JoinHandle<()>,
}

impl Drop for History {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl World {
    /// Notes every version of the record from now on.
    pub async fn history(&self) -> Outcome<History> {
        let api: Api<PgPoolMembership> = Api::namespaced(self.client.clone(), SPACE);
        let seen = Arc::default();
        let noted: Arc<Mutex<Vec<Record>>> = Arc::clone(&seen);
        let versions = watch_object(api, self.pool).default_backoff().for_each(move |version| {
            if let Some(record) = version.ok().flatten().and_then(|object| object.status) {
                note(&noted, record);
            }
            ready(())
        });
        let history = History { seen, watch: tokio::spawn(versions) };
        until("the record as it is now", WHOLE, || async {
            ensure(!history.versions().is_empty(), || "nothing is seen".to_owned())
        })
        .await?;
        Ok(history)
    }
}

/// Changes of the object that don't concern the record bring the same one again.
fn note(seen: &Mutex<Vec<Record>>, record: Record) {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.last() != Some(&record) {
        seen.push(record);
    }
}

impl History {
    fn versions(&self) -> Vec<Record> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All versions up to now, none of which was missed.
    async fn end(self, world: &World) -> Outcome<Vec<Record>> {
        let now = world.record().await?;
        let all = until("the last version of the record", WHOLE, || async {
            let all = self.versions();
            ensure(all.last().is_some_and(|last| last.epoch >= now.epoch), || told(&all))?;
            Ok(all)
        })
        .await?;
        let missed = all.windows(2).any(|two| two[1].epoch != two[0].epoch + 1);
        if missed { failed(format!("a version was missed:{}", told(&all))) } else { Ok(all) }
    }

    /// The primary changed once, and in order; never were fewer than `least` nodes attached; in the end the same copies are
    /// attached as in the beginning. Gives the reason of the change.
    pub async fn handed_over_once(self, world: &World, least: usize) -> Outcome<String> {
        let all = self.end(world).await?;
        let changes = all.windows(2).filter(|two| two[0].primary != two[1].primary).count();
        ensure(changes == 1, || format!("{changes} changes of the primary:{}", told(&all)))?;
        let elections: Vec<&Record> = all.iter().filter(|record| record.phase == Phase::Electing).collect();
        ensure(elections.iter().all(|record| record.stopped), || format!("not in order:{}", told(&all)))?;
        let fewest = all.iter().map(|record| record.attached.len()).min().unwrap_or_default();
        ensure(fewest >= least, || format!("{fewest} attached, not {least}:{}", told(&all)))?;
        let copies = |record: Option<&Record>| record.map(|record| record.attached.clone());
        ensure(copies(all.first()) == copies(all.last()), || format!("other copies:{}", told(&all)))?;
        println!("    in each of {} versions of the record {fewest} nodes or more", all.len());
        let why = elections.first().map(|record| record.reason.clone());
        why.ok_or_else(|| Failure(format!("no election:{}", told(&all))))
    }
}

/// The versions, one a line.
fn told(all: &[Record]) -> String {
    let line = |record: &Record| {
        let attached: Vec<u8> = record.attached.iter().map(|member| member.index).collect();
        let (epoch, phase, primary, reason) = (record.epoch, record.phase, record.primary, &record.reason);
        format!("\n    {epoch} {phase:?}, primary {primary}, attached {attached:?}: {reason}")
    };
    all.iter().map(line).collect()
}
