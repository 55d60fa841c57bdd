//! Recoveries that are disturbed: whatever goes away in the middle, the pool is whole again without a hand.
use std::collections::BTreeSet;
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
use serde_json::{Value, json};

use super::archives;
use super::failover::{primary, standby, taken_over};
use super::faults::spoil;
use super::harness::{Failure, Outcome, ensure, failed};
use super::load;
use super::pool::{NODES, WHOLE, is_whole, told};
use super::processes::{another_agent, kill_agent, kill_postgres};
use super::world::{POOL, SPACE, SYSTEM, World, call, until};

/// A recovery that failed is tried again after a minute, and then takes its time.
const AFTER_BACK_OFF: Duration = Duration::from_secs(300);

/// How a recovery that was cut short comes to be tried again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    /// By itself, after its pause.
    ByItself,
    /// On request: the pause is seen elsewhere.
    Asked,
}

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

/// The operator goes away in each stage, and the next one carries the recovery on each time. A copy may end while it is
/// held in its stage, and then the next stage is over as soon as it has begun: hence more than one recovery.
pub async fn operator_deleted(world: &World) -> Outcome {
    for stages in [&STAGES[..3], &STAGES[3..4], &STAGES[4..]] {
        operator_deleted_in(world, stages).await?;
    }
    load::unharmed(world).await
}

/// The same in these stages of one recovery.
async fn operator_deleted_in(world: &World, stages: &[RecoveryStage]) -> Outcome {
    let before = world.status().await?;
    hold(world, stages[0]).await?;
    let held = async {
        spoil(world, 2).await?;
        let mut id = None;
        for stage in stages.iter().copied() {
            hold(world, stage).await?;
            let met = world.in_stage(2, stage).await?.recovery.map(|r| r.id);
            ensure(id.is_none() || id == met, || format!("another recovery: {id:?}, then {met:?}"))?;
            id = met;
            operator_anew(world).await?;
            let now = world.status().await?.recovery;
            let same = now.as_ref().is_some_and(|r| Some(&r.id) == id.as_ref() && r.stage == stage);
            ensure(same, || format!("not the same stage: {now:?}"))?;
            println!("    gone while {stage:?}");
        }
        id.ok_or_else(|| Failure("no recovery".to_owned()))
    }
    .await;
    release(world).await?;
    carried_on(world, &before, &held?).await
}

/// Node 2 is attached again, and by this very recovery.
async fn carried_on(world: &World, before: &PgPoolStatus, id: &str) -> Outcome {
    let status = world.recovered(2, before).await?;
    let last = status.last_recovery.as_ref().map(|last| last.id.as_str());
    ensure(last == Some(id), || format!("recovery {id} was not carried on: {}", told(&status)))
}

/// The agent of the recovered node is killed while it catches up: the recovery goes on with the next one. The old data goes once the new
/// copy is attached, and not before.
pub async fn agent_killed(world: &World) -> Outcome {
    let before = world.status().await?;
    hold(world, CatchingUp).await?;
    let met = async {
        spoil(world, 2).await?;
        let met = world.in_stage(2, CatchingUp).await?.recovery.map(|r| r.id);
        old_data_is_kept(world, 2).await?;
        // The stage begins before its Postgres does.
        let agent = until("a Postgres on the new copy", WHOLE, || kill_agent(world, 2)).await?;
        Ok::<_, Failure>((met.ok_or_else(|| Failure("no recovery".to_owned()))?, agent))
    }
    .await;
    release(world).await?;
    let (met, agent) = met?;
    carried_on(world, &before, &met).await?;
    until("the old data to go", WHOLE, || async {
        world.shell(2, "test ! -e /var/lib/pgpool/pgdata.old").await.map(drop)
    })
    .await?;
    load::unharmed(world).await?;
    another_agent(world, 2, agent).await
}

/// Until the new copy is attached the old one is kept beside it, where there is room for both. It is known by what [`spoil`] did.
async fn old_data_is_kept(world: &World, node: u8) -> Outcome {
    let look = "cd /var/lib/pgpool && ls -d pgdata/base pgdata.old/base.lost && \
                grep '\"destroyed\":false' recovery.json";
    until("the old data beside the new", WHOLE, || async { world.shell(node, look).await.map(drop) }).await
}

/// Deletes the operators by force, and waits until another one leads.
async fn operator_anew(world: &World) -> Outcome {
    let old = leader(world).await?;
    let operator = ["-l", "app.kubernetes.io/instance=pgpool-operator"];
    let delete = ["-n", SYSTEM, "delete", "pod", "--force", "--grace-period=0"];
    world.kubectl(&[&delete[..], &operator[..]].concat()).await?;
    until("another operator to lead", WHOLE, || async {
        let now = leader(world).await?;
        ensure(now != old && !now.is_empty(), || format!("{now:?} leads"))
    })
    .await
}

/// Bytes that a copy must carry besides what the load wrote; they can't be compressed.
const BALLAST: u64 = 64 << 20;
/// Bytes a second that a copy may use.
const BANDWIDTH: u64 = 4 << 20;
/// Rows of the ballast, of 8 KiB each, that one transaction writes: every commit waits for its replay.
const BATCH: u64 = 1024;

/// The label that the Job controller sets on its pods.
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

/// Sets how recoveries are done.
async fn set(world: &World, recovery: &Value) -> Outcome {
    let spec = json!({"spec": {"recovery": recovery}}).to_string();
    world.here(&["patch", "pgpool", POOL, "--type=merge", "-p", &spec]).await.map(drop)
}

/// Makes copies take so long that something can happen in the middle.
async fn slowed(world: &World) -> Outcome {
    set(world, &json!({"bandwidth": format!("{}Mi", BANDWIDTH >> 20)})).await?;
    ballast(world).await
}

/// What a copy takes its time for.
async fn ballast(world: &World) -> Outcome {
    let table =
        "CREATE TABLE IF NOT EXISTS ballast (b bytea); ALTER TABLE ballast ALTER b SET STORAGE EXTERNAL";
    let first = primary(world).await?;
    world.psql(first, "postgres", table).await?;
    let rows: u64 = world.psql(first, "postgres", "SELECT count(*) FROM ballast").await?.parse()?;
    for begin in (rows..BALLAST / 8192).step_by(usize::try_from(BATCH)?) {
        let sql = format!(
            "INSERT INTO ballast SELECT (SELECT string_agg(sha256((g * 256 + i)::text::bytea), '') \
             FROM generate_series(0, 255) i) FROM generate_series({begin}, {begin} + {BATCH} - 1) g"
        );
        world.psql(first, "postgres", &sql).await?;
    }
    // What no standby has written to its disk yet is copied as empty pages, which a compressor makes nothing of: the
    // content comes with the WAL. A commit waits until the standbys have applied the checkpoint before it.
    world.psql(first, "postgres", "CHECKPOINT").await?;
    world.psql(first, "postgres", "COMMENT ON TABLE ballast IS 'on every disk'").await?;
    for node in NODES {
        world.psql(node, "postgres", "CHECKPOINT").await?;
    }
    Ok(())
}

/// Copies may go as fast as they can again.
async fn freed(world: &World) -> Outcome {
    set(world, &json!({"bandwidth": null})).await?;
    world.psql(primary(world).await?, "postgres", "DROP TABLE IF EXISTS ballast").await.map(drop)
}

/// A recovery seen in the middle of its copy.
struct Copy {
    /// What status says of it.
    recovery: RecoveryStatus,
    /// The Job's pod.
    pod: Pod,
    /// The copy of the data that stood on the node before it was spoilt.
    spoilt: String,
}

impl Copy {
    fn pod_name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }
}

/// Spoils a node and waits until some of its new data is there, and not all.
async fn in_mid_copy(world: &World, node: u8) -> Outcome<Copy> {
    world.whole(WHOLE).await?;
    slowed(world).await?;
    half_way(world, node).await
}

/// Which copy of the data stands on an attached node.
async fn incarnation(world: &World, node: u8) -> Outcome<String> {
    let attached = world.incarnations().await?.remove(&node);
    attached.ok_or_else(|| Failure(format!("node {node} is not attached")))
}

async fn half_way(world: &World, node: u8) -> Outcome<Copy> {
    // A standby that is out for a moment, as on a busy machine, would not be taken as the donor.
    world.whole(WHOLE).await?;
    let spoilt = incarnation(world, node).await?;
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
        Some(pod) => Ok(Copy { recovery, pod, spoilt }),
        None => failed(format!("no pod of a Job runs: {recovery:?}")),
    }
}

/// The copy was cut short, that recovery failed for it, and another one ends well.
async fn begun_again(world: &World, copy: &Copy, again: Again) -> Outcome {
    let why = cut(world, copy).await?;
    println!("    cut at {} of {} bytes: {why}", copy.recovery.bytes, copy.recovery.total);
    another(world, copy, again).await
}

/// Waits until this recovery has failed; gives its reason.
async fn cut(world: &World, copy: &Copy) -> Outcome<String> {
    let failed = |status: &PgPoolStatus| {
        status.last_recovery.as_ref().is_some_and(|last| !last.succeeded && last.id == copy.recovery.id)
    };
    let status = world.when("the cut recovery to fail", WHOLE, failed).await?;
    Ok(status.last_recovery.map(|last| last.message).unwrap_or_default())
}

/// Waits until another one than this has succeeded, and every node is attached. It need not be the last: a primary that
/// was lost meanwhile may have been copied after it.
async fn another(world: &World, copy: &Copy, again: Again) -> Outcome {
    let r = &copy.recovery;
    set(world, &json!({"bandwidth": null})).await?;
    if again == Again::Asked {
        // One at a time: a primary that was lost with it may be copied first.
        let others_done =
            |status: &PgPoolStatus| status.recovery.as_ref().is_none_or(|now| now.node == r.node);
        let status = world.when("its turn", AFTER_BACK_OFF, others_done).await?;
        let last = status.last_recovery.as_ref();
        if status.recovery.is_none() && last.is_none_or(|last| last.id == r.id || last.node != r.node) {
            world.ask_for("recover", &r.node.to_string()).await?;
        }
    }
    let nodes = world.nodes;
    let whole = move |status: &PgPoolStatus, id: &str| {
        is_whole(status, nodes)
            && status.last_recovery.as_ref().is_some_and(|last| last.succeeded && last.id != id)
    };
    world.when("a recovery that succeeds", AFTER_BACK_OFF, |status| whole(status, &r.id)).await?;
    let now = incarnation(world, r.node).await?;
    ensure(now != copy.spoilt, || format!("node {} stands on what was spoilt: {now}", r.node))?;
    load::unharmed(world).await
}

/// A copy takes no more than its share: the time that the Job took is never less than the limit asks for.
pub async fn bandwidth(world: &World) -> Outcome {
    let before = world.status().await?;
    let copy = in_mid_copy(world, 2).await?;
    let name = copy.pod_name().to_owned();
    let mut told = BTreeSet::new();
    let seconds = until("the end of the copy", WHOLE, async || {
        let running = world.status().await?.recovery;
        told.extend(running.filter(|running| running.rate > 0).map(|running| running.bytes));
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
    // At least every two seconds; this program looks less often than that on a busy machine.
    ensure(told.len() >= 3, || format!("progress in {seconds} s: {told:?}"))?;
    let status = world.recovered(2, &before).await?;
    let bytes = status.last_recovery.map(|last| last.bytes).unwrap_or_default();
    println!("    {bytes} bytes, {BALLAST} of them incompressible, in {seconds} s; not before {least} s");
    load::unharmed(world).await
}

/// A recovery that takes longer than it may is given up, and its Job with it. As long as one runs, archives keep all WAL.
pub async fn timed_out(world: &World) -> Outcome {
    let first = primary(world).await?;
    set(world, &json!({"bandwidth": "1Mi", "timeout": "30s"})).await?;
    let given_up = async {
        ballast(world).await?;
        let copy = half_way(world, 2).await?;
        archives::keep_all(world, first, true).await?;
        let why = cut(world, &copy).await?;
        Ok::<_, Failure>((copy, why))
    }
    .await;
    set(world, &json!({"bandwidth": null, "timeout": null})).await?;
    let (copy, why) = given_up?;
    println!("    {why}");
    ensure(why.contains("not done within 30 s (spec.recovery.timeout)"), || why.clone())?;
    until("the end of its Job", WHOLE, || async {
        let pod = world.pods().get_opt(copy.pod_name()).await?;
        ensure(pod.is_none(), || "its pod is there".to_owned())
    })
    .await?;
    another(world, &copy, Again::Asked).await?;
    archives::keep_all(world, first, false).await
}

/// The Job is killed in the middle of its copy.
pub async fn job_killed(world: &World) -> Outcome {
    let copy = in_mid_copy(world, 1).await?;
    world.here(&["delete", "pod", "--force", "--grace-period=0", copy.pod_name()]).await?;
    begun_again(world, &copy, Again::ByItself).await
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
    begun_again(world, &copy, Again::Asked).await
}

/// While this machine is without power, writes go on with these nodes; then it is started again.
async fn without(world: &World, machine: &str, nodes: &[u8]) -> Outcome {
    world.machine(&["kill", machine]).await?;
    let alone = async {
        until("the others to go on alone", WHOLE, || async {
            // The operator may have been on that machine: the record is written by the agents.
            let record = world.record().await?;
            let left: Vec<u8> = record.attached.iter().map(|member| member.index).collect();
            ensure(left == nodes, || format!("attached: {left:?}"))
        })
        .await?;
        load::goes_on(world).await
    }
    .await;
    world.machine(&["start", machine]).await?;
    let ready = format!("node/{machine}");
    call("kubectl", &["wait", "--for=condition=Ready", &ready, "--timeout=60s"], None).await?;
    alone
}

/// The machine of the standby that is copied from loses its power in the middle, and comes back.
pub async fn donors_machine_killed(world: &World) -> Outcome {
    let copy = in_mid_copy(world, 1).await?;
    given_by(&copy, 2)?;
    without(world, &world.machine_of(2).await?, &[0]).await?;
    begun_again(world, &copy, Again::Asked).await
}

/// The machine that is copied to loses its power in the middle, and comes back.
pub async fn jobs_machine_killed(world: &World) -> Outcome {
    let copy = in_mid_copy(world, 1).await?;
    let machine = copy.pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let machine = machine.ok_or_else(|| Failure("the Job runs nowhere".to_owned()))?;
    without(world, &machine, &[0, 2]).await?;
    // Its pod may be started anew there.
    carried_on_or_begun_again(world, &copy).await
}

/// The copy went on where it was, or that recovery failed and another one ends well.
async fn carried_on_or_begun_again(world: &World, copy: &Copy) -> Outcome {
    let r = &copy.recovery;
    let ended = |status: &PgPoolStatus| status.last_recovery.as_ref().is_some_and(|last| last.id == r.id);
    let status = world.when("the end of the recovery", AFTER_BACK_OFF, ended).await?;
    if status.last_recovery.is_some_and(|last| last.succeeded) {
        println!("    disturbed at {} of {} bytes, and carried on", r.bytes, r.total);
        load::unharmed(world).await?;
    } else {
        begun_again(world, copy, Again::Asked).await?;
    }
    freed(world).await
}

/// The primary is lost in the middle of a copy from a standby, which takes over.
pub async fn primary_lost(world: &World) -> Outcome {
    let old = primary(world).await?;
    let node = standby(world).await?;
    let copy = in_mid_copy(world, node).await?;
    kill_postgres(world, old).await?;
    taken_over(world, old).await?;
    load::goes_on(world).await?;
    carried_on_or_begun_again(world, &copy).await
}
