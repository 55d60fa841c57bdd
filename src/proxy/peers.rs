//! The other fronts of the pool: a client's request may come to any of them.
use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

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
    let addresses = match timeout(LOOKUP, front.peers.book.find(&front.peers.host, names::AGENT_PORT)).await {
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
#[derive(Clone, Debug)]
pub struct Peers {
    /// The name, which stands in the certificate of each.
    pub host: String,
    /// Its addresses.
    pub book: Book,
}

/// Each is called by its own address.
async fn ask(front: &Front, address: SocketAddr, key: Key) -> Result<CancelAnswer, LinkError> {
    let host = front.peers.host.as_str();
    let book = Book::Fixed(Arc::new(HashMap::from([(host.to_owned(), address)])));
    let client = Client::with_book(front.link.identity().clone(), book);
    client.post_json(host, names::AGENT_PORT, PATH, &CancelQuestion { key }, ANSWER).await
}
