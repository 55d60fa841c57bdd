//! The archive on a real file system, and between two nodes.
use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{restore_wal::fetch, *};
use crate::clock;
use crate::link::{Book, Client, LinkError, serve, testing::Authority};

const LIMIT: Duration = Duration::from_secs(5);

fn wal(name: &str) -> WalFile {
    WalFile::parse(name).unwrap()
}

fn segment(number: u64) -> WalFile {
    wal(&format!("00000001{number:016X}"))
}

struct Place {
    dir: TempDir,
    store: Store,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("volume/archive"));
        Self { dir, store }
    }

    fn archive(&self) -> PathBuf {
        self.dir.path().join("volume/archive")
    }

    fn source(&self, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join("source");
        fs::write(&path, content).unwrap();
        path
    }

    fn put(&self, file: &WalFile, content: &[u8]) -> Result<Put, ArchiveError> {
        self.store.put(&self.source(content), file, Timestamp::UNIX_EPOCH)
    }

    fn get(&self, file: &WalFile) -> Option<Vec<u8>> {
        let mut content = Vec::new();
        self.store.get(file).unwrap()?.read_to_end(&mut content).unwrap();
        Some(content)
    }

    fn path(&self, file: &WalFile) -> PathBuf {
        self.archive().join(file.folder()).join(format!("{}.lz4", file.name()))
    }

    /// Makes an archived file as old as the epoch plus so many seconds.
    fn date(&self, file: &WalFile, seconds: u64) {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        File::open(self.path(file)).unwrap().set_modified(at).unwrap();
    }
}

fn after(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
}

fn names(dropped: &[Dropped]) -> Vec<&str> {
    dropped.iter().map(|dropped| dropped.name.as_str()).collect()
}

#[test]
fn the_same_again_is_fine_and_anything_else_is_refused_and_noted() {
    let place = Place::new();
    let file = segment(5);
    assert_eq!(place.put(&file, b"one").unwrap(), Put::Stored(Vec::new()));
    assert_eq!(place.put(&file, b"one").unwrap(), Put::Known);
    for other in [b"two".as_slice(), b"on", b"one more", b""] {
        let error = place.put(&file, other).unwrap_err();
        assert!(matches!(error, ArchiveError::Conflict(_)), "{error}");
        assert_eq!(place.get(&file).unwrap(), b"one");
    }
    let noted = place.store.last_error().unwrap().unwrap();
    assert_eq!((noted.file.as_str(), noted.at), (file.name(), Timestamp::UNIX_EPOCH));
    assert!(noted.message.contains("other content"), "{}", noted.message);
    place.put(&segment(6), b"x").unwrap();
    assert_eq!(place.store.last_error().unwrap(), None, "the next success takes the note away");
    assert_eq!(place.store.usage().unwrap().files, 2);
}

#[test]
fn damage_is_noticed() {
    let place = Place::new();
    let file = segment(5);
    let content: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    place.put(&file, &content).unwrap();
    let whole = fs::read(place.path(&file)).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [&whole[..whole.len() - 1], &whole[..whole.len() / 2], &whole[..0], &flipped] {
        fs::write(place.path(&file), damaged).unwrap();
        let read = place.store.get(&file).map(|found| found.unwrap().read_to_end(&mut Vec::new()));
        assert!(!matches!(read, Ok(Ok(_))), "{} of {} bytes", damaged.len(), whole.len());
        let error = place.put(&file, &content).unwrap_err();
        assert!(matches!(error, ArchiveError::Damaged { .. } | ArchiveError::Conflict(_)), "{error}");
    }
}

#[test]
fn what_a_killed_process_left_is_no_hindrance() {
    let place = Place::new();
    let file = segment(5);
    place.put(&segment(4), b"four").unwrap();
    let unfinished = place.archive().join("00000001").join(format!(".{}.tmp", file.name()));
    fs::write(&unfinished, "half").unwrap();
    place.put(&file, b"five").unwrap();
    assert_eq!(place.get(&file).unwrap(), b"five");
    fs::write(&unfinished, "half").unwrap();
    place.store.prune(after(0)).unwrap();
    assert!(!unfinished.exists());
}

#[test]
fn a_full_disk_costs_the_oldest_file_and_not_the_new_one() {
    let place = Place::new();
    for number in 1..=3 {
        place.put(&segment(number), &[0; 100]).unwrap();
        place.date(&segment(number), number);
    }
    place.put(&wal("00000001.history"), b"history").unwrap();
    place.date(&wal("00000001.history"), 0);
    let new = segment(4);
    // Writing to this device fails as on a full disk; making room takes the unfinished file away.
    let unfinished = place.archive().join("00000001").join(format!(".{}.tmp", new.name()));
    std::os::unix::fs::symlink("/dev/full", unfinished).unwrap();
    let one = fs::metadata(place.path(&segment(1))).unwrap().len();
    let content = vec![7; usize::try_from(one).unwrap() / 2 + 1];
    let Put::Stored(dropped) = place.put(&new, &content).unwrap() else { panic!("it wasn't there") };
    assert_eq!(names(&dropped), [segment(1).name(), segment(2).name()]);
    assert_eq!(place.get(&new).unwrap(), content);
    assert!(place.get(&wal("00000001.history")).is_some());
}

#[test]
fn a_new_file_makes_room_for_itself() {
    let place = Place::new();
    for number in 1..=3 {
        place.put(&segment(number), &[0; 100]).unwrap();
        place.date(&segment(number), number);
    }
    let one = fs::metadata(place.path(&segment(1))).unwrap().len();
    let policy = Policy { max_bytes: Some(3 * one), ..Policy::default() };
    place.store.set_policy(&policy).unwrap();
    assert_eq!(place.store.policy().unwrap(), policy);
    let Put::Stored(dropped) = place.put(&segment(4), &[0; 100]).unwrap() else { panic!("it wasn't there") };
    assert_eq!(names(&dropped), [segment(1).name()]);
    assert_eq!(place.store.usage().unwrap().bytes, 3 * one);
}

#[test]
fn what_a_recovery_may_need_is_dropped_neither_by_the_agent_nor_for_the_next_file() {
    let place = Place::new();
    for number in 1..=3 {
        place.put(&segment(number), &[0; 100]).unwrap();
        place.date(&segment(number), 10 * number);
    }
    let one = fs::metadata(place.path(&segment(1))).unwrap().len();
    let policy = Policy { retention_seconds: Some(5), max_bytes: Some(2 * one), keep_since: Some(after(20)) };
    place.store.set_policy(&policy).unwrap();
    assert_eq!(place.store.policy().unwrap(), policy);
    // Where the tests' own volume is nearly full, it goes all the same.
    let ample = place.store.room().unwrap().is_ample();
    let expected: &[u64] = if ample { &[1] } else { &[1, 2, 3] };
    let expected: Vec<String> = expected.iter().map(|number| segment(*number).name().to_owned()).collect();
    assert_eq!(names(&place.store.prune(after(100)).unwrap()), expected);
    let now = clock::timestamp();
    let put = place.store.put(&place.source(&[0; 100]), &segment(4), now).unwrap();
    assert_eq!(put, Put::Stored(Vec::new()));
    assert!(place.get(&segment(4)).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn nothing_is_ever_overwritten(
        puts in prop::collection::vec((0u64..5, 0u8..3, any::<bool>()), 1..25),
        limit in 100u64..400,
    ) {
        let place = Place::new();
        let policy = Policy { max_bytes: Some(limit), ..Policy::default() };
        place.store.set_policy(&policy).unwrap();
        let mut model: BTreeMap<u64, u8> = BTreeMap::new();
        for (number, content, prune) in puts {
            let file = segment(number);
            let gone = match (place.put(&file, &[content; 64]), model.get(&number)) {
                (Ok(Put::Stored(dropped)), None) => {
                    model.insert(number, content);
                    dropped
                }
                (Ok(Put::Known), Some(former)) if *former == content => Vec::new(),
                (Err(ArchiveError::Conflict(_)), Some(former)) if *former != content => Vec::new(),
                (outcome, former) => panic!("{outcome:?}, before it {former:?}"),
            };
            let pruned = if prune { place.store.prune(after(0)).unwrap() } else { Vec::new() };
            for name in names(&gone).into_iter().chain(names(&pruned)) {
                model.retain(|number, _| segment(*number).name() != name);
            }
            for number in 0..5 {
                let expected = model.get(&number).map(|content| vec![*content; 64]);
                prop_assert_eq!(place.get(&segment(number)), expected);
            }
        }
    }

    #[test]
    fn pruning_takes_the_oldest_and_no_more_than_it_must(
        dates in prop::collection::vec(0u64..100, 0..10),
        retention in prop::option::of(0i64..100),
        room in prop::option::of(0u64..12),
    ) {
        let place = Place::new();
        for (number, date) in (0..).zip(&dates) {
            place.put(&segment(number), &[9; 64]).unwrap();
            place.date(&segment(number), *date);
        }
        place.put(&wal("00000001.history"), b"history").unwrap();
        place.date(&wal("00000001.history"), 0);
        let history = fs::metadata(place.path(&wal("00000001.history"))).unwrap().len();
        let one = (place.store.usage().unwrap().bytes - history) / (dates.len() as u64).max(1);
        let policy = Policy {
            retention_seconds: retention.map(|seconds| u64::try_from(seconds).unwrap()),
            max_bytes: room.map(|files| files * one + history),
            keep_since: None,
        };
        place.store.set_policy(&policy).unwrap();
        place.store.prune(after(100)).unwrap();

        let old = |date: u64| retention.is_some_and(|seconds| 100 - i64::try_from(date).unwrap() > seconds);
        let mut order: Vec<(u64, u64)> = (0..).zip(&dates).map(|(number, date)| (*date, number)).collect();
        order.sort_unstable();
        order.retain(|(date, _)| !old(*date));
        let over = room.map_or(0, |room| order.len().saturating_sub(usize::try_from(room).unwrap()));
        let mut kept: Vec<u64> = order[over..].iter().map(|(_, number)| *number).collect();
        kept.sort_unstable();
        let found: Vec<u64> = (0..10).filter(|number| place.get(&segment(*number)).is_some()).collect();
        prop_assert_eq!(found, kept);
        prop_assert!(place.get(&wal("00000001.history")).is_some(), "history files are kept");
    }
}

fn arguments(archive: &Path, name: &WalFile, to: &Path) -> RestoreArgs {
    RestoreArgs {
        lineage: archive.join("lineage.json"),
        count: archive.join("nodes.json"),
        name: name.name().to_owned(),
        to: to.to_owned(),
        archive: archive.to_owned(),
        pool: "rain".into(),
        namespace: "weather".into(),
        index: 0,
        nodes: 3,
    }
}

/// Where node 1 of the pool is.
const OTHER: &str = "rain-1-0.rain-nodes.weather.svc";

/// Serves an archive as that of node 1: where it is found, and what keeps it up.
async fn served(authority: &Authority, place: &Place) -> (Book, (DropGuard, TempDir)) {
    let (identity, dir) = authority.identity("u/node/1", &[OTHER]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let book = Book::Fixed(Arc::new(HashMap::from([(OTHER.to_owned(), listener.local_addr().unwrap())])));
    let stop = CancellationToken::new();
    let guard = stop.clone().drop_guard();
    tokio::spawn(serve(listener, identity, "u".into(), router(place.store.clone()), stop));
    (book, (guard, dir))
}

#[tokio::test]
async fn a_node_takes_wal_from_itself_or_from_another() {
    let (here, there) = (Place::new(), Place::new());
    let (mine, theirs, damaged) = (segment(1), segment(2), segment(3));
    let (content, other) = (vec![1; 1 << 20], vec![2; 1 << 20]);
    here.put(&mine, &content).unwrap();
    there.put(&theirs, &other).unwrap();
    there.put(&damaged, &other).unwrap();
    let file = fs::read(there.path(&damaged)).unwrap();
    fs::write(there.path(&damaged), &file[..file.len() / 2]).unwrap();

    let authority = Authority::new();
    let (book, _serving) = served(&authority, &there).await;
    let (identity, _client) = authority.identity("u/node/0", &[]);
    let client = Client::with_book(identity, book);

    let to = here.dir.path().join("RECOVERYXLOG");
    let get = |file: &WalFile| {
        let (args, client) = (arguments(&here.archive(), file, &to), client.clone());
        async move { fetch(&args, || Ok(client)).await }
    };
    get(&mine).await.unwrap();
    assert_eq!(fs::read(&to).unwrap(), content);
    get(&theirs).await.unwrap();
    assert_eq!(fs::read(&to).unwrap(), other);
    fs::remove_file(&to).unwrap();
    for missing in [&damaged, &segment(9)] {
        let error = get(missing).await.unwrap_err();
        assert!(matches!(error, ArchiveError::Missing { others: 2, .. }), "{error}");
        let left: Vec<_> = fs::read_dir(here.dir.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().contains("RECOVERYXLOG")), "{left:?}");
    }
}

#[tokio::test]
async fn a_node_finds_the_archive_of_one_that_came_after_its_own_start() {
    let (here, there) = (Place::new(), Place::new());
    let (file, content) = (segment(2), vec![2; 1 << 20]);
    there.put(&file, &content).unwrap();
    let authority = Authority::new();
    let (book, _serving) = served(&authority, &there).await;
    let (identity, _dir) = authority.identity("u/node/0", &[]);
    let client = Client::with_book(identity, book);
    let to = here.dir.path().join("RECOVERYXLOG");
    fs::create_dir_all(here.archive()).unwrap();
    // It was the only one then.
    let args = RestoreArgs { nodes: 1, ..arguments(&here.archive(), &file, &to) };
    let error = fetch(&args, || Ok(client.clone())).await.unwrap_err();
    assert!(matches!(error, ArchiveError::Missing { others: 0, .. }), "{error}");
    fs::write(&args.count, r#"{"nodes":2}"#).unwrap();
    fetch(&args, || Ok(client.clone())).await.unwrap();
    assert_eq!(fs::read(&to).unwrap(), content);
}

#[tokio::test]
async fn nodes_and_recovery_jobs_get_archived_wal_and_nobody_else() {
    let place = Place::new();
    let (file, content) = (segment(2), vec![2; 1 << 20]);
    place.put(&file, &content).unwrap();
    let authority = Authority::new();
    let (book, _serving) = served(&authority, &place).await;
    let (there, elsewhere) = (format!("/v1/wal/{}", file.name()), format!("/v1/wal/{}", segment(3).name()));
    let callers =
        [("node/0", true), ("node/7", true), ("recovery", true), ("proxy", false), ("operator", false)];
    for (caller, may) in callers {
        let (identity, _dir) = authority.identity(&format!("u/{caller}"), &[]);
        let (client, mut got) = (Client::with_book(identity, book.clone()), Vec::new());
        let answer = client.download(OTHER, 5480, &there, LIMIT, &mut got).await;
        if may {
            assert!(answer.is_ok() && got == content, "{caller}: {answer:?}");
        } else {
            assert!(matches!(answer, Err(LinkError::Status { status: 403, .. })), "{caller}: {answer:?}");
            assert!(got.is_empty(), "{caller}");
        }
        // Whoever gets none isn't told either which there is.
        let answer = client.download(OTHER, 5480, &elsewhere, LIMIT, &mut Vec::new()).await;
        let expected = if may { 404 } else { 403 };
        assert!(
            matches!(answer, Err(LinkError::Status { status, .. }) if status == expected),
            "{caller}: {answer:?}"
        );
    }
}
