//! One start of the node's Postgres: the process, the agent's session, the gate.
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::conf::{Conf, ConfError};
use super::server::{Files, Server, ServerError, Stop};
use super::sql::{self, Client, SqlError};
use crate::clock::{self, Moment};
use crate::config::hba::Gate;
use crate::names::REPLICATION_ROLE;

/// Why a step with Postgres failed.
#[derive(Debug, Error)]
pub enum PostgresError {
    /// The process.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A question.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// Its files.
    #[error(transparent)]
    Conf(#[from] ConfError),
    /// Sessions of clients did not end.
    #[error("sessions of clients did not end in time")]
    SessionsStay,
    /// It read its configuration too late.
    #[error("postgres did not read its new configuration in time")]
    ReloadLate,
}

/// Between two looks at a Postgres that is starting or reloading.
const POLL: Duration = Duration::from_millis(5);
/// Longest time that a reload may take.
const RELOAD_LIMIT: Duration = Duration::from_secs(5);
/// Time for which every session is refused after which the data counts as unreadable.
const BROKEN_AFTER: Duration = Duration::from_secs(5);
/// Time without any word after which it counts as hanging.
const SILENT_AFTER: Duration = Duration::from_secs(60);
/// Longest time that an orderly stop may take; the pod has 60 s in all.
pub const STOP_LIMIT: Duration = Duration::from_secs(40);

/// A Postgres that was started.
pub struct Postgres {
    /// The process.
    pub server: Server,
    /// Random id of this start.
    pub boot: String,
    client: Option<Arc<Client>>,
    /// Since when sessions are refused because the data can't be read.
    broken: Option<Moment>,
    /// Since when it neither gives a session nor refuses one.
    silent: Option<Moment>,
    /// Whether it replays and lets nobody in yet.
    replaying: bool,
    /// The gate that Postgres is known to keep, sessions included; none while it is being moved.
    gate: Option<Gate>,
}

impl Postgres {
    /// Starts it, gate shut.
    pub fn start(program: &std::path::Path, files: &Files, conf: &Conf) -> Result<Self, PostgresError> {
        conf.write_gate(Gate::Shut)?;
        let server = Server::start(program, files)?;
        let boot = format!("{:016x}", rand::random::<u64>());
        Ok(Self {
            server,
            boot,
            client: None,
            broken: None,
            silent: None,
            replaying: false,
            gate: Some(Gate::Shut),
        })
    }

    /// True while clients are let in.
    pub fn is_open(&self) -> bool {
        self.gate == Some(Gate::Open)
    }

    /// True while no client is let in and none is left; false too while the gate is being moved.
    pub fn is_shut(&self) -> bool {
        self.gate == Some(Gate::Shut)
    }

    /// Gives up a session that does not answer; the next question makes another.
    pub fn drop_session(&mut self) {
        self.client = None;
        self.silent.get_or_insert_with(clock::now);
    }

    /// The agent's session, made anew when it was lost; none while Postgres isn't ready for one.
    pub async fn client(&mut self) -> Option<Arc<Client>> {
        if let Some(client) = self.client.as_ref().filter(|c| !c.is_closed()) {
            return Some(Arc::clone(client));
        }
        match sql::connect("postgres").await {
            Ok(client) => {
                (self.broken, self.silent, self.replaying) = (None, None, false);
                self.client = Some(Arc::new(client));
            }
            Err(error) => {
                tracing::debug!(%error, "no session");
                self.client = None;
                self.replaying = error.is_replaying();
                self.broken = error.is_broken().then(|| self.broken.unwrap_or_else(clock::now));
                // One that is starting, or full, says so.
                let says_why = matches!(error, SqlError::Refused { .. });
                self.silent = (!says_why).then(|| self.silent.unwrap_or_else(clock::now));
            }
        }
        self.client.clone()
    }

    /// Whether it refused the last session because it replays and lets nobody in yet.
    pub fn is_replaying(&self) -> bool {
        self.replaying
    }

    /// Whether sessions have been refused for so long that the data must be taken for unreadable.
    pub fn is_broken(&self) -> bool {
        self.broken.is_some_and(|since| clock::now().since(since) > BROKEN_AFTER)
    }

    /// Whether it has neither given a session nor refused one for so long that it must be taken for hanging.
    pub fn is_silent(&self) -> bool {
        self.silent.is_some_and(|since| clock::now().since(since) > SILENT_AFTER)
    }

    /// Has Postgres read its files again and waits until it has: a session that is opened afterwards shows the
    /// time of the load, by the same clock, and the postmaster reads pg_hba.conf in the same step. A session that was
    /// there before would not do: the postmaster tells it before it tells the startup process.
    pub async fn reload(&self) -> Result<(), PostgresError> {
        let asked = clock::timestamp().as_microsecond();
        self.server.reload()?;
        let deadline = clock::now().after(RELOAD_LIMIT);
        while load_time().await? < asked {
            if clock::now() > deadline {
                return Err(PostgresError::ReloadLate);
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Lets clients in.
    pub async fn open(&mut self, conf: &Conf) -> Result<(), PostgresError> {
        self.gate = None;
        conf.write_gate(Gate::Open)?;
        self.reload().await?;
        self.gate = Some(Gate::Open);
        Ok(())
    }

    /// Lets no clients in and ends the sessions of those who are.
    pub async fn shut(&mut self, conf: &Conf) -> Result<(), PostgresError> {
        self.gate = None;
        conf.write_gate(Gate::Shut)?;
        self.reload().await?;
        let client = match self.client().await {
            Some(client) => client,
            None => Arc::new(sql::connect("postgres").await?),
        };
        // A session that is still logging in has no user yet: it is ended too. Whoever replicates is a user but for
        // the other nodes and their recoveries.
        let text = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE (backend_type = 'client backend' AND usename IS DISTINCT FROM 'postgres')
                OR (backend_type = 'walsender' AND usename IS DISTINCT FROM '{REPLICATION_ROLE}')"
        );
        let deadline = clock::now().after(RELOAD_LIMIT);
        while !sql::within(client.query(&text, &[])).await?.is_empty() {
            if clock::now() > deadline {
                return Err(PostgresError::SessionsStay);
            }
            tokio::time::sleep(POLL).await;
        }
        self.gate = Some(Gate::Shut);
        Ok(())
    }

    /// Stops it.
    pub async fn stop(&self, how: Stop) {
        self.server.stop(how, STOP_LIMIT).await;
    }
}

async fn load_time() -> Result<i64, PostgresError> {
    let client = sql::connect("postgres").await?;
    let text = "SELECT (extract(epoch FROM pg_conf_load_time()) * 1000000)::bigint";
    Ok(sql::within(client.query_one(text, &[])).await?.get(0))
}
