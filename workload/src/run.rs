//! `prepare`, `write`, `run` and `read`: starting the tasks, stopping them, the summary.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use rand::Rng;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cli::{ConnectArgs, PrepareArgs, ReadArgs, ReaderArgs, RunArgs, UntilArgs, WriteArgs, millis};
use crate::clock::Clock;
use crate::db::failure::{Failure, Outcome};
use crate::db::{ConnectError, Session, Target};
use crate::error::WorkloadError;
use crate::history::id::Id;
use crate::history::stats::{Stats, Summary};
use crate::history::{Acked, History};
use crate::journal::{self, Journal, Line};
use crate::ops::{Action, schema};
use crate::registers::client;
use crate::shared::Shared;
use crate::{control, print, reader, writer};

/// How long preparing may wait for a server that isn't there yet.
const PREPARE_WITHIN: Duration = Duration::from_secs(60);

/// Pause between two attempts at it.
const PREPARE_EVERY: Duration = Duration::from_millis(200);

/// Orders of the clients of registers, and those clients.
type RegisterOrders = (Arc<client::Orders>, Vec<(client::Part, Target)>);

/// How often the file of `--until-file` is looked for.
const LOOK_FOR_FILE: Duration = Duration::from_millis(200);

/// Creates the schema.
pub async fn prepare(args: &PrepareArgs) -> Result<(), WorkloadError> {
    let target = args.connect.target(&args.write_host)?;
    prepare_at(&target, async |session| schema::prepare(session, args.accounts).await).await
}

async fn prepare_at(
    target: &Target,
    work: impl AsyncFn(&Session) -> Result<(), tokio_postgres::Error>,
) -> Result<(), WorkloadError> {
    let mut last = None;
    let preparing = async {
        loop {
            match target.connect().await {
                Ok(session) => return work(&session).await,
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(PREPARE_EVERY).await;
        }
    };
    match tokio::time::timeout(PREPARE_WITHIN, preparing).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(WorkloadError::Statement {
            target: target.name.clone(),
            what: "creating schema workload",
            reason: Failure::from(&error).message,
        }),
        Err(_) => Err(last
            .unwrap_or_else(|| ConnectError { target: target.name.clone(), failure: Failure::timeout() })
            .into()),
    }
}

/// Writes, and reads too if `reading` is given. True if something was acknowledged and nothing read was stale.
pub async fn run(args: &WriteArgs, reading: Option<&RunArgs>) -> Result<bool, WorkloadError> {
    let target = args.connect.target(&args.write_host)?;
    let run = Id(rand::rng().random());
    let readers = match reading {
        Some(args) => reader_orders(&args.write.connect, &args.readers, &args.read_host, run)?,
        None => Vec::new(),
    };
    let mut signals = Signals::new()?;
    if args.prepare {
        prepare_at(&target, async |session| schema::prepare(session, args.accounts).await).await?;
    }
    let registers = reading.map(|args| register_orders(args, run)).transpose()?.flatten();
    if let Some((orders, _)) = &registers {
        let count = orders.registers;
        prepare_at(&target, async |session| schema::registers(session, run, count).await).await?;
    }
    let shared = begin(args, run)?;
    let (finished, is_finished) = watch::channel(false);
    let mut serving = JoinSet::new();
    if let Some(port) = args.control.control {
        let listener = listen(port).await?;
        serving.spawn(control::serve(listener, Arc::clone(&shared), is_finished));
    }
    let _watching = watch_for_end(&shared, &args.until);
    let mut tasks = JoinSet::new();
    let orders = Arc::new(writer::Orders {
        run,
        target,
        sizes: args.sizes(),
        timeout: millis(args.write_timeout_ms),
        pause: millis(args.write_pause_ms),
        budget: AtomicU64::new(args.max_writes),
    });
    for number in 0..args.writers {
        tasks.spawn(writer::run(Arc::clone(&shared), Arc::clone(&orders), number));
    }
    let mut reading = spawn_readers(&shared, readers);
    if let Some((orders, clients)) = registers {
        client::spawn(&mut reading, &shared, &orders, clients);
    }
    finish(&shared, &mut signals, &mut tasks).await?;
    shared.stop();
    finish(&shared, &mut signals, &mut reading).await?;
    let writes = shared.stats().writes();
    shared.note(&Line::End(writes));
    finished.send_replace(true);
    let good = conclude(&shared)?;
    if args.control.keep_serving {
        eprintln!("finished; serving the summary and the journal until SIGTERM");
        signals.next().await;
    }
    Ok(good)
}

/// Looks for the writes of a finished journal.
pub async fn read(args: &ReadArgs) -> Result<bool, WorkloadError> {
    let mut endpoints = args.nodes.clone();
    endpoints.extend(args.service.clone());
    let run = Id(rand::rng().random());
    let orders = reader_orders(&args.connect, &args.readers, &endpoints, run)?;
    let mut signals = Signals::new()?;
    let clock = Clock::start();
    let shared = Arc::new(Shared::new(clock, Stats::new(run, clock.mono()), None));
    load(&args.journal, &mut shared.history())?;
    let _watching = watch_for_end(&shared, &args.until);
    let mut reading = spawn_readers(&shared, orders);
    finish(&shared, &mut signals, &mut reading).await?;
    let summary = shared.summary(true);
    print_summary(&summary)?;
    Ok(summary.reads.stale == 0 && summary.reads.fresh > 0)
}

/// Increments are left out: their counters belong to runs, of which a journal may hold several.
fn load(path: &std::path::Path, history: &mut History) -> Result<(), WorkloadError> {
    let mut rng = rand::rng();
    journal::read(path, |line| {
        if let Line::Write(entry) = line
            && entry.outcome == Outcome::Acked
            && !matches!(entry.action, Action::Increment { .. })
        {
            // Acknowledged before this process began, so at its time zero at the latest.
            history.acked(Acked { id: entry.id, action: entry.action, since_us: 0 }, &mut rng);
        }
    })?;
    Ok(())
}

fn begin(args: &WriteArgs, run: Id) -> Result<Arc<Shared>, WorkloadError> {
    let clock = Clock::start();
    let journal: Option<(PathBuf, Journal)> = match &args.journal {
        Some(path) => {
            let mut journal = Journal::append_to(path)?;
            journal.write(&Line::Start { run, writers: args.writers, wall_us: Clock::wall() })?;
            Some((path.clone(), journal))
        }
        None => None,
    };
    Ok(Arc::new(Shared::new(clock, Stats::new(run, clock.mono()), journal)))
}

fn reader_orders(
    connect: &ConnectArgs,
    args: &ReaderArgs,
    endpoints: &[String],
    run: Id,
) -> Result<Vec<Arc<reader::Orders>>, WorkloadError> {
    let orders = |endpoint: &String| {
        Ok(Arc::new(reader::Orders {
            run,
            target: connect.target(endpoint)?,
            timeout: millis(args.read_timeout_ms),
            pause: millis(args.read_pause_ms),
            session_reads: args.session_reads,
        }))
    };
    let each: Result<Vec<_>, WorkloadError> = endpoints.iter().map(orders).collect();
    let copies = args.readers as usize;
    Ok(each?.into_iter().flat_map(|orders| std::iter::repeat_n(orders, copies)).collect())
}

/// What the clients of the registers have in common, and each of them; none if no registers are asked for.
fn register_orders(args: &RunArgs, run: Id) -> Result<Option<RegisterOrders>, WorkloadError> {
    let record = &args.record;
    if record.registers == 0 {
        return Ok(None);
    }
    let endpoint = |endpoint: &String| args.write.connect.target(endpoint);
    let primary = endpoint(&args.write.write_host)?;
    let mut clients = vec![(client::Part::Writer, primary.clone()); record.register_writers as usize];
    let others = args.read_host.iter().filter(|host| **host != args.write.write_host);
    for target in std::iter::once(Ok(primary)).chain(others.map(endpoint)) {
        let reader = (client::Part::Reader, target?);
        clients.extend(std::iter::repeat_n(reader, record.register_readers as usize));
    }
    let orders = client::Orders {
        run,
        registers: record.registers,
        beat: millis(record.register_beat_ms),
        timeout: millis(args.write.write_timeout_ms),
        session_reads: args.readers.session_reads,
        budget: AtomicU64::new(record.register_operations),
        value: AtomicU64::new(0),
    };
    Ok(Some((Arc::new(orders), clients)))
}

fn spawn_readers(shared: &Arc<Shared>, orders: Vec<Arc<reader::Orders>>) -> JoinSet<()> {
    orders.into_iter().map(|orders| reader::run(Arc::clone(shared), orders)).collect()
}

async fn listen(port: u16) -> Result<TcpListener, WorkloadError> {
    let failed = |source| WorkloadError::Io { what: format!("control port {port}"), source };
    let listener = TcpListener::bind(("0.0.0.0", port)).await.map_err(failed)?;
    eprintln!("control port {}", listener.local_addr().map_err(failed)?.port());
    Ok(listener)
}

/// Stops the run when its time is over or its file appears; dropped, it watches no more.
fn watch_for_end(shared: &Arc<Shared>, until: &UntilArgs) -> JoinSet<()> {
    let mut watching = JoinSet::new();
    if let Some(seconds) = until.seconds {
        let shared = Arc::clone(shared);
        watching.spawn(async move {
            shared.pause(Duration::from_secs(seconds)).await;
            shared.stop();
        });
    }
    if let Some(path) = until.until_file.clone() {
        let shared = Arc::clone(shared);
        watching.spawn(async move {
            while !shared.stopping() && !tokio::fs::try_exists(&path).await.unwrap_or(false) {
                shared.pause(LOOK_FOR_FILE).await;
            }
            shared.stop();
        });
    }
    watching
}

/// Waits for all tasks, showing progress and passing a signal on.
async fn finish(
    shared: &Shared,
    signals: &mut Signals,
    tasks: &mut JoinSet<()>,
) -> Result<(), WorkloadError> {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.tick().await;
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                Some(ended) => ended?,
                None => return Ok(()),
            },
            () = signals.next() => shared.stop(),
            _ = tick.tick() => eprintln!("{}", shared.stats().progress(shared.clock.mono())),
        }
    }
}

fn conclude(shared: &Shared) -> Result<bool, WorkloadError> {
    let summary = shared.summary(true);
    print_summary(&summary)?;
    match shared.journal_error() {
        Some(error) => Err(error.into()),
        None => Ok(summary.reads.stale == 0 && summary.writes.acked > 0),
    }
}

fn print_summary(summary: &Summary) -> Result<(), WorkloadError> {
    let mut text = serde_json::to_vec_pretty(summary)?;
    text.push(b'\n');
    print(&text)
}

/// SIGTERM and SIGINT.
struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    fn new() -> Result<Self, WorkloadError> {
        let failed = |source| WorkloadError::Io { what: "signal handler".to_owned(), source };
        Ok(Self {
            term: signal(SignalKind::terminate()).map_err(failed)?,
            int: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}
