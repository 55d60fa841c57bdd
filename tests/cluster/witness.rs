//! Somebody who reads by the front of one machine, in sessions that last and in new ones, whatever happens to that machine.
use serde_json::json;

use super::harness::{Failure, Outcome, ensure};
use super::install::{IMAGE, as_app, authority, locked, login};
use super::machines::front_on;
use super::pool::WHOLE;
use super::sessions::client;
use super::world::{POOL, SPACE, World, until};

const POD: &str = "witness";
/// The sessions that last: enough for some at every node, since a front spreads them beside those of the load.
const SESSIONS: usize = 9;
/// What it reads, once more and more of it was written elsewhere, and what it writes down: when it asked, in milliseconds, and
/// the answer. psql asks the clock just before it sends the question.
const ASK: [&str; 2] = [r"\set asked `date +%s%3N`", "SELECT :asked, count(*) FROM witnessed;"];
/// A row that it has to see from then on.
const WRITE: &str = "INSERT INTO witnessed DEFAULT VALUES";

/// The pod that reads.
pub struct Witness;

/// Now, in milliseconds, by the clock that all machines have.
pub fn now() -> u64 {
    u64::try_from(pgpool_operator::clock::timestamp().as_millisecond()).unwrap_or_default()
}

/// An answer: when it was asked for, and how many rows it tells of.
type Answer = (u64, u64);

impl Witness {
    /// Starts it on this machine, by the front there.
    pub async fn beside(world: &World, machine: &str) -> Outcome<Self> {
        // A machine that was lost a moment ago may still be listed as one with a front.
        until("an empty table", WHOLE, || async {
            as_app(world, POOL, "CREATE TABLE IF NOT EXISTS witnessed (); TRUNCATE witnessed").await.map(drop)
        })
        .await?;
        world.here(&["delete", "pod", POD, "--ignore-not-found"]).await?;
        let front = front_on(world, machine).await?;
        let [set, select] = ASK;
        let script = format!(
            "export PGCONNECT_TIMEOUT=2; \
             ask() {{ psql -XAtqF ' ' 'host={POOL}-ro hostaddr={front} sslmode=verify-full'; }}; \
             lines() {{ printf '%s\\n' '{set}' '{select}'; }}; \
             for n in $(seq {SESSIONS}); do \
               (while sleep 0.2; do (while sleep 0.25 && lines; do :; done) | ask; done) & \
             done; \
             while sleep 0.1; do lines | ask; done"
        );
        let container = json!({
            "name": "reader", "image": IMAGE, "command": ["bash", "-c", script], "securityContext": locked(),
            "env": login(POOL), "volumeMounts": [{"name": "ca", "mountPath": "/ca"}],
        });
        world
            .apply(&json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": POD, "namespace": SPACE},
                "spec": {
                    "nodeName": machine, "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
                    "securityContext": {
                        "runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [container], "volumes": [authority(POOL)],
                },
            }))
            .await?;
        until("the witness to read", WHOLE, || async {
            let answers = said(world).await?;
            ensure(answers.len() > 10 * SESSIONS, || format!("{} answers", answers.len()))
        })
        .await?;
        Ok(Self)
    }

    /// Writes a row as the application does; gives the moment, in milliseconds, from which it has to be seen.
    pub async fn write(&self, world: &World) -> Outcome<u64> {
        until("a row to be written", WHOLE, || async {
            let write = format!("psql -XAtqc '{WRITE}' 'host={POOL} connect_timeout=5' && date +%s%3N");
            Ok(client(world, &write).await?.parse()?)
        })
        .await
    }

    /// The same on a node itself, whoever else reaches it.
    pub async fn write_on(&self, world: &World, node: u8) -> Outcome<u64> {
        let write = format!("psql -XAtqd app -c '{WRITE}' && date +%s%3N");
        Ok(world.shell(node, &write).await?.parse()?)
    }

    /// It was still answered after the `cut`, was told nothing old that it asked for once the row was `written`, and sees the
    /// row in the end. All in milliseconds.
    pub async fn judge(&self, world: &World, cut: u64, written: u64) -> Outcome {
        let answers = until("the witness to see the row", WHOLE, || async {
            let answers = said(world).await?;
            ensure(answers.iter().any(|(asked, rows)| *asked > written && *rows > 0), || {
                format!("{:?}", answers.last())
            })?;
            Ok(answers)
        })
        .await?;
        world.here(&["delete", "pod", POD, "--wait=false"]).await?;
        let between = answers.iter().filter(|(asked, _)| (cut..written).contains(asked)).count();
        let last = answers.iter().filter(|(_, rows)| *rows == 0).map(|(asked, _)| *asked).max();
        let last = last.unwrap_or_default();
        println!(
            "    of {} answers {between} between the cut and the row, {} ms later; the last without it asked for {} ms \
             before the row",
            answers.len(),
            written.saturating_sub(cut),
            written.saturating_sub(last),
        );
        ensure(between > 0, || format!("no answer between the cut at {cut} and the row at {written}"))?;
        ensure(last <= written, || format!("an old answer, asked for {} ms after the row", last - written))
    }
}

/// What it has read.
async fn said(world: &World) -> Outcome<Vec<Answer>> {
    let text = world.here(&["logs", POD]).await?;
    let line = |line: &str| {
        let (asked, rows) = line.split_once(' ')?;
        Some((asked.parse().ok()?, rows.trim().parse().ok()?))
    };
    let answers: Vec<Answer> = text.lines().filter_map(line).collect();
    if answers.is_empty() { Err(Failure(format!("it says {text:?}"))) } else { Ok(answers) }
}
