//! Tries tokio-postgres through a connection that the environment names. Each case prints a line of what it saw: by the front
//! it has to be the same as at the primary itself.

mod flows;
mod logins;
mod session;
mod statements;
mod tls;

use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use session::{Failure, Place};

/// Longest time for a case.
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> ExitCode {
    let place = match Place::of_environment() {
        Ok(place) => place,
        Err(failure) => {
            println!("FAILED tokio-postgres: {failure}");
            return ExitCode::FAILURE;
        }
    };
    let good = [
        check("logins", logins::all(&place)).await,
        check("session", logins::told(&place)).await,
        check("prepared", statements::prepared(&place)).await,
        check("transactions", statements::transactions(&place)).await,
        check("errors", statements::errors(&place)).await,
        check("notices", statements::notices(&place)).await,
        check("copy", flows::copied(&place)).await,
        check("large", flows::large(&place)).await,
        check("pipeline", flows::pipelined(&place)).await,
        check("portal", flows::fetched(&place)).await,
        check("cancel", flows::cancelled(&place)).await,
        check("notifications", flows::notified(&place)).await,
        check("end", statements::end(&place)).await,
    ];
    if good.into_iter().all(|good| good) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn check(name: &str, work: impl Future<Output = Result<Value, Failure>>) -> bool {
    let failure = match tokio::time::timeout(LIMIT, work).await {
        Ok(Ok(saw)) => {
            println!("ok tokio-postgres {name}: {saw}");
            return true;
        }
        Ok(Err(failure)) => failure.to_string(),
        Err(_) => format!("no end within {} s", LIMIT.as_secs()),
    };
    println!("FAILED tokio-postgres {name}: {failure}");
    false
}
