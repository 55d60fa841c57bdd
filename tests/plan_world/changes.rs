//! Changes of a running pool, step by step: what is taken away, in which order, and what stops it.
use pgpool_operator::api::v1alpha1::{Fate, Health, annotations};
use pgpool_operator::model::Memory;
use pgpool_operator::plan::{Action, Plan};

use super::World;
use super::environment::Fault;

/// Passes until nothing is left to do; tells the pods that were deleted and the primaries that were.
fn settle(world: &mut World) -> (Vec<String>, Vec<u8>) {
    let (deleted, primaries) = deletions(world);
    (of_kind("Pod", &deleted), primaries)
}

fn of_kind(kind: &str, deleted: &[(&'static str, String)]) -> Vec<String> {
    deleted.iter().filter(|(other, _)| *other == kind).map(|(_, name)| name.clone()).collect()
}

/// Passes until nothing is left to do; tells what was deleted, by kind and name, and the primaries that were.
fn deletions(world: &mut World) -> (Vec<(&'static str, String)>, Vec<u8>) {
    let (mut deleted, mut primaries) = (Vec::new(), Vec::new());
    for _ in 0..200 {
        let (seen, made) = world.plan();
        let primary = world.record().map_or(0, |record| record.primary);
        if primaries.last() != Some(&primary) {
            primaries.push(primary);
        }
        for action in &made.actions {
            if let Action::Delete { kind, name, .. } = action {
                deleted.push((*kind, name.clone()));
            }
        }
        world.carry_out(&seen, &made, usize::MAX);
        world.environment();
        world.pass_time(5);
    }
    assert!(world.broken.is_empty(), "{:?}", world.broken);
    let (_, made) = world.plan();
    assert!(made.is_empty(), "{:?} {:?}", made.apply, made.actions);
    (deleted, primaries)
}

fn made(nodes: u8) -> World {
    let mut world = World::new(nodes);
    settle(&mut world);
    assert_eq!(world.status.phase, Some(Health::Ready), "{:?}", world.status.conditions);
    world
}

fn ask(world: &mut World, annotation: &'static str, value: &str) -> (bool, String) {
    world.suffer(&Fault::Asks(annotation, value.to_owned()));
    world.live_on(1);
    let answer = world.status.last_request.clone().unwrap();
    (answer.accepted, answer.message)
}

fn condition(world: &World, kind: &str) -> (String, String, String) {
    let found = world.status.conditions.iter().find(|condition| condition.type_ == kind).unwrap();
    (found.status.clone(), found.reason.clone(), found.message.clone())
}

#[test]
fn standbys_go_first_and_the_primary_hands_over() {
    let mut world = made(3);
    world.suffer(&Fault::Image("16.2"));
    let (pods, primaries) = settle(&mut world);
    assert_eq!(pods, ["orchard-2-0", "orchard-1-0", "orchard-0-0"]);
    assert_eq!(primaries, [0, 1]);
    assert_eq!(world.status.phase, Some(Health::Ready));
    assert_eq!(world.status.attached.as_deref(), Some("3/3"));
}

#[test]
fn a_restart_goes_the_same_way_and_a_second_one_waits_for_its_end() {
    let mut world = made(3);
    assert!(ask(&mut world, annotations::RESTART, "now").0);
    world.live_on(1);
    let (accepted, message) = ask(&mut world, annotations::RESTART, "now");
    assert!(!accepted && message.contains("one at a time"), "{message}");
    assert_eq!(world.status.phase, Some(Health::Updating));
    let (pods, _) = settle(&mut world);
    assert!(pods.len() >= 2, "{pods:?}");
}

#[test]
fn an_image_that_cannot_be_pulled_stops_the_roll_at_the_first_standby() {
    let mut world = made(3);
    world.suffer(&Fault::Image("16-absent"));
    let (pods, primaries) = settle(&mut world);
    assert_eq!((pods.as_slice(), primaries.as_slice()), (&["orchard-2-0".to_owned()][..], &[0][..]));
    let (status, reason, message) = condition(&world, "Degraded");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "RollingStopped"));
    assert!(message.contains("node 2") && message.contains("spec.image"), "{message}");
    assert_eq!(condition(&world, "Progressing").0, "False");
    // Set back: only the node that has it is made anew.
    world.suffer(&Fault::Image("16"));
    let (pods, primaries) = settle(&mut world);
    assert_eq!((pods.as_slice(), primaries.as_slice()), (&["orchard-2-0".to_owned()][..], &[0][..]));
    assert_eq!(world.status.phase, Some(Health::Ready));
}

#[test]
fn another_major_version_stops_the_roll_and_nothing_is_copied_for_it() {
    let mut world = made(3);
    world.suffer(&Fault::Image("18.0"));
    let (pods, _) = settle(&mut world);
    assert_eq!(pods, ["orchard-2-0"]);
    let (_, reason, message) = condition(&world, "Degraded");
    assert!(reason == "RollingStopped" && message.contains("brings PostgreSQL 18"), "{reason} {message}");
    assert!(world.jobs.is_empty() && world.status.recovery.is_none());
}

#[test]
fn nothing_is_restarted_below_min_attached() {
    let mut world = made(2);
    world.pool.min_attached = 2;
    settle(&mut world);
    world.suffer(&Fault::Image("16.2"));
    assert!(settle(&mut world).0.is_empty());
    let (status, reason, message) = condition(&world, "Progressing");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "RollingStopped"));
    assert!(message.contains("minAttached"), "{message}");
}

#[test]
fn nobody_is_asked_to_leave_below_min_attached() {
    let mut world = made(2);
    world.pool.min_attached = 2;
    settle(&mut world);
    // The old primary is out until it has followed: a switchover takes a node away as well.
    let asked = [
        (annotations::SWITCHOVER, "1"),
        (annotations::DETACH, "0"),
        (annotations::DETACH, "1"),
        (annotations::FENCE, "1"),
    ];
    for (annotation, value) in asked {
        let (accepted, message) = ask(&mut world, annotation, value);
        assert!(
            !accepted && message.contains("spec.failure.minAttached (2)"),
            "{annotation}={value}: {message}"
        );
        assert_eq!(world.status.switchover, None, "{annotation}={value}");
        settle(&mut world);
        assert_eq!(world.record().map(|record| (record.primary, record.attached.len())), Some((0, 2)));
    }
    world.pool.min_attached = 1;
    settle(&mut world);
    assert!(ask(&mut world, annotations::SWITCHOVER, "1").0, "with a node to spare it is taken on");
}

#[test]
fn the_only_node_is_restarted_without_a_successor() {
    let mut world = made(1);
    world.suffer(&Fault::Image("16.2"));
    assert_eq!(settle(&mut world).0, ["orchard-0-0"]);
    assert_eq!(world.status.phase, Some(Health::Ready));
}

/// What is told of the nodes that are restarted for their parameters, within a minute; none is said to be missing meanwhile.
fn restarts(world: &mut World) -> Vec<String> {
    let mut told = Vec::new();
    for _ in 0..60 {
        let (seen, made) = world.plan();
        let own =
            made.events.iter().filter(|e| ["PostgresRestarts", "SwitchoverStarted"].contains(&e.reason));
        told.extend(own.map(|event| event.note.clone()));
        world.carry_out(&seen, &made, usize::MAX);
        assert_ne!(world.status.phase, Some(Health::Degraded), "{:?}", world.status.conditions);
        world.environment();
        world.pass_time(1);
    }
    told
}

fn in_place(node: u8) -> String {
    format!("PostgreSQL of node {node} is restarted in place, for max_connections")
}

fn by_handover(from: u8, to: u8) -> String {
    format!(
        "node {from} hands over to node {to}: PostgreSQL of node {from} is to be restarted, for max_connections"
    )
}

#[test]
fn parameters_restart_standbys_first_and_then_the_primary_hands_over() {
    let mut world = made(3);
    world.suffer(&Fault::Parameters);
    assert_eq!(restarts(&mut world), [in_place(2), in_place(1), by_handover(0, 1)]);
    assert!(settle(&mut world).0.is_empty());
    assert_eq!(world.record().map(|record| (record.primary, record.timeline)), Some((1, 2)), "one handover");
    assert_eq!(world.status.phase, Some(Health::Ready));
    assert!(world.pending.is_empty() && world.memory.handed_over.is_none());
    assert_eq!(world.membership.unwrap().spec.restart, None);
}

#[test]
fn a_primary_that_asks_for_its_restart_before_the_standbys_do_waits_for_them() {
    let mut world = made(3);
    world.pool.generation += 1;
    world.pending.insert(0);
    for _ in 0..8 {
        world.live_on(1);
        assert_eq!(
            (&world.status.switchover, &world.membership.as_ref().unwrap().spec.restart),
            (&None, &None)
        );
    }
    assert_eq!(condition(&world, "Progressing").1, "RestartWaits");
    world.pending.extend([1, 2]);
    assert_eq!(restarts(&mut world), [in_place(2), in_place(1), by_handover(0, 1)]);
}

#[test]
fn limits_are_lowered_on_the_primary_first_and_in_place() {
    let mut world = made(3);
    world.suffer(&Fault::Limits);
    assert_eq!(restarts(&mut world), [in_place(0), in_place(2), in_place(1)]);
    assert!(settle(&mut world).0.is_empty());
    assert_eq!(world.record().unwrap().primary, 0, "the primary stays in office");
}

#[test]
fn parameters_restart_the_only_node_in_place() {
    let mut world = made(1);
    world.suffer(&Fault::Parameters);
    assert_eq!(restarts(&mut world), [in_place(0)]);
    assert_eq!(world.status.phase, Some(Health::Ready));
}

#[test]
fn parameters_restart_nobody_below_min_attached() {
    let mut world = made(2);
    world.pool.min_attached = 2;
    settle(&mut world);
    world.suffer(&Fault::Parameters);
    assert!(restarts(&mut world).is_empty());
    // Nor does the primary hand over, where no standby has anything to do.
    world.pending.remove(&1);
    assert!(restarts(&mut world).is_empty());
    let (status, reason, message) = condition(&world, "Progressing");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "RestartStopped"));
    assert!(message.contains("node 0") && message.contains("minAttached"), "{message}");
    world.pool.min_attached = 1;
    assert_eq!(restarts(&mut world), [by_handover(0, 1)]);
}

#[test]
fn a_primary_that_cannot_hand_over_waits_with_its_restart() {
    let mut world = made(3);
    world.refuses = true;
    world.suffer(&Fault::Parameters);
    assert_eq!(restarts(&mut world), [in_place(2), in_place(1), by_handover(0, 1)]);
    let (status, reason, message) = condition(&world, "Progressing");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "RestartWaits"));
    assert!(message.contains("it is busy"), "{message}");
    assert_eq!((world.record().unwrap().primary, world.pending.len()), (0, 1));
    world.refuses = false;
    settle(&mut world);
    assert_eq!((world.record().unwrap().primary, world.pending.len()), (1, 0));
}

#[test]
fn a_switchover_is_told_to_its_end() {
    let mut world = made(3);
    assert!(ask(&mut world, annotations::SWITCHOVER, "2").0);
    assert!(world.membership.as_ref().unwrap().spec.switchover.is_some());
    settle(&mut world);
    assert_eq!(world.record().unwrap().primary, 2);
    assert_eq!(world.membership.as_ref().unwrap().spec.switchover, None);
    let outcome = world.status.last_request.clone().unwrap().outcome.unwrap();
    assert!(outcome.contains("node 2 is the primary now"), "{outcome}");
    world.suffer(&Fault::Refuses(true));
    assert!(ask(&mut world, annotations::SWITCHOVER, "1").0);
    settle(&mut world);
    assert_eq!(world.record().unwrap().primary, 2);
    let outcome = world.status.last_request.clone().unwrap().outcome.unwrap();
    assert!(outcome.contains("it is busy"), "{outcome}");
}

#[test]
fn the_primary_hands_over_before_it_is_detached_by_wish() {
    let mut world = made(3);
    let (accepted, message) = ask(&mut world, annotations::DETACH, "0");
    assert!(accepted && message.contains("hands over to node 1"), "{message}");
    settle(&mut world);
    assert_eq!(world.record().unwrap().primary, 1);
    assert!(!world.is_attached(0));
    assert_eq!(world.status.detached_by_wish, [0]);
}

#[test]
fn a_fence_keeps_a_node_out_until_it_is_lifted() {
    let mut world = made(3);
    assert!(ask(&mut world, annotations::FENCE, "2").0);
    settle(&mut world);
    assert!(!world.is_attached(2) && !world.runs(2));
    assert_eq!(world.membership.as_ref().unwrap().spec.fenced, [2]);
    assert_eq!(condition(&world, "Degraded").1, "Fenced");
    for annotation in [annotations::ATTACH, annotations::RECOVER] {
        let (accepted, message) = ask(&mut world, annotation, "2");
        assert!(!accepted && message.contains("fence=off"), "{message}");
    }
    assert!(ask(&mut world, annotations::FENCE, "off").0);
    settle(&mut world);
    assert!(world.is_attached(2));
    assert_eq!(world.status.phase, Some(Health::Ready));
}

#[test]
fn a_pool_grows_and_shrinks_and_keeps_or_deletes_volumes() {
    for (fate, left) in [(Fate::Retain, 4), (Fate::Delete, 2)] {
        let mut world = made(3);
        world.pool.storage.when_scaled = fate;
        world.suffer(&Fault::Nodes(4));
        assert!(settle(&mut world).0.is_empty(), "growing restarts nobody");
        assert_eq!(world.status.attached.as_deref(), Some("4/4"));
        assert!(ask(&mut world, annotations::SWITCHOVER, "3").0);
        settle(&mut world);
        world.suffer(&Fault::Nodes(2));
        let (deleted, primaries) = deletions(&mut world);
        assert_eq!(of_kind("StatefulSet", &deleted), ["orchard-3", "orchard-2"], "the highest index first");
        assert_eq!(primaries.len(), 2, "the primary was beyond the spec and handed over: {primaries:?}");
        assert_eq!(world.status.attached.as_deref(), Some("2/2"));
        assert_eq!(world.sets().into_keys().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(world.membership.as_ref().unwrap().spec.nodes, 2);
        assert_eq!(world.claims.len(), left);
        assert_eq!(world.status.phase, Some(Health::Ready), "{:?}", world.status.conditions);
    }
}

#[test]
fn volumes_grow_and_then_each_node_is_restarted_to_use_them() {
    let mut world = made(2);
    world.suffer(&Fault::Size(4));
    assert_eq!(settle(&mut world).0.len(), 2);
    assert!(world.claims.values().all(|claim| claim.size.requested == "4Gi"));
    assert_eq!(world.status.phase, Some(Health::Ready));
}

#[test]
fn volumes_that_cannot_grow_stay_and_a_condition_says_what_to_do() {
    let mut world = made(2);
    let archive = world.membership.as_ref().unwrap().spec.archive_max_bytes;
    world.fixed_volumes = true;
    world.suffer(&Fault::Size(4));
    world.pool.archive_max_bytes *= 2;
    world.environment();
    assert!(settle(&mut world).0.is_empty());
    assert!(world.claims.values().all(|claim| claim.size.requested == "2Gi"));
    let (status, reason, message) = condition(&world, "Degraded");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "VolumeNotExpandable"));
    assert!(message.contains("replace-volume"), "{message}");
    assert_eq!(world.membership.unwrap().spec.archive_max_bytes, archive, "the archive fits the volume");
}

#[test]
fn a_volume_that_is_given_up_goes_though_the_operator_dies_before_it_is_marked() {
    let mut world = made(3);
    assert!(ask(&mut world, annotations::DETACH, "2").0);
    settle(&mut world);
    world.suffer(&Fault::Asks(annotations::REPLACE_VOLUME, "2".to_owned()));
    // The status is written, and nothing after it.
    let (seen, made) = world.plan();
    world.carry_out(&seen, &made, 1);
    assert!(world.status.recovery.is_some());
    settle(&mut world);
    let last = world.status.last_recovery.clone().unwrap();
    assert!(last.succeeded && last.message.starts_with("base backup"), "{last:?}");
}

#[test]
fn requests_that_come_together_are_each_answered_once_wherever_the_operator_dies() {
    let mut world = made(3);
    let asked = [(annotations::DETACH, "1"), (annotations::FENCE, "off"), (annotations::RESTART, "later")];
    for (annotation, value) in asked {
        world.suffer(&Fault::Asks(annotation, value.to_owned()));
    }
    let (_, made) = world.plan();
    let requests =
        |made: &Plan| made.events.iter().filter(|event| event.reason.starts_with("Request")).count();
    assert_eq!(requests(&made), 3);
    let removals = made.actions.iter().filter(|action| matches!(action, Action::RemoveAnnotations(_)));
    assert_eq!(removals.count(), 1, "the second would be refused: the pool has changed by the first");
    // It dies once its answers are written; the next one finds the pool suspended for a while.
    (world.status, world.memory) = (made.status, Memory::default());
    world.pool.suspend = true;
    world.live_on(1);
    world.pool.suspend = false;
    let (seen, made) = world.plan();
    assert_eq!(requests(&made), 0, "answered twice: {:?}", made.events);
    world.carry_out(&seen, &made, usize::MAX);
    assert!(world.pool.requests.is_empty());
    settle(&mut world);
    assert!(world.status.answered.is_empty());
}

#[test]
fn a_pool_without_its_front_is_unavailable_and_a_new_one_is_being_made() {
    let mut world = World::new(1);
    world.front_down = true;
    settle(&mut world);
    assert_eq!(world.status.phase, Some(Health::Creating), "{:?}", world.status.conditions);
    world.front_down = false;
    settle(&mut world);
    assert_eq!(world.status.phase, Some(Health::Ready));
    world.front_down = true;
    settle(&mut world);
    assert_eq!(world.status.phase, Some(Health::Unavailable));
    for (kind, answer) in [("Ready", "False"), ("Degraded", "True")] {
        let (status, reason, message) = condition(&world, kind);
        assert_eq!((status.as_str(), reason.as_str()), (answer, "FrontDown"), "{message}");
    }
    world.front_down = false;
    settle(&mut world);
    assert_eq!(world.status.phase, Some(Health::Ready));
    assert_eq!(condition(&world, "Degraded").0, "False");
}

#[test]
fn nothing_is_copied_over_while_a_node_has_seen_a_later_record() {
    let mut world = made(3);
    world.put_back = 2;
    world.suffer(&Fault::Diverges(1));
    for _ in 0..60 {
        world.live_on(10);
    }
    assert!(world.status.recovery.is_none() && !world.is_attached(1) && !world.data[&1].good);
    // Nor once the record has gone on past it.
    (world.put_back, world.refuses_record) = (0, true);
    for _ in 0..60 {
        world.live_on(10);
    }
    assert!(world.status.recovery.is_none() && !world.is_attached(1) && !world.data[&1].good);
    world.refuses_record = false;
    settle(&mut world);
    assert!(world.is_attached(1) && world.data[&1].good);
}
