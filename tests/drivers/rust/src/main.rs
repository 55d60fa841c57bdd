//! Tries tokio-postgres, and sqlx where it is built with that feature, through a connection that the environment names. Each case prints
//! a line of what it saw: by the front it has to be the same as at the primary itself.

mod flows;
mod logins;
mod session;
mod statements;
mod tls;
#[cfg(feature = "sqlx")]
mod with_sqlx;

use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use session::{Failure, Place};

const TOKIO: &str = "tokio-postgres";
/// Longest time for a case.
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> ExitCode {
    let place = match Place::of_environment() {
        Ok(place) => place,
        Err(failure) => {
            println!("FAILED {TOKIO}: {failure}");
            return ExitCode::FAILURE;
        }
    };
    let good = [
        check(TOKIO, "logins", logins::all(&place)).await,
        check(TOKIO, "session", logins::told(&place)).await,
        check(TOKIO, "prepared", statements::prepared(&place)).await,
        check(TOKIO, "transactions", statements::transactions(&place)).await,
        check(TOKIO, "errors", statements::errors(&place)).await,
        check(TOKIO, "notices", statements::notices(&place)).await,
        check(TOKIO, "copy", flows::copied(&place)).await,
        check(TOKIO, "large", flows::large(&place)).await,
        check(TOKIO, "pipeline", flows::pipelined(&place)).await,
        check(TOKIO, "portal", flows::fetched(&place)).await,
        check(TOKIO, "cancel", flows::cancelled(&place)).await,
        check(TOKIO, "notifications", flows::notified(&place)).await,
        check(TOKIO, "end", statements::end(&place)).await,
    ];
    #[cfg(feature = "sqlx")]
    let good = good.into_iter().chain(sqlx(&place).await);
    if good.into_iter().all(|good| good) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(feature = "sqlx")]
async fn sqlx(place: &Place) -> [bool; 11] {
    const SQLX: &str = "sqlx";
    [
        check(SQLX, "logins", with_sqlx::logins(place)).await,
        check(SQLX, "session", with_sqlx::session()).await,
        check(SQLX, "prepared", with_sqlx::prepared()).await,
        check(SQLX, "transactions", with_sqlx::transactions()).await,
        check(SQLX, "errors", with_sqlx::errors()).await,
        check(SQLX, "copy", with_sqlx::copied()).await,
        check(SQLX, "large", with_sqlx::large()).await,
        check(SQLX, "abandoned", with_sqlx::abandoned()).await,
        check(SQLX, "notifications", with_sqlx::notified()).await,
        check(SQLX, "pool", with_sqlx::pooled()).await,
        check(SQLX, "end", with_sqlx::end()).await,
    ]
}

async fn check(driver: &str, name: &str, work: impl Future<Output = Result<Value, Failure>>) -> bool {
    let failure = match tokio::time::timeout(LIMIT, work).await {
        Ok(Ok(saw)) => {
            println!("ok {driver} {name}: {saw}");
            return true;
        }
        Ok(Err(failure)) => failure.to_string(),
        Err(_) => format!("no end within {} s", LIMIT.as_secs()),
    };
    println!("FAILED {driver} {name}: {failure}");
    false
}
