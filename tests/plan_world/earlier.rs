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
    old.pool.deleting = true;
    for _ in 0..20 {
        old.live_on(1);
    }
    assert!(!old.pool.guarded && old.membership.is_none() && old.broken.is_empty(), "{:?}", old.broken);
    let mut world = World::new(3);
    (world.claims, world.data) = (old.claims, old.data);
    for _ in 0..3 {
        world.live_on(1);
    }
    world
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
    let first = made.actions.first().unwrap();
    assert!(matches!(first, Action::UpdateMembership(spec) if spec.suspend), "{first:?}");
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
