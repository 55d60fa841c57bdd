//! A small world to plan in: Kubernetes, the agents and the Jobs of one pool, each reduced to what the
//! planner can see of it. Plans are carried out in steps, so that an operator can die between any two.
mod carry;
pub mod environment;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use pgpool_operator::api::v1alpha1::{PgPool, PgPoolStatus, Record};
use pgpool_operator::messages::{Join, NodeReport, Role};
use pgpool_operator::model::{
    ClaimSeen, DeploymentSeen, JobOutcome, JobSeen, LiveObject, MembershipSeen, Memory, NodeSeen, Observed,
    PodSeen, SecretsSeen, SetSeen, ValidPool,
};
use pgpool_operator::plan::{Plan, plan};
use pgpool_operator::resources::Runtime;
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
    pub bootstrapped: bool,
    /// Nodes whose agents don't answer.
    pub silent: BTreeSet<u8>,
    pub memory: Memory,
    pub counter: u32,
    /// Broken rules, for the test to show.
    pub broken: Vec<String>,
}

pub fn runtime() -> Runtime {
    Runtime { operator_image: "registry.example/tool:1".to_owned() }
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
            data: (0..nodes).map(|index| (index, Data::default())).collect(),
            bootstrapped: false,
            silent: BTreeSet::new(),
            memory: Memory::default(),
            counter: 0,
            broken: Vec::new(),
        }
    }

    pub fn record(&self) -> Option<&Record> {
        self.membership.as_ref().and_then(|membership| membership.record.as_ref())
    }

    pub fn is_attached(&self, index: u8) -> bool {
        self.record().is_some_and(|record| record.attached.iter().any(|member| member.index == index))
    }

    /// What an operator sees now.
    pub fn observe(&mut self) -> Observed {
        self.counter += 1;
        let sets = self.sets();
        let nodes = (0..self.pool.nodes)
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
                .then_some(DeploymentSeen { ready: 2 }),
            live: self.live.clone(),
            claims: self.claims.keys().map(|index| format!("data-{POOL}-{index}-0")).collect(),
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
        if self.silent.contains(&index) { Err("no answer".to_owned()) } else { Ok(self.report(index)) }
    }

    fn report(&self, index: u8) -> NodeReport {
        let data = &self.data[&index];
        let primary =
            self.record().is_some_and(|record| record.primary == index) && data.incarnation.is_some();
        let join = match (&data.incarnation, data.good) {
            (Some(_), true) => Join::Proved,
            (Some(_), false) => Join::NeedsCopy("its history parted".to_owned()),
            (None, _) => Join::NeedsCopy("its volume is empty".to_owned()),
        };
        NodeReport {
            protocol: 1,
            pool_uid: self.membership.as_ref().map(|m| m.spec.pool_uid.clone()).unwrap_or_default(),
            index,
            incarnation: data.incarnation.clone(),
            boot: "b".to_owned(),
            epoch: self.record().map_or(0, |record| record.epoch),
            role: if primary {
                Role::Primary
            } else if data.good {
                Role::Standby
            } else {
                Role::Stopped
            },
            open: primary || self.is_attached(index),
            lease_ms: 0,
            streaming: !primary && data.good,
            timeline: Some(1),
            lsn: Some(0x300_0000),
            lag_ms: None,
            join,
            message: String::new(),
            needs_person: false,
            postgres_version: Some(16),
            volume_bytes: 2 << 30,
            volume_free: 1 << 30,
            archive_bytes: 0,
            archive_error: None,
            backups: Vec::new(),
            replicas: Vec::new(),
            synchronous: Vec::new(),
            attach_note: String::new(),
            bootstrapped: primary && self.bootstrapped,
        }
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
