//! The operator on a real cluster: one pool under one load through everything that people do to it and that
//! happens to it, in order.
//!
//! Needs a cluster (KUBECONFIG) whose nodes have this checkout's images, kubectl and helm in the PATH, and a place
//! where the cluster's names and pods can be reached: `cargo xtask test cluster` sees to all of it. Parts of names
//! choose steps; `--keep` leaves everything as it is at the end, for a look.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it finds the unexpected")]

mod faults;
mod harness;
mod install;
mod load;
mod pool;
mod removal;
mod requests;
mod strangers;
mod world;

use std::process::ExitCode;
use std::time::Duration;

use harness::{Step, Wishes, Work};
use world::World;

/// Longest time for one step.
const LIMIT: Duration = Duration::from_secs(400);

fn main() -> ExitCode {
    let wishes = Wishes::read(std::env::args().skip(1));
    let steps = scenario();
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
    let world = match World::open().await {
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
    Step { name, groundwork: false, limit: LIMIT, work }
}

fn groundwork(name: &'static str, work: Work) -> Step {
    Step { name, groundwork: true, limit: LIMIT, work }
}

fn scenario() -> Vec<Step> {
    vec![
        groundwork("install::the_chart_installs", |w| Box::pin(install::helm(w))),
        groundwork("install::a_pool_becomes_ready", |w| Box::pin(install::apply(w))),
        groundwork("install::an_application_starts", |w| Box::pin(install::client(w))),
        step("install::services_write_and_read_verified", |w| Box::pin(install::services(w))),
        step("install::names_are_as_promised", |w| Box::pin(install::contract(w))),
        groundwork("load::starts", |w| Box::pin(load::start(w))),
        step("requests::detached_stays_out_and_attaches_without_copy", |w| {
            Box::pin(requests::detach_attach(w))
        }),
        step("requests::recover_takes_the_cheapest_copy", |w| Box::pin(requests::recover(w))),
        step("requests::what_cannot_be_is_refused", |w| Box::pin(requests::refused(w))),
        step("faults::a_killed_standby_comes_back_without_a_copy", |w| Box::pin(faults::standby_killed(w))),
        step("faults::a_killed_primary_opens_behind_the_gate", |w| Box::pin(faults::primary_killed(w))),
        step("faults::lost_data_is_recovered", |w| Box::pin(faults::data_lost(w))),
        step("faults::a_lost_volume_is_replaced", |w| Box::pin(faults::volume_lost(w))),
        step("faults::the_operator_may_go_at_any_stage", |w| Box::pin(faults::operator_deleted(w))),
        step("faults::a_killed_job_is_begun_again", |w| Box::pin(faults::job_killed(w))),
        step("faults::all_pods_at_once", |w| Box::pin(faults::all_pods_deleted(w))),
        step("load::nothing_is_lost_stale_or_different", |w| Box::pin(load::judge(w))),
        step("strangers::reach_the_front_alone", |w| Box::pin(strangers::front_only(w))),
        step("strangers::a_second_pool_on_another_major", |w| Box::pin(strangers::second_pool(w))),
        step("strangers::another_pools_certificate_is_refused", |w| {
            Box::pin(strangers::foreign_certificate(w))
        }),
        step("strangers::hopeless_pools_say_why", |w| Box::pin(strangers::hopeless_pools(w))),
        step("removal::an_upgrade_changes_no_pool", |w| Box::pin(removal::upgrade(w))),
        step("removal::deleted_pools_leave_nothing_but_volumes", |w| Box::pin(removal::pools(w))),
        step("removal::uninstalling_keeps_definitions_and_data", |w| Box::pin(removal::uninstall(w))),
    ]
}
