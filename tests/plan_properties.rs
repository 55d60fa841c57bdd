//! The planner, driven through a simulated world: whatever happens, and wherever an operator dies, no
//! rule is broken, and once the trouble is over the pool is whole and nothing is left to do.
#![expect(clippy::unwrap_used, reason = "a test ends where it finds the unexpected")]

mod plan_world;

use pgpool_operator::api::v1alpha1::{Health, annotations};
use pgpool_operator::model::Memory;
use pgpool_operator::plan::plan;
use plan_world::earlier::left_by_a_pool;
use plan_world::environment::Fault;
use plan_world::{World, runtime};
use proptest::prelude::*;

/// Passes within which a pool must be whole again; back-offs are skipped by large steps of time.
const ENOUGH: usize = 400;

fn settle(world: &mut World) {
    world.silent.clear();
    world.refuses = false;
    world.suffer(&Fault::Image("16.9"));
    if world.wished().is_empty() {
        // Who wants every node of the spec out has to take that back.
        world.status.detached_by_wish.clear();
        world.status.fenced.clear();
    }
    if world.membership.is_none() && world.claims.is_empty() {
        // Who wants data that isn't there has to take that back, too.
        world.pool.requests.remove(annotations::RELEASE);
    }
    for _ in 0..ENOUGH {
        let (seen, made) = world.plan();
        let wished = world.wished();
        let whole = world.record().is_some_and(|r| r.attached.iter().map(|m| m.index).eq(wished));
        if whole && made.is_empty() && made.status == world.status && world.status.recovery.is_none() {
            return;
        }
        world.carry_out(&seen, &made, usize::MAX);
        world.environment();
        world.pass_time(2);
        // A back-off, or a count of failures that only a person resets.
        world.pass_time(30);
        world.memory.backoff.clear();
        if world.status.recovery.is_none()
            && let Some(last) = &mut world.status.last_recovery
        {
            last.failures = 0;
        }
    }
    let (_, made) = world.plan();
    panic!(
        "not whole: {:?} {:#?} {:?} {:?} {:?} {:?}",
        world.record(),
        world.status,
        world.jobs,
        world.pods,
        made.actions,
        made.memory
    );
}

fn fault() -> impl Strategy<Value = Fault> {
    let request = prop::sample::select(annotations::REQUESTS.to_vec());
    let value = prop::sample::select(vec!["0", "1", "2", "3", "9", "", "x", "1,2", "now", "off"]);
    prop_oneof![
        Just(Fault::OperatorForgets),
        (1..4_u8).prop_map(Fault::Diverges),
        (1..4_u8).prop_map(Fault::DataGone),
        (1..4_u8).prop_map(Fault::VolumeLost),
        (0..4_u8).prop_map(Fault::Silent),
        (0..4_u8).prop_map(Fault::Speaks),
        Just(Fault::JobFails),
        Just(Fault::JobNeedsRoom),
        (request, value).prop_map(|(request, value)| Fault::Asks(request, value.to_owned())),
        prop::sample::select(vec!["16.1", "16.2", "16-absent", "18.0"]).prop_map(Fault::Image),
        (1..6_u8).prop_map(Fault::Nodes),
        (2..6_u64).prop_map(Fault::Size),
        Just(Fault::Parameters),
        Just(Fault::Limits),
        (0..4_u8).prop_map(Fault::PodDies),
        any::<bool>().prop_map(Fault::Refuses),
        (0..900_u16).prop_map(Fault::Time),
    ]
}

/// One moment of a history: what happens, and after how many steps the operator dies.
#[derive(Clone, Debug)]
struct Moment {
    fault: Option<Fault>,
    dies_after: usize,
    environment: bool,
}

fn moment() -> impl Strategy<Value = Moment> {
    (
        prop::option::weighted(0.3, fault()),
        prop_oneof![3 => Just(usize::MAX), 1 => 0..20_usize],
        prop::bool::weighted(0.8),
    )
        .prop_map(|(fault, dies_after, environment)| Moment { fault, dies_after, environment })
}

fn live_through(world: &mut World, history: &[Moment]) {
    for moment in history {
        if let Some(fault) = &moment.fault {
            world.suffer(fault);
        }
        let attached = world.record().map_or(0, |record| record.attached.len());
        let (seen, made) = world.plan();
        assert_eq!(made, plan(&world.pool, &runtime(), &seen).unwrap(), "the same input gave another plan");
        world.carry_out(&seen, &made, moment.dies_after);
        if moment.dies_after != usize::MAX {
            world.memory = Memory::default();
        }
        if moment.environment {
            world.environment();
        }
        world.pass_time(1);
        assert!(world.record().map_or(0, |record| record.attached.len()) >= attached.min(1));
        assert!(world.broken.is_empty(), "{:?}", world.broken);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_rule_is_broken_and_the_pool_becomes_whole(
        nodes in 1..4_u8,
        local in any::<bool>(),
        history in prop::collection::vec(moment(), 0..50),
    ) {
        let mut world = World::new(nodes);
        world.local = local;
        live_through(&mut world, &history);
        settle(&mut world);
        prop_assert!(world.broken.is_empty(), "{:?}", world.broken);
        prop_assert!(world.record().is_some_and(|record| record.attached.iter().any(|m| m.index == record.primary)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn over_old_volumes_a_pool_begins_where_somebody_said_and_nowhere_else(
        node in 0..3_u8,
        early in any::<bool>(),
        history in prop::collection::vec(moment(), 0..30),
    ) {
        let mut world = left_by_a_pool(None);
        if early {
            world.suffer(&Fault::Asks(annotations::RELEASE, node.to_string()));
        }
        live_through(&mut world, &history);
        let first = world.bootstrap();
        if world.membership.is_none() {
            // What is asked for at last can be had.
            world.pool.nodes = 3;
            world.claims.values_mut().for_each(|claim| claim.lost = None);
            world.suffer(&Fault::Asks(annotations::RELEASE, node.to_string()));
        }
        let asked = world.membership.as_ref().map_or(node, |_| first);
        if world.record().is_none() && world.data[&asked].incarnation.is_none() {
            // Its data went before anybody took it up: a person is called.
            return Ok(());
        }
        if world.record().is_none() {
            world.pool.nodes = world.pool.nodes.max(asked + 1);
        }
        settle(&mut world);
        prop_assert!(world.broken.is_empty(), "{:?}", world.broken);
        let spec = world.membership.as_ref().map(|m| (m.spec.bootstrap, m.spec.adopts));
        prop_assert_eq!(spec, Some((asked, true)));
    }
}

fn made(nodes: u8) -> World {
    let mut world = World::new(nodes);
    settle(&mut world);
    world
}

fn ask(world: &mut World, annotation: &'static str, value: &str) -> (bool, String) {
    world.suffer(&Fault::Asks(annotation, value.to_owned()));
    let (seen, made) = world.plan();
    world.carry_out(&seen, &made, usize::MAX);
    let answer = world.status.last_request.clone().unwrap();
    assert_eq!(answer.value, value);
    assert!(!world.pool.requests.contains_key(annotation), "the annotation is removed");
    (answer.accepted, answer.message)
}

#[test]
fn a_new_pool_becomes_ready_and_then_nothing_is_left_to_do() {
    for nodes in [1, 2, 3, 5] {
        let mut world = made(nodes);
        assert_eq!(world.status.phase, Some(Health::Ready), "{:?}", world.status.conditions);
        assert_eq!(world.status.attached, Some(format!("{nodes}/{nodes}")));
        let before = world.status.clone();
        world.pass_time(600);
        let (_, made) = world.plan();
        assert!(made.is_empty(), "{:?} {:?}", made.apply, made.actions);
        assert_eq!(made.status, before, "the status is written again though nothing changed");
        assert!(made.events.is_empty());
    }
}

#[test]
fn a_bad_request_is_refused_with_its_reason_and_nothing_else_changes() {
    let cases = [
        (annotations::RECOVER, "9", "there is no node 9"),
        (annotations::RECOVER, "", "index of one node"),
        (annotations::DETACH, "x", "index of one node"),
        (annotations::ATTACH, "1,2", "index of one node"),
        (annotations::RECOVER, "0", "hand over first"),
        (annotations::FENCE, "0", "hand over first"),
        (annotations::FENCE, "7", "there is no node 7"),
        (annotations::FENCE, "on", "or off"),
        (annotations::FENCE, "off", "no node is fenced"),
        (annotations::SWITCHOVER, "0", "is the primary already"),
        (annotations::SWITCHOVER, "x", "index of one node"),
        (annotations::RESTART, "2", "must be now"),
        (annotations::ATTACH, "1", "attached already"),
        (annotations::REPLACE_VOLUME, "1", "its volume works"),
        (annotations::RELEASE, "1", "this one has its data"),
    ];
    let mut world = made(3);
    for (annotation, value, reason) in cases {
        let before = world.clone();
        let (accepted, message) = ask(&mut world, annotation, value);
        assert!(!accepted, "{annotation}={value}");
        assert!(message.contains(reason), "{annotation}={value}: {message}");
        assert_eq!(world.membership, before.membership, "{annotation}={value}");
        assert_eq!(world.status.recovery, None);
        assert_eq!(world.live, before.live);
    }
}

#[test]
fn a_request_is_answered_once_by_whichever_operator_and_may_be_made_again() {
    let mut world = made(3);
    world.suffer(&Fault::Asks(annotations::DETACH, "1".to_owned()));
    let (_, made) = world.plan();
    // It dies once its answer is written.
    (world.status, world.memory) = (made.status, Memory::default());
    let answer = world.status.last_request.clone().unwrap();
    assert!(answer.accepted && world.status.answered.len() == 1, "{answer:?}");
    world.pass_time(1000);
    let (seen, made) = world.plan();
    assert_eq!(made.status.last_request, Some(answer), "answered twice");
    world.carry_out(&seen, &made, usize::MAX);
    assert!(!world.pool.requests.contains_key(annotations::DETACH), "the annotation is removed");
    settle(&mut world);
    assert!(world.status.answered.is_empty());
    // The same from another operator's first look on is a new request.
    world.memory = Memory::default();
    let (accepted, message) = ask(&mut world, annotations::DETACH, "1");
    assert!(!accepted && message.contains("node 1"), "{message}");
}

#[test]
fn the_only_attached_node_is_neither_recovered_nor_detached() {
    let mut world = made(1);
    for annotation in [annotations::RECOVER, annotations::DETACH, annotations::REPLACE_VOLUME] {
        let (accepted, message) = ask(&mut world, annotation, "0");
        assert!(!accepted && message.contains("only attached node"), "{annotation}: {message}");
    }
}

#[test]
fn a_node_detached_by_wish_stays_out_until_it_is_asked_back() {
    let mut world = made(3);
    assert!(ask(&mut world, annotations::DETACH, "2").0);
    for _ in 0..60 {
        world.live_on(30);
    }
    assert!(!world.is_attached(2));
    assert_eq!(world.status.detached_by_wish, [2]);
    assert!(ask(&mut world, annotations::ATTACH, "2").0);
    settle(&mut world);
    assert!(world.is_attached(2));
    assert!(
        world
            .status
            .last_recovery
            .as_ref()
            .is_none_or(|last| last.node != 2 || last.message.contains("base backup"))
    );
}

#[test]
fn a_second_recovery_at_once_is_refused() {
    let mut world = made(3);
    world.suffer(&Fault::Diverges(1));
    world.suffer(&Fault::Diverges(2));
    world.environment();
    world.environment();
    assert!(ask(&mut world, annotations::RECOVER, "1").0);
    world.live_on(1);
    let (accepted, message) = ask(&mut world, annotations::RECOVER, "2");
    assert!(!accepted && message.contains("one recovery at a time"), "{message}");
    let (accepted, _) = ask(&mut world, annotations::RECOVER, "1");
    assert!(!accepted);
    settle(&mut world);
}

#[test]
fn attach_refuses_a_node_that_needs_a_copy_and_says_what_to_do() {
    let mut world = made(3);
    assert!(ask(&mut world, annotations::DETACH, "1").0);
    for _ in 0..5 {
        world.live_on(1);
    }
    world.suffer(&Fault::Diverges(1));
    let (accepted, message) = ask(&mut world, annotations::ATTACH, "1");
    assert!(!accepted && message.contains("use recover=1"), "{message}");
}

#[test]
fn a_healthy_node_is_recovered_without_a_copy() {
    let mut world = made(3);
    assert!(ask(&mut world, annotations::RECOVER, "2").0);
    settle(&mut world);
    let last = world.status.last_recovery.clone().unwrap();
    assert!(last.succeeded && last.message.contains("without a copy"), "{}", last.message);
}

#[test]
fn job_and_pod_overlap_on_one_machine_and_nowhere_else() {
    for local in [true, false] {
        let mut world = made(3);
        world.local = local;
        world.claims.values_mut().for_each(|claim| claim.on_one_machine = local);
        world.suffer(&Fault::Diverges(1));
        world.environment();
        assert!(ask(&mut world, annotations::RECOVER, "1").0);
        let (mut job_beside_pod, mut pod_beside_job) = (false, false);
        for _ in 0..30 {
            let (seen, made) = world.plan();
            world.carry_out(&seen, &made, usize::MAX);
            let job = !world.running().is_empty();
            job_beside_pod |= job && world.pods.contains_key(&1);
            pod_beside_job |= job && world.sets()[&1] == 1;
            world.environment();
            world.pass_time(1);
        }
        assert_eq!((job_beside_pod, pod_beside_job), (local, local));
        settle(&mut world);
        assert!(world.is_attached(1) && world.broken.is_empty(), "{:?}", world.broken);
    }
}

#[test]
fn the_pods_of_a_new_pool_are_started_once() {
    let [world, elsewhere] = [true, false].map(|local| {
        let mut world = World::new(3);
        world.local = local;
        for _ in 0..120 {
            world.live_on(1);
        }
        assert!([1, 2].iter().all(|index| world.is_attached(*index)), "{:?}", world.status);
        world
    });
    assert_eq!([1, 2].map(|index| world.boots[&index]), [1, 1], "a new volume is left to its Job");
    let world = elsewhere;
    assert!(
        [1, 2].iter().all(|index| world.boots[index] > 1),
        "where a lock proves nothing, the pod goes first"
    );
}

#[test]
fn a_job_that_finds_no_room_beside_the_pod_of_a_new_volume_gets_it() {
    let mut world = World::new(2);
    world.starving = true;
    for _ in 0..60 {
        world.live_on(1);
    }
    assert!(world.is_attached(1), "{:?}", world.status.recovery);
    assert!(world.boots[&1] > 1, "the pod made room");
}

#[test]
fn commits_that_wait_for_more_nodes_are_told_of() {
    let mut world = World::new(2);
    world.pool.min_attached = 2;
    settle(&mut world);
    let degraded = |world: &World| {
        let found = world.status.conditions.iter().find(|condition| condition.type_ == "Degraded").unwrap();
        (found.status.clone(), found.reason.clone())
    };
    assert_eq!(degraded(&world).0, "False");
    assert!(world.bootstrapped && world.broken.is_empty(), "{:?}", world.broken);
    world.suffer(&Fault::DataGone(1));
    world.environment();
    world.live_on(1);
    assert_eq!(degraded(&world), ("True".to_owned(), "CommitsWait".to_owned()));
    settle(&mut world);
    assert_eq!(degraded(&world).0, "False");
}

#[test]
fn a_deleted_pool_leaves_nothing_and_keeps_its_volumes_unless_told_otherwise() {
    for delete in [false, true] {
        let mut world = made(3);
        if delete {
            world.pool.storage.when_deleted = pgpool_operator::api::v1alpha1::Fate::Delete;
        }
        world.pool.deleting = true;
        for _ in 0..20 {
            world.live_on(1);
        }
        assert!(!world.pool.guarded, "the finalizer is removed");
        assert!(world.membership.is_none());
        assert!(world.pods.is_empty() && world.jobs.is_empty());
        assert_eq!(world.claims.is_empty(), delete);
    }
}

#[test]
fn a_pool_over_old_volumes_waits_for_a_person() {
    let mut old = made(3);
    let claims = std::mem::take(&mut old.claims);
    let mut world = World::new(3);
    world.claims = claims;
    for _ in 0..10 {
        world.live_on(1);
    }
    assert!(world.membership.is_none());
    let degraded = world.status.conditions.iter().find(|condition| condition.type_ == "Degraded").unwrap();
    assert_eq!((degraded.status.as_str(), degraded.reason.as_str()), ("True", "OldVolumesFound"));
    assert!(degraded.message.contains("data-orchard-0-0 (nothing is noted)"), "{}", degraded.message);
}

#[test]
fn a_suspended_pool_is_left_alone_and_told_of() {
    let mut world = made(3);
    world.pool.suspend = true;
    world.suffer(&Fault::Diverges(1));
    world.environment();
    let (_, made) = world.plan();
    assert!(made.is_empty());
    assert_eq!(made.status.phase, Some(Health::Suspended));
    let told = made.status.membership.map(|view| view.attached.len());
    assert_eq!(
        told,
        world.record().map(|record| record.attached.len()),
        "agents go on, and so does the status"
    );
}

/// Also when the operator itself is started anew each time.
#[test]
fn a_node_that_cannot_be_recovered_is_tried_five_times_and_then_a_person_is_called() {
    for forgets in [false, true] {
        let mut world = made(3);
        world.suffer(&Fault::Diverges(1));
        let (mut ids, mut told) = (std::collections::BTreeSet::new(), Vec::new());
        for _ in 0..2000 {
            let (seen, made) = world.plan();
            ids.extend(made.status.recovery.as_ref().map(|recovery| recovery.id.clone()));
            told.extend(
                made.events.iter().filter(|event| event.reason == "RecoveryGivenUp").map(|e| e.note.clone()),
            );
            world.carry_out(&seen, &made, usize::MAX);
            world.suffer(&Fault::JobFails);
            world.environment();
            world.pass_time(10);
            if forgets && seen.status.last_recovery != world.status.last_recovery {
                world.suffer(&Fault::OperatorForgets);
            }
        }
        let degraded = world.status.conditions.iter().find(|c| c.type_ == "Degraded").unwrap();
        assert_eq!((ids.len(), degraded.reason.as_str()), (5, "RecoveryGivenUp"), "{degraded:?}");
        assert!(told.first().is_some_and(|note| note.contains("recover=1")), "{told:?}");
        // Nor does a new operator forget it that finds the pool suspended.
        world.suffer(&Fault::OperatorForgets);
        for suspend in [true, false] {
            world.pool.suspend = suspend;
            world.live_on(1);
        }
        let failed = world.status.nodes.iter().find_map(|node| node.failed_recoveries.as_ref());
        assert_eq!(failed.map(|failed| failed.count), Some(5));
        assert!(ask(&mut world, annotations::RECOVER, "1").0);
        settle(&mut world);
    }
}
