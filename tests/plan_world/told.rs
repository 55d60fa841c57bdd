//! What people and agents are told while something is under way.
use std::collections::BTreeMap;

use jiff::SignedDuration;
use pgpool_operator::api::v1alpha1::{Health, RecoveryStage, annotations};
use pgpool_operator::model::{JobOutcome, JobSeen, Observed, SecretProblem};
use pgpool_operator::names;
use pgpool_operator::plan::{Severity, plan};

use super::environment::Fault;
use super::{POOL, World, runtime};

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

/// What is told with these reasons in so many passes, each by an operator that remembers nothing if `forgetful`.
fn told_of(world: &mut World, reasons: &[&str], passes: usize, forgetful: bool) -> Vec<String> {
    let mut told = Vec::new();
    for _ in 0..passes {
        told.extend(pass(world).into_iter().filter(|(reason, _)| reasons.contains(reason)));
        if forgetful {
            world.suffer(&Fault::OperatorForgets);
        }
    }
    told.into_iter().map(|(reason, note)| format!("{reason}: {note}")).collect()
}

#[test]
fn a_pool_is_told_of_once_when_it_becomes_ready_and_once_when_it_is_no_longer() {
    const REASONS: [&str; 2] = ["Ready", "NotReady"];
    let mut world = World::new(2);
    let mut told = Vec::new();
    for _ in 0..300 {
        told.extend(told_of(&mut world, &REASONS, 1, false));
        world.environment();
    }
    let ready = ["Ready: 2/2 nodes are attached"];
    assert_eq!(told, ready);
    world.front_down = true;
    let (_, made) = world.plan();
    assert!(made.events.iter().any(|e| (e.reason, e.severity) == ("NotReady", Severity::Warning)));
    let not_ready = ["NotReady: no pod of the front is ready: nobody gets through to the nodes"];
    assert_eq!(told_of(&mut world, &REASONS, 5, true), not_ready);
    world.front_down = false;
    assert_eq!(told_of(&mut world, &REASONS, 5, true), ready);
    world.pool.suspend = true;
    assert!(told_of(&mut world, &REASONS, 5, true).is_empty(), "that it is suspended is told");
    world.pool.suspend = false;
    assert_eq!(told_of(&mut world, &REASONS, 5, true), ready);
}

#[test]
fn a_pool_that_is_not_ready_by_wish_is_no_warning() {
    let mut world = made(2);
    world.suffer(&Fault::Image("16.2"));
    let mut told = Vec::new();
    for _ in 0..3 {
        let (seen, made) = world.plan();
        world.carry_out(&seen, &made, usize::MAX);
        told.extend(made.events.into_iter().filter(|event| event.reason == "NotReady"));
    }
    assert!(matches!(told.as_slice(), [only] if only.severity == Severity::Normal), "{told:?}");
}

#[test]
fn parameters_are_told_of_once_when_every_attached_node_has_loaded_them() {
    const REASON: [&str; 1] = ["ParametersLoaded"];
    let mut world = made(2);
    world.unread.insert(1);
    for (name, value) in [("Work_Mem", "5MB"), ("max_connections", "150")] {
        world.pool.parameters.insert(name.to_owned(), value.to_owned());
    }
    assert!(told_of(&mut world, &REASON, 10, false).is_empty(), "node 1 has not read them");
    // What waits for a restart was not loaded, also once the restart is over.
    world.pending.insert(0);
    assert!(told_of(&mut world, &REASON, 2, false).is_empty());
    world.pending.clear();
    world.unread.clear();
    let loaded = ["ParametersLoaded: every attached node has loaded the changed parameters: work_mem"];
    assert_eq!(told_of(&mut world, &REASON, 10, false), loaded);
    assert!(told_of(&mut world, &REASON, 10, true).is_empty());
    world.pool.parameters.remove("Work_Mem");
    assert_eq!(told_of(&mut world, &REASON, 10, false), loaded, "its default is another value");
    // Taken back before every node had it.
    world.unread.insert(1);
    world.pool.parameters.insert("work_mem".to_owned(), "lots".to_owned());
    assert!(told_of(&mut world, &REASON, 5, false).is_empty());
    world.pool.parameters.remove("work_mem");
    world.unread.clear();
    assert!(told_of(&mut world, &REASON, 10, false).is_empty(), "nothing is other than before");
    assert_eq!(world.memory.parameters, None);
}

#[test]
fn a_certificate_is_told_of_once_when_another_one_stands_in_its_place() {
    const REASON: [&str; 1] = ["CertificatesRenewed"];
    let mut world = made(2);
    let gone = [names::node_tls_secret(POOL, 1), names::part_tls_secret(POOL, "proxy")];
    for secret in &gone {
        world.secrets.leaves.remove(secret).unwrap();
    }
    let issued =
        ["CertificatesRenewed: new certificates were issued: Secrets orchard-1-tls, orchard-proxy-tls"];
    assert_eq!(told_of(&mut world, &REASON, 5, false), issued);
    assert!(told_of(&mut world, &REASON, 5, true).is_empty());
    // The user's own: the first one is no news, nor is one that is there again.
    let end = |world: &World, hours: i64| Some(Ok(world.now + SignedDuration::from_hours(hours)));
    world.pool.server_secret = Some("given".to_owned());
    world.secrets.server = end(&world, 100);
    assert!(told_of(&mut world, &REASON, 5, false).is_empty());
    let first = world.secrets.server.clone();
    let problem = SecretProblem { message: "isn't there".to_owned(), missing: true };
    for seen in [Some(Err(problem)), first] {
        world.secrets.server = seen;
        assert!(told_of(&mut world, &REASON, 5, false).is_empty());
    }
    world.secrets.server = end(&world, 200);
    let told = told_of(&mut world, &REASON, 5, false);
    assert!(told.len() == 1 && told[0].contains("Secret given has another certificate"), "{told:?}");
    assert!(told_of(&mut world, &REASON, 5, true).is_empty());
}

#[test]
fn a_pod_that_cannot_start_is_told_of_once_with_what_to_do_until_it_starts() {
    const REASON: [&str; 1] = ["PodCannotStart"];
    let mut world = made(3);
    let degraded = |world: &World| {
        let found = world.status.conditions.iter().find(|condition| condition.type_ == "Degraded").unwrap();
        (found.status.clone(), found.message.clone())
    };
    for _ in 0..2 {
        world.suffer(&Fault::Image("16-absent"));
        let mut told = Vec::new();
        let mut since = None;
        for _ in 0..60 {
            let waits = world.pods.values().any(|pod| pod.trouble.is_some());
            since = since.or(waits.then_some(world.now));
            told.extend(told_of(&mut world, &REASON, 1, false));
            let late = since.is_some_and(|since| world.now.duration_since(since).as_secs() > 10);
            assert!(late || told.is_empty(), "a moment calls nobody: {told:?}");
            world.environment();
        }
        assert!(since.is_some() && told.len() == 1, "{told:?}");
        for words in
            ["pod orchard-2-0 can't start", "16-absent can't be pulled", "see spec.image", "-n harbour"]
        {
            assert!(told[0].contains(words), "{told:?}");
        }
        let (status, message) = degraded(&world);
        assert!(status == "True" && message.contains("pod orchard-2-0 can't start"), "{message}");
        world.suffer(&Fault::Image("16"));
        for _ in 0..60 {
            world.live_on(5);
        }
        assert_eq!(degraded(&world).0, "False", "{:?}", world.status.conditions);
    }
    assert!(world.broken.is_empty(), "{:?}", world.broken);
}

/// What the condition says of pods that can't start.
fn cannot_start(world: &World) -> bool {
    world.status.conditions.iter().any(|c| c.type_ == "Degraded" && c.message.contains("can't start"))
}

#[test]
fn a_container_that_ends_again_and_again_is_told_of_once() {
    const REASON: [&str; 1] = ["PodCannotStart"];
    let mut world = made(2);
    let mut told = Vec::new();
    for round in 0..6 {
        let ends = round % 2 == 0;
        let pod = world.pods.get_mut(&1).unwrap();
        pod.ready = false;
        pod.trouble = ends.then(|| "container postgres doesn't start (CrashLoopBackOff)".to_owned());
        told.extend(told_of(&mut world, &REASON, 20, false));
        assert!(cannot_start(&world), "round {round}: it stands there all the while");
    }
    assert_eq!(told.len(), 1, "{told:?}");
    // It runs for longer than that: it doesn't end again and again any more.
    assert!(told_of(&mut world, &REASON, 40, false).is_empty() && !cannot_start(&world));
    // It serves, and ends anew.
    let pod = world.pods.get_mut(&1).unwrap();
    (pod.ready, pod.trouble) = (true, None);
    assert!(told_of(&mut world, &REASON, 2, false).is_empty());
    let pod = world.pods.get_mut(&1).unwrap();
    (pod.ready, pod.trouble) = (false, Some("it doesn't start".to_owned()));
    assert_eq!(told_of(&mut world, &REASON, 20, false).len(), 1);
    // For another cause, too.
    let pod = world.pods.get_mut(&1).unwrap();
    (pod.unschedulable, pod.trouble) = (true, Some("its pod can't be scheduled: no room".to_owned()));
    let told = told_of(&mut world, &REASON, 20, false);
    assert!(told.len() == 1 && told[0].contains("no room"), "{told:?}");
}

#[test]
fn a_pod_that_waits_for_the_room_of_its_own_copy_is_not_told_of() {
    let mut world = made(2);
    let pod = world.pods.get_mut(&1).unwrap();
    (pod.ready, pod.unschedulable) = (false, true);
    pod.trouble = Some("its pod can't be scheduled: no room".to_owned());
    let job = JobSeen {
        uid: "copy".to_owned(),
        node: 1,
        may_destroy: false,
        deleting: false,
        outcome: JobOutcome::Running,
        bytes: 1,
        trouble: None,
    };
    let mut seen = world.observe();
    seen.jobs.insert("copy".to_owned(), job);
    let tells = |seen: &mut Observed, seconds: i64| {
        seen.now += SignedDuration::from_secs(seconds);
        let made = plan(&world.pool, &runtime(), seen).unwrap();
        seen.memory = made.memory;
        made.events.iter().any(|event| event.reason == "PodCannotStart")
    };
    assert!(!tells(&mut seen, 60));
    assert!(!tells(&mut seen, 60), "it starts once the copy is there");
    seen.jobs.clear();
    assert!(!tells(&mut seen, 1));
    assert!(tells(&mut seen, 11), "nothing takes that room any more");
}

#[test]
fn each_node_that_leaves_is_told_of_once_and_a_primary_too() {
    let mut world = made(4);
    world.suffer(&Fault::Asks(annotations::SWITCHOVER, "3".to_owned()));
    for _ in 0..100 {
        world.live_on(1);
    }
    assert_eq!(world.record().unwrap().primary, 3);
    world.suffer(&Fault::Nodes(2));
    let mut told = Vec::new();
    for _ in 0..300 {
        told.extend(told_of(&mut world, &["NodeLeaves"], 1, false));
        world.environment();
    }
    let leaves = |node: u8| format!("NodeLeaves: node {node} is beyond spec.nodes and leaves the pool");
    assert_eq!(told, [leaves(3), leaves(2)]);
}

#[test]
fn how_old_that_is_what_a_standby_lacks_its_primary_says() {
    let mut world = made(3);
    let told = |world: &mut World| -> Vec<Option<i64>> {
        // Positions are looked at anew each half minute.
        world.pass_time(31);
        pass(world);
        world.status.nodes.iter().map(|node| node.lag_seconds).collect()
    };
    assert_eq!(told(&mut world), [None, None, None], "nobody has measured it");
    world.lags = BTreeMap::from([(1, Some(0)), (2, Some(7900))]);
    assert_eq!(told(&mut world), [None, Some(0), Some(7)]);
    world.lags.insert(2, None);
    assert_eq!(told(&mut world), [None, Some(0), None], "it has not said what it has");
    world.silent.insert(0);
    assert_eq!(told(&mut world), [None, None, None], "the primary isn't heard");
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

#[test]
fn who_had_a_machine_of_its_own_waits_for_one_once_its_volume_is_lost() {
    // Whether volumes are on machines' disks, and who has lost one.
    for (local, lost, apart) in [(true, vec![1], true), (true, vec![1, 2], false), (false, vec![1], false)] {
        let mut world = made(3);
        world.local = local;
        world.claims.values_mut().for_each(|claim| claim.on_one_machine = local);
        for node in &lost {
            world.suffer(&Fault::Silent(*node));
            world.suffer(&Fault::VolumeLost(*node));
        }
        for _ in 0..60 {
            if world.status.recovery.is_none() {
                world.live_on(1);
            }
        }
        let recovery = world.status.recovery.clone().unwrap();
        assert_eq!((recovery.node, recovery.apart), (1, apart), "{local} {lost:?} {}", recovery.reason);
    }
    // A first copy goes wherever Kubernetes lets it.
    let mut world = World::new(3);
    world.local = true;
    for _ in 0..200 {
        world.live_on(1);
        assert!(!world.status.recovery.as_ref().is_some_and(|recovery| recovery.apart));
    }
    assert_eq!(world.status.phase, Some(Health::Ready));
}
