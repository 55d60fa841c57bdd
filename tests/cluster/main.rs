//! The operator on a real cluster: one pool under one load through everything that people do to it and that
//! happens to it, in order.
//!
//! Needs a cluster (KUBECONFIG) whose nodes have this checkout's images, kubectl and helm in the PATH, and a place
//! where the cluster's names and pods can be reached: `cargo xtask test cluster` sees to all of it. Parts of names
//! choose steps; `--keep` leaves everything as it is at the end, for a look.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it finds the unexpected")]

mod ahead;
mod alone;
mod archives;
mod authority;
mod bad_input;
mod changes;
mod chaos;
mod clients;
mod compare;
mod enough;
mod etcd;
mod failover;
mod faults;
mod front;
mod frozen;
mod handover;
mod harness;
mod hold;
mod inside;
mod install;
mod liveness;
mod load;
mod machines;
mod majors;
#[path = "../common/examples.rs"]
#[allow(dead_code, reason = "other tests look at today's")]
mod manifests;
#[path = "../common/monitoring.rs"]
mod monitoring;
mod observe;
mod options;
#[path = "../common/runbooks.rs"]
mod pages;
mod pool;
mod processes;
#[path = "../common/promql.rs"]
#[allow(dead_code, reason = "other tests look at more of it")]
mod promql;
mod recoveries;
mod removal;
mod requests;
mod rights;
mod runbooks;
mod secrets;
mod sessions;
mod strangers;
mod upgrade;
mod volumes;
mod witness;
mod world;

use std::process::ExitCode;
use std::time::Duration;

use harness::{Step, Wishes, Work};
use world::World;

/// Longest time for one step.
const LIMIT: Duration = Duration::from_secs(600);
/// The same for an upgrade, what is done after it, and the judgement of it all.
const UPGRADE_LIMIT: Duration = Duration::from_secs(1800);
/// The same for all rounds of faults at random, of which each has a limit of its own.
const LONG_LIMIT: Duration = Duration::from_secs(48 * 3600);
/// The same for the judgement of a load that ran as long as they did.
const JUDGEMENT_LIMIT: Duration = Duration::from_secs(2 * 3600);

fn main() -> ExitCode {
    let wishes = Wishes::read(std::env::args().skip(1));
    let Some(steps) = scenario(wishes.act.as_deref()) else {
        println!(
            "there is no act {:?}: recovery, failover, machines, changes, lifecycle and chaos are",
            wishes.act
        );
        return ExitCode::FAILURE;
    };
    if wishes.list {
        for step in &steps {
            println!("{}: test", step.name);
        }
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if runtime.block_on(play(&steps, &wishes)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn play(steps: &[Step], wishes: &Wishes) -> bool {
    let world = match World::open(wishes.chaos).await {
        Ok(world) => world,
        Err(failure) => {
            println!("no cluster: {failure}");
            return false;
        }
    };
    let good = harness::run(&world, steps, wishes).await;
    if wishes.keep {
        return good;
    }
    match removal::sweep(&world).await {
        Ok(()) => good,
        Err(failure) => {
            println!("not all that was made could be removed: {failure}");
            false
        }
    }
}

fn step(name: &'static str, work: Work) -> Step {
    Step { name, groundwork: false, beside: false, limit: LIMIT, work }
}

fn beside(name: &'static str, work: Work) -> Step {
    Step { beside: true, ..step(name, work) }
}

fn groundwork(name: &'static str, work: Work) -> Step {
    Step { groundwork: true, ..step(name, work) }
}

/// The steps of an act, or of all but the last on one cluster. Each act but `lifecycle` has a pool under load, which is judged at its
/// end.
fn scenario(act: Option<&str>) -> Option<Vec<Step>> {
    let quiet = [beginning(), services(), renewed()];
    let recovery = [loaded(), requests()];
    let failover = [changes(), failures(), machines()];
    let parts: Vec<Vec<Step>> = match act {
        None => quiet
            .into_iter()
            .chain([shown()])
            .chain(recovery)
            .chain(failover)
            // What is observed is observed of a pool under load, which the upgrade and the judgement end.
            .chain([mistakes(), logs(), runbooks(), observation(), upgraded(), judgement()])
            .chain([compatibility(), others(), wishes()])
            .chain([rights(), restored(), ending()])
            .collect(),
        Some("recovery") => {
            vec![beginning(), loaded(), requests(), judgement(), renewed(), others(), rights()]
        }
        Some("failover") => vec![beginning(), loaded(), failures(), judgement()],
        Some("machines") => vec![beginning(), loaded(), machines(), judgement()],
        Some("changes") => {
            vec![beginning(), shown(), loaded(), changes(), mistakes(), logs(), judgement()]
        }
        Some("lifecycle") => vec![beginning(), services(), wishes(), ending()],
        Some("chaos") => {
            let judgement = judgement().into_iter().map(|step| Step { limit: JUDGEMENT_LIMIT, ..step });
            vec![beginning(), chaos(), judgement.collect()]
        }
        Some(_) => return None,
    };
    Some(parts.into_iter().flatten().collect())
}

/// The operator, the pool, and an application.
fn beginning() -> Vec<Step> {
    vec![
        groundwork("install::the_chart_installs", |w| Box::pin(install::begin(w))),
        groundwork("install::a_pool_becomes_ready", |w| Box::pin(install::apply(w))),
        groundwork("install::an_application_starts", |w| Box::pin(install::client(w))),
    ]
}

/// The load that runs until it is judged.
fn loaded() -> Vec<Step> {
    vec![groundwork("load::starts", |w| Box::pin(load::start(w)))]
}

/// What applications are given, and logins.
fn services() -> Vec<Step> {
    vec![
        step("install::services_write_and_read_verified", |w| Box::pin(install::services(w))),
        step("install::names_are_as_promised", |w| Box::pin(install::contract(w))),
        step("sessions::a_new_password_counts_for_new_ones", |w| Box::pin(sessions::password(w))),
        step("sessions::roles_that_may_not_log_in_are_refused", |w| Box::pin(sessions::roles(w))),
        step("sessions::a_new_certificate_ends_none", |w| Box::pin(sessions::leaf(w))),
        step("sessions::weights_say_where_reads_go", |w| Box::pin(sessions::weights(w))),
        step("liveness::a_standby_that_stands_still_stays", |w| Box::pin(liveness::standby_stands_still(w))),
    ]
}

/// A certificate that the load wouldn't trust.
fn shown() -> Vec<Step> {
    vec![step("sessions::a_certificate_of_ones_own_is_shown", |w| Box::pin(sessions::own_certificate(w)))]
}

/// Requests and recoveries.
fn requests() -> Vec<Step> {
    vec![
        step("requests::detached_stays_out_and_attaches_without_copy", |w| {
            Box::pin(requests::detach_attach(w))
        }),
        step("requests::recover_takes_the_cheapest_copy", |w| Box::pin(requests::recover(w))),
        step("requests::what_cannot_be_is_refused", |w| Box::pin(requests::refused(w))),
        step("faults::a_killed_standby_comes_back_without_a_copy", |w| Box::pin(faults::standby_killed(w))),
        step("faults::a_person_may_want_to_be_asked", |w| Box::pin(faults::recovery_by_hand(w))),
        step("faults::lost_data_is_recovered", |w| Box::pin(faults::data_lost(w))),
        step("faults::a_lost_claim_is_replaced", |w| Box::pin(faults::volume_lost(w))),
        step("faults::a_claim_without_its_volume_is_replaced", |w| Box::pin(faults::claim_lost(w))),
        step("faults::a_volume_is_replaced_on_request", |w| Box::pin(faults::volume_replaced(w))),
        step("recoveries::the_operator_may_go_in_each_stage", |w| Box::pin(recoveries::operator_deleted(w))),
        step("recoveries::the_agent_of_the_node_may_be_killed", |w| Box::pin(recoveries::agent_killed(w))),
        step("recoveries::a_copy_keeps_to_its_bandwidth", |w| Box::pin(recoveries::bandwidth(w))),
        step("recoveries::a_recovery_has_its_time", |w| Box::pin(recoveries::timed_out(w))),
        step("recoveries::a_killed_job_is_begun_again", |w| Box::pin(recoveries::job_killed(w))),
        beside("strangers::hopeless_pools_say_why", |w| Box::pin(strangers::hopeless_pools(w))),
        step("recoveries::a_donor_may_be_killed", |w| Box::pin(recoveries::donor_killed(w))),
        step("recoveries::a_donors_machine_may_be_killed", |w| {
            Box::pin(recoveries::donors_machine_killed(w))
        }),
        step("recoveries::the_machine_of_the_job_may_be_killed", |w| {
            Box::pin(recoveries::jobs_machine_killed(w))
        }),
        step("volumes::archived_wal_is_never_overwritten", |w| Box::pin(volumes::archive_conflict(w))),
        step("archives::a_node_takes_wal_from_any_other", |w| Box::pin(archives::of_another_node(w))),
        step("faults::all_pods_at_once", |w| Box::pin(faults::all_pods_deleted(w))),
        step("recoveries::the_primary_may_be_lost", |w| Box::pin(recoveries::primary_lost(w))),
        beside("majors::a_pool_on_another_major", |w| Box::pin(majors::another(w))),
    ]
}

/// What is changed of a running pool.
fn changes() -> Vec<Step> {
    vec![
        step("front::a_switchover_passes_unnoticed", |w| Box::pin(front::switchover_unnoticed(w))),
        step("front::an_open_transaction_has_its_time", |w| Box::pin(hold::open_transaction(w))),
        step("front::the_promise_cannot_be_lowered", |w| Box::pin(front::promise_kept(w))),
        step("front::a_cancel_request_finds_its_session", |w| Box::pin(front::cancelled(w))),
        step("front::a_success_after_a_cancel_is_proved", |w| Box::pin(front::proved(w))),
        step("front::one_that_stops_lets_sessions_end", |w| Box::pin(front::drained(w))),
        step("changes::another_primary", |w| Box::pin(changes::switchover(w))),
        step("changes::an_evicted_primary_hands_over", |w| Box::pin(changes::evicted(w))),
        step("changes::a_fenced_node", |w| Box::pin(changes::fence(w))),
        step("changes::every_pod_anew", |w| Box::pin(changes::restart(w))),
        step("changes::another_image_and_other_resources", |w| Box::pin(changes::image(w))),
        step("changes::another_operator", |w| Box::pin(changes::operator(w))),
        step("changes::a_parameter_that_needs_a_restart", |w| Box::pin(changes::parameter(w))),
        step("changes::a_bad_image_stops_the_roll", |w| Box::pin(changes::bad_image(w))),
        step("changes::a_node_less_and_one_more", |w| Box::pin(handover::primary_scaled_away(w))),
    ]
}

/// How nodes are lost.
fn failures() -> Vec<Step> {
    vec![
        step("failover::the_primary's_postgres_is_killed", |w| Box::pin(failover::postgres_killed(w))),
        step("failover::the_primary's_pod_is_deleted", |w| Box::pin(handover::pod_deleted(w))),
        step("failover::the_primary's_pod_is_deleted_by_force", |w| {
            Box::pin(failover::pod_deleted_by_force(w))
        }),
        step("failover::the_primary's_agent_is_killed", |w| Box::pin(failover::agent_killed(w))),
        step("failover::the_primary's_postgres_hangs", |w| Box::pin(frozen::postgres_hangs(w))),
        step("failover::the_primary_is_frozen_and_thaws", |w| Box::pin(frozen::primary_frozen(w))),
        step("failover::a_standby_is_frozen_and_thaws", |w| Box::pin(frozen::standby_frozen(w))),
        step("failover::a_standby_that_lags_is_removed", |w| Box::pin(failover::standby_lags(w))),
        step("failover::a_switchover_is_given_up", |w| Box::pin(failover::switchover_given_up(w))),
        step("failover::a_standby_is_lost_in_the_hold", |w| Box::pin(hold::standby_lost(w))),
        step("failover::the_operator_is_away", |w| Box::pin(alone::operator_away(w))),
        step("failover::two_nodes_within_a_second", |w| Box::pin(failover::two_killed(w))),
        step("failover::a_second_election", |w| Box::pin(failover::second_election(w))),
        step("failover::the_chosen_node_is_killed", |w| Box::pin(failover::chosen_killed(w))),
        step("failover::the_chosen_node's_postgres_is_killed", |w| {
            Box::pin(failover::chosen_postgres_killed(w))
        }),
        step("failover::all_pods_at_once", |w| Box::pin(failover::all_at_once(w))),
    ]
}

/// How machines are taken out of service and lost, and the API server.
fn machines() -> Vec<Step> {
    vec![
        step("runbooks::a_machine_is_taken_out", |w| Box::pin(runbooks::maintenance::drained(w))),
        step("failover::all_at_once_and_one_for_good", |w| {
            Box::pin(failover::all_at_once_and_one_for_good(w))
        }),
        step("failover::the_api_is_away_and_then_a_standby", |w| Box::pin(alone::standby_dies(w))),
        step("failover::the_api_is_away_and_then_the_primary", |w| Box::pin(alone::primary_dies(w))),
        step("failover::the_api_is_away_and_then_the_primary's_agent", |w| {
            Box::pin(alone::primarys_agent_dies(w))
        }),
        step("failover::a_primary_starts_again_ahead_of_all", |w| Box::pin(ahead::primary_starts_again(w))),
        step("failover::the_primary's_machine_is_lost", |w| Box::pin(failover::machine_lost(w))),
        step("failover::the_primary's_machine_is_cut_off", |w| Box::pin(failover::primary_cut_off(w))),
        step("failover::the_primary_reaches_the_api_alone", |w| {
            Box::pin(failover::primary_cut_off_from_nodes(w))
        }),
        step("failover::the_primary_does_not_reach_the_api", |w| {
            Box::pin(failover::primary_cut_off_from_api(w))
        }),
        step("failover::a_standby's_machine_is_cut_off", |w| Box::pin(failover::standby_cut_off(w))),
    ]
}

/// Faults at random, under a load that may run for hours.
fn chaos() -> Vec<Step> {
    let rounds = step("chaos::the_pool_is_whole_after_each_round", |w| Box::pin(chaos::faults(w)));
    vec![
        groundwork("load::starts", |w| Box::pin(load::start_for_long(w))),
        Step { limit: LONG_LIMIT, ..rounds },
    ]
}

/// What the load has seen, and what the nodes hold.
fn judgement() -> Vec<Step> {
    vec![
        step("load::nothing_is_lost_stale_or_different", |w| Box::pin(load::judge(w))),
        step("load::registers_are_linearizable", |w| Box::pin(load::registers(w))),
    ]
}

/// The pool's authority, and Secrets.
fn renewed() -> Vec<Step> {
    vec![
        step("authority::it_is_replaced_without_a_failed_login", |w| Box::pin(authority::replaced(w))),
        step("authority::secrets_that_are_spoilt_are_told_of", |w| Box::pin(authority::spoilt(w))),
    ]
}

/// Strangers and other pools; one of them on small volumes.
fn others() -> Vec<Step> {
    vec![
        step("strangers::reach_the_front_alone", |w| Box::pin(strangers::front_only(w))),
        step("majors::its_archive_keeps_to_its_size", |w| Box::pin(majors::archive_size(w))),
        step("majors::volumes_that_cannot_grow_are_told_of", |w| Box::pin(majors::fixed_size(w))),
        step("majors::it_is_recovered_and_taken_over", |w| Box::pin(majors::recovered(w))),
        step("majors::an_unsafe_setting_is_told_of", |w| Box::pin(majors::unsafe_setting(w))),
        step("majors::hostile_settings_change_nothing", |w| Box::pin(majors::hostile_settings(w))),
        step("majors::its_only_node_is_kept", |w| Box::pin(majors::only_node(w))),
        step("strangers::another_pools_node_reaches_none", |w| Box::pin(strangers::other_pools_node(w))),
        step("strangers::another_pools_certificate_is_refused", |w| {
            Box::pin(strangers::foreign_certificate(w))
        }),
        step("volumes::a_nearly_full_one_is_told_of", |w| Box::pin(volumes::nearly_full(w))),
    ]
}

/// What people write by mistake or by malice.
fn mistakes() -> Vec<Step> {
    vec![
        step("bad_input::refused_parameters_change_nothing", |w| Box::pin(bad_input::refused_parameters(w))),
        step("bad_input::refused_placement_changes_nothing", |w| Box::pin(bad_input::refused_placement(w))),
        step("bad_input::a_spec_the_operator_refuses_changes_nothing", |w| {
            Box::pin(bad_input::refused_spec(w))
        }),
        beside("bad_input::quotas_are_told_of", |w| Box::pin(bad_input::quotas(w))),
        beside("bad_input::a_locale_that_the_image_lacks_is_told_of", |w| {
            Box::pin(bad_input::absent_locale(w))
        }),
        step("bad_input::odd_passwords_work", |w| Box::pin(bad_input::odd_passwords(w))),
    ]
}

/// What the API server has seen of it all; says something only behind all other steps of the act.
fn rights() -> Vec<Step> {
    vec![step("rights::are_those_that_are_used", |w| Box::pin(rights::as_needed(w)))]
}

/// etcd is put back to an older state, and with it all that Kubernetes knows: to be named alone. In no act.
fn restored() -> Vec<Step> {
    vec![
        step("etcd::an_older_record_calls_a_person", |w| Box::pin(etcd::person_called(w))),
        step("etcd::the_runbook_brings_the_data_back", |w| Box::pin(etcd::brought_back(w))),
    ]
}

/// PostgreSQL's own programs and drivers of several languages, by the front and at the primary itself. In no act yet.
fn compatibility() -> Vec<Step> {
    vec![
        step("clients::log_in_as_at_the_primary", |w| Box::pin(clients::logins(w))),
        step("clients::psql_says_the_same", |w| Box::pin(clients::psql(w))),
        step("clients::pgbench_runs_in_each_protocol", |w| Box::pin(clients::pgbench(w))),
        step("clients::dumps_are_the_same_and_are_restored", |w| Box::pin(clients::dumps(w))),
        step("clients::large_results_take_little_memory", |w| Box::pin(clients::large(w))),
        step("clients::drivers_do_as_at_the_primary", |w| Box::pin(clients::drivers(w))),
    ]
}

/// What is told to whoever collects logs, and what nobody is told.
fn logs() -> Vec<Step> {
    vec![
        step("observe::logs_are_lines_of_json", |w| Box::pin(observe::logs(w))),
        step("secrets::stand_nowhere_else", |w| Box::pin(secrets::nowhere_else(w))),
    ]
}

/// The runbooks, whose commands are typed as they stand there. In no act.
fn runbooks() -> Vec<Step> {
    vec![
        step("runbooks::the_first_look", |w| Box::pin(runbooks::looks::first(w))),
        step("runbooks::certificates_are_looked_at", |w| Box::pin(runbooks::trust::presented(w))),
        step("runbooks::a_node_that_is_down", |w| Box::pin(runbooks::nodes::down(w))),
        step("runbooks::commits_that_hang", |w| Box::pin(runbooks::nodes::hanging_commits(w))),
        step("runbooks::a_person_is_called", |w| Box::pin(runbooks::nodes::person(w))),
        step("runbooks::a_recovery_that_fails", |w| Box::pin(runbooks::nodes::failed_recovery(w))),
        step("runbooks::an_archive_that_is_too_large", |w| Box::pin(runbooks::room::archive(w))),
        step("runbooks::a_wrong_file_in_the_archive", |w| Box::pin(runbooks::room::wrong_file(w))),
        step("runbooks::a_damaged_file_in_the_archive", |w| Box::pin(runbooks::room::damaged_file(w))),
        step("runbooks::a_switchover_and_a_fence", |w| Box::pin(runbooks::parts::changes(w))),
        step("runbooks::a_new_volume", |w| Box::pin(runbooks::parts::new_volume(w))),
        step("runbooks::no_operator", |w| Box::pin(runbooks::parts::operator_down(w))),
        step("runbooks::no_front", |w| Box::pin(runbooks::parts::front_down(w))),
        step("runbooks::a_lost_authority", |w| Box::pin(runbooks::trust::lost_authority(w))),
        step("runbooks::no_api", |w| Box::pin(runbooks::looks::api_away(w))),
        step("runbooks::a_machine_out_of_service", |w| Box::pin(runbooks::lost::out_of_service(w))),
        step("runbooks::a_machine_that_is_gone", |w| Box::pin(runbooks::lost::gone_for_good(w))),
    ]
}

/// What a pool tells to people and to a Prometheus, which takes minutes to build. In no act.
fn observation() -> Vec<Step> {
    vec![step("observe::a_prometheus_reads_the_pool", |w| Box::pin(observe::read(w)))]
}

/// From the first release to this one. That release is what the scenario begins with then: to be named alone. In no act.
fn upgraded() -> Vec<Step> {
    let all = step("upgrade::from_the_first_release", |w| Box::pin(upgrade::from_the_first_release(w)));
    vec![Step { limit: UPGRADE_LIMIT, ..all }]
}

/// A pool with every wish.
fn wishes() -> Vec<Step> {
    vec![
        step("options::a_pool_is_as_it_was_asked_for", |w| Box::pin(options::granted(w))),
        step("options::enough_nodes_are_kept", |w| Box::pin(enough::kept_enough(w))),
        step("options::commits_wait_for_enough_nodes", |w| Box::pin(enough::too_few(w))),
        step("options::a_full_front_says_so", |w| Box::pin(options::full(w))),
        step("options::a_login_that_nobody_serves_is_told_why", |w| Box::pin(options::unserved(w))),
        step("options::its_volumes_grow", |w| Box::pin(options::grown(w))),
        step("options::a_restart_waits_for_a_node_to_spare", |w| Box::pin(enough::restart_waits(w))),
        step("options::a_node_that_goes_takes_its_volume", |w| Box::pin(options::shrunk(w))),
        step("options::a_suspended_pool_is_left_alone", |w| Box::pin(options::suspended(w))),
        step("options::its_end_leaves_nothing", |w| Box::pin(options::gone(w))),
    ]
}

/// The end of the pools and of the operator.
fn ending() -> Vec<Step> {
    vec![
        step("removal::other_namespaces_can_be_left_alone", |w| Box::pin(removal::watched_namespaces(w))),
        step("removal::an_upgrade_changes_no_pool", |w| Box::pin(removal::upgrade(w))),
        step("removal::an_uninstalled_operator_leaves_its_pools_running", |w| {
            Box::pin(removal::uninstalled_under_a_pool(w))
        }),
        step("removal::deleted_pools_leave_nothing_but_volumes", |w| Box::pin(removal::pools(w))),
        step("removal::volumes_that_stayed_are_not_taken_up_unseen", |w| Box::pin(removal::old_volumes(w))),
        step("removal::volumes_that_stayed_are_taken_up_when_asked", |w| Box::pin(removal::taken_up(w))),
        step("removal::uninstalling_keeps_definitions_and_data", |w| Box::pin(removal::uninstall(w))),
    ]
}
