//! Recoveries on a real file system, with a pg_basebackup of our own making, ended at every step.
use std::{
    io,
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tempfile::TempDir;

use super::*;

const ID: &str = "r7";
const NEW: &str = "fedcba987654";

/// A fake pg_basebackup: makes a small data directory as a donor would send it.
const COPIES: &str = r#"
while [ $# -gt 0 ]; do case "$1" in -D) target=$2; shift;; -d) echo "$2" > "$0.conninfo"; shift;; esac; shift; done
test ! -e "$target" || { echo "pg_basebackup: error: directory exists" >&2; exit 1; }
echo "       0/100 kB (0%), 0/1 tablespace" >&2
mkdir -p "$target/pg_tblspc" "$target/base"
echo 17 > "$target/PG_VERSION"
echo "CHECKPOINT LOCATION: 0/2000060" > "$target/backup_label"
echo data of the donor > "$target/base/1"
touch "$target/standby.signal" "$target/postmaster.opts"
echo '{"poolUid":"u","index":0,"incarnation":"donor","epoch":9}' > "$target/pgpool_node.json"
echo "     100/100 kB (100%), 1/1 tablespace" >&2
"#;

const CONTROLS: &str = r#"echo "Database system identifier:           7571234567890123456""#;

/// A fake one that has no room while there is data.
fn until_gone() -> String {
    COPIES.replace(
        "echo \"       0/100",
        "test ! -e \"${target%.new}\" || { echo 'could not write: No space left on device' >&2; exit 1; }\necho \"       0/100",
    )
}

/// What lies beside the data on a volume.
const BESIDE: [&str; 2] = ["archive/00000002", "conf"];

struct Job {
    dir: TempDir,
    args: Args,
    setting: Setting,
}

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\nPATH=/usr/bin:/bin\n{text}")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

impl Job {
    fn new(basebackup: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (program, controldata) = (dir.path().join("pg_basebackup"), dir.path().join("pg_controldata"));
        script(&program, basebackup);
        script(&controldata, CONTROLS);
        fs::create_dir(dir.path().join("volume")).unwrap();
        let args = Args {
            of: PoolArgs { pool: "rain".into(), namespace: "weather".into(), uid: "u".into() },
            index: 2,
            donor: 1,
            recovery: ID.into(),
            incarnation: NEW.into(),
            epoch: 12,
            max_rate: None,
            may_destroy: false,
        };
        let source = Source {
            program,
            host: "rain-1-0.rain-nodes.weather.svc".into(),
            port: 5432,
            tls: "/run/pgpool/recovery-tls".into(),
            application: "rain-2-recovery-r7".into(),
            max_rate: None,
        };
        let setting = Setting { source, controldata, major: 17, held: Duration::from_millis(300) };
        Self { dir, args, setting }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("volume")
    }

    fn data(&self, folder: &str, incarnation: &str) {
        self.data_of("u", folder, incarnation);
    }

    fn data_of(&self, pool: &str, folder: &str, incarnation: &str) {
        let path = self.root().join(folder);
        fs::create_dir_all(path.join("base")).unwrap();
        fs::write(path.join("base/1"), incarnation).unwrap();
        let (pool_uid, incarnation) = (pool.into(), incarnation.into());
        let node = NodeFile { pool_uid, index: 2, incarnation, epoch: 3, taken_up: None };
        fs::write(path.join("pgpool_node.json"), serde_json::to_vec(&node).unwrap()).unwrap();
    }

    fn leave_beside(&self) {
        for folder in BESIDE {
            fs::create_dir_all(self.root().join(folder)).unwrap();
            fs::write(self.root().join(folder).join("file"), "of some pool").unwrap();
        }
    }

    /// How much of that is still there.
    fn left_beside(&self) -> usize {
        BESIDE.iter().filter(|folder| self.root().join(folder).join("file").exists()).count()
    }

    /// The incarnation in a folder; none when there is no such folder. Panics on half a copy.
    fn holds(&self, folder: &str) -> Option<String> {
        let path = self.root().join(folder);
        if !path.exists() {
            return None;
        }
        let node: NodeFile =
            serde_json::from_slice(&fs::read(path.join("pgpool_node.json")).unwrap()).unwrap();
        assert!(path.join("base/1").exists(), "{folder} is half a copy");
        assert!(!path.join("standby.signal").exists());
        Some(node.incarnation)
    }

    fn folders(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.root())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("pgdata"))
            .collect();
        names.sort();
        names
    }

    async fn run_on(&self, volume: &Volume) -> Result<Journal, RecoverError> {
        recover(&self.args, &self.setting, volume, &CancellationToken::new()).await
    }

    async fn run(&self) -> Result<Journal, RecoverError> {
        self.run_on(&Volume::new(&self.root())).await
    }
}

#[tokio::test]
async fn a_copy_takes_the_place_of_the_old_data_which_stays() {
    let job = Job::new(COPIES);
    job.data("pgdata", "old");
    let journal = job.run().await.unwrap();
    assert_eq!((journal.step, journal.bytes, journal.destroyed), (Step::Done, 102_400, false));
    assert_eq!(job.holds("pgdata").as_deref(), Some(NEW));
    assert_eq!(job.holds("pgdata.old").as_deref(), Some("old"));
    let node: NodeFile =
        serde_json::from_slice(&fs::read(job.root().join("pgdata/pgpool_node.json")).unwrap()).unwrap();
    let (pool_uid, incarnation) = ("u".into(), NEW.into());
    let expected = NodeFile { pool_uid, index: 2, incarnation, epoch: 12, taken_up: None };
    assert_eq!(node, expected);
    assert_eq!(fs::read_to_string(job.root().join("pgdata/base/1")).unwrap(), "data of the donor\n");
    let conninfo = fs::read_to_string(job.dir.path().join("pg_basebackup.conninfo")).unwrap();
    assert!(conninfo.contains("application_name='rain-2-recovery-r7'"), "{conninfo}");

    // Started again it does nothing, whatever the donor is like now.
    script(&job.setting.source.program, "exit 1");
    assert_eq!(job.run().await.unwrap(), journal);
}

/// Runs a job that is ended before its change number `last`; false when it came to its end before that.
async fn ends_before(job: &Job, last: usize) -> bool {
    let count = Arc::new(AtomicUsize::new(0));
    let mut volume = Volume::new(&job.root());
    volume.probe = Box::new(move |what| {
        if count.fetch_add(1, Ordering::SeqCst) == last {
            return Err(io::Error::other(format!("killed before {what}")));
        }
        Ok(())
    });
    match job.run_on(&volume).await {
        Ok(_) => false,
        Err(error) => {
            assert!(error.to_string().contains("killed before"), "{error}");
            true
        }
    }
}

#[tokio::test]
async fn a_job_that_is_killed_anywhere_goes_on() {
    let mut last = 0;
    loop {
        let job = Job::new(COPIES);
        job.data("pgdata", "old");
        if !ends_before(&job, last).await {
            break;
        }
        // Whatever carries the name of data is whole, and the old is still there.
        let (data, old) = (job.holds("pgdata"), job.holds("pgdata.old"));
        assert!([&data, &old].contains(&&Some("old".to_owned())), "{last}: {data:?}, {old:?}");
        assert!(data.as_deref().is_none_or(|data| data == "old" || data == NEW));
        // It is killed once more, at each of the changes that are left.
        assert!(job.root().join("recovery.json").exists() || last == 0, "{last}");
        while ends_before(&job, 1).await {
            assert!(job.holds("pgdata").is_some() || job.holds("pgdata.old").is_some());
            if ends_before(&job, 4).await {
                break;
            }
        }
        job.run().await.unwrap();
        assert_eq!(job.folders(), ["pgdata", "pgdata.old"], "{last}");
        assert_eq!(job.holds("pgdata").as_deref(), Some(NEW), "{last}");
        assert_eq!(job.holds("pgdata.old").as_deref(), Some("old"), "{last}");
        last += 1;
    }
    assert!(last > 8, "only {last} changes were seen");
}

/// WAL of another pool under the names of this one's must not outlive the data that it belongs to.
#[tokio::test]
async fn the_archive_of_an_earlier_pool_goes_with_its_data_and_not_before() {
    let mut last = 0;
    loop {
        let job = Job::new(COPIES);
        job.data_of("earlier", "pgdata", "old");
        job.leave_beside();
        let killed = ends_before(&job, last).await;
        assert!(job.left_beside() == 0 || job.holds("pgdata").as_deref() == Some("old"), "{last}");
        job.run().await.unwrap();
        assert_eq!(job.holds("pgdata").as_deref(), Some(NEW), "{last}");
        assert_eq!(job.holds("pgdata.old").as_deref(), Some("old"), "{last}");
        assert_eq!(job.left_beside(), 0, "{last}");
        if !killed {
            break;
        }
        last += 1;
    }
}

#[tokio::test]
async fn what_this_pool_itself_has_archived_stays() {
    let mut last = 0;
    loop {
        let job = Job::new(COPIES);
        job.data("pgdata", "old");
        job.leave_beside();
        let killed = ends_before(&job, last).await;
        job.run().await.unwrap();
        assert_eq!(job.left_beside(), 2, "{last}");
        if !killed {
            break;
        }
        last += 1;
    }
    // Also where its old data has to go first.
    let mut job = Job::new(&until_gone());
    job.args.may_destroy = true;
    job.data("pgdata", "old");
    job.leave_beside();
    assert!(job.run().await.unwrap().destroyed && job.left_beside() == 2);
}

/// A recovery of the earlier pool deleted the old data for want of room, and that pool was deleted before the new copy came.
#[tokio::test]
async fn what_lies_beside_no_data_may_be_an_earlier_pool_s_and_goes() {
    for node_file in [None, Some("{")] {
        let job = Job::new(COPIES);
        job.leave_beside();
        let journal = Journal {
            id: "earlier".into(),
            incarnation: "0123456789ab".into(),
            step: Step::Copying,
            destroyed: true,
            bytes: 0,
        };
        fs::write(job.root().join("recovery.json"), serde_json::to_vec(&journal).unwrap()).unwrap();
        if let Some(text) = node_file {
            fs::create_dir_all(job.root().join("pgdata")).unwrap();
            fs::write(job.root().join("pgdata/pgpool_node.json"), text).unwrap();
        }
        job.run().await.unwrap();
        assert_eq!(job.holds("pgdata").as_deref(), Some(NEW));
        assert_eq!(job.left_beside(), 0, "{node_file:?}");
    }
    // And an earlier pool's data that this recovery deletes takes with it what lies beside it.
    let mut job = Job::new(&until_gone());
    job.args.may_destroy = true;
    job.data_of("earlier", "pgdata", "old");
    job.leave_beside();
    assert!(job.run().await.unwrap().destroyed && job.left_beside() == 0);
}

#[tokio::test]
async fn a_copy_that_was_never_attached_goes_and_the_older_data_stays() {
    let mut last = 0;
    loop {
        let job = Job::new(COPIES);
        job.data("pgdata", "never attached");
        job.data("pgdata.old", "old");
        job.data("pgdata.new", "half");
        let killed = ends_before(&job, last).await;
        assert_eq!(job.holds("pgdata.old").as_deref(), Some("old"), "{last}");
        job.run().await.unwrap();
        assert_eq!(job.folders(), ["pgdata", "pgdata.old"]);
        assert_eq!(job.holds("pgdata").as_deref(), Some(NEW));
        assert_eq!(job.holds("pgdata.old").as_deref(), Some("old"));
        if !killed {
            break;
        }
        last += 1;
    }
}

#[tokio::test]
async fn an_empty_volume_gets_a_copy_and_another_recovery_begins_anew() {
    let mut job = Job::new(COPIES);
    job.run().await.unwrap();
    assert_eq!(job.folders(), ["pgdata"]);
    (job.args.recovery, job.args.incarnation) = ("r8".into(), "0123456789ab".into());
    let journal = job.run().await.unwrap();
    assert_eq!((journal.id.as_str(), job.holds("pgdata").as_deref()), ("r8", Some("0123456789ab")));
    assert_eq!(job.holds("pgdata.old").as_deref(), Some(NEW));
}

#[tokio::test]
async fn old_data_is_deleted_for_room_only_when_told_so() {
    let huge = COPIES.replace("0/100 kB", "0/9000000000000 kB");
    let mut job = Job::new(&huge);
    job.data("pgdata", "old");
    let error = job.run().await.unwrap_err();
    assert!(error.needs_destroy(), "{error}");
    assert_eq!((job.folders(), job.holds("pgdata").as_deref()), (vec!["pgdata".into()], Some("old")));

    job.args.may_destroy = true;
    let error = job.run().await.unwrap_err();
    assert!(matches!(error, RecoverError::TooSmall { .. }) && !error.needs_destroy(), "{error}");
    assert!(job.folders().is_empty());

    // It says so while there is data, and copies once there is none.
    let mut job = Job::new(&until_gone());
    job.data("pgdata", "old");
    let error = job.run().await.unwrap_err();
    assert!(error.needs_destroy(), "{error}");
    assert_eq!(job.holds("pgdata").as_deref(), Some("old"));
    job.args.may_destroy = true;
    let journal = job.run().await.unwrap();
    assert!(journal.destroyed);
    assert_eq!((job.folders(), job.holds("pgdata").as_deref()), (vec!["pgdata".into()], Some(NEW)));
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_and_the_old_data_is_as_it_was() {
    let cases = [
        (COPIES.replace("0/1 tablespace", "0/2 tablespaces"), "tablespaces"),
        (
            "echo 'pg_basebackup: error: could not create directory \"/srv/fast\": Permission denied' >&2; exit 1".into(),
            "tablespaces (/srv/fast)",
        ),
        (COPIES.replace("echo 17", "echo 16"), "PostgreSQL 16"),
        (COPIES.replace("CHECKPOINT", "X"), "names no checkpoint"),
        (COPIES.to_owned() + "ln -s /srv/fast \"$target/pg_tblspc/16400\"\n", "tablespaces (16400)"),
        ("echo 'pg_basebackup: error: connection to server failed' >&2; exit 1".into(), "connection to server failed"),
        ("exit 3".into(), "exit status: 3"),
    ];
    for (text, expected) in cases {
        let job = Job::new(&text);
        job.data("pgdata", "old");
        let error = job.run().await.unwrap_err();
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        assert!(!error.needs_destroy());
        assert_eq!(job.holds("pgdata").as_deref(), Some("old"), "{expected}");
    }
    let mut job = Job::new(COPIES);
    job.args.donor = 2;
    assert!(matches!(job.run().await, Err(RecoverError::Order(_))));
}

#[tokio::test]
async fn without_lz4_it_comes_uncompressed() {
    let picky = format!(
        "case \"$*\" in *--compress*) echo 'ERROR: lz4 compression is not supported by this build' >&2; exit 1;; esac\n{COPIES}"
    );
    let job = Job::new(&picky);
    job.run().await.unwrap();
    assert_eq!(job.holds("pgdata").as_deref(), Some(NEW));
}

#[tokio::test]
async fn a_volume_in_use_is_left_alone() {
    let job = Job::new(COPIES);
    job.data("pgdata", "old");
    let volume = Volume::new(&job.root());
    let stop = CancellationToken::new();
    let held = lock(&volume, Duration::ZERO, &stop).await.unwrap();
    assert!(matches!(job.run().await, Err(RecoverError::Held { .. })));
    assert!(!job.root().join("recovery.json").exists());
    drop(held);
    job.run().await.unwrap();
}

#[tokio::test]
async fn sigterm_ends_pg_basebackup_and_its_child() {
    let slow =
        COPIES.replace("echo 17", "sleep 600 & echo $! > \"$0.child\"; echo $$ > \"$0.pid\"; wait; echo 17");
    let job = Job::new(&slow);
    job.data("pgdata", "old");
    let stop = CancellationToken::new();
    let volume = Volume::new(&job.root());
    let pid_file = job.dir.path().join("pg_basebackup.pid");
    let stopper = async {
        while !fs::read_to_string(&pid_file).is_ok_and(|text| text.ends_with('\n')) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(recover(&job.args, &job.setting, &volume, &stop), stopper);
    assert!(matches!(ended, Err(RecoverError::Stopped)), "{ended:?}");
    for file in ["pg_basebackup.pid", "pg_basebackup.child"] {
        let pid = fs::read_to_string(job.dir.path().join(file)).unwrap();
        // The grandchild was sent the signal with its parent, but nobody here waits for it: it dies when it is
        // given its turn.
        let stat = format!("/proc/{}/stat", pid.trim());
        let dead = async {
            while fs::read_to_string(&stat).is_ok_and(|state| !state.contains(" Z ")) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(60), dead).await.is_ok(), "{file} lives on");
    }
    assert_eq!((job.folders(), job.holds("pgdata").as_deref()), (vec!["pgdata".into()], Some("old")));
}

#[test]
fn the_key_is_for_nobody_else() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        fs::write(from.path().join(name), name).unwrap();
    }
    let target = to.path().join("recovery-tls");
    for _ in 0..2 {
        private_copy(from.path(), &target).unwrap();
        let key = target.join("tls.key");
        assert_eq!(fs::read_to_string(&key).unwrap(), "tls.key");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
