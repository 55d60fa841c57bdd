//! One operator leads: a Kubernetes Lease, written only with the resourceVersion that was read.
//!
//! Others' clocks don't count: a holder is taken for gone when its lease hasn't changed for as long
//! as it says it lasts, on our own clock.
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::{self, Moment};
use crate::observe::said;

/// Name of the Lease.
pub const NAME: &str = "pgpool-operator";
/// How long a lease lasts.
pub const LASTS: Duration = Duration::from_secs(15);
/// How often it is renewed, or looked at.
pub const RENEW: Duration = Duration::from_secs(5);
/// A holder that hasn't renewed for so long stops, well before anybody else may begin.
const STOP_AFTER: Duration = Duration::from_secs(10);

/// Why the lease was lost.
#[derive(Debug, Error)]
pub enum LeaseError {
    /// It could not be renewed in time.
    #[error("Lease {NAME}: not renewed for {STOP_AFTER:?}: {reason}")]
    NotRenewed {
        /// The last failure.
        reason: String,
    },
    /// Somebody else has it.
    #[error("Lease {NAME}: {holder} has taken it")]
    Taken {
        /// Who.
        holder: String,
    },
}

/// What was last seen of a lease, and since when it hasn't changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Its resourceVersion.
    pub version: String,
    /// Since when, on our clock.
    pub since: Moment,
}

/// What to do about a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody has it: write our name.
    Take,
    /// It is ours: renew it.
    Renew,
    /// Somebody has it.
    Wait {
        /// Who.
        holder: String,
    },
}

/// Decides about a lease that was just read.
pub fn evaluate(lease: Option<&Lease>, me: &str, sighting: Option<&Sighting>, now: Moment) -> Verdict {
    let Some(lease) = lease else { return Verdict::Take };
    let spec = lease.spec.clone().unwrap_or_default();
    let holder = spec.holder_identity.unwrap_or_default();
    if holder == me {
        return Verdict::Renew;
    }
    if holder.is_empty() {
        return Verdict::Take;
    }
    let lasts =
        spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).map_or(LASTS, Duration::from_secs);
    let version = lease.metadata.resource_version.as_deref().unwrap_or_default();
    let stale = sighting.is_some_and(|seen| seen.version == version && now.since(seen.since) >= lasts);
    if stale { Verdict::Take } else { Verdict::Wait { holder } }
}

/// Keeps, or waits for, the lease.
pub struct Keeper {
    api: Api<Lease>,
    me: String,
    sighting: Option<Sighting>,
    renewed: Option<Moment>,
}

impl Keeper {
    /// `me` must be another for each start of each pod.
    pub fn new(api: Api<Lease>, me: String) -> Self {
        Self { api, me, sighting: None, renewed: None }
    }

    /// Runs until the lease is lost or `stop` is called; `leading` tells when it is ours.
    pub async fn run(
        mut self,
        leading: watch::Sender<bool>,
        stop: CancellationToken,
    ) -> Result<(), LeaseError> {
        let mut ticks = tokio::time::interval(RENEW);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    let ours = *leading.borrow();
                    self.release(ours).await;
                    return Ok(());
                }
                _ = ticks.tick() => self.tick(&leading).await?,
            }
        }
    }

    async fn tick(&mut self, leading: &watch::Sender<bool>) -> Result<(), LeaseError> {
        let asked = clock::now();
        let was_ours = *leading.borrow();
        match tokio::time::timeout(RENEW, self.attempt(asked)).await {
            Ok(Ok(Verdict::Wait { holder })) if was_ours => return Err(LeaseError::Taken { holder }),
            Ok(Ok(Verdict::Wait { .. })) => {}
            Ok(Ok(_)) => {
                // Counted from before the write: nobody's clock for it began earlier.
                self.renewed = Some(asked);
                leading.send_replace(true);
            }
            Ok(Err(error)) => self.failed(was_ours, &said(&error))?,
            Err(_) => self.failed(was_ours, "the API didn't answer")?,
        }
        Ok(())
    }

    fn failed(&self, was_ours: bool, reason: &str) -> Result<(), LeaseError> {
        tracing::warn!(reason, "lease not written");
        let late = self.renewed.is_none_or(|at| clock::now().since(at) >= STOP_AFTER);
        if was_ours && late {
            return Err(LeaseError::NotRenewed { reason: reason.to_owned() });
        }
        Ok(())
    }

    async fn attempt(&mut self, now: Moment) -> Result<Verdict, kube::Error> {
        let lease = self.api.get_opt(NAME).await?;
        let verdict = evaluate(lease.as_ref(), &self.me, self.sighting.as_ref(), now);
        let version =
            lease.as_ref().and_then(|lease| lease.metadata.resource_version.clone()).unwrap_or_default();
        if self.sighting.as_ref().is_none_or(|seen| seen.version != version) {
            self.sighting = Some(Sighting { version, since: now });
        }
        match (&verdict, lease) {
            (Verdict::Wait { .. }, _) => {}
            (_, None) => {
                let lease = Lease {
                    metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
                    spec: Some(self.spec(None, &verdict)),
                };
                self.api.create(&PostParams::default(), &lease).await?;
            }
            (_, Some(mut lease)) => {
                lease.spec = Some(self.spec(lease.spec.as_ref(), &verdict));
                self.api.replace(NAME, &PostParams::default(), &lease).await?;
            }
        }
        Ok(verdict)
    }

    fn spec(&self, old: Option<&LeaseSpec>, verdict: &Verdict) -> LeaseSpec {
        let now: Timestamp = clock::timestamp();
        let taken = *verdict == Verdict::Take;
        let changes = old.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: i32::try_from(LASTS.as_secs()).ok(),
            acquire_time: if taken {
                Some(MicroTime(now))
            } else {
                old.and_then(|spec| spec.acquire_time.clone())
            },
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(changes + i32::from(taken && old.is_some())),
            ..LeaseSpec::default()
        }
    }

    /// Gives the lease back, so that the next operator needn't wait for it.
    async fn release(&self, ours: bool) {
        if !ours {
            return;
        }
        let Ok(Some(mut lease)) = self.api.get_opt(NAME).await else { return };
        let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(&self.me))
        else {
            return;
        };
        spec.holder_identity = Some(String::new());
        if let Err(error) = self.api.replace(NAME, &PostParams::default(), &lease).await {
            tracing::warn!(%error, "lease not given back; it runs out by itself");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, version: &str) -> Lease {
        Lease {
            metadata: ObjectMeta { resource_version: Some(version.to_owned()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: Some(15),
                ..LeaseSpec::default()
            }),
        }
    }

    fn at(second: u64) -> Moment {
        Moment::from_millis(second * 1000)
    }

    fn seen(version: &str, second: u64) -> Sighting {
        Sighting { version: version.to_owned(), since: at(second) }
    }

    #[test]
    fn a_lease_that_nobody_has_is_taken() {
        assert_eq!(evaluate(None, "a", None, at(0)), Verdict::Take);
        assert_eq!(evaluate(Some(&lease("", "1")), "a", None, at(0)), Verdict::Take);
    }

    #[test]
    fn our_own_lease_is_renewed() {
        assert_eq!(evaluate(Some(&lease("a", "1")), "a", None, at(0)), Verdict::Renew);
    }

    #[test]
    fn a_lease_seen_for_the_first_time_is_waited_for_however_old_it_says_it_is() {
        let wait = Verdict::Wait { holder: "b".to_owned() };
        assert_eq!(evaluate(Some(&lease("b", "1")), "a", None, at(9999)), wait);
    }

    #[test]
    fn a_lease_that_has_not_changed_for_its_time_on_our_clock_is_taken() {
        let wait = Verdict::Wait { holder: "b".to_owned() };
        assert_eq!(evaluate(Some(&lease("b", "1")), "a", Some(&seen("1", 100)), at(114)), wait);
        assert_eq!(evaluate(Some(&lease("b", "1")), "a", Some(&seen("1", 100)), at(115)), Verdict::Take);
        assert_eq!(evaluate(Some(&lease("b", "2")), "a", Some(&seen("1", 100)), at(999)), wait);
    }
}
