//! The other fronts of the pool: a client's request may come to any of them.
use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{Json, Router, extract::State, response::IntoResponse, routing::post};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{net::TcpListener, time::timeout};

use super::{
    Front,
    cancel::{self, Key},
};
use crate::{
    link::{Book, Caller, Client, LinkError, serve},
    messages::{CancelAnswer, CancelQuestion, Peer},
    names,
};

/// Time for another front to look for a session.
const ANSWER: Duration = Duration::from_secs(3);
/// Time to find the others.
const LOOKUP: Duration = Duration::from_secs(1);
const PATH: &str = "/v1/cancel";

/// Answers the other fronts until this one stops.
pub async fn answer(front: Arc<Front>, listener: TcpListener) {
    let (identity, uid, stop) = (front.link.identity().clone(), front.uid.clone(), front.stop.clone());
    let router = Router::new().route(PATH, post(asked)).with_state(front);
    serve(listener, identity, uid, router, stop).await;
}

async fn asked(
    State(front): State<Arc<Front>>,
    caller: Caller,
    Json(question): Json<CancelQuestion>,
) -> axum::response::Response {
    if let Err(refused) = caller.one_of(|peer| *peer == Peer::Proxy) {
        return refused.into_response();
    }
    // Never asked on: two fronts that don't know a key would ask each other for ever.
    Json(CancelAnswer { known: cancel::here(&front, question.key).await }).into_response()
}

/// Has the other fronts cancel what this key is for.
pub async fn cancel(front: &Front, key: Key) {
    let addresses = match timeout(LOOKUP, front.peers.find()).await {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(error)) => return tracing::debug!(%error, "the other fronts aren't found"),
        Err(_) => return tracing::debug!("the other fronts aren't found in time"),
    };
    let mut answers: FuturesUnordered<_> =
        addresses.into_iter().map(|address| ask(front, address, key)).collect();
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(CancelAnswer { known: true }) => return,
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "another front doesn't answer"),
        }
    }
}

/// Where the other fronts are found: by one name all of them, this one too.
pub struct Peers {
    /// The name, which stands in the certificate of each.
    host: String,
    /// Its addresses.
    book: Book,
    /// Each is called by its own address.
    clients: Mutex<HashMap<SocketAddr, Client>>,
}

impl Peers {
    /// By this name.
    pub fn new(host: String, book: Book) -> Self {
        Self { host, book, clients: Mutex::default() }
    }

    async fn find(&self) -> io::Result<Vec<SocketAddr>> {
        let found = self.book.find(&self.host, names::AGENT_PORT).await?;
        self.clients().retain(|address, _| found.contains(address));
        Ok(found)
    }

    fn client(&self, address: SocketAddr, link: &Client) -> Client {
        let new = || link.with(Book::Fixed(Arc::new(HashMap::from([(self.host.clone(), address)]))));
        self.clients().entry(address).or_insert_with(new).clone()
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<SocketAddr, Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(front: &Front, address: SocketAddr, key: Key) -> Result<CancelAnswer, LinkError> {
    let host = front.peers.host.as_str();
    let client = front.peers.client(address, &front.link);
    client.post_json(host, names::AGENT_PORT, PATH, &CancelQuestion { key }, ANSWER).await
}
