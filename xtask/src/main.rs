//! The project’s own commands: `cargo xtask --help`.

mod audit;
mod bench;
mod builds;
mod cargo;
mod cgroups;
mod cli;
mod clock;
mod cluster;
mod demo;
mod drivers;
mod error;
mod files;
mod fuzz;
mod host;
mod images;
mod interrupt;
mod model;
mod paths;
mod pods;
mod programs;
mod progress;
mod regress;
mod release;
mod run;
mod sbom;
mod test;

use std::process::ExitCode;

use clap::Parser;
use cli::{BenchCommand, Cli, ClusterCommand, Command, Exec};
use cluster::{Cluster, Machine};
use demo::Target;
use error::Result;
use images::Form;
use progress::say;

fn main() -> ExitCode {
    match execute(Cli::parse().command) {
        Ok(code) => code,
        Err(e) => {
            say(format!("error: {e}"));
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> Result<ExitCode> {
    match command {
        Command::Cluster(command) => cluster_command(command)?,
        Command::Kubectl { cluster, words } => {
            let mut kubectl = vec!["kubectl".into()];
            kubectl.extend(words);
            enter(&Exec { cluster, words: kubectl })?;
        }
        Command::Enter(exec) => enter(&exec)?,
        Command::Images { load, whole, cluster } => make_images(load, whole, &cluster.name)?,
        Command::Demo { down, context, profile, cluster } => {
            let target = match context {
                Some(context) => Target::Context(context),
                None => Target::Embedded(Cluster::named(&cluster.name)?),
            };
            if down { demo::down(&target)? } else { demo::up(&target, profile)? }
        }
        Command::Drivers(options) => drivers::run(&options)?,
        Command::Regress(options) => regress::run(&options)?,
        Command::Bench(BenchCommand::Recovery(options)) => bench::recovery(&options)?,
        Command::Bench(BenchCommand::Failover(options)) => bench::failover(&options)?,
        Command::Bench(BenchCommand::Cost(options)) => bench::cost(&options)?,
        Command::Bench(BenchCommand::Front(options)) => bench::front(&options)?,
        Command::Bench(BenchCommand::Operator(options)) => bench::operator(&options)?,
        Command::Model { full } => model::run(full)?,
        Command::Audit => audit::run()?,
        Command::Sbom(options) => sbom::run(&options)?,
        Command::Fuzz { targets, minutes } => {
            return Ok(if fuzz::run(&targets, minutes)? { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        // Its last line is a sum, after which nothing may come: hence a code and no error.
        Command::Test { wishes, keep } => {
            return Ok(if test::run(&wishes, keep) { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Chaos(options) => {
            return Ok(if test::chaos(&options) { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Machine { cluster, toleration, machine } => {
            cluster::init::main(&Cluster::named(&cluster)?, Machine::named(&machine)?, toleration)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn make_images(load: bool, whole: bool, cluster: &str) -> Result<()> {
    let own = images::build_all(if whole { Form::Whole } else { Form::WithoutRoot })?;
    if load {
        let cluster = Cluster::named(cluster)?;
        let count = progress::step("load into nodes", || cluster::load(&cluster, &own))?;
        say(format!("{count} imports into the nodes of cluster {}", cluster.name()));
    }
    Ok(())
}

fn cluster_command(command: ClusterCommand) -> Result<()> {
    match command {
        ClusterCommand::Up { cluster, toleration, volumes } => {
            let shape = cluster::Shape { toleration: toleration.toleration, volumes };
            cluster::up_as(&Cluster::named(&cluster.name)?, shape)
        }
        ClusterCommand::Down { cluster } => cluster::down(&Cluster::named(&cluster.name)?),
        ClusterCommand::Status { cluster } => cluster::status(&Cluster::named(&cluster.name)?),
        ClusterCommand::Exec(exec) => enter(&exec),
        ClusterCommand::Node { cluster, toleration, fault } => {
            cluster::faults::make(&Cluster::named(&cluster.name)?, &fault, toleration.toleration)
        }
        ClusterCommand::Etcd { cluster, backup } => {
            cluster::etcd::run(&Cluster::named(&cluster.name)?, backup)
        }
    }
}

/// Becomes the command, so that its exit code and signals are its own.
fn enter(exec: &Exec) -> Result<()> {
    let cluster = Cluster::named(&exec.cluster.name)?;
    Err(cluster::enter::become_command(cluster::enter::command(&cluster, &exec.words)?))
}
