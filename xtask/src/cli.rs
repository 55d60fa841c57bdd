//! The command line: names here are a contract, others script them.

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand};

use crate::bench;
use crate::cargo::Profile;
use crate::cluster::TOLERATION;
use crate::cluster::etcd::Backup;
use crate::cluster::faults::Fault;
use crate::regress;
use crate::sbom;
use crate::test;

/// The project's own commands
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// Which cluster is meant.
#[derive(Debug, Clone, Args)]
pub struct Name {
    /// Name of the embedded cluster; several live side by side
    #[arg(long, default_value = "dev", env = "PGPOOL_CLUSTER")]
    pub name: String,
}

/// All commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The embedded cluster
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// kubectl for the embedded cluster: cargo xtask kubectl -- get nodes
    Kubectl {
        #[command(flatten)]
        cluster: Name,
        /// Arguments of kubectl
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Build all programs and images
    Images {
        /// Also import what is new into the nodes of the cluster
        #[arg(long)]
        load: bool,
        /// Write tars that other clusters can import too, with the Debian layers in each
        #[arg(long)]
        whole: bool,
        #[command(flatten)]
        cluster: Name,
    },
    /// Install the operator and the pool demo on an embedded cluster; run again, it picks up where it is
    Demo {
        /// Remove every trace instead
        #[arg(long)]
        down: bool,
        /// Use the cluster of this kubeconfig context, and build none
        #[arg(long)]
        context: Option<String>,
        /// How the programs of the images are compiled, where that isn't to be as users run them
        #[arg(long, hide = true, value_enum)]
        profile: Option<Profile>,
        #[command(flatten)]
        cluster: Name,
    },
    /// Try the drivers of several languages by the front of the demonstration's pool
    Drivers(Drivers),
    /// PostgreSQL's own regression tests through the front and at the primary itself, compared; on a pool of its own
    Regress(regress::Options),
    /// Measure, and print a table and a line of JSON
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Check the models of the membership protocol, and print how many states they looked at
    Model {
        /// Wider bounds; takes much longer
        #[arg(long)]
        full: bool,
    },
    /// Check what comes in as a dependency: advisories, bans, licences, sources. Needs cargo-deny; the last line sums up
    Audit,
    /// Write what the operator's image is made of, as a CycloneDX document
    Sbom(sbom::Options),
    /// Feed the front with bytes that nobody thought of; needs a nightly compiler. The last line sums up
    Fuzz {
        /// Targets; all when none is named
        targets: Vec<String>,
        /// Minutes for each
        #[arg(long, default_value_t = 1)]
        minutes: u64,
    },
    /// Run all checks, or the named ones; the last line sums up
    Test {
        /// Parts to run (fmt, clippy, unit, helm, demo, api, cluster), or tests of one, as in cluster::failover;
        /// all when none is named
        wishes: Vec<test::Wish>,
        /// Leave the clusters of the tests running
        #[arg(long)]
        keep: bool,
    },
    /// Break a pool under load at random, on a cluster of its own, and see that it is whole each time and loses nothing;
    /// the last line sums up
    Chaos(test::ChaosOptions),
    /// The same as `cluster exec`, in the form of a runner of cargo
    #[command(hide = true)]
    Enter(Exec),
    /// PID 1 of a machine
    #[command(hide = true)]
    Machine {
        /// The cluster it belongs to
        #[arg(long)]
        cluster: String,
        /// Seconds until the pods of a lost node are deleted
        #[arg(long)]
        toleration: u32,
        /// Which machine
        machine: String,
    },
}

/// Which pool the drivers are tried on, and how.
#[derive(Debug, Clone, Args)]
pub struct Drivers {
    #[command(flatten)]
    pub cluster: Name,
    /// Namespace of the pool demo
    #[arg(long, default_value = crate::demo::SPACE)]
    pub namespace: String,
    /// Also try them at the primary itself, past the front, and compare what they saw
    #[arg(long)]
    pub directly: bool,
    /// Fetch nothing: try those whose drivers are in the cache
    #[arg(long)]
    pub cached: bool,
}

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Online recovery beside pg_basebackup alone and tar over TLS; apply to Ready
    Recovery(bench::Options),
    /// How long writes stand still when the primary is lost, and how the time is spent
    Failover(bench::FailoverOptions),
    /// What a pool costs beside PostgreSQL's own synchronous replication, set up by hand
    Cost(bench::CostOptions),
    /// What the front costs beside PgBouncer and pgpool-II: CPU, system calls, latency, memory; takes some 35 minutes
    Front(bench::FrontOptions),
    /// What the operator, agents and fronts use at rest, and what they ask of the Kubernetes API
    Operator(bench::OperatorOptions),
}

/// Commands of the cluster.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Start it; one that runs goes on
    Up {
        #[command(flatten)]
        cluster: Name,
        #[command(flatten)]
        toleration: Toleration,
        /// MiB of a file system of its own for the volumes of each node, so that a full one fills nothing else; folders
        /// of this machine's disk unless given
        #[arg(long, value_parser = clap::value_parser!(u32).range(64..))]
        volumes: Option<u32>,
    },
    /// End it and remove every trace
    Down {
        #[command(flatten)]
        cluster: Name,
    },
    /// Show machines, services and nodes
    Status {
        #[command(flatten)]
        cluster: Name,
    },
    /// Run a command of the host where the cluster's DNS, Services and pods can be reached
    Exec(Exec),
    /// Break a node, or heal it
    Node {
        #[command(flatten)]
        cluster: Name,
        #[command(flatten)]
        toleration: Toleration,
        /// What to do to it
        #[command(subcommand)]
        fault: Fault,
    },
    /// Save what etcd holds, or put it back as from a backup
    Etcd {
        #[command(flatten)]
        cluster: Name,
        /// What to do with it
        #[command(subcommand)]
        backup: Backup,
    },
}

/// How patient the cluster is with lost nodes.
#[derive(Debug, Clone, Args)]
pub struct Toleration {
    /// Seconds until the pods of a lost node are deleted
    #[arg(long, default_value_t = TOLERATION)]
    pub toleration: u32,
}

/// A command and where to run it.
#[derive(Debug, Clone, Args)]
pub struct Exec {
    #[command(flatten)]
    pub cluster: Name,
    /// The command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub words: Vec<OsString>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Command {
        Cli::try_parse_from(std::iter::once("xtask").chain(line.split(' '))).unwrap().command
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn words_after_the_dashes_belong_to_the_command() {
        let Command::Cluster(ClusterCommand::Exec(exec)) = parse("cluster exec --name t -- ls --name x -- y")
        else {
            panic!("not exec");
        };
        assert_eq!(exec.cluster.name, "t");
        assert_eq!(exec.words, ["ls", "--name", "x", "--", "y"]);
    }

    #[test]
    fn a_runner_of_cargo_gets_the_test_program_and_its_arguments() {
        let Command::Enter(exec) = parse("enter --name test -- /t/api-1 --test-threads=1") else {
            panic!("not enter");
        };
        assert_eq!((exec.cluster.name.as_str(), exec.words.len()), ("test", 2));
    }

    #[test]
    fn the_demonstration_compiles_for_use_unless_told_otherwise() {
        let Command::Demo { down, context, profile, cluster } = parse("demo --context far --profile dev")
        else {
            panic!("not demo");
        };
        assert_eq!((down, context.as_deref(), profile), (false, Some("far"), Some(Profile::Dev)));
        assert!(!cluster.name.is_empty());
        assert!(matches!(parse("demo --name t --down"), Command::Demo { down: true, profile: None, .. }));
    }

    #[test]
    fn test_steps_are_called_by_their_names() {
        let Command::Test { wishes, keep } = parse("test unit cluster::scale --keep") else {
            panic!("not test");
        };
        assert_eq!((wishes.len(), wishes[1].filter.as_str(), keep), (2, "scale", true));
        assert!(Cli::try_parse_from(["xtask", "test", "nonsense"]).is_err());
    }

    #[test]
    fn what_is_shipped_is_checked_and_listed() {
        assert!(matches!(parse("audit"), Command::Audit));
        assert!(matches!(parse("sbom --out /t"), Command::Sbom(_)));
    }

    #[test]
    fn a_round_is_had_again_with_its_seed_alone() {
        assert!(matches!(parse("chaos --faults 500 --seed 7 --only 3 --keep"), Command::Chaos(_)));
        for bad in ["chaos --only 3", "chaos --faults 0", "chaos --minutes 0"] {
            assert!(Cli::try_parse_from(std::iter::once("xtask").chain(bad.split(' '))).is_err(), "{bad}");
        }
    }

    #[test]
    fn pools_of_the_bench_may_be_simulated_or_not_at_all() {
        for good in ["--simulated 0", "--pools 0 --simulated 1000", "--pools 1,10"] {
            let command = parse(&format!("bench operator {good}"));
            assert!(matches!(command, Command::Bench(BenchCommand::Operator(_))), "{good}");
        }
        assert!(Cli::try_parse_from(["xtask", "bench", "operator", "--simulated", "1001"]).is_err());
    }

    #[test]
    fn node_commands_take_the_node_last() {
        let Command::Cluster(ClusterCommand::Node { fault, .. }) = parse("cluster node kill n2") else {
            panic!("not node");
        };
        assert_eq!(fault, Fault::Kill { node: "n2".into() });
        assert!(Cli::try_parse_from(["xtask", "cluster", "node", "loss", "n1", "200"]).is_err());
    }

    #[test]
    fn etcd_is_put_back_as_it_was_saved() {
        let Command::Cluster(ClusterCommand::Etcd { cluster, backup }) =
            parse("cluster etcd --name t restore")
        else {
            panic!("not etcd");
        };
        assert_eq!((cluster.name.as_str(), backup), ("t", Backup::Restore));
    }
}
