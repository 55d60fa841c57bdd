//! One page, and typing its commands.
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::harness::{Failure, Outcome, ensure, failed};
use crate::pages;
use crate::world::{POOL, SPACE, call, until};

/// What most commands leave open.
const USUAL: [(&str, &str); 2] = [("NS", SPACE), ("POOL", POOL)];
/// Time for an answer by a port that has just been forwarded.
const ANSWERED: Duration = Duration::from_secs(30);

/// A runbook.
pub struct Page {
    name: &'static str,
    /// All of it in one line.
    text: String,
    commands: Vec<String>,
}

impl Page {
    /// Reads it.
    pub fn open(name: &'static str) -> Outcome<Self> {
        let text = pages::page(name).map_err(Failure)?;
        Ok(Self { name, commands: pages::commands(&text), text: pages::in_one_line(&text) })
    }

    /// Fails where the page hasn't these words: what is seen is compared with what it says.
    pub fn says(&self, words: &str) -> Outcome {
        ensure(self.text.contains(words), || format!("{} doesn't say {words:?}", self.name))
    }

    /// The one command with these words, and with the values of what it leaves open. The usual ones stand behind.
    fn command(&self, words: &str, values: &[(&str, &str)]) -> Outcome<String> {
        let mut found: Vec<&String> =
            self.commands.iter().filter(|command| command.contains(words)).collect();
        found.dedup();
        let [command] = found[..] else {
            return failed(format!("{}: which command has {words:?}? {found:?}", self.name));
        };
        pages::filled(command, &[values, &USUAL[..]].concat()).map_err(Failure)
    }

    /// Types it; gives what it printed.
    pub async fn types(&self, words: &str, values: &[(&str, &str)]) -> Outcome<String> {
        let command = self.command(words, values)?;
        call("bash", &["-o", "pipefail", "-c", &command], None).await
    }

    /// Types one that forwards a port and goes on beside the next, as its `&` says, and then that one; gives what it printed.
    pub async fn asks(&self, forward: &str, ask: &str, values: &[(&str, &str)]) -> Outcome<String> {
        let forward = self.command(forward, values)?;
        // It shall be kubectl that is ended, and not a shell in front of it.
        let alone = format!("exec {}", forward.trim_end_matches([' ', '&']));
        let mut shell = Command::new("bash");
        shell.arg("-c").arg(alone).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut running = shell.kill_on_drop(true).spawn()?;
        let said = until("an answer by the forwarded port", ANSWERED, || self.types(ask, values)).await;
        // It may have ended by itself.
        let _ = running.kill().await;
        said
    }
}
