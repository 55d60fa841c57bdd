//! What clients notice, and don't, of what happens behind the front.
use kube::ResourceExt as _;
use pgpool_operator::names;

use super::failover::{primary, standby, taken_over};
use super::harness::{Failure, Outcome, ensure, failed};
use super::install::as_app;
use super::load;
use super::pool::WHOLE;
use super::processes::first_of;
use super::sessions::client;
use super::world::{POOL, World, call, until};

/// Inserts of one session, each a transaction of its own, that go on through a switchover.
const INSERTS: u32 = 400;
/// Cancel requests; each comes to any of the two fronts.
const CANCELS: u32 = 8;

/// Opens a session that says something, and goes on once `/tmp/NAME.go` is written.
pub async fn open(world: &World, name: &str, first: &str, then: &str) -> Outcome {
    open_at(world, "", name, first, then).await
}

/// The same at a host with this address, if one is given.
async fn open_at(world: &World, address: &str, name: &str, first: &str, then: &str) -> Outcome {
    let script = format!(
        "cd /tmp; rm -f {name}.go {name}.said; mkfifo {name}.go; \
         {{ (echo \"{first}\"; cat {name}.go; echo \"{then}\") \
         | psql -XAtq \"host={POOL} hostaddr='{address}' sslmode=verify-full\"; }} \
         >{name}.said 2>&1 </dev/null &"
    );
    client(world, &script).await?;
    until("the session's first word", WHOLE, || async {
        let said = client(world, &format!("cat /tmp/{name}.said")).await?;
        ensure(said.ends_with("ready"), || said.clone())
    })
    .await
}

/// Lets it go on.
pub async fn let_go(world: &World, name: &str) -> Outcome {
    client(world, &format!("timeout 5 bash -c 'true > /tmp/{name}.go'")).await.map(drop)
}

/// Waits for what it says then.
pub async fn says(world: &World, name: &str, wanted: &str) -> Outcome<String> {
    until(&format!("{name} to go on"), WHOLE, || async {
        let said = client(world, &format!("cat /tmp/{name}.said")).await?;
        ensure(said.contains(wanted), || said.clone())?;
        Ok(said)
    })
    .await
}

/// A switchover ends no session that has nothing at its node: one that is idle, one in a transaction that ends in time, and
/// one that inserts without a pause, go on at the next primary. One with settings of its own is told why it can't.
pub async fn switchover_unnoticed(world: &World) -> Outcome {
    let (old, to) = (primary(world).await?, standby(world).await?);
    as_app(world, POOL, "CREATE TABLE IF NOT EXISTS ticks (n int)").await?;
    let moved = "SELECT 'moved' WHERE NOT pg_is_in_recovery();";
    open(world, "bare", "SELECT 'ready';", moved).await?;
    let busy = format!("SELECT pg_sleep(1); COMMIT; {moved}");
    open(world, "busy", "BEGIN; SELECT 'ready';", &busy).await?;
    open(world, "keeping", "SET work_mem = '5MB'; SELECT 'ready';", moved).await?;
    let inserts = format!(
        "cd /tmp; {{ (for n in $(seq {INSERTS}); do echo \"INSERT INTO ticks VALUES ($n);\"; sleep 0.02; done; \
         echo \"SELECT 'done ' || count(*) || ' ' || count(DISTINCT n) FROM ticks;\") \
         | psql -XAtq 'host={POOL} sslmode=verify-full'; }} >ticks.said 2>&1 </dev/null &"
    );
    client(world, &inserts).await?;
    until("the first insert", WHOLE, || async {
        let said = as_app(world, POOL, "SELECT count(*) > 0 FROM ticks").await?;
        ensure(said == "t", || said.clone())
    })
    .await?;
    let_go(world, "busy").await?;
    world.ask_for("switchover", &to.to_string()).await?;
    taken_over(world, old).await?;
    for name in ["bare", "keeping"] {
        let_go(world, name).await?;
    }
    for name in ["bare", "busy"] {
        says(world, name, "moved").await?;
    }
    let told = says(world, "keeping", "HINT").await?;
    println!(
        "    one with settings: {}",
        told.lines().filter(|line| line.contains("HINT")).collect::<String>()
    );
    ensure(told.contains("settings of its own"), || told.clone())?;
    let said = until("the last insert", WHOLE, || async {
        let said = client(world, "cat /tmp/ticks.said").await?;
        ensure(said.contains("done"), || said.clone())?;
        Ok(said)
    })
    .await?;
    ensure(said == format!("done {INSERTS} {INSERTS}"), || said.clone())?;
    as_app(world, POOL, "DROP TABLE ticks").await?;
    load::unharmed(world).await
}

/// Less than the promise can't be had: the statement fails, and so does its transaction; the session goes on.
pub async fn promise_kept(world: &World) -> Outcome {
    for set in ["SET synchronous_commit = off", "BEGIN; SET LOCAL synchronous_commit TO local; COMMIT"] {
        match as_app(world, POOL, set).await {
            Err(Failure(said)) if said.contains("synchronous_commit belongs to the pool") => {}
            other => return failed(format!("{set}: {other:?}")),
        }
    }
    let script = format!(
        "echo \"SET synchronous_commit = off; SHOW synchronous_commit;\" | psql -XAtq 'host={POOL} \
         sslmode=verify-full' 2>/dev/null"
    );
    let said = client(world, &script).await?;
    ensure(said == "remote_apply", || format!("after that it is {said}"))
}

/// A cancel request ends the statement of its session and no other's, whichever front it comes to.
pub async fn cancelled(world: &World) -> Outcome {
    let script = format!(
        "export TARGET='host={POOL} sslmode=verify-full'; cd /tmp; \
         psql -XAtq \"$TARGET\" -c \"SELECT pg_sleep(60), 'bystander'\" >other.said 2>&1 & other=$!; \
         for n in $(seq {CANCELS}); do \
           psql -XAtq \"$TARGET\" -c \"SELECT pg_sleep(50), 'turn $n'\" >cancel.said 2>&1 & asked=$!; \
           until psql -XAtq \"$TARGET\" -c \"SELECT 'busy' FROM pg_stat_activity WHERE query LIKE '%''turn $n''' \
             AND state = 'active'\" | grep -q busy; do :; done; \
           kill -INT $asked; wait $asked; \
           grep -q 'canceling statement due to user request' cancel.said || {{ cat cancel.said; exit 1; }}; \
         done; \
         kill -0 $other && test ! -s other.said && kill $other && echo all"
    );
    let said = client(world, &format!("timeout 60 bash -c {}", quoted(&script))).await?;
    ensure(said == "all", || format!("{CANCELS} requests: {said}"))
}

/// A statement that goes on to its end though it was cancelled is answered once all nodes have what it did: its success is told
/// behind a barrier. PostgreSQL before 18 signals the process and then its group, so that one request may be noticed twice
/// (`signal_child` in postmaster.c): the statement lies in wait for the second.
pub async fn proved(world: &World) -> Outcome {
    let before = barriers(world).await?;
    let stubborn = "BEGIN PERFORM pg_sleep(50); EXCEPTION WHEN query_canceled THEN \
         BEGIN PERFORM pg_sleep(1); EXCEPTION WHEN query_canceled THEN NULL; END; CREATE TABLE stubborn (); END";
    let script = format!(
        "export TARGET='host={POOL} sslmode=verify-full'; cd /tmp; \
         psql -XAt \"$TARGET\" -c 'DO $${stubborn}$$' >stubborn.said 2>&1 & asked=$!; \
         until psql -XAtq \"$TARGET\" -c \"SELECT 'busy' FROM pg_stat_activity WHERE query LIKE 'DO %' \
           AND state = 'active'\" | grep -q busy; do :; done; \
         kill -INT $asked; wait $asked; cat stubborn.said; \
         psql -XAtq \"$TARGET\" -c 'DROP TABLE stubborn'"
    );
    let said = client(world, &format!("timeout 60 bash -c {}", quoted(&script))).await?;
    ensure(said.lines().any(|line| line == "DO"), || said.clone())?;
    let after = barriers(world).await?;
    ensure(after > before, || format!("{before} barriers became {after}"))
}

/// How many barriers the fronts have made.
async fn barriers(world: &World) -> Outcome<f64> {
    Ok(figures(world, "pgpool_front_barriers_total").await?.iter().sum())
}

/// What the metrics of each front say, in the order of their pods: the sum of the lines that begin so.
pub async fn figures(world: &World, beginning: &str) -> Outcome<Vec<f64>> {
    let mut all = Vec::new();
    for pod in world.alive("proxy").await? {
        let ask = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{}; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3",
            names::HEALTH_PORT
        );
        let network = format!("--net=/proc/{}/ns/net", first_of(&pod)?);
        let told = call("nsenter", &[&network, "--", "bash", "-c", &ask], None).await?;
        ensure(told.contains("pgpool_front_"), || format!("{}: {told}", pod.name_any()))?;
        let figures = told.lines().filter(|line| line.starts_with(beginning));
        all.push(figures.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>());
    }
    Ok(all)
}

/// A front that is stopped serves what has begun for a while, ends what has nothing under way, tells both why, and what isn't done in
/// time too. The other front serves all along.
pub async fn drained(world: &World) -> Outcome {
    let front = world.alive("proxy").await?.into_iter().next();
    let front = front.ok_or_else(|| Failure("there is no front".to_owned()))?;
    let (name, address) = (front.name_any(), front.status.and_then(|status| status.pod_ip));
    let address = address.unwrap_or_default();
    open_at(world, &address, "resting", "SELECT 'ready';", "SELECT 1;").await?;
    let begun = "BEGIN; INSERT INTO drained VALUES (1); SELECT 'ready';";
    let busy = format!("CREATE TABLE drained (n int); {begun}");
    open_at(world, &address, "busy", &busy, "SELECT pg_sleep(10); COMMIT; SELECT 'more';").await?;
    open_at(world, &address, "waiting", begun, "COMMIT;").await?;
    open_at(world, &address, "stuck", "SELECT 'ready';", "SELECT pg_sleep(60);").await?;
    let_go(world, "stuck").await?;
    world.here(&["delete", "pod", &name, "--wait=false"]).await?;
    let_go(world, "busy").await?;
    let pod = format!("pod/{name}");
    let gone = ["wait", "--for=delete", &pod, "--timeout=60s"];
    let others = async {
        loop {
            if let Err(failure) = as_app(world, POOL, "SELECT 1").await {
                break failure;
            }
        }
    };
    tokio::select! {
        failure = others => return Err(failure),
        gone = world.here(&gone) => drop(gone?),
    }
    for name in ["resting", "waiting"] {
        let_go(world, name).await?;
    }
    let another = "another one is there";
    // Of a statement that was broken off it isn't known what became of it.
    for (name, hint) in [("busy", another), ("resting", another), ("waiting", another), ("stuck", "COMMIT")] {
        let told = says(world, name, "this front is being shut down").await?;
        ensure(told.contains(hint), || format!("{name}: {told}"))?;
    }
    let kept = as_app(world, POOL, "SELECT count(*) FROM drained").await?;
    ensure(kept == "1", || format!("{kept} rows of a transaction that ended and one that did not"))?;
    as_app(world, POOL, "DROP TABLE drained").await?;
    world.whole(WHOLE).await?;
    load::unharmed(world).await
}

/// For a shell.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
