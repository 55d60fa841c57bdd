//! PID 1 of a machine (the hidden command `xtask machine`).
//!
//! `unshare` starts it with namespaces of its own: pid, mount, net, uts, ipc. When it dies, the kernel ends all
//! that ran in them and drops their mounts and links: a power cut, and a complete tear-down.
//!
//! 1. It listens at its socket, and lays its own disk over /var, /opt and /srv, and an empty /run.
//! 2. It says `ready` and waits for `go`: meanwhile the cable is plugged in from outside. If the command that
//!    started it dies, the end of its input ends the machine, so that none is left half made.
//! 3. It sets addresses and routes, and starts the services.
//! 4. It restarts services that ended, reaps orphans (containers' shims), and takes orders.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use rustix::mount::{MountFlags, MountPropagationFlags};

use super::layout::{self, Cluster, Machine, NODES};
use super::supervisor::{Event, Supervisor};
use super::{machine, services, volumes};
use crate::clock::Stopwatch;
use crate::error::{OnFile, Result, refused};
use crate::{files, run};

/// Where a machine writes what happened to it, on its own disk.
const LOG: &str = "/var/log/init.log";

/// Runs the machine until it is killed.
pub fn main(cluster: &Cluster, machine: Machine, toleration: u32) -> Result<()> {
    if rustix::process::getpid().as_raw_nonzero().get() != 1 {
        return refused("this is PID 1 of a machine: start it with `cargo xtask cluster up`");
    }
    rustix::system::sethostname(machine.to_string().as_bytes()).on("name", machine.to_string())?;
    let socket = cluster.socket(machine);
    let orders = UnixListener::bind(&socket).on("listen at", &socket)?;
    // What a machine holds of another's disk in a namespace of its own, nobody could take away before it ends.
    let disk = cluster.disk(machine);
    machine::unmount(|target| volumes::is_of_another(target, &disk))?;
    let log = if machine == Machine::Switch {
        Log::at(&cluster.run().join("sw.log"))?
    } else {
        mount_disks(cluster, &disk)?;
        Log::at(Path::new(LOG))?
    };
    println!("ready");
    let mut go = String::new();
    io::stdin().read_line(&mut go).on("read", "standard input")?;
    if go.trim() != "go" {
        return refused("the command that starts this machine has ended");
    }
    let result = serve(machine, toleration, orders, log.again()?);
    if let Err(e) = &result {
        log.again()?.line(&e.to_string());
    }
    result
}

fn serve(machine: Machine, toleration: u32, orders: UnixListener, log: Log) -> Result<()> {
    plug_in(machine)?;
    let (events, inbox) = mpsc::channel();
    let heard = events.clone();
    thread::spawn(move || listen(&orders, &heard));
    Supervisor::new(services::of(machine, toleration), log, events).run(&inbox)
}

/// A text file that only grows.
pub struct Log {
    file: File,
    since: Stopwatch,
}

impl Log {
    fn at(path: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(path).on("open", path)?;
        Ok(Self { file, since: Stopwatch::start() })
    }

    fn again(&self) -> Result<Self> {
        Ok(Self { file: self.file.try_clone().on("open again", LOG)?, since: self.since })
    }

    /// Adds a line with the seconds since the machine started.
    pub fn line(&mut self, text: &str) {
        // A full disk must not end the machine, and there is no other place to say so.
        let _ = writeln!(self.file, "{:9.3} {text}", self.since.elapsed().as_secs_f64());
    }
}

fn mount_disks(cluster: &Cluster, disk: &Path) -> Result<()> {
    // Without shared propagation kubelet refuses to mount volumes into pods.
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", shared).on("share the mounts of", "/")?;
    // With what is mounted below: volumes may have a file system of their own.
    let bind = |from: &Path, to: &str| rustix::mount::mount_bind_recursive(from, to).on("mount over", to);
    bind(&cluster.bin(), layout::BIN)?;
    // /var comes last, for the disks themselves may lie below it.
    for dir in ["opt", "srv"] {
        bind(&disk.join(dir), &format!("/{dir}"))?;
    }
    let (var, run) = (disk.join("var"), "/run");
    bind(&var, "/var")?;
    rustix::mount::mount("tmpfs", run, "tmpfs", MountFlags::empty(), c"mode=755").on("mount over", run)?;
    for dir in ["/run/netns", "/run/lock"] {
        files::make_dir(Path::new(dir))?;
    }
    let link = Path::new("/var/run");
    if !link.is_symlink() {
        std::os::unix::fs::symlink(run, link).on("link", link)?;
    }
    Ok(())
}

/// The commands of `ip -batch` that give a machine its place in the network.
fn addresses(machine: Machine) -> String {
    let Some(own) = machine.address() else {
        return "link set lo up\nlink add br0 type bridge\nlink set br0 up\n".to_owned();
    };
    let mut lines = vec![
        "link set lo up".to_owned(),
        format!("address add {own}/24 dev eth0"),
        "link set eth0 up".to_owned(),
    ];
    for node in NODES.into_iter().filter(|n| *n != machine) {
        if let (Some(pods), Some(via)) = (node.pods(), node.address()) {
            lines.push(format!("route add {pods} via {via}"));
        }
    }
    // Without a route connect() fails before kube-proxy's translation sees the packet.
    lines.push(format!("route add {} dev eth0\n", layout::SERVICES));
    lines.join("\n")
}

/// Settings below /proc/sys/net.
const SYSCTLS: [(&str, &str); 4] = [
    ("ipv4/ip_forward", "1"),
    // Else traffic between the pods of one node passes by kube-proxy and the network policies.
    ("bridge/bridge-nf-call-iptables", "1"),
    // Give up soon, try again soon: a component must not sit on a dead connection for a minute.
    ("ipv4/tcp_syn_retries", "2"),
    ("ipv4/tcp_retries2", "5"),
];

fn plug_in(machine: Machine) -> Result<()> {
    run::fed(&mut run::command("ip", ["-batch", "-"]), &addresses(machine))?;
    if machine != Machine::Switch {
        for (name, value) in SYSCTLS {
            let path = Path::new("/proc/sys/net").join(name);
            fs::write(&path, value).on("set", &path)?;
        }
    }
    Ok(())
}

fn listen(orders: &UnixListener, events: &mpsc::Sender<Event>) {
    for stream in orders.incoming().flatten() {
        let mut line = String::new();
        if BufReader::new(&stream).read_line(&mut line).is_err() {
            continue;
        }
        if events.send(Event::Order(line.trim().to_owned(), stream)).is_err() {
            return;
        }
    }
}

/// Gives an order to a machine's PID 1 from outside, and hands back its answer.
pub fn order(cluster: &Cluster, machine: Machine, text: &str) -> Result<String> {
    let socket = cluster.socket(machine);
    let mut stream = UnixStream::connect(&socket).on("reach", &socket)?;
    writeln!(stream, "{text}").on("write to", &socket)?;
    let answer = io::read_to_string(&stream).on("read from", &socket)?;
    match answer.trim().strip_prefix("error: ") {
        Some(why) => refused(format!("{machine}: {why}")),
        None => Ok(answer.trim().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_reaches_the_pods_of_the_others_and_every_service() {
        let batch = addresses(Machine::Node(2));
        assert_eq!(
            batch,
            "link set lo up\naddress add 10.77.0.12/24 dev eth0\nlink set eth0 up\n\
             route add 10.244.1.0/24 via 10.77.0.11\nroute add 10.244.3.0/24 via 10.77.0.13\n\
             route add 10.96.0.0/16 dev eth0\n"
        );
    }

    #[test]
    fn no_machine_has_a_way_out() {
        for machine in layout::MACHINES {
            assert!(!addresses(machine).contains("default"));
        }
    }
}
