//! Memory of idle sessions: logged in, with one statement answered, and nothing more asked.

use std::process::{Child, Stdio};
use std::time::Duration;

use super::process::Memory;
use super::stage::Stage;
use super::way::Way;
use crate::error::{Error, Result};
use crate::progress::until_every;
use crate::run;

/// How long all may take to come, or to go: PgBouncer was seen to begin two or three sessions a second at its server.
const LIMIT: Duration = Duration::from_secs(900);
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Memory before anybody came, and with all sessions.
#[derive(Debug, Clone, Copy)]
pub struct Idle {
    /// The way.
    pub way: Way,
    /// Whether the client's side has TLS.
    pub tls: bool,
    /// Without a session; one had come and gone.
    pub before: Memory,
    /// With all.
    pub with: Memory,
    /// How many.
    pub sessions: u32,
}

impl Idle {
    /// KiB (PSS) that a session adds.
    pub fn added(&self) -> f64 {
        (self.with.pss - self.before.pss) / f64::from(self.sessions)
    }

    /// KiB (PSS) of the whole program for each session: what has been there before anybody came is in it.
    pub fn whole(&self) -> f64 {
        self.with.pss / f64::from(self.sessions)
    }
}

/// Measures a way, whose program is started anew for it.
pub fn idle(stage: &mut Stage<'_>, way: Way, tls: bool, sessions: u32) -> Result<Option<Idle>> {
    stage.renew(way, sessions)?;
    stage.reach(way, tls)?;
    let memory = |stage: &Stage<'_>| stage.processes(way)?.map(|all| all.memory()).transpose();
    let Some(before) = memory(stage)? else { return Ok(None) };
    let mut crowd = start(stage, way, tls, sessions)?;
    let came = until_every(LOOK, &format!("{sessions} idle sessions"), LIMIT, || {
        let here = stage.idle_sessions()?;
        Ok(if here >= sessions { Ok(()) } else { Err(format!("{here} are there")) })
    });
    let with = came.and_then(|()| memory(stage));
    // It ends with its client, or when its own time is over.
    let ended = run::captured(&mut stage.at_client("kill \"$(cat /run/bench/crowd)\"")?);
    if ended.is_err() {
        let _ = crowd.kill();
    }
    let said = crowd.wait_with_output();
    let with = with.inspect_err(|_| {
        if let Ok(said) = &said {
            crate::progress::say(String::from_utf8_lossy(&said.stdout).trim());
        }
    })?;
    Ok(with.map(|with| Idle { way, tls, before, with, sessions }))
}

/// pgbench, each client of which asks once and then sleeps.
fn start(stage: &Stage<'_>, way: Way, tls: bool, sessions: u32) -> Result<Child> {
    let text = format!(
        "ulimit -n \"$(ulimit -Hn)\"; printf '{ASKED}\\n\\\\sleep 3600 s\\n' >/run/bench/once.sql; \
         pgbench --no-vacuum -f /run/bench/once.sql -c {sessions} -j 2 -T 3600 '{}' >/dev/null 2>/run/bench/said & \
         echo $! >/run/bench/crowd; wait; tail -n 3 /run/bench/said",
        stage.conninfo(way, tls),
        ASKED = super::stage::ASKED,
    );
    let mut crowd = stage.at_client(&text)?;
    crowd.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    crowd.spawn().map_err(|source| Error::Start { command: run::shown(&crowd), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_costs_what_it_adds() {
        let memory = |pss| Memory { pss, ..Memory::default() };
        let idle =
            Idle { way: Way::Front, tls: true, before: memory(5000.0), with: memory(7000.0), sessions: 1000 };
        assert!((idle.added() - 2.0).abs() < 1e-9 && (idle.whole() - 7.0).abs() < 1e-9);
    }
}
