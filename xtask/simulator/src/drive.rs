//! What kubelets and agents would do: looks at what the watches bring, and writes what is due. Of levels, not of events, so
//! that whatever failed is done the next time.
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::watcher::{Config, Error as WatchError, Event};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use pgpool_operator::api::v1alpha1::PgPoolMembership;
use pgpool_operator::clock;
use pgpool_operator::names;
use pgpool_operator::resources::Part;
use tempfile::TempDir;
use tokio::time::{MissedTickBehavior, interval};

use crate::agent::{self, Agent, Asked};
use crate::error::SimulatorError;
use crate::kubelet::{Addresses, Place, Said, change};
use crate::machines;
use crate::pool::part_of;
use crate::world::World;

/// How often all pools are looked at, for what failed before.
const AGAIN: Duration = Duration::from_secs(10);

/// Everything that acts.
pub struct Driver {
    client: Client,
    namespace: String,
    machine: Ipv4Addr,
    certificates: TempDir,
    world: Arc<World>,
    addresses: Addresses,
    /// By the uid of their pods.
    agents: HashMap<String, Agent>,
}

impl Driver {
    /// For the pods of a namespace. They get addresses from `first` on; that of all machines is `machine`.
    pub fn new(
        client: Client,
        namespace: String,
        machine: Ipv4Addr,
        first: Ipv4Addr,
    ) -> Result<Self, SimulatorError> {
        let folder = std::env::temp_dir();
        let certificates =
            tempfile::tempdir_in(&folder).map_err(|source| SimulatorError::File { path: folder, source })?;
        let addresses = Addresses::starting_at(first);
        let (world, agents) = (Arc::default(), HashMap::new());
        Ok(Self { client, namespace, machine, certificates, world, addresses, agents })
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn memberships(&self) -> Api<PgPoolMembership> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Goes on for ever.
    pub async fn run(&mut self) {
        let mut pods = watcher(self.pods(), Config::default()).default_backoff().boxed();
        let mut memberships = watcher(self.memberships(), Config::default()).default_backoff().boxed();
        let mut again = interval(AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let touched: Vec<String> = tokio::select! {
                Some(event) = pods.next() => self.pod(event).into_iter().collect(),
                Some(event) = memberships.next() => self.membership(event).into_iter().collect(),
                _ = again.tick() => self.world.names(),
            };
            for pool in touched {
                self.settle(&pool).await;
            }
        }
    }

    /// Takes note of what happened to a pod; gives the pool that is to be looked at.
    fn pod(&mut self, event: Result<Event<Pod>, WatchError>) -> Option<String> {
        match event {
            Ok(Event::Apply(pod) | Event::InitApply(pod)) => self.world.see_pod(pod),
            Ok(Event::Delete(pod)) => {
                self.forget(&pod);
                None
            }
            Ok(Event::Init | Event::InitDone) => None,
            Err(error) => {
                tracing::warn!(%error, "watch of pods");
                None
            }
        }
    }

    fn membership(&self, event: Result<Event<PgPoolMembership>, WatchError>) -> Option<String> {
        match event {
            Ok(Event::Apply(membership) | Event::InitApply(membership)) => {
                Some(self.world.see_membership(membership))
            }
            Ok(Event::Delete(membership)) => {
                self.world.forget_membership(&membership);
                None
            }
            Ok(Event::Init | Event::InitDone) => None,
            Err(error) => {
                tracing::warn!(%error, "watch of memberships");
                None
            }
        }
    }

    fn forget(&mut self, pod: &Pod) {
        self.agents.remove(&pod.uid().unwrap_or_default());
        self.world.forget_pod(pod);
    }

    /// Does all that is due in a pool.
    async fn settle(&mut self, pool: &str) {
        for pod in self.world.pods(pool) {
            match self.see_to(pool, &pod).await {
                Err(error) if error.is_code(404) && is_of_pod(&error) => self.forget(&pod),
                Err(error) => tracing::warn!(%error, pod = pod.name_any(), "not simulated"),
                Ok(()) => {}
            }
        }
        match self.keep_record(pool).await {
            // What was seen is older than what is there; the watch brings it.
            Err(error) if error.is_code(409) || error.is_code(404) => tracing::debug!(%error, "not written"),
            Err(error) => tracing::warn!(%error, "not written"),
            Ok(()) => {}
        }
    }

    /// What the kubelet of a pod's machine would do.
    async fn see_to(&mut self, pool: &str, pod: &Pod) -> Result<(), SimulatorError> {
        let machine = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let (Some(part), Some(uid)) = (part_of(pod), pod.uid()) else { return Ok(()) };
        if !machine.is_some_and(machines::is_ours) {
            return Ok(());
        }
        if pod.metadata.deletion_timestamp.is_some() {
            self.agents.remove(&uid);
            return self.end(pod, uid).await;
        }
        let attached = matches!(part, Part::Node(index) if self.world.is_attached(pool, index));
        let Some(said) = Said::of(part, attached) else { return Ok(()) };
        let address = self.addresses.of(&uid);
        // It answers before anybody learns of its address.
        if let Part::Node(index) = part
            && !self.agents.contains_key(&uid)
        {
            let agent = self.start(pool, index, &uid, address).await?;
            self.agents.insert(uid, agent);
        }
        if said.stands_in(pod) {
            return Ok(());
        }
        let place = Place { machine: self.machine, pod: address };
        let change = Patch::Merge(change(pod, said, place, clock::timestamp()));
        let name = pod.name_any();
        let told = self.pods().patch_status(&name, &PatchParams::default(), &change).await;
        self.world.see_pod(told.map_err(SimulatorError::api(POD, &name))?);
        Ok(())
    }

    /// Says that the containers of a pod have ended: the pod is gone with it.
    async fn end(&self, pod: &Pod, uid: String) -> Result<(), SimulatorError> {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }),
            ..DeleteParams::default()
        };
        let name = pod.name_any();
        self.pods().delete(&name, &params).await.map(drop).map_err(SimulatorError::api(POD, &name))
    }

    async fn start(
        &self,
        pool: &str,
        index: u8,
        uid: &str,
        address: Ipv4Addr,
    ) -> Result<Agent, SimulatorError> {
        let name = names::node_tls_secret(pool, index);
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let secret = secrets.get(&name).await.map_err(SimulatorError::api("Secret", &name))?;
        let dir = self.certificates.path().join(uid);
        let boot = uid.chars().take(12).collect();
        let asked = Asked { world: Arc::clone(&self.world), pool: pool.to_owned(), index, boot };
        agent::start(&secret, &dir, address, asked).await
    }

    /// What the primary's agent would do, or that of the node that begins the pool.
    async fn keep_record(&self, pool: &str) -> Result<(), SimulatorError> {
        let Some(due) = self.world.due(pool)? else { return Ok(()) };
        let written = self.memberships().replace_status(pool, &PostParams::default(), &due).await;
        self.world.see_membership(written.map_err(SimulatorError::api("PgPoolMembership", pool))?);
        Ok(())
    }
}

/// Kind of what is told of, in errors.
const POD: &str = "Pod";

fn is_of_pod(error: &SimulatorError) -> bool {
    matches!(error, SimulatorError::Api { kind: POD, .. })
}
