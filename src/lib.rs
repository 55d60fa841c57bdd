//! The PgPool operator: a pool of PostgreSQL nodes that always hold identical data, on Kubernetes.
//!
//! One program, several parts: the `controller`, the `agent` in each Postgres pod, the recovery Job
//! and the `proxy`. docs/architecture.md tells which does what; a test keeps the direction of the
//! dependencies between the modules.

pub mod agent;
pub mod api;
pub mod apply;
pub mod archive;
pub mod clock;
pub mod config;
pub mod controller;
pub mod crds;
pub mod link;
pub mod membership;
pub mod messages;
pub mod model;
pub mod names;
pub mod observe;
pub mod pki;
pub mod plan;
pub mod postgres;
pub mod proxy;
pub mod recover;
pub mod resources;
pub mod telemetry;
