//! A pool that adopts data, whatever stands in its volumes and whichever agent comes first, dies or writes late: one node
//! takes its data up, and its record begins above all that this data has seen.
use std::collections::BTreeMap;

use pgpool_operator::api::v1alpha1::{ClusteringMode, LoadBalancing, MembershipSpec, Record};
use pgpool_operator::membership::record;
use pgpool_operator::membership::starting::{NodeFile, Start, StartView, TakenUp, decide, take_up};
use pgpool_operator::messages::Join;
use proptest::prelude::*;

use crate::views::{NODES, timings};

const POOL: &str = "this pool";

fn spec(bootstrap: u8) -> MembershipSpec {
    MembershipSpec {
        pool_uid: POOL.to_owned(),
        clustering_mode: ClusteringMode::StreamingReplication,
        bootstrap,
        adopts: true,
        nodes: NODES,
        attach: vec![bootstrap],
        min_attached: 1,
        timings: timings(),
        parameters: BTreeMap::new(),
        domain: String::new(),
        archive_max_bytes: 0,
        archive_retention_seconds: 0,
        keep_wal_since: None,
        suspend: false,
        switchover: None,
        fenced: Vec::new(),
        restart: None,
        load_balancing: LoadBalancing::default(),
    }
}

/// What an earlier pool left in the volume of a node; sometimes that of another node, or nothing.
fn left(node: u8) -> impl Strategy<Value = Option<NodeFile>> {
    let taken = prop::option::of((0..40i64, 1..9u32));
    let file = (0..40i64, 0..8u8, taken).prop_map(move |(epoch, other, taken)| NodeFile {
        pool_uid: "an earlier pool".to_owned(),
        index: if other == 0 { (node + 1) % NODES } else { node },
        incarnation: format!("old{node}"),
        epoch,
        taken_up: taken.map(|(epoch, timeline)| TakenUp { epoch, timeline }),
    });
    prop::option::weighted(0.9, file)
}

/// An agent looks: which, whether it dies before what it does is on the disk, and whether its write of the record lands.
fn look() -> impl Strategy<Value = (u8, bool, u8)> {
    (0..NODES, prop::bool::weighted(0.3), 0..3u8)
}

struct Pool {
    spec: MembershipSpec,
    record: Option<Record>,
    files: Vec<Option<NodeFile>>,
    /// Newest timeline in each volume, by its control file.
    timelines: Vec<u32>,
    /// First records that are on their way to the API server.
    late: Vec<Record>,
    taken: Vec<u8>,
}

impl Pool {
    fn decide(&self, me: u8) -> Start {
        let file = self.files[usize::from(me)].as_ref();
        let timeline = Some(self.timelines[usize::from(me)]);
        let (data, standby, ended, word, join) =
            (file.is_some(), me.is_multiple_of(2), false, None, &Join::Unknown);
        let (spec, record) = (&self.spec, self.record.as_ref());
        decide(&StartView { me, spec, record, file, data, timeline, standby, ended, word, join })
    }

    fn land(&mut self, new: Record) {
        let legal = record::check(None, &new, self.spec.bootstrap, true).is_ok();
        assert!(legal, "the API server refuses {new:?}");
        self.record.get_or_insert(new);
    }

    fn look(&mut self, me: u8, dies: bool, lands: u8) {
        let at = usize::from(me);
        // What an agent notes before it does anything by the record.
        if let (Some(record), Some(file)) = (&self.record, &mut self.files[at])
            && file.pool_uid == POOL
        {
            file.epoch = file.epoch.max(record.epoch);
        }
        match self.decide(me) {
            Start::TakeUp => {
                assert!(me == self.spec.bootstrap && self.record.is_none(), "node {me} takes up");
                let old = self.files[at].clone().expect("data");
                let new = take_up(&old, POOL, format!("new{}", self.taken.len()), self.timelines[at]);
                self.taken.push(me);
                if !dies {
                    self.files[at] = Some(new);
                }
            }
            Start::WriteFirst { member, taken_up } => {
                let new = record::taken_up(member, &taken_up.expect("it was taken up"), 0);
                match lands {
                    0 => self.land(new),
                    1 => self.late.push(new),
                    _ => {}
                }
            }
            Start::TakeOffice => {
                let record = self.record.as_ref().expect("a record");
                assert!(record.primary == me && self.timelines[at] < record.timeline);
                if !dies {
                    self.timelines[at] = record.timeline;
                }
            }
            Start::StartPrimary => {
                let record = self.record.as_ref().expect("a record");
                assert!(record.primary == me && self.timelines[at] == record.timeline);
            }
            Start::InitDb | Start::StartStandby { .. } | Start::Depose | Start::DataGone(_) => {
                panic!("node {me}: {:?}", self.decide(me))
            }
            Start::WaitForRecovery(_) | Start::CallPerson(_) | Start::Wait(_) => {}
        }
    }
}

proptest! {
    #[test]
    fn one_node_takes_its_data_up_and_the_record_begins_above_it(
        bootstrap in 0..NODES,
        files in (left(0), left(1), left(2), left(3)).prop_map(|(a, b, c, d)| vec![a, b, c, d]),
        timelines in prop::collection::vec(1..9u32, usize::from(NODES)),
        looks in prop::collection::vec(look(), 0..40),
    ) {
        let old = files.clone();
        let spec = spec(bootstrap);
        let mut pool =
            Pool { spec, record: None, files, timelines: timelines.clone(), late: Vec::new(), taken: Vec::new() };
        for (me, dies, lands) in looks {
            if lands == 2 && !pool.late.is_empty() {
                let new = pool.late.remove(0);
                pool.land(new);
            }
            pool.look(me, dies, lands);
        }
        // Then nothing fails any more.
        for _ in 0..4 {
            pool.look(bootstrap, false, 0);
        }
        for (node, file) in old.iter().enumerate().filter(|(node, _)| *node != usize::from(bootstrap)) {
            prop_assert_eq!(&pool.files[node], file, "node {}", node);
        }
        let at = usize::from(bootstrap);
        let usable = old[at].as_ref().filter(|file| file.index == bootstrap);
        let Some(usable) = usable else {
            prop_assert!(pool.record.is_none() && pool.files == old && pool.taken.is_empty());
            return Ok(());
        };
        let record = pool.record.clone().expect("a record");
        let before = usable.taken_up.as_ref();
        prop_assert_eq!(record.epoch, usable.epoch.max(before.map_or(0, |taken| taken.epoch)) + 1);
        prop_assert!(record.timeline > timelines[at].max(before.map_or(0, |taken| taken.timeline)));
        prop_assert!(pool.taken.iter().all(|node| *node == bootstrap));
        prop_assert_eq!(pool.decide(bootstrap), Start::StartPrimary);
        // A record that is lost afterwards is not made anew.
        pool.record = None;
        for node in 0..NODES {
            let start = pool.decide(node);
            let begins = matches!(start, Start::TakeUp | Start::WriteFirst { .. } | Start::InitDb);
            prop_assert!(!begins, "node {node}: {start:?}");
        }
    }
}
