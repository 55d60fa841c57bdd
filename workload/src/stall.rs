//! How long writes stand still: one client that commits without a pause and reconnects at once.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::time::timeout;

use crate::cli::ConnectArgs;
use crate::clock::{Clock, Micros};
use crate::db::Session;
use crate::db::failure::Failure;
use crate::error::WorkloadError;

/// Table that it writes to, one row.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS stall (id int PRIMARY KEY, n bigint NOT NULL);
                     INSERT INTO stall VALUES (1, 0) ON CONFLICT DO NOTHING";
/// One write, a transaction of its own.
const WRITE: &str = "UPDATE stall SET n = n + 1 WHERE id = 1";
/// Longest time for a write: an answer that never comes must not hide that others could write.
const WRITE_WITHIN: Duration = Duration::from_secs(60);
/// Longest time for a connection: one that leads to a machine that is gone is given up for another.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// Pause after a connection that was refused at once.
const AGAIN: Duration = Duration::from_millis(5);

/// Arguments of `stall`.
#[derive(Debug, Args)]
pub struct StallArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Endpoint to write by, HOST or HOST:PORT
    #[arg(long)]
    host: String,
    /// Gaps between two acknowledged writes that are at least this long are told, in milliseconds
    #[arg(long, default_value_t = 100)]
    least_ms: u64,
    /// End after so many seconds
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
}

/// Writes until the time is up; a line of JSON for each gap, with the moments of its ends in microseconds since
/// 1970 and what the client was told.
pub async fn run(args: &StallArgs) -> Result<(), WorkloadError> {
    let target = args.connect.target(&args.host)?;
    let clock = Clock::start();
    let end = args.seconds.saturating_mul(1_000_000);
    let mut meter = Meter { clock, last: None, least: args.least_ms.saturating_mul(1000), told: Vec::new() };
    let mut prepared = false;
    while clock.mono() < end {
        match timeout(CONNECT_WITHIN, target.connect()).await {
            Ok(Ok(session)) => {
                if !prepared {
                    prepared = session.client.batch_execute(TABLE).await.is_ok();
                }
                meter.write(&session, end).await?;
            }
            Ok(Err(error)) => {
                meter.told.push(words(&error.failure));
                tokio::time::sleep(AGAIN).await;
            }
            Err(_) => meter.told.push("no connection".to_owned()),
        }
    }
    Ok(())
}

struct Meter {
    clock: Clock,
    /// When the last write was acknowledged, on both clocks.
    last: Option<(Micros, Micros)>,
    least: Micros,
    told: Vec<String>,
}

impl Meter {
    /// Writes by one session until it breaks.
    async fn write(&mut self, session: &Session, end: Micros) -> Result<(), WorkloadError> {
        while self.clock.mono() < end {
            match timeout(WRITE_WITHIN, session.client.batch_execute(WRITE)).await {
                Ok(Ok(())) => self.acknowledged()?,
                Ok(Err(error)) => {
                    self.told.push(words(&Failure::from(&error)));
                    return Ok(());
                }
                Err(_) => {
                    self.told.push("no answer".to_owned());
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn acknowledged(&mut self) -> Result<(), WorkloadError> {
        let now = (self.clock.mono(), Clock::wall());
        let gap = self.last.map_or(0, |(mono, _)| now.0.saturating_sub(mono));
        if let Some((_, from)) = self.last.filter(|_| gap >= self.least) {
            self.told.dedup();
            let line = json!({ "stallMs": gap / 1000, "from": from, "to": now.1, "told": self.told });
            crate::print(format!("{line}\n").as_bytes())?;
        }
        self.told.clear();
        self.last = Some(now);
        Ok(())
    }
}

fn words(failure: &Failure) -> String {
    format!("{}: {}", failure.code, failure.message)
}
