//! What a cluster leaves on the machine, looked for without asking the cluster: what /proc, /sys and folders list is compared
//! with what they listed before it was there, and with what it had while it ran.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cluster::Cluster;
use crate::error::{OnFile, Result, refused};
use crate::run;

/// Where all hierarchies of cgroups are.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Parts of the names of what the cluster's programs make. Others make files meanwhile, too.
const MARKS: [&str; 9] = ["pgpool", "kube", "container", "cni", "etcd", "runc", "netns", "helm", "pods"];
/// Folders of the host in which they could make it. Machines see all of it but what they have of their own: /opt, /srv, /var, /run.
const PLACES: [&str; 18] = [
    "/",
    "/dev/shm",
    "/etc",
    "/etc/cni",
    "/etc/kubernetes",
    "/mnt",
    "/opt",
    "/opt/cni",
    "/run",
    "/run/netns",
    "/srv",
    "/tmp",
    "/usr/libexec",
    "/var/lib",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/log",
    "/var/tmp",
];
/// The same below the home of whoever runs this.
const PLACES_AT_HOME: [&str; 4] = ["", ".cache", ".config", ".local/share"];
/// Kinds of namespaces (namespaces(7)), by the beginnings of what /proc calls them.
const NAMESPACES: [&str; 8] = ["cgroup:[", "ipc:[", "mnt:[", "net:[", "pid:[", "time:[", "user:[", "uts:["];

/// What is on the machine that a cluster could have made, each in words; nothing of the other clusters.
pub fn things(cluster: &str) -> Result<BTreeSet<String>> {
    let mut all: BTreeSet<String> = lines("/proc/self/mounts", mount)?;
    all.extend(lines("/proc/self/net/dev", interface)?);
    all.extend(tables());
    all.extend(files_of(cluster));
    let groups = below(Path::new(CGROUPS)).into_iter().map(|group| group.display().to_string());
    all.extend(
        without_others(groups.filter(|group| is_marked(group)), cluster).map(|g| format!("cgroup {g}")),
    );
    Ok(all)
}

fn lines(path: &str, told: fn(&str) -> Option<String>) -> Result<BTreeSet<String>> {
    let text = fs::read_to_string(path).on("read", path)?;
    Ok(text.lines().filter_map(told).collect())
}

/// Device, place and type.
fn mount(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split(' ').take(3).collect();
    (words.len() == 3).then(|| format!("mount {}", words.join(" ")))
}

fn interface(line: &str) -> Option<String> {
    line.split_once(':').map(|(name, _)| format!("interface {}", name.trim()))
}

/// Tables of nftables; none where nobody has it yet.
fn tables() -> BTreeSet<String> {
    let listed = run::output(&mut run::command("nft", ["list", "tables"]));
    let text = listed.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
    text.lines().map(|line| format!("nft {line}")).collect()
}

/// Every folder below a folder, but for those that go meanwhile.
fn below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        // Links are second names.
        let folders = entries(&dir).into_iter().filter(|path| path.is_dir() && !path.is_symlink());
        for folder in folders {
            open.push(folder.clone());
            found.push(folder);
        }
    }
    found
}

/// What is in a folder; nothing where there is none.
fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map(|all| all.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

fn is_marked(path: &str) -> bool {
    MARKS.iter().any(|mark| path.contains(mark))
}

/// Leaves out the groups of other clusters, and the one above them where there are any.
fn without_others(groups: impl Iterator<Item = String>, cluster: &str) -> impl Iterator<Item = String> {
    let all: Vec<String> = groups.collect();
    let others: Vec<String> = all.iter().filter(|group| is_anothers(group, cluster)).cloned().collect();
    let is_above = move |group: &String| others.iter().any(|other| Path::new(other).starts_with(group));
    all.into_iter().filter(move |group| !is_above(group))
}

/// Whether a group is one of another cluster.
fn is_anothers(group: &str, cluster: &str) -> bool {
    let own = format!("/{}/", Cluster::ALL_CGROUPS);
    group.split_once(&own).is_some_and(|(_, rest)| rest.split('/').next() != Some(cluster))
}

/// Files and folders, by where they would be.
fn files_of(cluster: &str) -> BTreeSet<String> {
    let folders = [Cluster::folders(), [Cluster::all_disks(), Cluster::all_runs()]].concat();
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let at_home = home.iter().flat_map(|home| PLACES_AT_HOME.map(|place| home.join(place)));
    let places = PLACES.into_iter().map(PathBuf::from).chain(at_home);
    let mut found: Vec<PathBuf> = places.flat_map(|place| entries(&place)).collect();
    found.retain(|path| is_marked(&path.to_string_lossy()) && !folders.contains(path));
    for folder in folders {
        let (own, others): (Vec<_>, Vec<_>) = entries(&folder)
            .into_iter()
            .partition(|path| path.file_name().is_some_and(|name| name == cluster));
        found.extend(own);
        if others.is_empty() && folder.exists() {
            found.push(folder);
        }
    }
    found.into_iter().map(|path| format!("file {}", path.display())).collect()
}

/// A process, and what it holds of the machine.
struct Process {
    pid: u32,
    parent: u32,
    /// When it began; with its number it is no other's.
    started: String,
    /// Its command line.
    words: String,
    /// Its cgroups.
    groups: String,
    /// The mounts that it sees.
    mounts: String,
    /// Namespaces, folders and files.
    holds: BTreeSet<String>,
}

/// All processes, but for those that end meanwhile.
fn processes() -> Vec<Process> {
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    entries(Path::new("/proc")).iter().filter_map(|path| process(number(path)?)).collect()
}

/// See proc(5). One that waits for its end to be taken note of holds nothing any more.
fn process(pid: u32) -> Option<Process> {
    let at = PathBuf::from(format!("/proc/{pid}"));
    let text = |name: &str| fs::read(at.join(name)).unwrap_or_default();
    let text = |name: &str| String::from_utf8_lossy(&text(name)).into_owned();
    let stat = text("stat");
    // The name may hold anything: the third field is the first behind its parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if ["Z", "X"].contains(fields.first()?) {
        return None;
    }
    let links = ["ns", "fd"].into_iter().flat_map(|dir| entries(&at.join(dir)));
    let links = links.chain(["cwd", "root", "exe"].map(|name| at.join(name)));
    let holds = links.filter_map(|link| fs::read_link(link).ok());
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        started: (*fields.get(19)?).to_owned(),
        words: text("cmdline").replace('\0', " "),
        groups: text("cgroup"),
        mounts: text("mountinfo"),
        holds: holds.map(|held| held.to_string_lossy().trim_end_matches(" (deleted)").to_owned()).collect(),
    })
}

/// Whether a process is PID 1 of a machine of this cluster, or has started it.
fn is_machine(process: &Process, cluster: &str) -> bool {
    process.words.contains(&format!(" machine --cluster {cluster} "))
}

/// The processes of a cluster's machines: those, and all that have come of them.
fn family<'p>(all: &'p [Process], cluster: &str) -> Vec<&'p Process> {
    let (mut found, mut rest): (Vec<_>, Vec<_>) =
        all.iter().partition(|process: &&Process| is_machine(process, cluster));
    loop {
        let known: BTreeSet<u32> = found.iter().map(|process| process.pid).collect();
        let (next, others): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|process: &&Process| known.contains(&process.parent));
        if next.is_empty() {
            return found;
        }
        found.extend(next);
        rest = others;
    }
}

/// The machines of a cluster that runs, each in words, so that one that was started anew is another.
pub fn machines(cluster: &str) -> Result<BTreeSet<String>> {
    let all = processes();
    let machines = all.iter().filter(|process| is_machine(process, cluster));
    let told = |process: &Process| {
        format!("process {} since {}: {}", process.pid, process.started, process.words.trim())
    };
    let told: BTreeSet<String> = machines.map(told).collect();
    if told.is_empty() { refused(format!("no machine of cluster {cluster} is seen")) } else { Ok(told) }
}

/// What a cluster has while it runs.
pub struct Running {
    cluster: String,
    /// Where its files are.
    folders: [PathBuf; 2],
    /// Numbers of its processes, and when they began.
    processes: BTreeSet<(u32, String)>,
    /// Its namespaces.
    namespaces: BTreeSet<String>,
}

impl Running {
    /// Looks at a cluster that runs; fails where it isn't seen, since then nothing of it would be seen later.
    pub fn of(cluster: &Cluster, before: &BTreeSet<String>) -> Result<Self> {
        let all = processes();
        let own = family(&all, cluster.name());
        let ours = process(std::process::id()).map(|process| process.holds).unwrap_or_default();
        let held = own.iter().flat_map(|process| &process.holds);
        let is_theirs = |held: &&String| is_namespace(held) && !ours.contains(*held);
        let running = Self {
            cluster: cluster.name().to_owned(),
            folders: [cluster.disks(), cluster.run()],
            processes: own.iter().map(|process| (process.pid, process.started.clone())).collect(),
            namespaces: held.filter(is_theirs).cloned().collect(),
        };
        let mut seen: Vec<String> = things(cluster.name())?.difference(before).cloned().collect();
        seen.extend(running.namespaces.iter().cloned());
        for kind in ["cgroup ", "file ", "net:[", "mnt:[", "pid:["] {
            if !seen.iter().any(|thing| thing.starts_with(kind)) {
                return refused(format!(
                    "no `{kind}` is seen of a cluster that runs: one that is left would not be"
                ));
            }
        }
        Ok(running)
    }

    /// What is there of it, and wasn't before it; in words.
    pub fn left(&self, before: &BTreeSet<String>) -> Result<Vec<String>> {
        let mut left: Vec<String> = things(&self.cluster)?.difference(before).cloned().collect();
        let all = processes();
        let holders = all.iter().filter(|process| self.is_held_by(process));
        left.extend(holders.map(|process| format!("process {}: {}", process.pid, process.words.trim())));
        Ok(left)
    }

    /// Whether a process is of this cluster, or holds something of it.
    fn is_held_by(&self, process: &Process) -> bool {
        let group = format!("/{}/{}/", Cluster::ALL_CGROUPS, self.cluster);
        let lies_in = |held: &String| self.folders.iter().any(|folder| Path::new(held).starts_with(folder));
        self.processes.contains(&(process.pid, process.started.clone()))
            || is_machine(process, &self.cluster)
            || process.groups.contains(&group)
            || process.holds.iter().any(|held| self.namespaces.contains(held) || lies_in(held))
            || self.folders.iter().any(|folder| process.mounts.contains(&tail(folder)))
    }
}

fn is_namespace(held: &str) -> bool {
    NAMESPACES.iter().any(|kind| held.starts_with(kind))
}

/// The end of a folder's path: tables of mounts have it from the root of its file system.
fn tail(folder: &Path) -> String {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    format!("/{}/{}/", folder.parent().map(name).unwrap_or_default(), name(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(folder: &str) -> Running {
        Running {
            cluster: "none".to_owned(),
            folders: [PathBuf::from(folder), PathBuf::from("/none/none")],
            processes: BTreeSet::new(),
            namespaces: BTreeSet::new(),
        }
    }

    fn ourselves() -> Process {
        process(std::process::id()).unwrap()
    }

    #[test]
    fn a_process_is_known_again_by_each_of_what_it_had() {
        let (us, none) = (ourselves(), holding("/none"));
        assert!(!none.is_held_by(&us));
        let by_number = Running { processes: BTreeSet::from([(us.pid, us.started.clone())]), ..none };
        assert!(by_number.is_held_by(&us));
        let net = us.holds.iter().find(|held| held.starts_with("net:[")).unwrap().clone();
        assert!(is_namespace(&net) && !is_namespace("socket:[7]"));
        assert!(Running { namespaces: BTreeSet::from([net]), ..holding("/none") }.is_held_by(&us));
        let here = std::env::current_dir().unwrap();
        assert!(holding(here.to_str().unwrap()).is_held_by(&us));
        let grouped = Process { groups: "4:pids:/pgpool-cluster/none/n1/kubepods/x\n".to_owned(), ..us };
        assert!(holding("/none").is_held_by(&grouped));
        let mounts = "36 35 98:0 /lib/none/c/n1/opt /opt rw - ext4 /dev/vda rw".to_owned();
        assert!(holding("/lib/none/c").is_held_by(&Process { mounts, ..ourselves() }));
    }

    #[test]
    fn what_was_not_there_before_is_left() {
        let running = holding("/none");
        let mut before = things("none").unwrap();
        assert!(before.contains("mount proc /proc proc"), "{before:?}");
        let lo = "interface lo";
        assert!(before.remove(lo), "{before:?}");
        assert!(running.left(&before).unwrap().iter().any(|left| left == lo));
    }

    #[test]
    fn the_family_of_a_cluster_is_all_that_came_of_its_machines() {
        let process = |pid, parent, words: &str| Process {
            pid,
            parent,
            words: words.to_owned(),
            started: pid.to_string(),
            ..ourselves()
        };
        let all = [
            process(7, 6, "postgres "),
            process(6, 5, "/mnt/kube kubelet "),
            process(5, 1, "/x/xtask machine --cluster t --toleration 9 n1 "),
            process(8, 1, "/x/xtask machine --cluster t-2 --toleration 9 n1 "),
            process(9, 8, "etcd "),
        ];
        let family: BTreeSet<u32> = family(&all, "t").iter().map(|process| process.pid).collect();
        assert_eq!(family, BTreeSet::from([5, 6, 7]));
    }

    #[test]
    fn cgroups_of_other_clusters_are_theirs() {
        let root = "/sys/fs/cgroup/pids/pgpool-cluster";
        let seen = |groups: &[&str]| -> Vec<String> {
            let groups = groups.iter().map(|group| format!("{root}{group}"));
            without_others(groups, "t").map(|group| group.replace(root, "…")).collect()
        };
        assert_eq!(seen(&["", "/t", "/t/n1"]), ["…", "…/t", "…/t/n1"]);
        assert_eq!(seen(&["", "/t", "/t-2", "/t-2/n1"]), ["…/t"]);
    }
}
