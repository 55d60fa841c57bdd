//! Where hosts are found.
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::net::lookup_host;

use crate::clock::{self, Moment};

/// A name server that answers no sooner counts as away: the address from before is tried. With a machine, a part of
/// the cluster's DNS may be lost, and a resolver waits seconds for an answer that doesn't come.
const PATIENCE: Duration = Duration::from_millis(200);

/// An answer is remembered for so long: a later pod may have the address.
const KEPT: Duration = Duration::from_secs(60);

/// The last answer for each host, and when it came.
type Memory = Arc<Mutex<HashMap<String, (Vec<SocketAddr>, Moment)>>>;

/// The addresses at which hosts were met that showed the certificate for their name.
#[derive(Clone, Debug, Default)]
pub struct Proved(Arc<Mutex<HashMap<String, IpAddr>>>);

impl Proved {
    /// Notes the address of the newest connection.
    pub(crate) fn note(&self, host: &str, at: IpAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(host.to_owned(), at);
    }

    /// Whether it was met.
    pub fn knows(&self, host: &str) -> bool {
        self.get(host).is_some()
    }

    /// Where it was met last.
    pub fn get(&self, host: &str) -> Option<IpAddr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(host).copied()
    }
}

/// How hosts are found. Clones share what they remember.
#[derive(Clone, Debug)]
pub enum Book {
    /// By DNS, at each new connection, since pods change their addresses; by memory while DNS doesn't answer. For
    /// calls that prove by certificate who was reached.
    Remembering(Memory),
    /// Where calls have proved by certificate that the host is, else by DNS: for connections that prove nothing
    /// themselves, and must not wait for a name server either.
    Proved(Proved),
    /// By this list, whatever the port; for tests on the loopback interface.
    Fixed(Arc<HashMap<String, SocketAddr>>),
    /// The same, for hosts with several addresses.
    #[cfg(test)]
    Several(Arc<HashMap<String, Vec<SocketAddr>>>),
}

impl Default for Book {
    fn default() -> Self {
        Self::Remembering(Memory::default())
    }
}

impl Book {
    /// Addresses of `host`, with `port` unless a list says otherwise.
    pub async fn find(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::Remembering(memory) => {
                remembering(memory, host, port, PATIENCE, ask(host.to_owned(), port)).await
            }
            Self::Proved(proved) => match proved.get(host) {
                Some(address) => Ok(vec![SocketAddr::new(address, port)]),
                None => ask(host.to_owned(), port).await,
            },
            Self::Fixed(list) => Ok(list.get(host).copied().into_iter().collect()),
            #[cfg(test)]
            Self::Several(list) => Ok(list.get(host).cloned().unwrap_or_default()),
        }
    }
}

async fn ask(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(lookup_host((host, port)).await?.collect())
}

/// Awaits `answer`, but no longer than `patience` where an earlier one is known. A late answer is noted all the same.
async fn remembering(
    memory: &Memory,
    host: &str,
    port: u16,
    patience: Duration,
    answer: impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
) -> io::Result<Vec<SocketAddr>> {
    let now = clock::now();
    let known = memory.lock().unwrap_or_else(PoisonError::into_inner).get(host).cloned();
    let known = known.filter(|(_, at)| now.since(*at) < KEPT).map(|(addresses, _)| addresses);
    let (notes, name) = (Arc::clone(memory), host.to_owned());
    let asked = tokio::spawn(async move {
        let found = answer.await?;
        if !found.is_empty() {
            notes.lock().unwrap_or_else(PoisonError::into_inner).insert(name, (found.clone(), clock::now()));
        }
        Ok(found)
    });
    let Some(mut known) = known else { return asked.await.map_err(io::Error::other)? };
    for address in &mut known {
        address.set_port(port);
    }
    match tokio::time::timeout(patience, asked).await {
        Ok(Ok(Ok(found))) if !found.is_empty() => Ok(found),
        // An answer that there is no such host, too: the name of a pod goes with its readiness to be published.
        Ok(_) | Err(_) => Ok(known),
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn what_dns_said_last_stands_while_it_is_away() {
        let memory = Memory::default();
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let long = Duration::from_secs(600);
        let find = async |patience, answer: io::Result<Vec<SocketAddr>>| {
            remembering(&memory, "a", 2, patience, ready(answer)).await
        };
        assert!(find(long, Err(io::Error::other("no server"))).await.is_err(), "nothing is known yet");
        assert_eq!(find(long, Ok(vec![at("10.0.0.1:1")])).await.unwrap(), [at("10.0.0.1:1")]);
        assert_eq!(find(long, Err(io::Error::other("no server"))).await.unwrap(), [at("10.0.0.1:2")]);
        assert_eq!(find(long, Ok(vec![])).await.unwrap(), [at("10.0.0.1:2")]);
        let silent = remembering(&memory, "a", 3, Duration::ZERO, pending()).await.unwrap();
        assert_eq!(silent, [at("10.0.0.1:3")]);
        assert_eq!(find(long, Ok(vec![at("10.0.0.2:2")])).await.unwrap(), [at("10.0.0.2:2")]);
    }
}
