//! Keeps services running; the heart of a machine's PID 1.

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

use super::init::Log;
use super::layout::BIN;
use super::services::Service;
use crate::clock::Stopwatch;
use crate::error::{Error, Result, refused};
use crate::run;

/// How long a service that ended stays down before it is started again.
const RESTART: Duration = Duration::from_millis(500);
/// How long the loop sleeps at most when nothing happens.
const IDLE: Duration = Duration::from_secs(3600);
/// Dead HTTP/2 connections of Kubernetes programs are found after 2 + 2 s instead of 30 + 15 s.
const PINGS: [(&str, &str); 2] =
    [("HTTP2_READ_IDLE_TIMEOUT_SECONDS", "2"), ("HTTP2_PING_TIMEOUT_SECONDS", "2")];
/// Programs in Go collect their garbage a third as often as they would: there is more memory than there are processors.
const GARBAGE: (&str, &str) = ("GOGC", "300");

/// What PID 1 wakes up for.
pub enum Event {
    /// A process ended: one of ours, or an orphan.
    Ended(Pid, String),
    /// Somebody wrote a line to our socket and waits for an answer.
    Order(String, UnixStream),
}

struct Slot {
    service: Service,
    pid: Option<Pid>,
    /// Stays down until it is started by an order.
    off: bool,
    /// Since when it has been down, if it ended.
    down: Option<Stopwatch>,
    /// Came by an order, not with the machine.
    added: bool,
}

/// All services of a machine.
pub struct Supervisor {
    slots: Vec<Slot>,
    log: Log,
    started: Sender<()>,
}

impl Supervisor {
    /// Takes the services, and starts to report ended processes.
    pub fn new(services: Vec<Service>, log: Log, events: Sender<Event>) -> Self {
        let (started, wake) = channel();
        thread::spawn(move || reap(&events, &wake));
        let slot = |service| Slot { service, pid: None, off: false, down: None, added: false };
        Self { slots: services.into_iter().map(slot).collect(), log, started }
    }

    /// Runs for ever.
    pub fn run(mut self, inbox: &Receiver<Event>) -> Result<()> {
        loop {
            let pause = self.start_due();
            match inbox.recv_timeout(pause) {
                Ok(Event::Ended(pid, how)) => self.ended(pid, &how),
                Ok(Event::Order(line, stream)) => self.answer(&line, stream),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return refused("nobody reports to PID 1 any more"),
            }
        }
    }

    /// Starts what is due, and gives the time until the next is.
    fn start_due(&mut self) -> Duration {
        let mut pause = IDLE;
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            if slot.off || slot.pid.is_some() {
                continue;
            }
            let rest = slot.down.map_or(Duration::ZERO, |since| RESTART.saturating_sub(since.elapsed()));
            if rest > Duration::ZERO {
                pause = pause.min(rest);
                continue;
            }
            match start(&slot.service) {
                Ok(pid) => {
                    self.slots[index].pid = Some(pid);
                    // The reaper outlives us: this cannot fail while we run.
                    let _ = self.started.send(());
                }
                Err(e) => {
                    self.log.line(&e.to_string());
                    self.slots[index].down = Some(Stopwatch::start());
                    pause = pause.min(RESTART);
                }
            }
        }
        pause
    }

    fn ended(&mut self, pid: Pid, how: &str) {
        if let Some(slot) = self.slots.iter_mut().find(|s| s.pid == Some(pid)) {
            slot.pid = None;
            slot.down = Some(Stopwatch::start());
            self.log.line(&format!("{} ended: {how}", slot.service.name));
        }
    }

    fn answer(&mut self, line: &str, mut stream: UnixStream) {
        self.log.line(&format!("order: {line}"));
        let text = match self.obey(line) {
            Ok(text) => text,
            Err(e) => format!("error: {e}"),
        };
        // Whoever asked may have gone; the order stands.
        let _ = writeln!(stream, "{text}");
    }

    fn obey(&mut self, line: &str) -> Result<String> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "status" => return Ok(self.status()),
            "run" => return self.add(rest),
            "heal" => return self.heal(),
            _ => {}
        }
        let Some(slot) = self.slots.iter_mut().find(|s| s.service.name == rest) else {
            let names: Vec<&str> = self.slots.iter().map(|s| s.service.name.as_str()).collect();
            return refused(format!("no service is called {rest:?} here: there are {}", names.join(", ")));
        };
        match verb {
            "start" => slot.off = false,
            "stop" => {
                slot.off = true;
                signal(slot, Signal::KILL)?;
            }
            "restart" => signal(slot, Signal::KILL)?,
            "freeze" => signal(slot, Signal::STOP)?,
            "thaw" => signal(slot, Signal::CONT)?,
            _ => return refused(format!("PID 1 does not know {verb:?}")),
        }
        Ok("ok".to_owned())
    }

    /// Adds a service, or replaces the one of that name: `run NAME PROGRAM ARGUMENTS`.
    fn add(&mut self, words: &str) -> Result<String> {
        let Some((name, command)) = words.split_once(' ') else {
            return refused("run needs a name and a program");
        };
        let service = Service::new(name, command);
        if let Some(slot) = self.slots.iter_mut().find(|s| s.service.name == name) {
            slot.service = service;
            slot.off = false;
            signal(slot, Signal::KILL)?;
        } else {
            self.slots.push(Slot { service, pid: None, off: false, down: None, added: true });
        }
        Ok("ok".to_owned())
    }

    /// Starts what was stopped, thaws what was frozen, and drops what was added.
    fn heal(&mut self) -> Result<String> {
        let (added, own): (Vec<Slot>, Vec<Slot>) = self.slots.drain(..).partition(|s| s.added);
        self.slots = own;
        for slot in &added {
            signal(slot, Signal::KILL)?;
        }
        for slot in &mut self.slots {
            slot.off = false;
            signal(slot, Signal::CONT)?;
        }
        Ok("ok".to_owned())
    }

    fn status(&self) -> String {
        let told = |slot: &Slot| {
            let state = match (slot.pid, slot.off) {
                (Some(pid), _) => format!("pid {}", pid.as_raw_nonzero()),
                (None, true) => "stopped".to_owned(),
                (None, false) => "restarting".to_owned(),
            };
            format!("{} {state}", slot.service.name)
        };
        self.slots.iter().map(told).collect::<Vec<_>>().join(", ")
    }
}

fn signal(slot: &Slot, signal: Signal) -> Result<()> {
    let Some(pid) = slot.pid else { return Ok(()) };
    match kill_process(pid, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(e) => refused(format!("cannot signal {}: {e}", slot.service.name)),
    }
}

fn start(service: &Service) -> Result<Pid> {
    let Some((program, args)) = service.command.split_first() else {
        return refused(format!("service {} has no program", service.name));
    };
    let path = format!("/var/log/{}.log", service.name);
    let mut command = run::command(program, args);
    let failed = |source| Error::Start { command: service.name.clone(), source };
    let log = File::options().create(true).append(true).open(path).map_err(failed)?;
    let errors = log.try_clone().map_err(failed)?;
    command.stdin(Stdio::null()).stdout(log).stderr(errors).envs(PINGS).env(GARBAGE.0, GARBAGE.1);
    command.env("PATH", format!("{BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"));
    let child = command.spawn().map_err(failed)?;
    // The reaper waits for it, together with all orphans.
    match i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        Some(pid) => Ok(pid),
        None => refused(format!("service {} has no process id", service.name)),
    }
}

/// Waits for every child, since PID 1 inherits all orphans of its namespace.
fn reap(events: &Sender<Event>, started: &Receiver<()>) {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) => {
                let how = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => format!("code {code}"),
                    (None, Some(signal)) => format!("signal {signal}"),
                    (None, None) => "unknown".to_owned(),
                };
                if events.send(Event::Ended(pid, how)).is_err() {
                    return;
                }
            }
            Err(Errno::CHILD) => {
                // No child at all: wait until there is one.
                if started.recv().is_err() {
                    return;
                }
            }
            Ok(None) | Err(_) => {}
        }
    }
}
