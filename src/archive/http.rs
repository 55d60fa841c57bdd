//! Serves archived files to other nodes and to recovery Jobs.
use std::io::Read;

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{ArchiveError, Store, WalFile};
use crate::{link::Caller, messages::Peer};

/// Bytes of a piece; two pieces wait for a slow receiver.
const PIECE: usize = 64 * 1024;

/// `GET /v1/wal/NAME`, for nodes and recovery Jobs.
pub fn router(store: Store) -> Router {
    Router::new().route("/v1/wal/{name}", get(wal)).with_state(store)
}

async fn wal(State(store): State<Store>, Path(name): Path<String>, caller: Caller) -> Response {
    if let Err(refused) = caller.one_of(|peer| matches!(peer, Peer::Node(_) | Peer::Recovery)) {
        return refused.into_response();
    }
    match begin(&store, &name) {
        Ok(Some(file)) => Body::from_stream(pieces(name, file)).into_response(),
        Ok(None) => (StatusCode::NOT_FOUND, format!("{name} isn't archived here")).into_response(),
        Err(error @ ArchiveError::Name(_)) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
        Err(error) => {
            tracing::warn!(%error, "an archived file can't be served");
            (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
        }
    }
}

fn begin(store: &Store, name: &str) -> Result<Option<impl Read + Send + use<>>, ArchiveError> {
    let file = WalFile::parse(name).ok_or_else(|| ArchiveError::Name(name.to_owned()))?;
    store.get(&file)
}

/// Reads and uncompresses away from the threads that serve. An error cuts the answer short, which the
/// receiver notices.
fn pieces(name: String, mut file: impl Read + Send + 'static) -> ReceiverStream<std::io::Result<Bytes>> {
    let (to, from) = mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            let read = file.by_ref().take(PIECE as u64).read_to_end(&mut piece);
            let next = match read {
                Ok(0) => return,
                Ok(_) => Ok(Bytes::from(piece)),
                Err(error) => {
                    tracing::warn!(name, %error, "an archived file is damaged");
                    Err(error)
                }
            };
            let last = next.is_err();
            if to.blocking_send(next).is_err() || last {
                return;
            }
        }
    });
    ReceiverStream::new(from)
}
