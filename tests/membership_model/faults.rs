//! Crashes, starts and lost volumes.
use pgpool_operator::api::v1alpha1::{ClusteringMode, LoadBalancing, MembershipSpec};
use pgpool_operator::membership::lease::Contact;
use pgpool_operator::membership::names::Names;
use pgpool_operator::membership::rules::{Rule, Rules};
use pgpool_operator::membership::starting::{self, NodeFile, Start, StartView};
use pgpool_operator::messages::Join;

use crate::state::{Known, NODES, OLD, State};
use crate::views;
use crate::world::World;

fn spec(s: &State) -> MembershipSpec {
    let wish = views::wish(s);
    MembershipSpec {
        pool_uid: "pool-uid".to_owned(),
        clustering_mode: ClusteringMode::StreamingReplication,
        bootstrap: 0,
        adopts: false,
        nodes: wish.nodes,
        attach: wish.attach,
        min_attached: wish.min_attached,
        timings: wish.timings,
        parameters: std::collections::BTreeMap::new(),
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

/// The agent of a node starts (or looks again), with a consistent read of the record.
pub fn start(rules: Rules, s: &mut State, k: usize) {
    let (spec, record) = (spec(s), views::record(s.api));
    let n = &s.standbys[k];
    let file = NodeFile {
        pool_uid: spec.pool_uid.clone(),
        index: u8::try_from(k).expect("few nodes"),
        incarnation: views::member(k, n.copy).incarnation,
        epoch: 0,
        taken_up: None,
    };
    let view = StartView {
        me: file.index,
        spec: &spec,
        record: Some(&record),
        file: Some(&file),
        data: true,
        timeline: Some(1),
        standby: true,
        ended: false,
        word: None,
        join: &Join::Proved,
    };
    let decision = starting::decide_with(&view, rules);
    let api = s.api;
    let n = &mut s.standbys[k];
    n.record = api;
    if !n.up {
        n.up = true;
        n.boot += 1;
        if rules.has(Rule::LeaseOfThisBoot) {
            (n.word, n.target, n.caught_up, n.rest) = (None, None, false, 0);
        }
    }
    if matches!(decision, Start::StartStandby { .. }) {
        n.running = true;
        // It opens before it has replayed what it had applied.
        n.applied = 0;
    }
}

/// The volume comes back as another copy of the data.
pub fn replace(s: &mut State, k: usize, whole: bool) {
    s.left.losses -= 1;
    let end = s.primary.end();
    let n = &mut s.standbys[k];
    n.copy += 1;
    n.received = if whole { end } else { 0 };
    n.applied = 0;
}

impl World {
    pub fn crash(&self, s: &mut State, k: usize) {
        s.left.standby_crashes -= 1;
        let n = &mut s.standbys[k];
        (n.up, n.running) = (false, false);
        if self.rules.has(Rule::LeaseOfThisBoot) {
            (n.open, n.sessions) = (false, false);
        }
        if let Some(sender) = &mut s.primary.senders[k] {
            sender.live = false;
        }
    }

    pub fn start_primary(&self, s: &mut State) {
        let p = &mut s.primary;
        (p.up, p.open, p.record, p.must_read, p.read_since_start) = (true, false, s.api, false, false);
        let stored = Some(views::names(&p.list));
        let names = Names::at_start(&views::record(s.api), 0, stored, views::lease_ms());
        p.list = views::list(&names);
        p.flag = !names.is_empty();
        p.gate_seen = p.flag;
        p.started = if self.leases { 0 } else { OLD };
        p.shown = p.end();
        for k in 1..NODES {
            let listed = p.list.names.iter().any(|n| usize::from(n.0) == k);
            let counts = listed && self.leases && self.rules.has(Rule::RestartCountsLeases);
            let contact = if counts {
                Contact::inherited(None, views::NOW, views::lease_ms())
            } else {
                Contact::default()
            };
            p.known[k] = Known { granted: views::granted(&contact), ..Default::default() };
        }
    }
}

pub fn crash_primary(s: &mut State) {
    s.left.primary_crashes -= 1;
    let p = &mut s.primary;
    (p.up, p.open, p.start, p.growth, p.waiting) = (false, false, None, None, 0);
    (p.flag, p.gate_seen) = (false, false);
    p.senders = [None; NODES];
    p.known = Default::default();
    p.tables = [None; NODES];
}
