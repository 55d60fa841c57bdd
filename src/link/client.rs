//! Asks other parts of the pool.
use std::{
    collections::HashMap,
    future::Future,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, Stream, future::select_ok, stream};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    runtime::Handle,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::task::AbortOnDropHandle;

use super::{Book, Identity, LinkError, Proved, lines::Lines, peer_of, server::prepare};

/// Longest message and longest line of a stream, in bytes.
const MESSAGE: usize = 4 << 20;
/// Of a refusal's text so much is kept, in bytes.
const REFUSAL: usize = 1024;

/// Connections that are kept for a host and port; more are closed once they are done with.
const KEPT: usize = 8;

/// Calls other parts. Clones share the connections that are kept, a few for each host and port. A call
/// that finds all of them in use opens another; a call that finds one dead, or made under former certificates,
/// opens another too. A message may arrive twice (it is sent again when the kept connection broke
/// before the answer came), so all of [`crate::messages`] must bear that.
///
/// Its connections live on the runtime that it was made on, whoever calls from whatever other one: so none waits for a
/// thread that has something else to do, and none ends with it.
#[derive(Clone)]
pub struct Client {
    home: Option<Handle>,
    identity: Identity,
    book: Book,
    kept: Arc<Mutex<Kept>>,
    proved: Proved,
    hints: Arc<Mutex<HashMap<String, IpAddr>>>,
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    generation: u64,
    driver: AbortOnDropHandle<()>,
}

/// Connections on which nothing is asked just now, by host and port.
type Kept = HashMap<(String, u16), Vec<Connection>>;

/// One call: whom, and what.
#[derive(Clone, Copy)]
struct Call<'a> {
    host: &'a str,
    port: u16,
    path: &'a str,
}

impl Call<'_> {
    fn names(&self) -> (String, String) {
        (self.host.to_owned(), self.path.to_owned())
    }

    fn http(&self, source: hyper::Error) -> LinkError {
        let (host, path) = self.names();
        LinkError::Http { host, path, source }
    }

    fn too_long(&self, limit: usize) -> LinkError {
        let (host, path) = self.names();
        LinkError::TooLong { host, path, limit }
    }

    fn message(&self, source: serde_json::Error) -> LinkError {
        let (host, path) = self.names();
        LinkError::Message { host, path, source }
    }

    async fn within<T>(
        &self,
        limit: Duration,
        what: impl Future<Output = Result<T, LinkError>>,
    ) -> Result<T, LinkError> {
        let (host, path) = self.names();
        timeout(limit, what).await.unwrap_or(Err(LinkError::Timeout { host, path, after: limit }))
    }

    fn request(&self, method: &Method, body: &Bytes) -> Result<Request<Full<Bytes>>, LinkError> {
        let mut request = Request::builder().method(method.clone()).uri(self.path).header(HOST, self.host);
        if method == Method::POST {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request.body(Full::new(body.clone())).map_err(|source| {
            let (host, path) = self.names();
            LinkError::Request { host, path, source }
        })
    }
}

impl Client {
    /// A client that finds hosts by DNS.
    pub fn new(identity: Identity) -> Self {
        Self::with_book(identity, Book::default())
    }

    /// A client that finds hosts by `book`.
    pub fn with_book(identity: Identity, book: Book) -> Self {
        let home = Handle::try_current().ok();
        Self { home, identity, book, kept: Arc::default(), proved: Proved::default(), hints: Arc::default() }
    }

    /// One that finds hosts as this one does, by connections of its own.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self { kept: Arc::default(), ..self.clone() }
    }

    /// One of the same home and the same certificates that finds hosts by `book`.
    #[must_use]
    pub fn with(&self, book: Book) -> Self {
        Self { home: self.home.clone(), ..Self::with_book(self.identity.clone(), book) }
    }

    /// Where the hosts that were called are; goes on with each call.
    pub fn proved(&self) -> Proved {
        self.proved.clone()
    }

    /// Where a host may be besides where its name says: somebody has seen it there. After an outage of the Kubernetes API
    /// names may be minutes late (the EndpointSlice controller's back-off). Whoever answers there has to prove to be the host.
    pub fn hint(&self, host: &str, at: IpAddr) {
        let mut hints = self.hints();
        if hints.get(host) != Some(&at) {
            hints.insert(host.to_owned(), at);
        }
    }

    fn hints(&self) -> MutexGuard<'_, HashMap<String, IpAddr>> {
        self.hints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The certificates that it shows.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Asks for a message. `limit` is for all of it: resolving, connecting, answer.
    pub async fn get_json<T: DeserializeOwned>(
        &self,
        host: &str,
        port: u16,
        path: &str,
        limit: Duration,
    ) -> Result<T, LinkError> {
        let call = Call { host, port, path };
        let body = call.within(limit, self.exchange(call, &Method::GET, &Bytes::new())).await?;
        serde_json::from_slice(&body).map_err(|error| call.message(error))
    }

    /// Sends a message and takes the answer. `limit` as in [`Self::get_json`].
    pub async fn post_json<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        host: &str,
        port: u16,
        path: &str,
        body: &B,
        limit: Duration,
    ) -> Result<T, LinkError> {
        let call = Call { host, port, path };
        let body = Bytes::from(serde_json::to_vec(body).map_err(|error| call.message(error))?);
        let body = call.within(limit, self.exchange(call, &Method::POST, &body)).await?;
        serde_json::from_slice(&body).map_err(|error| call.message(error))
    }

    /// A stream of messages, one a line, on a connection of its own. `limit` is the time until it
    /// begins; how long it may be silent is the caller's matter. It ends after its first error.
    pub async fn get_stream<T: DeserializeOwned>(
        &self,
        host: &str,
        port: u16,
        path: &str,
        limit: Duration,
    ) -> Result<impl Stream<Item = Result<T, LinkError>> + Send + use<T>, LinkError> {
        let call = Call { host, port, path };
        let (body, driver) = call.within(limit, self.open(call)).await?;
        let reader = Some(Reader { body, lines: Lines::new(MESSAGE), driver, names: call.names() });
        Ok(stream::unfold(reader, |reader| async move {
            let mut reader = reader?;
            match reader.line().await {
                Ok(Some(line)) => {
                    let read = serde_json::from_slice(&line).map_err(|source| reader.call().message(source));
                    let next = read.is_ok().then_some(reader);
                    Some((read, next))
                }
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        }))
    }

    /// Fetches a file into `file` and flushes it; returns its length in bytes. `silence` limits the time
    /// until it begins and between two pieces. A file that comes short is an error.
    pub async fn download<W: AsyncWrite + Unpin + Send>(
        &self,
        host: &str,
        port: u16,
        path: &str,
        silence: Duration,
        file: &mut W,
    ) -> Result<u64, LinkError> {
        let call = Call { host, port, path };
        let store = |source: io::Error| {
            let (host, path) = call.names();
            LinkError::Store { host, path, source }
        };
        let (mut body, _driver) = call.within(silence, self.open(call)).await?;
        let mut length = 0;
        loop {
            let frame = async { body.frame().await.transpose().map_err(|error| call.http(error)) };
            let Some(frame) = call.within(silence, frame).await? else { break };
            if let Ok(data) = frame.into_data() {
                length += data.len() as u64;
                file.write_all(&data).await.map_err(store)?;
            }
        }
        file.flush().await.map_err(store)?;
        Ok(length)
    }

    /// A body that is read piece by piece, on a connection of its own.
    async fn open(&self, call: Call<'_>) -> Result<(Incoming, AbortOnDropHandle<()>), LinkError> {
        let mut connection = self.connect(call).await?;
        let request = call.request(&Method::GET, &Bytes::new())?;
        let answer = connection.sender.send_request(request).await.map_err(|error| call.http(error))?;
        if answer.status().is_success() {
            return Ok((answer.into_body(), connection.driver));
        }
        Err(refusal(call, answer).await)
    }

    async fn exchange(&self, call: Call<'_>, method: &Method, body: &Bytes) -> Result<Bytes, LinkError> {
        let place = (call.host.to_owned(), call.port);
        let kept = self.kept().get_mut(&place).and_then(Vec::pop);
        let generation = self.identity.current().generation;
        if let Some(mut connection) = kept.filter(|kept| kept.generation == generation) {
            match round(&mut connection, call, method, body).await {
                Err(LinkError::Http { source, .. }) => {
                    tracing::debug!(host = call.host, %source, "a kept connection broke; trying a new one");
                }
                answered => {
                    self.keep(place, connection);
                    return answered;
                }
            }
        }
        let mut connection = self.connect(call).await?;
        let answered = round(&mut connection, call, method, body).await;
        self.keep(place, connection);
        answered
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a connection that can be used again. A call that timed out never gets here: its connection
    /// is dropped with it.
    fn keep(&self, place: (String, u16), connection: Connection) {
        let mut kept = self.kept();
        let kept = kept.entry(place).or_default();
        kept.retain(|kept| kept.sender.is_ready() && kept.generation == connection.generation);
        if connection.sender.is_ready() && kept.len() < KEPT {
            kept.push(connection);
        }
    }

    async fn connect(&self, call: Call<'_>) -> Result<Connection, LinkError> {
        let Some(home) = &self.home else { return self.connect_here(call).await };
        let (client, port, (host, path)) = (self.clone(), call.port, call.names());
        let work = async move { client.connect_here(Call { host: &host, port, path: &path }).await };
        let connected = AbortOnDropHandle::new(home.spawn(work)).await;
        connected.unwrap_or_else(|source| {
            let host = call.host.to_owned();
            Err(LinkError::Dial { host, port, source: io::Error::other(source) })
        })
    }

    async fn connect_here(&self, call: Call<'_>) -> Result<Connection, LinkError> {
        let loaded = self.identity.current();
        let Call { host, port, .. } = call;
        let handshake = |source: io::Error| LinkError::Handshake { host: host.to_owned(), port, source };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| handshake(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let socket = self.dial(host, port).await?;
        let shaken = TlsConnector::from(loaded.client).connect(name, socket).await.map_err(handshake);
        let proved = shaken.and_then(|stream| same_pool(call, &stream, &loaded.uid).map(|()| stream));
        // Somebody else may have the address by now.
        let stream = proved.inspect_err(|_| {
            self.hints().remove(host);
        })?;
        if let Ok(peer) = stream.get_ref().0.peer_addr() {
            self.proved.note(host, peer.ip());
        }
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| call.http(error))?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to another part ended");
            }
        });
        let driver = AbortOnDropHandle::new(driver);
        Ok(Connection { sender, generation: loaded.generation, driver })
    }

    /// By its name, and where it was seen, at once: whoever answers first.
    async fn dial(&self, host: &str, port: u16) -> Result<TcpStream, LinkError> {
        let hint = self.hints().get(host).copied();
        let Some(hint) = hint else { return self.dial_by_name(host, port).await };
        let seen = async {
            let dialled = async { prepared(TcpStream::connect((hint, port)).await?) };
            dialled.await.map_err(|source| LinkError::Dial { host: host.to_owned(), port, source })
        };
        let either = select_ok([seen.boxed(), self.dial_by_name(host, port).boxed()]);
        either.await.map(|(socket, _)| socket)
    }

    async fn dial_by_name(&self, host: &str, port: u16) -> Result<TcpStream, LinkError> {
        let resolve = |source: io::Error| LinkError::Resolve { host: host.to_owned(), source };
        let addresses = self.book.find(host, port).await.map_err(resolve)?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
        for address in addresses {
            match TcpStream::connect(address).await.and_then(prepared) {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            }
        }
        Err(LinkError::Dial { host: host.to_owned(), port, source: last })
    }
}

fn prepared(socket: TcpStream) -> io::Result<TcpStream> {
    prepare(&socket)?;
    Ok(socket)
}

/// The authority alone would do; a pool whose authority a person gave to two pools is caught by this.
fn same_pool(call: Call<'_>, stream: &TlsStream<TcpStream>, uid: &str) -> Result<(), LinkError> {
    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let leaf = leaf.ok_or_else(|| LinkError::Certificate { reason: "none was shown".into() })?;
    let (theirs, _) = peer_of(leaf)?;
    if theirs == uid {
        return Ok(());
    }
    Err(LinkError::Foreign { host: call.host.to_owned(), port: call.port, uid: theirs })
}

async fn round(
    connection: &mut Connection,
    call: Call<'_>,
    method: &Method,
    body: &Bytes,
) -> Result<Bytes, LinkError> {
    let request = call.request(method, body)?;
    let sender = &mut connection.sender;
    sender.ready().await.map_err(|error| call.http(error))?;
    let answer = sender.send_request(request).await.map_err(|error| call.http(error))?;
    if !answer.status().is_success() {
        return Err(refusal(call, answer).await);
    }
    let whole = collect(call, answer.into_body(), MESSAGE).await?;
    // The connection's driver learns of the end of the body a moment later.
    sender.ready().await.ok();
    Ok(whole)
}

async fn collect(call: Call<'_>, body: Incoming, limit: usize) -> Result<Bytes, LinkError> {
    match Limited::new(body, limit).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(call.too_long(limit)),
        Err(error) => match error.downcast::<hyper::Error>() {
            Ok(error) => Err(call.http(*error)),
            Err(_) => Err(call.too_long(limit)),
        },
    }
}

async fn refusal(call: Call<'_>, answer: Response<Incoming>) -> LinkError {
    let status: StatusCode = answer.status();
    let text = collect(call, answer.into_body(), REFUSAL).await;
    let message = text.map_or_else(
        |error| format!("(its text can't be read: {error})"),
        |text| String::from_utf8_lossy(&text).trim().to_owned(),
    );
    let (host, path) = call.names();
    LinkError::Status { host, path, status: status.as_u16(), message }
}

struct Reader {
    body: Incoming,
    lines: Lines,
    driver: AbortOnDropHandle<()>,
    names: (String, String),
}

impl Reader {
    fn call(&self) -> Call<'_> {
        Call { host: &self.names.0, port: 0, path: &self.names.1 }
    }

    async fn line(&mut self) -> Result<Option<Bytes>, LinkError> {
        loop {
            match self.lines.next() {
                Ok(Some(line)) => return Ok(Some(line)),
                Ok(None) => {}
                Err(_) => return Err(self.call().too_long(MESSAGE)),
            }
            let Some(frame) = self.body.frame().await else {
                tracing::debug!(host = self.names.0, finished = self.driver.is_finished(), "a stream ended");
                return Ok(None);
            };
            if let Ok(data) = frame.map_err(|error| self.call().http(error))?.into_data() {
                self.lines.push(&data);
            }
        }
    }
}
