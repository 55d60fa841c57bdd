//! The tests that need clusters: a cluster for each act, as many side by side as there are processors, since much of the time of
//! their tests is waiting.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::chaos::{self, ACT as CHAOS};
use super::tally::Tally;
use super::wish::Chosen;
use super::{Name, demo, steps, timed};
use crate::cargo::Profile;
use crate::cluster::{self, Cluster, Shape, TOLERATION};
use crate::drivers;
use crate::error::Result;
use crate::images::{self, Form, Image};
use crate::interrupt;
use crate::programs::{self, Programs};
use crate::progress::{say, step};

/// The cluster of the tests that are chosen by name.
const FIRST: &str = "test";
/// That of the act without a load: what else needs a cluster goes before it.
const LAST: &str = "test-4";
/// The acts of the cluster test (`tests/cluster/main.rs`), by the cluster that each runs on; those that take longest begin first.
const ACTS: [(&str, &str); 6] = [
    (FIRST, "recovery"),
    ("test-2", "changes"),
    ("test-3", "machines"),
    (LAST, "lifecycle"),
    ("test-5", "failover"),
    ("test-6", CHAOS),
];

/// The step of the cluster test that needs drivers from the registries.
const DRIVERS: &str = "clients::drivers_do_as_at_the_primary";

/// The step that needs a Prometheus.
pub const OBSERVE: &str = "observe::a_prometheus_reads_the_pool";

/// The step that needs the first release, with which the cluster test begins then.
pub const UPGRADE: &str = "upgrade::from_the_first_release";

/// Tests to run one after the other on a cluster.
pub struct Play {
    /// The cluster.
    pub cluster: &'static str,
    /// Whether the cluster is killed and started over its remains first, which counts as a test.
    pub over_remains: bool,
    /// MiB of a file system of its own for the volumes of each node, where they are not to be folders of a disk.
    pub volumes: Option<u32>,
    /// The tests.
    pub parts: Vec<Part>,
}

/// One of them.
pub struct Part {
    /// What it counts for.
    pub name: Name,
    /// Arguments of the test program.
    pub words: Vec<String>,
    /// What stands before each line that it prints: lines of two clusters mix.
    pub label: String,
}

impl Part {
    /// Whether a step is among what is named. No act has those that are asked for here.
    pub fn wants(&self, step: &str) -> bool {
        self.name == Name::Cluster && self.words.iter().any(|word| step.contains(word.as_str()))
    }
}

/// Runs parts on fresh clusters, which go afterwards whatever happened.
pub fn run(chosen: &[Chosen], keep: bool) -> Vec<(Name, Tally)> {
    let plays = plays(chosen);
    if plays.is_empty() {
        return Vec::new();
    }
    let wanted = |step| plays.iter().flat_map(|play| &play.parts).any(|part| part.wants(step));
    let ready = left_over(keep).into_iter().try_for_each(remove).and_then(|()| {
        thread::scope(|scope| {
            if wanted(DRIVERS) {
                scope.spawn(drivers::fetch);
            }
            if wanted(OBSERVE) {
                programs::prometheus()?;
            }
            images(wanted(UPGRADE))
        })
    });
    let images = match ready {
        Ok(images) => images,
        Err(e) => {
            say(format!("error: nothing to test on: {e}"));
            return chosen.iter().map(|chosen| (chosen.part, Tally::FAILURE)).collect();
        }
    };
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    let results = in_turn(&plays, at_once, |play| on_cluster(play, &images, keep), failures);
    let sum = |part: Name| {
        let own = results.iter().filter(|(name, _)| *name == part);
        own.fold(Tally::default(), |sum, (_, tally)| sum + *tally)
    };
    chosen.iter().map(|chosen| (chosen.part, sum(chosen.part))).collect()
}

/// Does the work of each play, no more than so many at once, and begins in their order.
fn in_turn<R: Send>(
    plays: &[Play],
    at_once: usize,
    work: impl Fn(&Play) -> Vec<R> + Sync,
    broken: impl Fn(&Play) -> Vec<R>,
) -> Vec<R> {
    let (left, done) = (Mutex::new(plays.iter().collect::<VecDeque<_>>()), Mutex::new(Vec::new()));
    let next = || held(&left).pop_front();
    let one = || {
        while let Some(play) = next() {
            // Of a play that panics nothing comes, which counts below; the others are played all the same.
            if let Ok(came) = catch_unwind(AssertUnwindSafe(|| work(play))) {
                held(&done).push((play.cluster, came));
            }
        }
    };
    thread::scope(|scope| (0..at_once.max(1)).for_each(|_| drop(scope.spawn(one))));
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let of = |play: &Play| {
        let place = done.iter().position(|(cluster, _)| *cluster == play.cluster);
        place.map_or_else(|| broken(play), |place| done.swap_remove(place).1)
    };
    plays.iter().flat_map(of).collect()
}

/// What a mutex holds, also where somebody panicked.
fn held<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The clusters that another run may have left; the demonstration's may have been kept a moment ago.
fn left_over(keep: bool) -> Vec<&'static str> {
    ACTS.into_iter().map(|(cluster, _)| cluster).chain((!keep).then_some(demo::CLUSTER)).collect()
}

/// Plays on a fresh cluster that goes afterwards whatever happened; gives the sum.
pub fn alone(play: &Play, keep: bool) -> Tally {
    let results = match remove(play.cluster).and_then(|()| images(false)) {
        Ok(images) => on_cluster(play, &images, keep),
        Err(e) => {
            say(format!("error: nothing to test on: {e}"));
            failures(play)
        }
    };
    results.into_iter().fold(Tally::default(), |sum, (_, tally)| sum + tally)
}

/// Who plays where.
fn plays(chosen: &[Chosen]) -> Vec<Play> {
    let part = |chosen: &Chosen, words: &[String], label: &str| Part {
        name: chosen.part,
        words: words.iter().chain(&chosen.filters).cloned().collect(),
        label: label.to_owned(),
    };
    let whole = |chosen: &&Chosen| chosen.part == Name::Cluster && chosen.filters.is_empty();
    let beside = if chosen.iter().any(|chosen| whole(&chosen)) { LAST } else { FIRST };
    let others = chosen.iter().filter(|chosen| !whole(chosen)).map(|chosen| (beside, part(chosen, &[], "")));
    let acts = chosen.iter().filter(whole).flat_map(|chosen| {
        ACTS.map(|(cluster, act)| (cluster, part(chosen, &act_words(act), &format!("{act:<9} │ "))))
    });
    let mut plays: Vec<Play> = Vec::new();
    for (cluster, part) in others.chain(acts) {
        if let Some(play) = plays.iter_mut().find(|play| play.cluster == cluster) {
            play.parts.push(part);
            continue;
        }
        let full = ACTS.contains(&(cluster, CHAOS));
        let (over_remains, volumes) = (cluster == LAST, full.then_some(chaos::VOLUMES));
        plays.push(Play { cluster, over_remains, volumes, parts: vec![part] });
    }
    plays.sort_by_key(|play| ACTS.iter().position(|(cluster, _)| *cluster == play.cluster));
    plays
}

/// What the test program is told of an act.
fn act_words(act: &str) -> Vec<String> {
    if act == CHAOS {
        chaos::Options::of_the_whole_test().words()
    } else {
        vec!["--act".to_owned(), act.to_owned()]
    }
}

fn failures(play: &Play) -> Vec<(Name, Tally)> {
    play.parts.iter().map(|part| (part.name, Tally::FAILURE)).collect()
}

/// What the nodes of the clusters need besides what belongs to each cluster, the first release's image among it or not.
fn images(first_release: bool) -> Result<Vec<Image>> {
    // Now: a compiler beside the clusters would take the processors from them.
    steps::compile_for_clusters()?;
    step("images of the tests", || {
        let programs = Programs::build()?;
        let mut own = images::of_the_checkout(&programs, Form::WithoutRoot, Profile::Dev)?;
        own.push(images::of_the_next_release(&programs, Form::WithoutRoot)?);
        if first_release {
            own.push(images::of_the_first_release(&programs, Form::WithoutRoot)?);
        }
        Ok(own)
    })
}

fn on_cluster(play: &Play, images: &[Image], keep: bool) -> Vec<(Name, Tally)> {
    let ready = Cluster::named(play.cluster).and_then(|cluster| {
        let remains = play
            .over_remains
            .then(|| timed("a cluster over the remains of another", || over_remains(&cluster)));
        bring_up(&cluster, play.volumes, images).map(|()| (cluster, remains))
    });
    let (cluster, remains) = match ready {
        Ok(ready) => ready,
        Err(e) => {
            say(format!("error: no cluster {}: {e}", play.cluster));
            take_down(play.cluster, keep);
            return failures(play);
        }
    };
    let one = |part: &Part| {
        let name = format!("{}{}", part.label, part.name.text());
        (part.name, timed(&name, || steps::run_inside(part, &cluster)))
    };
    let mut results: Vec<(Name, Tally)> = remains.map(|tally| (Name::Cluster, tally)).into_iter().collect();
    results.extend(play.parts.iter().map(one));
    if !take_down(play.cluster, keep)
        && let Some((_, last)) = results.last_mut()
    {
        *last = *last + Tally::FAILURE;
    }
    results
}

/// What a run that was killed has left goes first, whatever is asked for now: it would take the processors.
pub fn remove(name: &str) -> Result<()> {
    cluster::down(&Cluster::named(name)?)
}

/// A cluster whose processes were all killed, and which nobody removed, is started anew by `up`.
fn over_remains(cluster: &Cluster) -> Result<Tally> {
    cluster::up(cluster, TOLERATION)?;
    cluster::crash(cluster)?;
    cluster::up(cluster, TOLERATION).map(|()| Tally::SUCCESS)
}

fn bring_up(cluster: &Cluster, volumes: Option<u32>, images: &[Image]) -> Result<()> {
    step(&format!("cluster {} of the tests", cluster.name()), || {
        cluster::up_as(cluster, Shape { toleration: TOLERATION, volumes })?;
        cluster::load(cluster, images).map(drop)
    })
}

/// False when something of the cluster may be left.
pub fn take_down(name: &str, keep: bool) -> bool {
    // It goes all the same.
    interrupt::forget();
    if keep {
        say(format!("cluster {name} stays: cargo xtask cluster down --name {name} removes it"));
        return true;
    }
    // Ctrl-C at a terminal ends the programs that are at work on it, too: then it is begun again.
    match remove(name).or_else(|_| remove(name)) {
        Ok(()) => true,
        Err(e) => {
            say(format!("error: cluster {name} could not be removed: {e}"));
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    fn shown(chosen: &[Chosen]) -> Vec<String> {
        let part = |part: &Part| format!("{} {}", part.name.text(), part.words.join(" ")).trim().to_owned();
        let play = |play: &Play| {
            format!("{}: {}", play.cluster, play.parts.iter().map(part).collect::<Vec<_>>().join(", "))
        };
        plays(chosen).iter().map(play).collect()
    }

    fn chosen(part: Name, filters: &[&str]) -> Chosen {
        Chosen { part, filters: filters.iter().map(|filter| (*filter).to_owned()).collect() }
    }

    #[test]
    fn the_acts_of_the_whole_test_run_side_by_side() {
        let acts = [
            "test: cluster --act recovery",
            "test-2: cluster --act changes",
            "test-3: cluster --act machines",
            "test-4: api, cluster --act lifecycle",
            "test-5: cluster --act failover",
            "test-6: cluster --act chaos --keep --faults 30 --seed 21 --minutes 10",
        ];
        assert_eq!(shown(&[chosen(Name::Api, &[]), chosen(Name::Cluster, &[])]), acts);
    }

    #[test]
    fn no_more_play_at_once_than_there_are_processors_for() {
        let all = plays(&[chosen(Name::Cluster, &[])]);
        let names: Vec<&str> = ACTS.iter().map(|(cluster, _)| *cluster).collect();
        let begun = Mutex::new(Vec::new());
        let alone = |play: &Play| {
            held(&begun).push(play.cluster);
            vec![play.cluster]
        };
        assert_eq!(in_turn(&all, 1, alone, |_| Vec::new()), names);
        assert_eq!(*held(&begun), names);
        // Nobody would pass if they came one by one.
        let (two, running) = (Barrier::new(2), Mutex::new(0));
        let beside = |play: &Play| {
            *held(&running) += 1;
            two.wait();
            assert!(*held(&running) <= 2);
            two.wait();
            *held(&running) -= 1;
            vec![play.cluster]
        };
        assert_eq!(in_turn(&all, 2, beside, |_| Vec::new()), names);
        let broken = |play: &Play| {
            assert_ne!(play.cluster, "test-3");
            vec![play.cluster]
        };
        let came = in_turn(&all, 1, broken, |_| vec!["failed"]);
        assert_eq!(came.iter().filter(|one| **one == "failed").count(), 1, "{came:?}");
    }

    #[test]
    fn what_was_kept_a_moment_ago_stays() {
        assert_eq!(left_over(false), ["test", "test-2", "test-3", "test-4", "test-5", "test-6", "test-demo"]);
        assert_eq!(left_over(true), ["test", "test-2", "test-3", "test-4", "test-5", "test-6"]);
    }

    #[test]
    fn what_a_step_needs_is_made_for_who_asks_for_it() {
        let wants = |part, filters: &[&str], step| {
            plays(&[chosen(part, filters)]).iter().flat_map(|play| &play.parts).any(|part| part.wants(step))
        };
        assert!(!wants(Name::Api, &[], DRIVERS) && !wants(Name::Cluster, &[], DRIVERS));
        assert!(wants(Name::Cluster, &["fence", "clients"], DRIVERS));
        assert!(!wants(Name::Cluster, &["fence", "clients::psql"], DRIVERS));
        assert!(wants(Name::Cluster, &["observe"], OBSERVE));
        assert!(!wants(Name::Cluster, &["clients"], OBSERVE) && !wants(Name::Cluster, &[], OBSERVE));
        for filter in ["upgrade::from_the_first_release", "upgrade::"] {
            assert!(wants(Name::Cluster, &[filter], UPGRADE), "{filter}");
        }
        assert!(!wants(Name::Api, &["upgrade::"], UPGRADE) && !wants(Name::Cluster, &[], UPGRADE));
        assert!(!wants(Name::Cluster, &["removal::an_upgrade_changes_no_pool"], UPGRADE));
    }

    #[test]
    fn tests_that_are_named_run_on_one_cluster() {
        assert_eq!(shown(&[chosen(Name::Cluster, &["scale", "fence"])]), ["test: cluster scale fence"]);
        assert_eq!(shown(&[chosen(Name::Api, &["pools"])]), ["test: api pools"]);
        assert_eq!(shown(&[chosen(Name::Api, &[])]), ["test: api"]);
        assert!(shown(&[]).is_empty());
    }
}
