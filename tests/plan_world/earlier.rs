//! A pool over the volumes of an earlier one: what a person may ask for, and what comes of it wherever the operator dies.
use pgpool_operator::api::v1alpha1::{Health, annotations};
use pgpool_operator::model::Memory;
use pgpool_operator::plan::Action;

use super::World;
use super::environment::Fault;

/// Passes until the pool is Ready.
fn settle(world: &mut World) {
    for _ in 0..100 {
        world.live_on(5);
    }
    assert!(world.broken.is_empty(), "{:?}", world.broken);
    assert_eq!(world.status.phase, Some(Health::Ready), "{:?}", world.status.conditions);
    let (_, made) = world.plan();
    assert!(made.is_empty(), "{:?} {:?}", made.apply, made.actions);
}

/// What a deleted pool of three nodes has left: `out` was detached by wish.
pub fn left_by_a_pool(out: Option<u8>) -> World {
    let mut old = World::new(3);
    settle(&mut old);
    if let Some(node) = out {
        old.suffer(&Fault::Asks(annotations::DETACH, node.to_string()));
        for _ in 0..10 {
            old.live_on(1);
        }
    }
    delete(&mut old);
    made_anew(&old, 3)
}

/// Deletes a pool whose volumes stay.
fn delete(world: &mut World) {
    world.pool.deleting = true;
    for _ in 0..20 {
        world.live_on(1);
    }
    assert!(
        !world.pool.guarded && world.membership.is_none() && world.broken.is_empty(),
        "{:?}",
        world.broken
    );
}

/// A new pool over the volumes of another one, whatever became of that.
fn made_anew(old: &World, nodes: u8) -> World {
    let mut world = World::new(nodes);
    (world.claims, world.data) = (old.claims.clone(), old.data.clone());
    for _ in 0..3 {
        world.live_on(1);
    }
    world
}

/// A pool that goes on with the data of a node, and is not to copy it to the others yet.
fn gone_on_with(mut world: World, node: u8) -> World {
    world.pool.automatic_recovery = false;
    world.suffer(&Fault::Asks(annotations::RELEASE, node.to_string()));
    for _ in 0..30 {
        world.live_on(1);
    }
    assert!(world.record().is_some_and(|record| record.primary == node) && world.broken.is_empty());
    world
}

fn notes(world: &World) -> Vec<Option<String>> {
    world.claims.values().map(|claim| claim.last_record.clone()).collect()
}

fn degraded(world: &World) -> (String, String) {
    let found = world.status.conditions.iter().find(|condition| condition.type_ == "Degraded").unwrap();
    (found.reason.clone(), found.message.clone())
}

fn ask(world: &mut World, annotation: &'static str, value: &str) -> (bool, String) {
    world.suffer(&Fault::Asks(annotation, value.to_owned()));
    let (seen, made) = world.plan();
    world.carry_out(&seen, &made, usize::MAX);
    let answer = world.status.last_request.clone().unwrap();
    assert_eq!(format!("pgpool-operator.dev/{}", answer.request), annotation);
    (answer.accepted, answer.message)
}

#[test]
fn volumes_that_stay_say_what_the_last_record_said_of_them() {
    let world = left_by_a_pool(Some(2));
    let notes: Vec<String> = world.claims.values().map(|claim| claim.last_record.clone().unwrap()).collect();
    let ends = ["primary", "attached", "not attached"];
    assert!(notes.iter().zip(ends).all(|(note, end)| note.ends_with(&format!(", {end}"))), "{notes:?}");
    let (reason, message) = degraded(&world);
    assert_eq!(reason, "OldVolumesFound");
    assert!(message.contains(&format!("data-orchard-1-0 ({})", notes[1])), "{message}");
    assert!(message.contains("pgpool-operator.dev/release=K"), "{message}");
}

#[test]
fn a_pool_that_is_suspended_for_its_end_is_so_before_its_pods_go() {
    let mut world = World::new(3);
    settle(&mut world);
    world.pool.deleting = true;
    let (_, made) = world.plan();
    let [only] = made.actions.as_slice() else { panic!("{:?}", made.actions) };
    assert!(matches!(only, Action::UpdateMembership(spec) if spec.suspend), "{only:?}");
    // An agent writes the record in the same moment.
    world.conflicts = true;
    world.live_on(1);
    assert_eq!(world.sets().values().sum::<i32>(), 3);
    world.conflicts = false;
    (0..2).for_each(|_| world.live_on(1));
    assert!(world.membership.as_ref().unwrap().spec.suspend && world.sets().is_empty());
}

#[test]
fn a_deletion_goes_on_without_what_it_can_do_without() {
    let mut world = World::new(3);
    settle(&mut world);
    (world.conflicts, world.fixed_notes, world.pool.deleting) = (true, true, true);
    let mut told = 0;
    for _ in 0..40 {
        let (seen, made) = world.plan();
        told += made.events.iter().filter(|event| event.reason == "DeletionIncomplete").count();
        world.carry_out(&seen, &made, usize::MAX);
        world.environment();
    }
    assert!(!world.pool.guarded && world.membership.is_none(), "{:?}", world.memory);
    assert_eq!(told, 2);
}

#[test]
fn a_person_says_with_whose_data_to_go_on_and_the_operator_may_die_anywhere() {
    for node in 0..3_u8 {
        for dies_after in 0..6 {
            let mut world = left_by_a_pool(None);
            world.suffer(&Fault::Asks(annotations::RELEASE, node.to_string()));
            for steps in [dies_after, dies_after, usize::MAX, dies_after] {
                let (seen, made) = world.plan();
                world.carry_out(&seen, &made, steps);
                world.memory = Memory::default();
                // Longer than an answer is taken for a fresh one.
                world.pass_time(200);
            }
            settle(&mut world);
            let spec = &world.membership.as_ref().unwrap().spec;
            assert_eq!((spec.bootstrap, spec.adopts), (node, true), "{dies_after}");
            assert!(world.record().unwrap().epoch > 40);
            assert_eq!(world.data[&node].incarnation.as_deref(), Some("takenup00000"), "{dies_after}");
            let copied =
                |k: u8| k == node || world.data[&k].incarnation.as_ref().is_some_and(|i| i.len() > 3);
            assert!((0..3).all(copied) && world.is_attached(0) && world.is_attached(2));
            let answer = world.status.last_request.clone().unwrap();
            assert!(answer.accepted, "{dies_after}: {}", answer.message);
            assert!(!world.pool.requests.contains_key(annotations::RELEASE));
            // Asked once more it is refused.
            let (accepted, message) = ask(&mut world, annotations::RELEASE, &node.to_string());
            assert!(!accepted && message.contains("has its data"), "{message}");
        }
    }
}

#[test]
fn a_pool_whose_first_node_is_left_out_says_so_until_it_is_there() {
    let mut world = left_by_a_pool(None);
    let (accepted, message) = ask(&mut world, annotations::RELEASE, "2");
    assert!(accepted, "{message}");
    // Before anything of the node is made.
    world.pool.nodes = 2;
    for _ in 0..20 {
        world.live_on(1);
    }
    assert!(world.record().is_none() && world.broken.is_empty(), "{:?}", world.broken);
    let (reason, message) = degraded(&world);
    assert_eq!(reason, "FirstNodeLeftOut", "{message}");
    assert!(message.contains("data of node 2") && message.contains("set it to 3 or more"), "{message}");
    let ready = world.status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
    assert!(
        ready.status == "False" && ready.message.contains("spec.nodes (2) leaves out"),
        "{}",
        ready.message
    );
    world.pool.nodes = 3;
    settle(&mut world);
    assert_eq!(world.membership.as_ref().unwrap().spec.bootstrap, 2);
    assert_eq!(degraded(&world).0, "AsWished");
    // And then it may be lowered.
    world.pool.nodes = 2;
    settle(&mut world);
    assert!(!world.is_attached(2) && world.is_attached(0) && world.is_attached(1));
}

#[test]
fn a_node_that_was_not_attached_is_taken_with_a_warning() {
    for (out, words) in [(Some(1), "was not attached at the end"), (None, "the others are copied from it")] {
        let mut world = left_by_a_pool(out);
        let (accepted, message) = ask(&mut world, annotations::RELEASE, "1");
        assert!(accepted && message.contains(words), "{message}");
        assert_eq!(message.contains("may be missing"), out.is_some(), "{message}");
    }
    let mut world = left_by_a_pool(None);
    world.claims.values_mut().for_each(|claim| claim.last_record = None);
    let (accepted, message) = ask(&mut world, annotations::RELEASE, "1");
    assert!(accepted && message.contains("isn't known"), "{message}");
}

#[test]
fn what_is_noted_of_volumes_that_a_pool_never_touched_outlives_it() {
    let earlier = left_by_a_pool(Some(2));
    let before = notes(&earlier);
    // The wrong node, and a person who notices in time.
    let mut wrong = gone_on_with(earlier.clone(), 2);
    delete(&mut wrong);
    let after = notes(&wrong);
    assert_eq!(after[..2], before[..2], "nothing of that pool came onto these");
    assert!(after[2].as_ref().is_some_and(|note| note.ends_with(", primary")), "{after:?}");
    for (node, words) in [("0", "has gone on since with other volumes"), ("2", "primary's of another record")]
    {
        let (accepted, message) = ask(&mut made_anew(&wrong, 3), annotations::RELEASE, node);
        assert!(
            accepted && message.contains(words) && message.contains("may be missing"),
            "{node}: {message}"
        );
    }
    // A smaller pool: what lies beyond it stays as it is.
    let mut smaller = made_anew(&earlier, 2);
    smaller.suffer(&Fault::Asks(annotations::RELEASE, "1".to_owned()));
    settle(&mut smaller);
    delete(&mut smaller);
    assert_eq!(notes(&smaller)[2], before[2]);
    assert!(notes(&smaller)[..2].iter().all(|note| note.is_some() && !before.contains(note)));
}

#[test]
fn what_is_noted_of_a_volume_goes_when_the_data_of_a_later_pool_comes() {
    let mut world = gone_on_with(left_by_a_pool(None), 1);
    let kept: Vec<bool> = notes(&world).iter().map(Option::is_some).collect();
    assert_eq!(kept, [true, false, true]);
    // Its record is lost, and nobody has taken it apart.
    for (node, words) in [("0", "nothing is noted on claim data-orchard-1-0"), ("1", "isn't known")] {
        let (accepted, message) = ask(&mut made_anew(&world, 3), annotations::RELEASE, node);
        assert!(
            accepted && message.contains(words) && message.contains("may be missing"),
            "{node}: {message}"
        );
    }
    world.pool.automatic_recovery = true;
    settle(&mut world);
    assert_eq!(notes(&world), [None, None, None]);
}

#[test]
fn a_release_that_comes_before_the_claims_are_seen_begins_no_empty_pool() {
    let left = left_by_a_pool(None);
    let mut world = World::new(3);
    for (value, words) in [("7", "there is no node 7"), ("1", "there is no claim data-orchard-1-0")] {
        world.suffer(&Fault::Asks(annotations::RELEASE, value.to_owned()));
        for _ in 0..5 {
            world.live_on(1);
        }
        assert!(world.membership.is_none() && world.broken.is_empty(), "{value}: {:?}", world.broken);
        let (reason, message) = degraded(&world);
        assert!(reason == "NothingToRelease" && message.contains(words), "{message}");
        assert!(
            world.pool.requests.contains_key(annotations::RELEASE),
            "it is left for when there are claims"
        );
    }
    // Once they are seen.
    let mut late = world.clone();
    (late.claims, late.data) = (left.claims, left.data);
    settle(&mut late);
    let spec = &late.membership.as_ref().unwrap().spec;
    assert_eq!((spec.bootstrap, spec.adopts), (1, true));
    assert!(late.status.last_request.as_ref().is_some_and(|answer| answer.accepted));
    // Or taken back.
    world.pool.requests.clear();
    settle(&mut world);
    assert!(!world.membership.as_ref().unwrap().spec.adopts);
}

#[test]
fn a_release_that_became_impossible_is_answered_once_more() {
    let mut world = left_by_a_pool(None);
    world.suffer(&Fault::Asks(annotations::RELEASE, "1".to_owned()));
    let (_, made) = world.plan();
    // It dies once its answer is written, and the volume is lost meanwhile.
    (world.status, world.memory) = (made.status, Memory::default());
    assert!(world.status.last_request.as_ref().is_some_and(|answer| answer.accepted));
    world.claims.get_mut(&1).unwrap().lost = Some("its machine is gone".to_owned());
    let (seen, made) = world.plan();
    world.carry_out(&seen, &made, usize::MAX);
    let answer = world.status.last_request.clone().unwrap();
    assert!(!answer.accepted && answer.message.contains("its machine is gone"), "{answer:?}");
    assert!(made.events.iter().any(|event| event.reason == "RequestRefused"), "{:?}", made.events);
    assert!(world.membership.is_none() && world.pool.requests.is_empty());
}

#[test]
fn a_volume_that_was_given_up_in_vain_is_as_good_as_before() {
    let mut world = World::new(3);
    settle(&mut world);
    world.suffer(&Fault::Asks(annotations::DETACH, "2".to_owned()));
    (0..5).for_each(|_| world.live_on(1));
    world.suffer(&Fault::Asks(annotations::REPLACE_VOLUME, "2".to_owned()));
    for _ in 0..3 {
        let (seen, made) = world.plan();
        world.carry_out(&seen, &made, usize::MAX);
    }
    assert!(world.claims[&2].given_up.is_some(), "{:?}", world.status.recovery);
    let mut deleted = world.clone();
    // Its pod doesn't stop.
    world.pass_time(100_000);
    let (seen, made) = world.plan();
    world.carry_out(&seen, &made, usize::MAX);
    assert!(world.status.last_recovery.as_ref().is_some_and(|last| !last.succeeded));
    assert_eq!(world.claims[&2].given_up, None);
    delete(&mut world);
    let (accepted, message) = ask(&mut made_anew(&world, 3), annotations::RELEASE, "2");
    assert!(accepted && message.contains("not attached at the end"), "{message}");
    // Or the pool ends before.
    delete(&mut deleted);
    let (accepted, message) = ask(&mut made_anew(&deleted, 3), annotations::RELEASE, "2");
    assert!(!accepted && message.contains("gave claim data-orchard-2-0 up"), "{message}");
}

#[test]
fn what_cannot_be_gone_on_with_is_refused_and_nothing_begins() {
    let mut world = left_by_a_pool(None);
    world.claims.get_mut(&0).unwrap().filled = false;
    world.claims.get_mut(&1).unwrap().lost = Some("its machine is gone".to_owned());
    world.claims.remove(&2);
    let cases = [
        (annotations::RELEASE, "0", "never had a whole copy"),
        (annotations::RELEASE, "1", "its machine is gone"),
        (annotations::RELEASE, "2", "there is no claim data-orchard-2-0"),
        (annotations::RELEASE, "3", "there is no node 3"),
        (annotations::RELEASE, "yes", "index of one node"),
        (annotations::RESTART, "now", "no node yet"),
        (annotations::RECOVER, "1", "no node yet"),
        (annotations::FENCE, "off", "no node yet"),
    ];
    for (annotation, value, words) in cases {
        let (accepted, message) = ask(&mut world, annotation, value);
        assert!(!accepted && message.contains(words), "{annotation}={value}: {message}");
        assert!(!world.pool.requests.contains_key(annotation) && world.membership.is_none());
    }
    assert_eq!(degraded(&world).0, "OldVolumesFound");
}

#[test]
fn who_has_the_only_data_gets_a_pod_that_can_work_though_it_is_to_be_removed() {
    let mut world = left_by_a_pool(None);
    world.suffer(&Fault::Asks(annotations::RELEASE, "2".to_owned()));
    for _ in 0..60 {
        if world.record().is_none() {
            world.live_on(1);
        }
    }
    assert!(world.is_attached(2), "{:?}", world.record());
    world.suffer(&Fault::Nodes(2));
    world.suffer(&Fault::Image("18.0"));
    let (seen, made) = world.plan();
    world.carry_out(&seen, &made, usize::MAX);
    world.suffer(&Fault::PodDies(2));
    for _ in 0..20 {
        world.live_on(1);
    }
    let told = |world: &World| world.record().unwrap().attached.iter().map(|m| m.index).collect::<Vec<_>>();
    assert_eq!(told(&world), [2], "another major version can't read its data");
    world.suffer(&Fault::Image("16.9"));
    for _ in 0..300 {
        world.live_on(5);
    }
    assert_eq!(told(&world), [0, 1], "{:?}", world.status.conditions);
}
