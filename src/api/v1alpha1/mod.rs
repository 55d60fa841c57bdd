//! Version `v1alpha1` of the group `pgpool-operator.dev`.
//!
//! [`PgPool`] is what people write; [`PgPoolMembership`] is the record that the agents keep (docs/membership.md).

pub mod annotations;
mod bootstrap;
pub mod conditions;
pub mod duration;
mod failure;
mod front;
mod membership;
mod pgpool;
mod postgres;
mod rules;
mod scheduling;
mod status;
mod storage;

pub use bootstrap::{Bootstrap, BootstrapSql, Database, KeyRef, LocaleProvider, User};
pub use duration::Span;
pub use failure::{Failure, Recovery};
pub use front::{LoadBalancing, Proxy, ProxyService, ServiceType, Tls, TlsValidity};
pub use membership::{Member, MembershipSpec, PgPoolMembership, Phase, Record, Restart, Switchover, Timings};
pub use pgpool::{ClusteringMode, PgPool, PgPoolSpec, PullPolicy};
pub use postgres::Postgres;
pub use scheduling::{Amount, PodMetadata, Resources};
pub use status::{
    AnsweredRequest, CopyKind, FailedRecoveries, Health, LastFailover, LastRecovery, MembershipView,
    NodeRecovery, NodeState, NodeStatus, PgPoolStatus, RecoveryStage, RecoveryStatus, RequestAnswer,
    SwitchoverStatus,
};
pub use storage::{Fate, Storage, WalArchive};

/// The API group of both resources.
pub const GROUP: &str = "pgpool-operator.dev";
