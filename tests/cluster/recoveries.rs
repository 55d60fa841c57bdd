//! Recoveries that are disturbed: whatever goes away in the middle, the pool is whole again without a hand.
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use pgpool_operator::api::v1alpha1::RecoveryStage::{
    self, CatchingUp, Copying, Detaching, Joining, Requested, Stopping,
};
use pgpool_operator::api::v1alpha1::{PgPoolStatus, RecoveryStatus};
use pgpool_operator::names;
use serde_json::json;

use super::faults::spoil;
use super::harness::{Failure, Outcome, ensure, failed};
use super::load;
use super::pool::{NODES, WHOLE, is_whole, told};
use super::world::{POOL, SPACE, SYSTEM, World, call, until};

/// A recovery that failed is tried again after a minute, and then takes its time.
const AFTER_BACK_OFF: Duration = Duration::from_secs(300);
/// All stages, in their order.
const STAGES: [RecoveryStage; 6] = [Requested, Detaching, Stopping, Copying, CatchingUp, Joining];
/// The policy that holds a recovery in a stage, and its binding.
const HOLD: &str = "cluster-test-hold";
/// What the API server says to what it holds back.
const HELD: &str = "held by the test";

/// From now on the API server takes no status in which a recovery is past this stage: so the operator can be met
/// in each, also in those that pass in milliseconds.
async fn hold(world: &World, last: RecoveryStage) -> Outcome {
    let allowed: Vec<String> = STAGES
        .iter()
        .take_while(|stage| **stage != last)
        .chain([&last])
        .map(|s| format!("'{s:?}'"))
        .collect();
    let rule = format!(
        "!has(oldObject.status) || !has(oldObject.status.recovery) || \
         (has(object.status.recovery) && object.status.recovery.stage in [{}])",
        allowed.join(", ")
    );
    // No pool of these tests is suspended: by this rule it is seen that the policy is in force.
    let probe = "object.status.phase != 'Suspended'";
    let rules = json!([{
        "apiGroups": ["pgpool-operator.dev"], "apiVersions": ["v1alpha1"], "operations": ["UPDATE"],
        "resources": ["pgpools/status"],
    }]);
    let spaces = json!({"matchLabels": {"kubernetes.io/metadata.name": SPACE}});
    let kind = |kind: &str, spec| json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": HOLD}, "spec": spec});
    let validations = [rule.as_str(), probe].map(|rule| json!({"expression": rule, "message": HELD}));
    let policy = json!({"matchConstraints": {"resourceRules": rules}, "validations": validations});
    let binding = json!({
        "policyName": HOLD, "validationActions": ["Deny"], "matchResources": {"namespaceSelector": spaces},
    });
    world.apply(&kind("ValidatingAdmissionPolicy", policy)).await?;
    world.apply(&kind("ValidatingAdmissionPolicyBinding", binding)).await?;
    until("the hold to be in force", WHOLE, || async {
        let suspended = r#"{"status":{"phase":"Suspended"}}"#;
        let patch =
            ["patch", "pgpool", POOL, "--subresource=status", "--type=merge", "--dry-run=server", "-p"];
        match world.here(&[&patch[..], &[suspended]].concat()).await {
            Err(Failure(words)) if words.contains(HELD) => Ok(()),
            other => failed(format!("{other:?}")),
        }
    })
    .await
}

/// Ends the hold; also where there is none.
pub async fn release(world: &World) -> Outcome {
    for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
        world.kubectl(&["delete", kind, HOLD, "--ignore-not-found"]).await?;
    }
    Ok(())
}

/// Who leads the operators.
async fn leader(world: &World) -> Outcome<String> {
    let api: Api<Lease> = Api::namespaced(world.client.clone(), SYSTEM);
    let spec = api.get("pgpool-operator").await?.spec;
    Ok(spec.and_then(|spec| spec.holder_identity).unwrap_or_default())
}

/// Whatever a recovery is doing when the operator goes away, it ends well.
async fn operator_deleted_in(world: &World, stage: RecoveryStage) -> Outcome {
    let before = world.status().await?;
    hold(world, stage).await?;
    let held = async {
        spoil(world, 2).await?;
        let met = world.in_stage(2, stage).await?;
        let old = leader(world).await?;
        let operator = ["-l", "app.kubernetes.io/instance=pgpool-operator"];
        let delete = ["-n", SYSTEM, "delete", "pod", "--force", "--grace-period=0"];
        world.kubectl(&[&delete[..], &operator[..]].concat()).await?;
        until("another operator to lead", WHOLE, || async {
            let now = leader(world).await?;
            ensure(now != old && !now.is_empty(), || format!("{now:?} leads"))
        })
        .await?;
        let now = world.status().await?.recovery;
        let id = |status: &Option<RecoveryStatus>| status.as_ref().map(|r| (r.id.clone(), r.stage));
        ensure(id(&now) == id(&met.recovery), || format!("not the same stage: {now:?}"))?;
        met.recovery.map(|r| r.id).ok_or_else(|| Failure("no recovery".to_owned()))
    }
    .await;
    release(world).await?;
    let id = held?;
    let status = world.recovered(2, &before).await?;
    let last = status.last_recovery.as_ref().map(|last| last.id.as_str());
    ensure(last == Some(&id), || format!("recovery {id} was not carried on: {}", told(&status)))?;
    load::goes_on(world).await?;
    println!("    gone while {stage:?}: the next one carried it on");
    Ok(())
}

/// The operator goes away in the stages before the copy.
pub async fn operator_deleted_early(world: &World) -> Outcome {
    for stage in [Requested, Detaching, Stopping] {
        operator_deleted_in(world, stage).await?;
    }
    load::unharmed(world).await
}

/// The operator goes away in the stages from the copy on.
pub async fn operator_deleted_late(world: &World) -> Outcome {
    for stage in [Copying, CatchingUp, Joining] {
        operator_deleted_in(world, stage).await?;
    }
    load::unharmed(world).await
}

/// Bytes that a copy must carry besides what the load wrote; they can't be compressed.
const BALLAST: u64 = 64 << 20;
/// Bytes a second that a copy may use.
const BANDWIDTH: u64 = 4 << 20;
/// Rows of the ballast, of 8 KiB each, that one transaction writes: every commit waits for its replay.
const BATCH: u64 = 1024;

/// The label that the Job controller sets on its pods.
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

/// Makes copies take so long that something can happen in the middle.
async fn slowed(world: &World) -> Outcome {
    let spec = json!({"spec": {"recovery": {"bandwidth": format!("{}Mi", BANDWIDTH >> 20)}}}).to_string();
    world.here(&["patch", "pgpool", POOL, "--type=merge", "-p", &spec]).await?;
    let table =
        "CREATE TABLE IF NOT EXISTS ballast (b bytea); ALTER TABLE ballast ALTER b SET STORAGE EXTERNAL";
    world.psql(0, "postgres", table).await?;
    let rows: u64 = world.psql(0, "postgres", "SELECT count(*) FROM ballast").await?.parse()?;
    for begin in (rows..BALLAST / 8192).step_by(usize::try_from(BATCH)?) {
        let sql = format!(
            "INSERT INTO ballast SELECT (SELECT string_agg(sha256((g * 256 + i)::text::bytea), '') \
             FROM generate_series(0, 255) i) FROM generate_series({begin}, {begin} + {BATCH} - 1) g"
        );
        world.psql(0, "postgres", &sql).await?;
    }
    // What no standby has written to its disk yet is copied as empty pages, which a compressor makes nothing of: the
    // content comes with the WAL. A commit waits until the standbys have applied the checkpoint before it.
    world.psql(0, "postgres", "CHECKPOINT").await?;
    world.psql(0, "postgres", "COMMENT ON TABLE ballast IS 'on every disk'").await?;
    for node in NODES {
        world.psql(node, "postgres", "CHECKPOINT").await?;
    }
    Ok(())
}

/// Copies may go as fast as they can again.
async fn freed(world: &World) -> Outcome {
    let spec = r#"{"spec":{"recovery":{"bandwidth":null}}}"#;
    world.here(&["patch", "pgpool", POOL, "--type=merge", "-p", spec]).await?;
    world.psql(0, "postgres", "DROP TABLE IF EXISTS ballast").await.map(drop)
}

/// A recovery seen in the middle of its copy.
struct Copy {
    /// What status says of it.
    recovery: RecoveryStatus,
    /// The Job's pod.
    pod: Pod,
}

impl Copy {
    fn pod_name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }
}

/// Spoils a node and waits until some of its new data is there, and not all.
async fn in_mid_copy(world: &World, node: u8) -> Outcome<Copy> {
    slowed(world).await?;
    // A standby that is out for a moment, as on a busy machine, would not be taken as the donor.
    world.whole(WHOLE).await?;
    spoil(world, node).await?;
    let status = world
        .when("a copy to be half way", WHOLE, |status| {
            status
                .recovery
                .as_ref()
                .is_some_and(|r| r.node == node && r.stage == Copying && r.bytes > 0 && r.bytes < r.total)
        })
        .await?;
    let Some(recovery) = status.recovery else { return failed("no recovery".to_owned()) };
    // The pod of this recovery: one of an earlier Job may still be there, and be told as running.
    let job = format!("{JOB_NAME}={}", names::recovery_job(POOL, node, &recovery.id));
    let list = world.pods().list(&ListParams::default().labels(&job)).await?;
    match list.items.into_iter().next() {
        Some(pod) => Ok(Copy { recovery, pod }),
        None => failed(format!("no pod of a Job runs: {recovery:?}")),
    }
}

/// The copy was cut short, that recovery failed for it, and another one ends well without a hand.
async fn begun_again(world: &World, copy: &Copy) -> Outcome {
    let r = &copy.recovery;
    let of = |status: &PgPoolStatus, succeeded| {
        status.last_recovery.as_ref().is_some_and(|l| l.succeeded == succeeded && (l.id != r.id) == succeeded)
    };
    let failed = world.when("the cut recovery to fail", WHOLE, |status| of(status, false)).await?;
    let why = failed.last_recovery.map(|last| last.message).unwrap_or_default();
    println!("    cut at {} of {} bytes: {why}", r.bytes, r.total);
    let what = "a recovery that succeeds";
    let status = world.when(what, AFTER_BACK_OFF, |status| is_whole(status) && of(status, true)).await?;
    let last = status.last_recovery;
    ensure(last.as_ref().is_some_and(|last| last.node == r.node), || format!("{last:?}"))?;
    load::unharmed(world).await
}

/// A copy takes no more than its share: the time that the Job took is never less than the limit asks for.
pub async fn bandwidth(world: &World) -> Outcome {
    let before = world.status().await?;
    let copy = in_mid_copy(world, 2).await?;
    let name = copy.pod_name().to_owned();
    let seconds = until("the end of the copy", WHOLE, || async {
        let pod = world.pods().get(&name).await?;
        let status = pod.status.unwrap_or_default();
        let ended =
            status.container_statuses.unwrap_or_default().into_iter().find_map(|c| c.state?.terminated);
        let ended = ended.ok_or_else(|| Failure("it runs".to_owned()))?;
        match (ended.started_at, ended.finished_at) {
            (Some(from), Some(to)) if ended.exit_code == 0 => Ok(to.0.duration_since(from.0).as_secs_f64()),
            _ => failed(format!("the Job ended with {}: {:?}", ended.exit_code, ended.message)),
        }
    })
    .await?;
    #[expect(clippy::cast_precision_loss, reason = "some megabytes")]
    let least = BALLAST as f64 / BANDWIDTH as f64;
    // Kubernetes tells the times in whole seconds.
    ensure(seconds + 1.0 >= least, || {
        format!("{BALLAST} bytes and more in {seconds} s, at {BANDWIDTH} a second")
    })?;
    let status = world.recovered(2, &before).await?;
    let bytes = status.last_recovery.map(|last| last.bytes).unwrap_or_default();
    println!("    {bytes} bytes, {BALLAST} of them incompressible, in {seconds} s; not before {least} s");
    load::unharmed(world).await
}

/// The Job is killed in the middle of its copy.
pub async fn job_killed(world: &World) -> Outcome {
    let copy = in_mid_copy(world, 1).await?;
    world.here(&["delete", "pod", "--force", "--grace-period=0", copy.pod_name()]).await?;
    begun_again(world, &copy).await
}

/// That the copy comes from this standby.
fn given_by(copy: &Copy, donor: u8) -> Outcome {
    ensure(copy.recovery.donor == Some(donor), || {
        format!("not copied from node {donor}: {:?}", copy.recovery)
    })
}

/// The pod of the standby that is copied from is killed in the middle.
pub async fn donor_killed(world: &World) -> Outcome {
    let copy = in_mid_copy(world, 1).await?;
    given_by(&copy, 2)?;
    world.here(&["delete", "pod", "--force", "--grace-period=0", &names::node_pod(POOL, 2)]).await?;
    begun_again(world, &copy).await
}

/// The machine of the standby that is copied from loses its power in the middle, and comes back.
pub async fn donors_machine_killed(world: &World) -> Outcome {
    let copy = in_mid_copy(world, 1).await?;
    given_by(&copy, 2)?;
    let machine = world.machine_of(2).await?;
    world.machine(&["kill", &machine]).await?;
    let alone = async {
        until("the primary to go on alone", WHOLE, || async {
            // The operator may have been on that machine: the record is written by the agents.
            let record = world.record().await?;
            let left: Vec<u8> = record.attached.iter().map(|member| member.index).collect();
            ensure(left == [0], || format!("attached: {left:?}"))
        })
        .await?;
        load::goes_on(world).await
    }
    .await;
    world.machine(&["start", &machine]).await?;
    let ready = format!("node/{machine}");
    call("kubectl", &["wait", "--for=condition=Ready", &ready, "--timeout=60s"], None).await?;
    alone?;
    begun_again(world, &copy).await?;
    freed(world).await
}
