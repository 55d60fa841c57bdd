//! The agent's glue: what stands between the deciders of [`crate::membership`] and the volume, the API server, the
//! other nodes and PostgreSQL. All of these are here, fake but for the volume; no PostgreSQL is started.
mod api;
mod beats;
mod callers;
mod copies;
mod lead;
mod office;
mod postgres;
mod probes;
mod record;
mod switchover;
mod unseen;
mod vote;
mod watch;
mod word;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::env::{Env, InitDb};
use super::node::Node;
use super::record::RecordStore;
use super::shared::Shared;
use super::volume::Volume;
use crate::api::v1alpha1::{
    ClusteringMode, LoadBalancing, LocaleProvider, Member, MembershipSpec, PgPoolMembership, Phase, Record,
    Timings,
};
use crate::clock::{self, Moment};
use crate::link::testing::Authority;
use crate::link::{Book, Client};
use crate::membership::starting::NodeFile;
use crate::messages::{Answer, Beat, Join, Role, Stamp, Standing, Vote};
use crate::names;
use api::Api;

/// Uid of the pool.
const UID: &str = "heron-uid";
/// L.
const LEASE: Duration = Duration::from_secs(2);
/// Nothing here takes long.
const PATIENCE: Duration = Duration::from_secs(60);

fn member(index: u8) -> Member {
    Member { index, incarnation: format!("copy{index}") }
}

fn members(indices: &[u8]) -> Vec<Member> {
    indices.iter().copied().map(member).collect()
}

/// Node 0 in office over these, in epoch 5, on timeline 3.
fn serving(attached: &[u8]) -> Record {
    Record {
        epoch: 5,
        phase: Phase::Serving,
        primary: 0,
        attached: members(attached),
        timeline: 3,
        fork_lsn: "0/3000060".to_owned(),
        successor: None,
        stopped: false,
        reason: "a test".to_owned(),
    }
}

fn spec() -> MembershipSpec {
    MembershipSpec {
        pool_uid: UID.to_owned(),
        clustering_mode: ClusteringMode::StreamingReplication,
        bootstrap: 0,
        adopts: false,
        nodes: 3,
        attach: vec![0, 1, 2],
        min_attached: 1,
        timings: Timings {
            heartbeat_ms: 250,
            detach_after_ms: 1500,
            lease_ms: 2000,
            grace_ms: 3000,
            detach_lag_ms: 30_000,
        },
        parameters: BTreeMap::new(),
        domain: "heron-nodes.birds.svc".to_owned(),
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

fn object(record: Option<Record>) -> PgPoolMembership {
    let mut object = PgPoolMembership::new("heron", spec());
    object.metadata.namespace = Some("birds".to_owned());
    object.metadata.resource_version = Some("100".to_owned());
    object.status = record;
    object
}

fn env(index: u8, volume: &TempDir) -> Env {
    Env {
        pool: "heron".to_owned(),
        namespace: "birds".to_owned(),
        index,
        storage_bytes: 1 << 30,
        initdb: InitDb {
            encoding: "UTF8".to_owned(),
            locale: "C".to_owned(),
            provider: LocaleProvider::Libc,
            icu_locale: None,
            wal_segment_size: 16,
        },
        volume: volume.path().to_owned(),
    }
}

/// What the agents share for a node whose Postgres isn't started.
fn shared(index: u8, volume: &TempDir) -> Arc<Shared> {
    let shared = Shared::new(env(index, volume), "boot");
    shared.lock().report.pool_uid = UID.to_owned();
    shared
}

fn node_file(index: u8, epoch: i64) -> NodeFile {
    let incarnation = member(index).incarnation;
    NodeFile { pool_uid: UID.to_owned(), index, incarnation, epoch, taken_up: None }
}

/// One start of the agent of a node, on a volume with a copy of the data.
struct Agent {
    node: Node,
    volume: TempDir,
    _tls: TempDir,
}

impl Agent {
    /// The agent of node `index`, on a volume with its copy. It has read nothing yet.
    fn new(index: u8, api: &Api) -> Self {
        let volume = tempfile::tempdir().unwrap();
        let data = volume.path().join("pgdata");
        fs::create_dir_all(data.join("pg_wal")).unwrap();
        fs::write(data.join("PG_VERSION"), "17\n").unwrap();
        fs::write(data.join("pgpool_node.json"), serde_json::to_vec(&node_file(index, 1)).unwrap()).unwrap();
        Self::on(volume, index, api, HashMap::new(), &Authority::new())
    }

    /// One that finds the agents of other nodes at these addresses.
    fn on(
        volume: TempDir,
        index: u8,
        api: &Api,
        others: HashMap<String, SocketAddr>,
        authority: &Authority,
    ) -> Self {
        let (identity, tls) = authority.identity(&format!("{UID}/node/{index}"), &[host(index).as_str()]);
        let link = Client::with_book(identity, Book::Fixed(Arc::new(others)));
        let store = RecordStore::new(api.client(), "birds", "heron");
        let held = Volume::open(volume.path()).unwrap();
        let node = Node::new(shared(index, &volume), store, held, link, UID.to_owned());
        Self { node, volume, _tls: tls }
    }

    /// The agent is started again, on the same volume.
    fn restarted(self, api: &Api) -> Self {
        let index = self.node.shared.env.index;
        drop(self.node);
        Self::on(self.volume, index, api, HashMap::new(), &Authority::new())
    }

    /// Has it read the record, as each step does.
    async fn read(&mut self) {
        self.node.stale = true;
        self.node.read_record().await.unwrap();
    }

    /// Has it known which copy it has.
    fn knows_its_copy(&self) {
        let me = member(self.node.shared.env.index);
        let mut inner = self.node.shared.lock();
        inner.report.incarnation = Some(me.incarnation.clone());
        inner.member = Some(me);
    }

    fn conf(&self, name: &str) -> std::path::PathBuf {
        self.volume.path().join("conf").join(name)
    }
}

/// Host of a node's agent.
fn host(index: u8) -> String {
    names::node_host("heron", index, &spec().domain)
}

fn stamp(boot: &str, millis: u64) -> Stamp {
    Stamp { boot: boot.to_owned(), millis }
}

fn beat(epoch: i64, echo: Option<Stamp>) -> Beat {
    Beat {
        pool_uid: UID.to_owned(),
        epoch,
        from: 0,
        echo,
        lease_ms: 2000,
        longest_ms: 2000,
        flush_lsn: 50,
        system_id: None,
    }
}

fn vote(index: u8, epoch: i64, lsn: u64) -> Vote {
    Vote {
        pool_uid: UID.to_owned(),
        epoch,
        index,
        incarnation: member(index).incarnation,
        standing: Standing::Standby,
        timeline: 3,
        lsn,
        gated_ms: 0,
    }
}

fn at(millis: u64) -> Moment {
    Moment::from_millis(millis)
}
