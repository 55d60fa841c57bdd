//! What agents, fronts, Jobs and the operator say to each other: JSON over HTTP/1.1 with mutual TLS
//! on [`crate::names::AGENT_PORT`]. Every message carries the pool's uid and the sender's epoch.
//!
//! | call | by | what |
//! |---|---|---|
//! | `GET /v1/report` | everybody of the pool | one [`NodeReport`] |
//! | `GET /v1/watch` | front, operator | a [`NodeReport`] a line, at each change and at least each heartbeat |
//! | `POST /v1/beat` | nodes | [`Beat`], answered by [`Answer`] |
//! | `POST /v1/vote` | nodes | [`Vote`]: how far the sender is, while a primary is being chosen |
//! | `GET /v1/table` | nodes | the node's whole epoch table, [`EpochTable`] |
//! | `GET /v1/wal/FILE` | nodes, Jobs | an archived WAL file, uncompressed; 404 when it isn't there |
//! | `POST /v1/login` | front | [`LoginQuestion`], answered by [`LoginAnswer`]; only a running Postgres has one |
//! | `POST /v1/abandoned` | front | [`AbandonedSession`]s, answered by [`Leftover`]: how many of them are still there |
//! | `POST /v1/roles` | operator | [`EnsureRoles`], answered by [`Ensured`]; only the primary takes it |
//!
//! During an upgrade parts of two versions speak to each other for as long as it takes, so messages only grow: what is not
//! known is ignored, a new field has a default, an old one stays and keeps its meaning. A call that an older part doesn't
//! have is answered with 404. An enum takes no new variant, which an older part could not read. tests/messages.rs holds
//! all this against the oldest form of each message; the agents' files in the volumes, which an upgrade finds there, too.

mod unknown;

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A read lease that has lapsed may come back for so long: a front holds the node's sessions meanwhile, and ends them
/// then.
pub const LAPSED_FOR: Duration = Duration::from_secs(5);

/// Who sent a message; read from the certificate, never from the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The agent of a node.
    Node(u8),
    /// A front.
    Proxy,
    /// A recovery Job.
    Recovery,
    /// The operator.
    Operator,
}

/// What the Postgres of a node is, as its agent knows it.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Not running.
    Stopped,
    /// Running as the primary.
    Primary,
    /// Running as a standby.
    Standby,
}

/// Whether the node may follow without a copy (R9).
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Join {
    /// Not looked at yet.
    Unknown,
    /// Its WAL is a prefix of the primary's history.
    Proved,
    /// It must be copied anew; why.
    NeedsCopy(String),
}

/// Who wants to log in by a front.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct LoginQuestion {
    /// Name of the role, as the client gave it.
    pub user: String,
}

/// By what a front checks a client's password.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq)]
pub struct LoginAnswer {
    /// As in `pg_authid.rolpassword`; `md5` alone where that is the form of it.
    pub verifier: String,
    /// False where no password would do: the verifier is made up, the same each time, so that the client can't tell
    /// which roles there are (PostgreSQL source, `mock_scram_secret`).
    pub genuine: bool,
}

impl std::fmt::Debug for LoginAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoginAnswer").field("genuine", &self.genuine).finish_non_exhaustive()
    }
}

/// A front asks another one to cancel what a session is doing.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq)]
pub struct CancelQuestion {
    /// What the client has shown: process and secret (PostgreSQL documentation, "CancelRequest").
    pub key: [u8; 8],
}

impl std::fmt::Debug for CancelQuestion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelQuestion").finish_non_exhaustive()
    }
}

/// Whether the session is there.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct CancelAnswer {
    /// True where it is, and its node was told.
    pub known: bool,
}

/// What a node counts of which nobody says otherwise.
const fn usual_weight() -> u32 {
    1
}

/// What an agent says of its node.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_excessive_bools, reason = "a message: each says something of its own")]
pub struct NodeReport {
    /// Uid of the pool.
    pub pool_uid: String,
    /// Index of the node.
    pub index: u8,
    /// Its copy of the data; none while the volume is empty.
    pub incarnation: Option<String>,
    /// Random id of this start of Postgres; changes with each start.
    pub boot: String,
    /// Epoch of the record that the agent acts on; 0 when it knows none.
    pub epoch: i64,
    /// Latest epoch that it knows of: by a record, by its volume, by what others told. Where the record has a lower one, it
    /// was put back.
    #[serde(default)]
    pub seen: i64,
    /// Whether it has refused the record as one that was put back, and still does.
    #[serde(default)]
    pub put_back: bool,
    /// What its Postgres is.
    pub role: Role,
    /// True while clients are let in (pg_hba open, R6; a standby also holds a read lease).
    pub open: bool,
    /// True while its agent restarts Postgres by wish: it comes back at once, and nobody has to take over.
    #[serde(default)]
    pub restarting: bool,
    /// True while it hands over: new sessions wait for the next primary, those that are here may finish.
    #[serde(default)]
    pub draining: bool,
    /// Milliseconds left of the read lease (a standby) or of the own lease (a primary); the receiver counts
    /// from its own sending of the request.
    pub lease_ms: u64,
    /// True while the walreceiver streams from the primary.
    pub streaming: bool,
    /// Timeline that it writes or follows.
    pub timeline: Option<u32>,
    /// Last applied (a standby) or flushed (a primary) WAL position, as bytes.
    pub lsn: Option<u64>,
    /// Its weight for sessions that read, against the other nodes' (`spec.loadBalancing`).
    #[serde(default = "usual_weight")]
    pub weight: u32,
    /// How many nodes the pool has, as the node last heard; none where it hasn't yet.
    #[serde(default)]
    pub nodes: Option<u8>,
    /// On a standby, as it knows itself: milliseconds since the newest commit that it has applied, zero where nothing waits to be
    /// applied. How old what it lacks is, its primary knows ([`Replica::lag_ms`]).
    pub lag_ms: Option<u64>,
    /// Whether it may follow without a copy.
    pub join: Join,
    /// What it is doing or waiting for, for people.
    pub message: String,
    /// True when a person must act: the message says what.
    pub needs_person: bool,
    /// Major version of its PostgreSQL.
    pub postgres_version: Option<u32>,
    /// Size of the volume's file system in bytes.
    pub volume_bytes: u64,
    /// Free bytes on it.
    pub volume_free: u64,
    /// WAL archive: bytes used.
    pub archive_bytes: u64,
    /// WAL archive: last failure, for people.
    pub archive_error: Option<String>,
    /// Base backups being taken from this node.
    pub backups: Vec<BackupProgress>,
    /// On a primary: what its walsenders say of each standby.
    pub replicas: Vec<Replica>,
    /// On a primary: the synchronous names in use, by node.
    pub synchronous: Vec<u8>,
    /// On a primary: why the next node isn't attached yet, for people.
    pub attach_note: String,
    /// On a primary: true once the roles, databases and SQL of the bootstrap were made.
    pub bootstrapped: bool,
    /// Parameters that were changed and need a restart of Postgres (`pg_settings.pending_restart`).
    #[serde(default)]
    pub pending_restart: Vec<String>,
    /// On a primary: those of them that are limits which become lower. No standby may have less of them than its primary, so
    /// this one is restarted before any other.
    #[serde(default)]
    pub lowered_limits: Vec<String>,
    /// Why PostgreSQL refuses the newest of the user's parameters; those before them stay.
    #[serde(default)]
    pub refused_parameters: Option<String>,
    /// Which of the user's parameters PostgreSQL has loaded ([`crate::config::postgresql::mark`]), looked at together with those
    /// that wait for a restart; none while nobody has looked.
    #[serde(default)]
    pub loaded_parameters: Option<String>,
    /// On a primary: settings of roles and databases that belong to the operator, as the command that takes each back.
    #[serde(default)]
    pub unsafe_settings: Vec<String>,
    /// On a primary: the last switchover that it gave up, and why.
    #[serde(default)]
    pub refused_handover: Option<RefusedHandover>,
    /// On a primary that was elected: how it came into office.
    #[serde(default)]
    pub office: Option<OfficeReport>,
}

/// A switchover that was given up; the primary stays in office.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RefusedHandover {
    /// Id of the request ([`crate::api::v1alpha1::Switchover`]).
    pub id: String,
    /// Why, for people.
    pub why: String,
}

/// How an elected primary came into office; spans in milliseconds, each from the end of the one before.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct OfficeReport {
    /// Timeline of the office.
    pub timeline: u32,
    /// The primary before.
    pub from: u8,
    /// Why there was an election, for people.
    pub reason: String,
    /// From the last sign of life of the primary before, as this node saw it, to the election.
    pub detection_ms: u64,
    /// From the election to the choice.
    pub election_ms: u64,
    /// From the choice to the end of the promotion.
    pub promotion_ms: u64,
    /// From there to the moment that clients were let in; none before that.
    pub opening_ms: Option<u64>,
}

/// A base backup under way (`pg_stat_progress_basebackup`).
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BackupProgress {
    /// `application_name` of the receiver: the name of the Job.
    pub name: String,
    /// PostgreSQL's word for what it does.
    pub phase: String,
    /// Bytes streamed.
    pub bytes: i64,
    /// Bytes to stream, estimated.
    pub total: i64,
}

/// A standby as the primary's walsender sees it (`pg_stat_replication`).
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    /// Index, read from the application name.
    pub index: u8,
    /// Incarnation, read from the application name.
    pub incarnation: String,
    /// `streaming`, `catchup`, ...
    pub state: String,
    /// `sync_priority`: written by the walsender itself.
    pub priority: i32,
    /// Last position that it reported as applied, as bytes.
    pub replay_lsn: Option<u64>,
    /// Milliseconds since its last reply.
    pub reply_age_ms: Option<u64>,
    /// Age in milliseconds of the oldest WAL that the node hasn't applied, as the primary has measured it; zero where it lacks
    /// nothing, none where that isn't known.
    #[serde(default)]
    pub lag_ms: Option<u64>,
    /// Where it connects from.
    #[serde(default)]
    pub address: Option<IpAddr>,
}

/// A moment on a node's own clock, in one start of its Postgres.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Stamp {
    /// The start of Postgres that it belongs to.
    pub boot: String,
    /// Milliseconds of the node's `CLOCK_BOOTTIME`.
    pub millis: u64,
}

/// A session that a front has broken off, though its node may not have heard: process and port are those of
/// `pg_stat_activity`, and the address is the front's own.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AbandonedSession {
    /// The start of the node's PostgreSQL, as in [`NodeReport::boot`].
    pub boot: String,
    /// Process of the node's PostgreSQL.
    pub pid: i32,
    /// The front's port of that connection.
    pub port: u16,
}

/// What a node has done about such sessions.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Leftover {
    /// Sessions that were ended.
    pub ended: u32,
    /// Processes with a statement under way, which is not cut short: it may be a commit that waits for the other nodes.
    pub busy: Vec<i32>,
}

/// From the primary to every other node (R3, R4).
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Beat {
    /// Uid of the pool.
    pub pool_uid: String,
    /// Epoch of the record that the primary is in office by.
    pub epoch: i64,
    /// Index of the sender.
    pub from: u8,
    /// Stamp of the receiver's last answer: with it the primary grants a lease that begins then; none
    /// when it grants none.
    pub echo: Option<Stamp>,
    /// Length in milliseconds of the lease that the echo grants: the primary's to say, or the two would
    /// count differently while `spec.failure.lease` is being changed.
    pub lease_ms: u32,
    /// The longest lease that may be alive, in milliseconds: longer than that while `spec.failure.lease` is lowered.
    #[serde(default)]
    pub longest_ms: u32,
    /// The primary's flush position, as bytes: a standby's first lease waits until it has applied this.
    pub flush_lsn: u64,
    /// "Database system identifier" of the primary's data; none when it isn't known.
    #[serde(default)]
    pub system_id: Option<u64>,
}

/// A node's answer to a beat.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Uid of the pool.
    pub pool_uid: String,
    /// Epoch that the node knows; a beat of another one isn't counted as answered.
    pub epoch: i64,
    /// Latest epoch that it knows of ([`NodeReport::seen`]).
    #[serde(default)]
    pub seen: i64,
    /// Index of the node.
    pub index: u8,
    /// Its copy of the data.
    pub incarnation: Option<String>,
    /// Its clock when it answered.
    pub stamp: Stamp,
    /// What its Postgres is.
    pub role: Role,
    /// True when it serves nobody and will not under this epoch without a new lease (R5).
    pub serves_nobody: bool,
    /// True when its pod is being stopped and its Postgres has ended: it needn't be waited for.
    #[serde(default)]
    pub leaving: bool,
    /// Whether it may follow without a copy.
    pub join: Join,
    /// True while its walreceiver streams.
    pub streaming: bool,
    /// Timeline that it follows.
    pub timeline: Option<u32>,
    /// Last applied WAL position, as bytes.
    pub replay_lsn: Option<u64>,
}

/// What a node says of itself while a primary is being chosen (R2). It holds for one epoch.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Vote {
    /// Uid of the pool.
    pub pool_uid: String,
    /// Epoch of the election.
    pub epoch: i64,
    /// Index of the node.
    pub index: u8,
    /// Its copy of the data.
    pub incarnation: String,
    /// What it is.
    pub standing: Standing,
    /// Timeline that it has applied.
    pub timeline: u32,
    /// Last applied WAL position, as bytes, after its walreceiver was gone and its replay had drained.
    pub lsn: u64,
    /// How long it would have to stay behind its gate, in milliseconds: an agent that was started a moment ago
    /// has forgotten whose beats it answered (R4). Of equals the one that can open first is chosen.
    #[serde(default)]
    pub gated_ms: u64,
}

/// What a voter is.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// A standby that follows nobody any more.
    Standby,
    /// The primary in office when the election began: its Postgres runs, so its position is no matter.
    InOffice,
    /// That primary, its Postgres stopped: taken only when no standby is left to be chosen.
    Stopped,
}

/// A row of the epoch table: written by each primary behind its gate, and before each attach.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EpochRow {
    /// Counts the rows.
    pub id: i64,
    /// Epoch of the record at that moment.
    pub epoch: i64,
    /// Timeline of the writer.
    pub timeline: u32,
    /// Random.
    pub nonce: String,
    /// `pg_snapshot_xmax` when the primary took office.
    pub fork_xid: String,
}

/// The whole epoch table of a node.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct EpochTable {
    /// Ordered by id.
    pub rows: Vec<EpochRow>,
}

/// Roles and databases that shall exist. Passwords travel as SCRAM verifiers only.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EnsureRoles {
    /// Login roles.
    pub roles: Vec<RoleSpec>,
    /// Databases and their owners.
    pub databases: Vec<DatabaseSpec>,
    /// SQL run once, in the first database, as its owner; its marker is in the same transaction.
    pub bootstrap_sql: Option<String>,
}

/// A login role.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RoleSpec {
    /// Its name.
    pub name: String,
    /// `SCRAM-SHA-256$…` (RFC 5803), as `pg_authid.rolpassword` has it.
    pub verifier: String,
    /// Roles that it is a member of.
    pub in_roles: Vec<String>,
    /// May make databases.
    pub create_db: bool,
    /// May make roles.
    pub create_role: bool,
}

/// A database.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseSpec {
    /// Its name.
    pub name: String,
    /// The role that owns it.
    pub owner: String,
}

/// The answer to [`EnsureRoles`].
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Ensured {
    /// What was made or changed, for events; holds no secret.
    pub changed: Vec<String>,
    /// What could not be done and why, for a condition; holds no secret.
    pub errors: Vec<String>,
}
