//! A fake API server that keeps one object by compare-and-swap, as the real one does.
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use kube::{Client, Config};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::*;

/// Called with each write before it is looked at; what it gives is the answer in place of the server's.
type Hook = Box<dyn FnMut(&PgPoolMembership) -> Option<StatusCode> + Send>;

#[derive(Default)]
struct Kept {
    object: Option<PgPoolMembership>,
    /// The writes that came in, taken or not.
    writes: Vec<PgPoolMembership>,
    before_write: Option<Hook>,
}

/// The server.
pub(super) struct Api {
    kept: Arc<Mutex<Kept>>,
    at: SocketAddr,
    _serving: AbortOnDropHandle<()>,
}

impl Api {
    /// With the object as it is at first.
    pub(super) async fn start(object: PgPoolMembership) -> Self {
        let kept = Arc::new(Mutex::new(Kept { object: Some(object), ..Kept::default() }));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&kept));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { kept, at, _serving: AbortOnDropHandle::new(serving) }
    }

    pub(super) fn client(&self) -> Client {
        Client::try_from(Config::new(format!("http://{}", self.at).parse().unwrap())).unwrap()
    }

    /// The record as it stands.
    pub(super) fn record(&self) -> Record {
        self.kept.lock().unwrap().object.as_ref().unwrap().status.clone().unwrap()
    }

    /// The records that were sent, taken or not.
    pub(super) fn sent(&self) -> Vec<Record> {
        self.kept.lock().unwrap().writes.iter().map(|object| object.status.clone().unwrap()).collect()
    }

    /// Somebody else writes the record.
    pub(super) fn write(&self, record: Record) {
        let mut kept = self.kept.lock().unwrap();
        let object = kept.object.as_mut().unwrap();
        object.status = Some(record);
        raise(object);
    }

    /// The object is another one from now on.
    pub(super) fn replace(&self, object: PgPoolMembership) {
        self.kept.lock().unwrap().object = Some(object);
    }

    /// Looks at each write that comes in, and may answer in the server's place.
    pub(super) fn before_write(
        &self,
        hook: impl FnMut(&PgPoolMembership) -> Option<StatusCode> + Send + 'static,
    ) {
        self.kept.lock().unwrap().before_write = Some(Box::new(hook));
    }
}

fn raise(object: &mut PgPoolMembership) {
    let version: u64 = object.metadata.resource_version.as_deref().unwrap().parse().unwrap();
    object.metadata.resource_version = Some((version + 1).to_string());
}

fn refuse(status: StatusCode) -> Response {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "refused by a test", "reason": "", "code": status.as_u16(),
    });
    (status, axum::Json(body)).into_response()
}

async fn answer(State(kept): State<Arc<Mutex<Kept>>>, request: Request) -> Response {
    const PLACE: &str = "/apis/pgpool-operator.dev/v1alpha1/namespaces/birds/pgpoolmemberships/heron";
    let (parts, body) = request.into_parts();
    let body: Bytes = to_bytes(body, 1 << 20).await.unwrap();
    let mut kept = kept.lock().unwrap();
    match (parts.method, parts.uri.path().strip_prefix(PLACE)) {
        (Method::GET, Some("")) => axum::Json(kept.object.clone()).into_response(),
        (Method::PUT, Some("/status")) => put(&mut kept, &serde_json::from_slice(&body).unwrap()),
        _ => refuse(StatusCode::NOT_FOUND),
    }
}

/// The status of the very version that was read is replaced, and nothing else.
fn put(kept: &mut Kept, new: &PgPoolMembership) -> Response {
    kept.writes.push(new.clone());
    if let Some(status) = kept.before_write.as_mut().and_then(|hook| hook(new)) {
        return refuse(status);
    }
    let object = kept.object.as_mut().unwrap();
    if new.metadata.resource_version != object.metadata.resource_version {
        return refuse(StatusCode::CONFLICT);
    }
    object.status.clone_from(&new.status);
    raise(object);
    axum::Json(object.clone()).into_response()
}
