//! A small world to plan in: Kubernetes, the agents and the Jobs of one pool, each reduced to what the
//! planner can see of it. Plans are carried out in steps, so that an operator can die between any two.
mod carry;
mod changes;
pub mod earlier;
pub mod environment;
mod told;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use pgpool_operator::api::v1alpha1::{PgPool, PgPoolStatus, Record};
use pgpool_operator::config::postgresql::mark;
use pgpool_operator::messages::{BackupProgress, Join, NodeReport, RefusedHandover, Replica, Role};
use pgpool_operator::model::{
    ClaimSeen, DeploymentSeen, JobOutcome, JobSeen, LiveObject, MembershipSeen, Memory, NodeSeen, Observed,
    PodSeen, SecretsSeen, SetSeen, ValidPool,
};
use pgpool_operator::names::LogFormat;
use pgpool_operator::plan::{Plan, plan};
use pgpool_operator::resources::{Peers, Runtime};
use serde_json::json;

/// Name and namespace are unlike anything of the product, so that a swapped label shows.
pub const POOL: &str = "orchard";
pub const NAMESPACE: &str = "harbour";

/// One node, as nobody sees it directly.
#[derive(Clone, Debug, Default)]
pub struct Data {
    /// The copy on its volume.
    pub incarnation: Option<String>,
    /// Whether that copy may follow the primary.
    pub good: bool,
}

/// Everything.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a world: each may flip by itself")]
pub struct World {
    pub pool: ValidPool,
    pub now: Timestamp,
    pub status: PgPoolStatus,
    pub membership: Option<MembershipSeen>,
    pub live: BTreeMap<(String, String), LiveObject>,
    pub secrets: SecretsSeen,
    pub pods: BTreeMap<u8, PodSeen>,
    pub claims: BTreeMap<u8, ClaimSeen>,
    pub jobs: BTreeMap<String, JobSeen>,
    pub job_orders: BTreeMap<String, String>,
    pub data: BTreeMap<u8, Data>,
    /// Volumes belong to one machine each.
    pub local: bool,
    /// Jobs that have the lock of their volume, and since when.
    pub begun: BTreeMap<String, Timestamp>,
    pub bootstrapped: bool,
    /// Image of each pod.
    pub images: BTreeMap<u8, String>,
    /// Starts of each node's Postgres.
    pub boots: BTreeMap<u8, u32>,
    /// Nodes whose Postgres has to be restarted for its parameters.
    pub pending: BTreeSet<u8>,
    /// Whether that is for limits which become lower.
    pub lowers: bool,
    /// Nodes whose Postgres has not read the newest parameters.
    pub unread: BTreeSet<u8>,
    /// Whether the storage class keeps volumes as they are.
    pub fixed_volumes: bool,
    /// Whether claims can't be annotated.
    pub fixed_notes: bool,
    /// Whether somebody else writes the membership just before the operator does.
    pub conflicts: bool,
    /// Whether a Job finds no room beside the pod of its node.
    pub starving: bool,
    /// Whether primaries refuse to hand over.
    pub refuses: bool,
    pub refused: Option<RefusedHandover>,
    /// Nodes whose agents don't answer.
    pub silent: BTreeSet<u8>,
    /// By how many milliseconds each standby lags, as its primary measures it; none of one that says nothing.
    pub lags: BTreeMap<u8, Option<u64>>,
    /// How much later an epoch than the record's the nodes have seen: it was put back.
    pub put_back: i64,
    /// Whether nodes refuse the record, whatever its epoch.
    pub refuses_record: bool,
    /// Whether no pod of the front is ready.
    pub front_down: bool,
    pub memory: Memory,
    pub counter: u32,
    /// Broken rules, for the test to show.
    pub broken: Vec<String>,
}

pub fn runtime() -> Runtime {
    Runtime {
        operator_image: "registry.example/tool:1".to_owned(),
        operator_namespace: "system".to_owned(),
        metrics_from: Peers::default(),
        log_format: LogFormat::Json,
        pull_secrets: Vec::new(),
    }
}

/// Bytes of every copy; a Job receives a MiB of them a second.
const COPY: i64 = 1 << 30;

/// What a donor says of a copy that has gone on for so many seconds.
fn backup(name: &str, seconds: i64) -> BackupProgress {
    BackupProgress {
        name: name.to_owned(),
        phase: "streaming database files".to_owned(),
        bytes: seconds.saturating_add(1).saturating_mul(1 << 20).min(COPY),
        total: COPY,
    }
}

pub fn pool(nodes: u8) -> ValidPool {
    let spec = json!({"nodes": nodes, "storage": {"size": "2Gi"}, "image": "registry.example/database:16"});
    let object = json!({
        "apiVersion": "pgpool-operator.dev/v1alpha1",
        "kind": "PgPool",
        "metadata": {"name": POOL, "namespace": NAMESPACE, "uid": "7e57-0001", "generation": 4},
        "spec": spec,
    });
    let object: PgPool = serde_json::from_value(object).unwrap();
    ValidPool::parse(&object).unwrap()
}

/// An image says its major version by its end.
fn major(image: &str) -> u32 {
    image.rsplit(':').next().and_then(|tag| tag.get(..2)).and_then(|text| text.parse().ok()).unwrap()
}

fn limits(asks: bool) -> Vec<String> {
    if asks { vec!["max_connections".to_owned()] } else { Vec::new() }
}

impl World {
    pub fn new(nodes: u8) -> Self {
        Self {
            pool: pool(nodes),
            now: Timestamp::from_second(1_000_000).unwrap(),
            status: PgPoolStatus::default(),
            membership: None,
            live: BTreeMap::new(),
            secrets: SecretsSeen::default(),
            pods: BTreeMap::new(),
            claims: BTreeMap::new(),
            jobs: BTreeMap::new(),
            job_orders: BTreeMap::new(),
            data: (0..15).map(|index| (index, Data::default())).collect(),
            images: BTreeMap::new(),
            boots: BTreeMap::new(),
            pending: BTreeSet::new(),
            lowers: false,
            unread: BTreeSet::new(),
            fixed_volumes: false,
            fixed_notes: false,
            conflicts: false,
            starving: false,
            refuses: false,
            refused: None,
            local: true,
            begun: BTreeMap::new(),
            bootstrapped: false,
            silent: BTreeSet::new(),
            lags: BTreeMap::new(),
            put_back: 0,
            refuses_record: false,
            front_down: false,
            memory: Memory::default(),
            counter: 0,
            broken: Vec::new(),
        }
    }

    pub fn record(&self) -> Option<&Record> {
        self.membership.as_ref().and_then(|membership| membership.record.as_ref())
    }

    /// The node that begins the pool.
    pub fn bootstrap(&self) -> u8 {
        self.membership.as_ref().map_or(0, |membership| membership.spec.bootstrap)
    }

    pub fn is_attached(&self, index: u8) -> bool {
        self.record().is_some_and(|record| record.attached.iter().any(|member| member.index == index))
    }

    /// What an operator sees now.
    pub fn observe(&mut self) -> Observed {
        self.counter += 1;
        let sets = self.sets();
        let beyond = sets.keys().chain(self.pods.keys()).copied();
        let attached = self.record().map(|r| r.attached.iter().map(|m| m.index).collect::<Vec<_>>());
        let mut indices: BTreeSet<u8> = (0..self.pool.nodes).chain(beyond).collect();
        indices.extend(attached.unwrap_or_default());
        if self.pool.deleting {
            indices.extend(self.claims.keys());
        }
        let nodes = indices
            .into_iter()
            .map(|index| {
                let seen = NodeSeen {
                    set: sets.get(&index).map(|replicas| SetSeen { replicas: *replicas }),
                    pod: self.pods.get(&index).cloned(),
                    claim: self.claims.get(&index).cloned(),
                    report: self.pods.get(&index).map(|_| self.answer(index)),
                };
                (index, seen)
            })
            .collect();
        let mut secrets = self.secrets.clone();
        for login in &self.pool.logins {
            let missing =
                pgpool_operator::model::SecretProblem { message: "missing".to_owned(), missing: true };
            secrets.logins.entry(login.secret.clone()).or_insert(Err(missing));
        }
        Observed {
            status: self.status.clone(),
            membership: self.membership.clone(),
            nodes,
            jobs: self.jobs.clone(),
            proxy: self
                .live
                .contains_key(&("Deployment".to_owned(), format!("{POOL}-proxy")))
                .then_some(DeploymentSeen { ready: if self.front_down { 0 } else { 2 } }),
            live: self.live.clone(),
            claims: self
                .claims
                .iter()
                .map(|(index, claim)| (format!("data-{POOL}-{index}-0"), claim.last_record.clone()))
                .collect(),
            secrets,
            pods: self.pods.keys().map(|index| format!("{POOL}-{index}-0")).collect(),
            fresh_id: format!("{:08x}", self.counter),
            fresh_uid: format!("{:032x}", self.counter),
            memory: self.memory.clone(),
            now: self.now,
        }
    }

    /// Replicas of the StatefulSets that are there.
    pub fn sets(&self) -> BTreeMap<u8, i32> {
        let sets = self.live.values().filter(|live| live.kind == "StatefulSet");
        sets.filter_map(|live| {
            let index = live.name.rsplit('-').next()?.parse().ok()?;
            let replicas = live.value["spec"]["replicas"].as_i64()?;
            Some((index, i32::try_from(replicas).ok()?))
        })
        .collect()
    }

    fn answer(&self, index: u8) -> Result<NodeReport, String> {
        if self.silent.contains(&index) || self.pods[&index].trouble.is_some() {
            Err("no answer".to_owned())
        } else {
            Ok(self.report(index))
        }
    }

    fn report(&self, index: u8) -> NodeReport {
        let waiting = Data::default();
        let data = if self.is_locked(index) { &waiting } else { &self.data[&index] };
        let holds = self.record().is_some_and(|record| record.primary == index);
        let primary = holds && data.incarnation.is_some() && self.runs(index);
        let join = match (&data.incarnation, data.good) {
            (Some(_), true) => Join::Proved,
            (Some(_), false) => Join::NeedsCopy("its history parted".to_owned()),
            (None, _) if self.is_locked(index) => Join::Unknown,
            (None, _) => Join::NeedsCopy("its volume is empty".to_owned()),
        };
        NodeReport {
            pool_uid: self.membership.as_ref().map(|m| m.spec.pool_uid.clone()).unwrap_or_default(),
            index,
            incarnation: data.incarnation.clone(),
            boot: self.boot(index),
            epoch: self.record().map_or(0, |record| record.epoch),
            seen: self.record().map_or(0, |record| record.epoch) + self.put_back,
            put_back: self.refuses_record,
            role: if primary {
                Role::Primary
            } else if data.good && self.runs(index) {
                Role::Standby
            } else {
                Role::Stopped
            },
            restarting: false,
            draining: false,
            open: self.runs(index) && (primary || self.is_attached(index)),
            lease_ms: 0,
            streaming: !primary && data.good && self.runs(index),
            timeline: Some(1),
            lsn: Some(0x300_0000),
            weight: 1,
            nodes: None,
            lag_ms: None,
            join,
            message: String::new(),
            needs_person: false,
            postgres_version: self.images.get(&index).map(|image| major(image)),
            volume_bytes: 2 << 30,
            volume_free: 1 << 30,
            archive_bytes: 0,
            archive_error: None,
            backups: self.backups(),
            replicas: if primary { self.replicas() } else { Vec::new() },
            synchronous: Vec::new(),
            attach_note: String::new(),
            bootstrapped: primary && self.bootstrapped,
            unsafe_settings: Vec::new(),
            refused_parameters: None,
            loaded_parameters: self.loaded(index),
            pending_restart: limits(self.asks(index)),
            lowered_limits: limits(primary && self.lowers && self.asks(index)),
            refused_handover: self.refused.clone().filter(|_| primary),
            office: None,
        }
    }

    /// The walsenders of the standbys of which something is said.
    fn replicas(&self) -> Vec<Replica> {
        let replica = |(index, lag_ms): (&u8, &Option<u64>)| Replica {
            index: *index,
            incarnation: self.data[index].incarnation.clone().unwrap_or_default(),
            state: "streaming".to_owned(),
            priority: 1,
            replay_lsn: lag_ms.map(|_| 0x300_0000),
            reply_age_ms: Some(4),
            lag_ms: *lag_ms,
            address: None,
        };
        self.lags.iter().map(replica).collect()
    }

    /// Whether its Postgres asks for a restart. A standby keeps a limit that becomes lower until its primary has let go of it.
    fn asks(&self, index: u8) -> bool {
        let primary = self.record().map(|record| record.primary);
        let first = primary.filter(|primary| self.lowers && self.pending.contains(primary));
        self.pending.contains(&index) && first.is_none_or(|first| first == index)
    }

    /// What the agents were told of is loaded at once, but where somebody holds it up.
    fn loaded(&self, index: u8) -> Option<String> {
        let told = self.membership.as_ref().filter(|_| !self.unread.contains(&index));
        told.map(|membership| mark(&membership.spec.parameters))
    }

    /// The copies under way: whoever is asked tells of all.
    fn backups(&self) -> Vec<BackupProgress> {
        let begun = self.begun.iter();
        begun.map(|(name, since)| backup(name, self.now.duration_since(*since).as_secs())).collect()
    }

    /// Whether a Job has the node's volume.
    pub fn is_locked(&self, index: u8) -> bool {
        self.running().iter().any(|name| self.jobs[name].node == index && self.begun.contains_key(name))
    }

    pub fn boot(&self, index: u8) -> String {
        format!("start-{}", self.boots.get(&index).copied().unwrap_or_default())
    }

    /// Whether the node's Postgres can run.
    pub fn runs(&self, index: u8) -> bool {
        let pod = self.pods.get(&index).is_some_and(|pod| !pod.deleting && pod.trouble.is_none());
        let fenced = self.membership.as_ref().is_some_and(|m| m.spec.fenced.contains(&index));
        let image = self.images.get(&index).is_some_and(|image| major(image) == 16);
        pod && image && (!fenced || self.is_attached(index))
    }

    /// Nodes that shall be attached.
    pub fn wished(&self) -> Vec<u8> {
        let out =
            |index: &u8| self.status.detached_by_wish.contains(index) || self.status.fenced.contains(index);
        (0..self.pool.nodes).filter(|index| !out(index)).collect()
    }

    pub fn plan(&mut self) -> (Observed, Plan) {
        let seen = self.observe();
        let made = plan(&self.pool, &runtime(), &seen).unwrap();
        (seen, made)
    }

    pub fn pass_time(&mut self, seconds: i64) {
        self.now = self.now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
    }

    /// One whole pass, and whatever the environment makes of it.
    pub fn live_on(&mut self, seconds: i64) {
        let (seen, made) = self.plan();
        self.carry_out(&seen, &made, usize::MAX);
        self.environment();
        self.pass_time(seconds);
    }

    /// Jobs that run.
    pub fn running(&self) -> Vec<String> {
        let running = self.jobs.iter().filter(|(_, job)| job.outcome == JobOutcome::Running);
        running.map(|(name, _)| name.clone()).collect()
    }
}
