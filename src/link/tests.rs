//! Two parts talk on the loopback interface.
use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use futures::{StreamExt, stream};
use tempfile::TempDir;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{Book, Caller, Client, Identity, LinkError, Refused, serve, testing::Authority};
use crate::{clock, messages::Peer};

const LIMIT: Duration = Duration::from_secs(5);
const HOST: &str = "rain-1-0.rain-nodes.weather.svc";

struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
    dir: TempDir,
    streams: Arc<AtomicUsize>,
}

fn router(streams: Arc<AtomicUsize>) -> Router {
    Router::new()
        .route("/v1/who", get(|Caller(peer): Caller| async move { Json(format!("{peer:?}")) }))
        .route("/v1/echo", post(|body: Bytes| async move { body }))
        .route("/v1/operator", get(|caller: Caller| async move { caller.operator().map(|()| Json(1)) }))
        .route("/v1/none", get(|| async { (StatusCode::NOT_FOUND, "no such file") }))
        .route("/v1/silent", get(std::future::pending::<Refused>))
        .route("/v1/big", get(|| async { vec![7u8; 300_000] }))
        .route("/v1/short", get(short))
        .route("/v1/watch", get(watch))
        .with_state(streams)
}

async fn short() -> Body {
    let pieces = [Ok(Bytes::from_static(b"beginning")), Err("the disk is gone")];
    Body::from_stream(stream::iter(pieces).then(|piece| async {
        tokio::task::yield_now().await;
        piece
    }))
}

async fn watch(State(count): State<Arc<AtomicUsize>>) -> Body {
    count.fetch_add(1, Ordering::SeqCst);
    let lines = stream::iter([Ok::<_, Infallible>("1\n2"), Ok("3\n\n"), Ok("4\n")]);
    Body::from_stream(lines.chain(stream::pending()))
}

async fn server(authority: &Authority, uri: &str, pool: &str) -> Server {
    let (identity, dir) = authority.identity(uri, &[HOST]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let streams = Arc::new(AtomicUsize::new(0));
    let task = tokio::spawn(serve(listener, identity, pool.into(), router(streams.clone()), stop.clone()));
    Server { address, stop, task, dir, streams }
}

fn client(identity: Identity, server: &Server, host: &str) -> Client {
    let book = HashMap::from([(host.to_owned(), server.address)]);
    Client::with_book(identity, Book::Fixed(Arc::new(book)))
}

#[tokio::test]
async fn a_part_is_known_by_its_certificate() {
    let authority = Authority::new();
    let server = server(&authority, "u/node/1", "u").await;
    for (uri, name) in [("u/node/2", "Node(2)"), ("u/proxy", "Proxy"), ("u/recovery", "Recovery")] {
        let (identity, _dir) = authority.identity(uri, &[]);
        let client = client(identity, &server, HOST);
        let who: String = client.get_json(HOST, 5480, "/v1/who", LIMIT).await.unwrap();
        assert_eq!(who, name);
        let refused = client.get_json::<u8>(HOST, 5480, "/v1/operator", LIMIT).await.unwrap_err();
        assert!(matches!(refused, LinkError::Status { status: 403, .. }), "{refused}");
    }
    let (identity, _dir) = authority.identity("u/operator", &[]);
    assert_eq!((identity.pool_uid().as_str(), identity.peer()), ("u", Peer::Operator));
    let client = client(identity, &server, HOST);
    assert_eq!(client.get_json::<u8>(HOST, 5480, "/v1/operator", LIMIT).await.unwrap(), 1);
    let echoed: Vec<u8> = client.post_json(HOST, 5480, "/v1/echo", &[1, 2], LIMIT).await.unwrap();
    assert_eq!(echoed, [1, 2]);
    let missing = client.get_json::<u8>(HOST, 5480, "/v1/none", LIMIT).await.unwrap_err();
    assert!(missing.is_not_found() && missing.to_string().contains("no such file"), "{missing}");
    server.stop.cancel();
    server.task.await.unwrap();
}

#[tokio::test]
async fn a_host_is_found_where_it_was_seen_though_its_name_is_late() {
    let authority = Authority::new();
    let (server, other) =
        (server(&authority, "u/node/1", "u").await, server(&Authority::new(), "u/node/1", "u").await);
    let (identity, _dir) = authority.identity("u/node/2", &[]);
    let nowhere = Client::with_book(identity.clone(), Book::Fixed(Arc::default()));
    let ask =
        async |client: &Client, port: u16| client.get_json::<String>(HOST, port, "/v1/who", LIMIT).await;
    assert!(ask(&nowhere, server.address.port()).await.is_err());
    nowhere.hint(HOST, server.address.ip());
    assert_eq!(ask(&nowhere, server.address.port()).await.unwrap(), "Node(2)");
    // Where nobody is, or somebody else, the name has to do.
    let named = client(identity.clone(), &server, HOST);
    named.hint(HOST, "127.0.0.2".parse().unwrap());
    assert_eq!(ask(&named, 1).await.unwrap(), "Node(2)");
    let misled = client(identity, &server, HOST);
    misled.hint(HOST, other.address.ip());
    for _ in 0..2 {
        // Whoever was met first; a stranger is not looked for again.
        ask(&misled, other.address.port()).await.ok();
    }
    assert_eq!(ask(&misled, other.address.port()).await.unwrap(), "Node(2)");
}

#[tokio::test]
async fn a_host_with_another_certificate_was_not_met() {
    let authority = Authority::new();
    let server = server(&authority, "u/node/1", "u").await;
    let (identity, _dir) = authority.identity("u/node/0", &[]);
    let other = "rain-2-0.rain-nodes.weather.svc";
    let book = HashMap::from([(other.to_owned(), server.address)]);
    let client = Client::with_book(identity, Book::Fixed(Arc::new(book)));
    client.get_json::<String>(other, 5480, "/v1/who", LIMIT).await.unwrap_err();
    assert!(!client.proved().knows(other));
}

#[tokio::test]
async fn nobody_else_gets_in() {
    let authority = Authority::new();
    let node = server(&authority, "u/node/1", "u").await;
    let ask = |identity: Identity, host: &'static str| {
        let client = client(identity, &node, host);
        async move { client.get_json::<String>(host, 5480, "/v1/who", LIMIT).await.unwrap_err() }
    };
    let (stranger, _stranger) = Authority::new().identity("u/node/2", &[]);
    let error = ask(stranger, HOST).await;
    assert!(matches!(error, LinkError::Handshake { .. }), "{error}");

    let (other_name, _other_name) = authority.identity("u/node/2", &[]);
    let error = ask(other_name, "rain-2-0.rain-nodes.weather.svc").await;
    assert!(matches!(error, LinkError::Handshake { .. }), "{error}");

    let (other_pool, _other_pool) = authority.identity("v/node/2", &[]);
    let error = ask(other_pool, HOST).await;
    assert!(matches!(error, LinkError::Foreign { ref uid, .. } if uid == "u"), "{error}");

    // The server, too, turns away another pool's part, whatever that checks itself.
    let foreign = server(&authority, "u/node/1", "w").await;
    let (identity, _dir) = authority.identity("u/node/2", &[]);
    let client = client(identity, &foreign, HOST);
    let error = client.get_json::<String>(HOST, 5480, "/v1/who", LIMIT).await.unwrap_err();
    assert!(matches!(error, LinkError::Http { .. }), "{error}");

    // Without a certificate there is no answer at all.
    let roots = Arc::new(rustls::RootCertStore::empty());
    let bare =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    let socket = TcpStream::connect(node.address).await.unwrap();
    let name = HOST.try_into().unwrap();
    assert!(tokio_rustls::TlsConnector::from(Arc::new(bare)).connect(name, socket).await.is_err());
}

#[tokio::test]
async fn a_connection_is_kept_and_a_dead_one_replaced() {
    let authority = Authority::new();
    let server = server(&authority, "u/node/1", "u").await;
    let relay = Relay::start(server.address).await;
    let (identity, _dir) = authority.identity("u/node/0", &[]);
    let book = HashMap::from([(HOST.to_owned(), relay.address)]);
    let client = Client::with_book(identity, Book::Fixed(Arc::new(book)));
    for _ in 0..5 {
        let _: String = client.get_json(HOST, 5480, "/v1/who", LIMIT).await.unwrap();
    }
    assert_eq!(relay.accepted(), 1, "five calls, one connection");
    let met = Book::Proved(client.proved()).find(HOST, 5432).await.unwrap();
    assert_eq!(met, [SocketAddr::new(relay.address.ip(), 5432)], "where it was met, at another port");
    let _ = client.get_json::<u8>(HOST, 5480, "/v1/operator", LIMIT).await.unwrap_err();
    let _: String = client.get_json(HOST, 5480, "/v1/who", LIMIT).await.unwrap();
    assert_eq!(relay.accepted(), 1, "a refusal doesn't cost the connection");

    relay.cut();
    let _: String = client.get_json(HOST, 5480, "/v1/who", LIMIT).await.unwrap();
    assert_eq!(relay.accepted(), 2, "a broken connection is replaced within the call");

    let begun = clock::now();
    let limit = Duration::from_millis(200);
    let error = client.get_json::<u8>(HOST, 5480, "/v1/silent", limit).await.unwrap_err();
    assert!(matches!(error, LinkError::Timeout { .. }), "{error}");
    assert!(clock::now().since(begun) < Duration::from_secs(3));
    let _: String = client.get_json(HOST, 5480, "/v1/who", LIMIT).await.unwrap();
    assert_eq!(relay.accepted(), 3, "the silent connection was left");
}

#[tokio::test]
async fn calls_at_once_do_not_wait_for_each_other() {
    let authority = Authority::new();
    let server = server(&authority, "u/node/1", "u").await;
    let (identity, _dir) = authority.identity("u/node/0", &[]);
    let client = client(identity, &server, HOST);
    let silent = client.get_json::<u8>(HOST, 5480, "/v1/silent", LIMIT);
    let asked = client.get_json::<String>(HOST, 5480, "/v1/who", LIMIT);
    tokio::select! {
        biased;
        _ = silent => panic!("the silent call was answered first"),
        who = asked => assert_eq!(who.unwrap(), "Node(0)"),
    }
}

#[tokio::test]
async fn streams_and_files_come_piece_by_piece() {
    let authority = Authority::new();
    let server = server(&authority, "u/node/1", "u").await;
    let (identity, _dir) = authority.identity("u/proxy", &[]);
    let client = client(identity, &server, HOST);
    let lines = client.get_stream::<u32>(HOST, 5480, "/v1/watch", LIMIT).await.unwrap();
    let mut lines = std::pin::pin!(lines);
    for expected in [1, 23, 4] {
        assert_eq!(lines.next().await.unwrap().unwrap(), expected);
    }
    assert_eq!(server.streams.load(Ordering::SeqCst), 1);

    let mut file = Vec::new();
    let length = client.download(HOST, 5480, "/v1/big", LIMIT, &mut file).await.unwrap();
    assert_eq!((length, file.len(), file.iter().all(|byte| *byte == 7)), (300_000, 300_000, true));
    let error = client.download(HOST, 5480, "/v1/short", LIMIT, &mut Vec::new()).await.unwrap_err();
    assert!(matches!(error, LinkError::Http { .. }), "a file that comes short is an error: {error}");
    let error = client.download(HOST, 5480, "/v1/none", LIMIT, &mut Vec::new()).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");

    server.stop.cancel();
    assert!(lines.next().await.is_none_or(|line| line.is_err()), "the stream ends with the server");
    tokio::time::timeout(LIMIT, server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn renewed_certificates_are_used_and_spoilt_ones_are_not() {
    let authority = Authority::new();
    let server = server(&authority, "u/node/1", "u").await;
    let (identity, dir) = authority.identity("u/node/0", &[]);
    let client = client(identity, &server, HOST);
    let _: String = client.get_json(HOST, 5480, "/v1/who", LIMIT).await.unwrap();

    // Another authority altogether, on both sides: only files that were read anew make this work.
    let second = Authority::new();
    second.write(server.dir.path(), "u/node/1", &[HOST]);
    second.write(dir.path(), "u/node/7", &[]);
    let who: String = client.get_json(HOST, 5480, "/v1/who", LIMIT).await.unwrap();
    assert_eq!(who, "Node(7)");

    std::fs::write(dir.path().join("tls.crt"), "rubbish").unwrap();
    let who: String = client.get_json(HOST, 5480, "/v1/who", LIMIT).await.unwrap();
    assert_eq!(who, "Node(7)");
}

#[tokio::test]
async fn a_caller_that_says_nothing_holds_nobody_up() {
    let authority = Authority::new();
    let server = server(&authority, "u/node/1", "u").await;
    let mut mute = TcpStream::connect(server.address).await.unwrap();
    let (identity, _dir) = authority.identity("u/node/0", &[]);
    let _: String = client(identity, &server, HOST).get_json(HOST, 5480, "/v1/who", LIMIT).await.unwrap();
    server.stop.cancel();
    tokio::time::timeout(LIMIT, server.task).await.unwrap().unwrap();
    assert_eq!(mute.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_connection_outlives_the_runtime_that_asked_for_it() {
    let authority = Authority::new();
    let server = server(&authority, "u/node/1", "u").await;
    let relay = Relay::start(server.address).await;
    let (identity, _dir) = authority.identity("u/proxy", &[]);
    let book = HashMap::from([(HOST.to_owned(), relay.address)]);
    let client = Client::with_book(identity, Book::Fixed(Arc::new(book)));
    let asks = client.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        other.block_on(asks.get_json::<String>(HOST, 5480, "/v1/who", LIMIT))
    });
    assert_eq!(asked.await.unwrap().unwrap(), "Proxy");
    let who: String = client.get_json(HOST, 5480, "/v1/who", LIMIT).await.unwrap();
    assert_eq!((who.as_str(), relay.accepted()), ("Proxy", 1));
}

/// Passes bytes on, counts connections and can cut them.
struct Relay {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    cut: Arc<tokio::sync::Notify>,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

impl Relay {
    async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let cut = Arc::new(tokio::sync::Notify::new());
        let (count, cutter) = (accepted.clone(), cut.clone());
        let task = tokio::spawn(async move {
            let mut passing = tokio::task::JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let cutter = cutter.clone();
                passing.spawn(async move {
                    let mut far = TcpStream::connect(to).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        () = cutter.notified() => {}
                    }
                });
            }
        });
        let task = tokio_util::task::AbortOnDropHandle::new(task);
        Self { address, accepted, cut, _task: task }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    fn cut(&self) {
        self.cut.notify_waiters();
    }
}
