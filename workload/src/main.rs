//! `pgpool-workload`: a writer and checker for a pool of PostgreSQL nodes that promises identical data.
//!
//! `run` writes (bank transfers, appends to lists, unique ids, counters), journals what was acknowledged, and
//! reads it back through other endpoints at the same time; `check` looks for all of it on every node afterwards
//! and compares the nodes row by row. `run` can also record every operation on some registers: `registers` and
//! xtask/linearizable judge that history.

mod check;
mod cli;
mod clock;
mod control;
mod db;
mod error;
mod history;
mod journal;
mod ops;
mod reader;
mod registers;
mod run;
mod shared;
mod stall;
mod writer;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use error::WorkloadError;

#[tokio::main]
async fn main() -> ExitCode {
    let command = Cli::parse().command;
    let result = match &command {
        Command::Prepare(args) => run::prepare(args).await.map(|()| true),
        Command::Write(args) => run::run(args, None).await,
        Command::Run(args) => run::run(&args.write, Some(args)).await,
        Command::Read(args) => run::read(args).await,
        Command::Check(args) => check::check(args).await,
        Command::Stall(args) => stall::run(args).await.map(|()| true),
        Command::Registers(args) => registers::report::report(args),
        Command::DumpSql => print(check::dump_sql::script().as_bytes()).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("pgpool-workload: {error}");
            ExitCode::from(if error.is_usage() { 2 } else { 1 })
        }
    }
}

/// Writes to standard output; unlike `println!` a closed pipe is an error and not a panic.
pub(crate) fn print(bytes: &[u8]) -> Result<(), WorkloadError> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|source| WorkloadError::Io { what: "standard output".to_owned(), source })
}
