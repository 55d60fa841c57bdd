//! What people and agents are told while something is under way.
use pgpool_operator::api::v1alpha1::{Health, RecoveryStage, annotations};

use super::World;
use super::environment::Fault;

/// A whole pool.
fn made(nodes: u8) -> World {
    let mut world = World::new(nodes);
    for _ in 0..100 {
        world.live_on(5);
    }
    assert_eq!(world.status.phase, Some(Health::Ready), "{:?}", world.status.conditions);
    world
}

/// A pass of which nothing comes yet: neither Kubernetes goes on, nor the agents, nor the Jobs. Gives the events.
fn pass(world: &mut World) -> Vec<(&'static str, String)> {
    let (seen, made) = world.plan();
    world.carry_out(&seen, &made, usize::MAX);
    world.pass_time(1);
    made.events.into_iter().map(|event| (event.reason, event.note)).collect()
}

#[test]
fn a_copy_says_at_least_every_two_seconds_how_far_it_is() {
    let mut world = made(3);
    world.suffer(&Fault::Diverges(1));
    world.environment();
    world.suffer(&Fault::Asks(annotations::RECOVER, "1".to_owned()));
    for _ in 0..60 {
        if world.begun.is_empty() {
            world.live_on(1);
        }
    }
    // The Job has the volume, and goes on with its copy while all else stands still.
    let mut told = Vec::new();
    for _ in 0..30 {
        pass(&mut world);
        let whole = world.status.recovery.clone().unwrap();
        let node = world.status.nodes.iter().find(|node| node.index == 1).unwrap();
        let part = node.recovery.clone().unwrap();
        assert_eq!((part.id, part.stage, part.copy), (whole.id, whole.stage, whole.copy));
        assert_eq!((part.donor, part.started_at), (whole.donor, whole.started_at));
        assert_eq!((part.bytes, part.total, part.rate), (whole.bytes, whole.total, whole.rate));
        if whole.stage == RecoveryStage::Copying {
            told.push((whole.bytes, whole.rate));
        }
    }
    assert!(told.len() > 25, "it didn't copy: {:?}", world.status.recovery);
    // It may come to the stage before it looks at the donor, and a rate takes two looks.
    let told = &told[2..];
    assert!(told.iter().all(|(bytes, rate)| *bytes > 0 && *rate == 1 << 20), "a MiB a second: {told:?}");
    assert!(told.windows(3).all(|three| three[0].0 < three[2].0), "no progress within 2 s: {told:?}");
    assert!(world.broken.is_empty(), "{:?}", world.broken);
}

#[test]
fn agents_keep_archived_wal_while_a_copy_may_need_it() {
    let mut world = made(3);
    let kept = |world: &World| world.membership.as_ref().and_then(|m| m.spec.keep_wal_since);
    assert_eq!(kept(&world), None);
    world.suffer(&Fault::Diverges(1));
    world.environment();
    world.suffer(&Fault::Asks(annotations::RECOVER, "1".to_owned()));
    let mut stages = Vec::new();
    for _ in 0..200 {
        world.live_on(1);
        let Some(recovery) = &world.status.recovery else { continue };
        assert!(kept(&world).is_some_and(|since| since < recovery.started_at), "{recovery:?}");
        stages.push(recovery.stage);
    }
    assert!(stages.contains(&RecoveryStage::Copying), "{stages:?}");
    assert_eq!((world.status.recovery.clone(), kept(&world)), (None, None));
    assert!(world.broken.is_empty(), "{:?}", world.broken);
}

#[test]
fn a_volume_is_told_of_once_when_it_begins_to_grow_and_once_when_it_has() {
    let mut world = made(2);
    let of_volumes = |told: Vec<(&'static str, String)>| -> Vec<String> {
        let own = told.into_iter().filter(|(reason, _)| reason.starts_with("Volume"));
        own.map(|(reason, note)| format!("{reason}: {note}")).collect()
    };
    world.suffer(&Fault::Size(4));
    let mut told = Vec::new();
    // The storage takes its time.
    for _ in 0..10 {
        told.extend(pass(&mut world));
    }
    let begun = [0, 1].map(|node| format!("VolumeGrows: the volume of node {node} grows to 4Gi"));
    assert_eq!(of_volumes(told), begun);
    let mut told = Vec::new();
    for _ in 0..60 {
        world.environment();
        told.extend(pass(&mut world));
    }
    let ended = [0, 1].map(|node| format!("VolumeGrown: the volume of node {node} has grown to 4Gi"));
    assert_eq!(of_volumes(told), ended);
}

/// What is told of the wish while passes are made by operators of which none remembers anything.
fn told_while(world: &mut World, suspend: bool) -> Vec<&'static str> {
    world.pool.suspend = suspend;
    let mut told = Vec::new();
    for _ in 0..5 {
        told.extend(pass(world).into_iter().map(|(reason, _)| reason));
        world.suffer(&Fault::OperatorForgets);
    }
    told.retain(|reason| ["Suspended", "Resumed"].contains(reason));
    told
}

#[test]
fn a_pool_is_told_of_once_when_it_is_suspended_and_once_when_it_goes_on() {
    let mut world = made(2);
    assert!(told_while(&mut world, false).is_empty());
    for _ in 0..2 {
        assert_eq!(told_while(&mut world, true), ["Suspended"]);
        assert_eq!(told_while(&mut world, false), ["Resumed"]);
    }
}

#[test]
fn a_pool_at_rest_stays_at_rest_however_much_time_goes_by() {
    let mut world = made(3);
    for seconds in [1, 31, 3600] {
        world.pass_time(seconds);
        let (seen, made) = world.plan();
        assert!(made.rests(&seen.status, &seen.memory), "after {seconds} s: {made:?}\n{:?}", seen.memory);
        world.memory = made.memory;
    }
}
