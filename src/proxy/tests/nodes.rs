//! Fake agents and fake nodes.
use super::*;

/// What a node does besides what it says of itself.
#[derive(Default)]
pub struct Manners {
    /// Its agent answers no question for its lease.
    pub mute: AtomicBool,
    /// Its Postgres takes connections, and no login.
    pub deaf: AtomicBool,
    /// The SQLSTATE with which its Postgres refuses every login.
    pub refuses: Mutex<Option<&'static str>>,
    /// So many long messages are said to whoever logs in.
    pub talks: AtomicUsize,
    /// Its Postgres hears cancel requests, and has not taken them yet.
    pub busy: watch::Sender<bool>,
    /// Breaks off all its sessions without a word.
    pub vanishes: watch::Sender<()>,
}

/// A fake agent and a fake Postgres that says its index and then echoes.
pub struct Node {
    pub says: watch::Sender<NodeReport>,
    pub manners: Arc<Manners>,
    pub heard: Heard,
    /// The sessions that it was told to be over, each time.
    pub abandoned: watch::Receiver<Vec<Vec<AbandonedSession>>>,
    /// Ends all its sessions.
    pub ends: watch::Sender<()>,
    _tasks: [AbortOnDropHandle<()>; 2],
    _dir: TempDir,
}

#[derive(Clone)]
struct Agent {
    says: watch::Receiver<NodeReport>,
    manners: Arc<Manners>,
    abandoned: watch::Sender<Vec<Vec<AbandonedSession>>>,
}

async fn one(State(agent): State<Agent>) -> Json<NodeReport> {
    while agent.manners.mute.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
    Json(agent.says.borrow().clone())
}

async fn all(State(agent): State<Agent>) -> Body {
    let lines = WatchStream::new(agent.says).map(|report| {
        let line = serde_json::to_string(&report).unwrap() + "\n";
        Ok::<_, Infallible>(Bytes::from(line))
    });
    Body::from_stream(lines)
}

/// One has a statement under way when it is asked first.
async fn end(State(agent): State<Agent>, Json(sessions): Json<Vec<AbandonedSession>>) -> Json<Leftover> {
    let all: Vec<i32> = sessions.iter().map(|session| session.pid).collect();
    agent.abandoned.send_modify(|all| all.push(sessions));
    let busy = if agent.abandoned.borrow().len() == 1 { all } else { Vec::new() };
    Json(Leftover { ended: 0, busy })
}

pub async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// The cancel requests that a node has heard.
type Heard = Arc<Mutex<Vec<Vec<u8>>>>;

/// Logs in whoever shows a certificate of the pool and proves the password, says its index and then echoes.
#[derive(Clone)]
struct Postgres {
    identity: Identity,
    index: u8,
    heard: Heard,
    ends: watch::Receiver<()>,
    manners: Arc<Manners>,
}

impl Postgres {
    async fn run(self, listener: TcpListener) {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            tokio::spawn(self.clone().serve(socket));
        }
    }

    async fn serve(self, mut socket: TcpStream) {
        let vanishes = self.manners.vanishes.subscribe();
        assert_eq!(startup::read(&mut socket).await.unwrap(), First::Tls);
        socket.write_all(b"S").await.unwrap();
        let mut socket = acceptor(&self.identity).accept(socket).await.unwrap();
        // Whoever has waited for long enough goes without a word.
        let asked = match startup::read(&mut socket).await {
            Ok(First::Startup(asked)) => asked,
            Ok(First::Cancel(request)) => {
                self.heard.lock().unwrap().push(request);
                let mut busy = self.manners.busy.subscribe();
                return drop(busy.wait_for(|busy| !busy).await.unwrap());
            }
            other => panic!("{other:?}"),
        };
        if self.manners.deaf.load(Ordering::SeqCst) {
            return drop(socket.read_to_end(&mut Vec::new()).await);
        }
        let refuses = *self.manners.refuses.lock().unwrap();
        if let Some(code) = refuses {
            socket.write_all(&encode(b'E', format!("C{code}\0Mno\0\0").as_bytes())).await.unwrap();
            return drop(socket.shutdown().await);
        }
        let check = Check::Password(verifier(asked.user().unwrap()).parse().unwrap());
        login::prove(&mut socket, "app", check, Binding::None).await.unwrap();
        let index = self.index;
        let mut said = encode(b'S', format!("node\0{index}\0").as_bytes());
        for _ in 0..self.manners.talks.load(Ordering::SeqCst) {
            said.extend(encode(b'S', format!("filler\0{}\0", "x".repeat(60_000)).as_bytes()));
        }
        login::admit(&mut socket, &said, &[0, 0, 0, index, 7, 7, 7, 7]).await.unwrap();
        echo(socket, self.ends, vanishes).await;
    }
}

async fn echo(
    mut socket: tokio_rustls::server::TlsStream<TcpStream>,
    mut ends: watch::Receiver<()>,
    mut vanishes: watch::Receiver<()>,
) {
    let mut skips = false;
    loop {
        let message = tokio::select! {
            message = message::read(&mut socket) => message.ok(),
            _ = ends.changed() => Some(Message { tag: b'E', body: b"C57P01\0Mby the node\0\0".to_vec() }),
            _ = vanishes.changed() => None,
        };
        let Some(message) = message else { break };
        let sent = socket.write_all(&answer(&message, &mut skips)).await;
        if sent.is_err() || socket.flush().await.is_err() {
            break;
        }
        if message.body.starts_with(b"C57P01") {
            break drop(socket.shutdown().await);
        }
    }
}

/// A query is its command's tag; one without a tag stays unanswered. BEGIN opens a transaction, a block of code fails, and
/// so does what isn't SQL; behind that `skips` lasts to the next Sync. All else is echoed.
fn answer(message: &Message, skips: &mut bool) -> Vec<u8> {
    let Message { tag, body } = message;
    let text = match tag {
        b'P' => body.split(|byte| *byte == 0).nth(1).unwrap_or_default(),
        _ => body.strip_suffix(b"\0").unwrap_or(body),
    };
    let ready = encode(b'Z', b"I");
    match tag {
        b'S' if std::mem::take(skips) => ready,
        _ if *skips => Vec::new(),
        b'Q' | b'P' if text.starts_with(b"\"") => {
            let error = [b"C42601\0Msyntax error at or near \"", text, b"\"\0\0"].concat();
            *skips = *tag == b'P';
            [encode(b'E', &error), if *skips { Vec::new() } else { ready }].concat()
        }
        b'Q' if text.starts_with(b"DO ") => [encode(b'E', b"CP0001\0\0"), ready].concat(),
        b'Q' if text == b"BEGIN" => [encode(b'C', body), encode(b'Z', b"T")].concat(),
        b'Q' if !body.is_empty() => [encode(b'C', body), ready].concat(),
        _ => message.bytes(),
    }
}

fn verifier(user: &str) -> String {
    scram_verifier(&SaltKey::of("a key"), user, "secret")
}

async fn stored(Json(question): Json<LoginQuestion>) -> Json<LoginAnswer> {
    match question.user.as_str() {
        "md5" => Json(LoginAnswer { verifier: "md5".to_owned(), genuine: true }),
        user => Json(LoginAnswer { verifier: verifier(user), genuine: user == "app" }),
    }
}

impl Node {
    /// A node that is heard; also the addresses of its agent and its Postgres.
    pub async fn start(
        authority: &Authority,
        host: &str,
        index: u8,
        role: Role,
    ) -> (Self, SocketAddr, SocketAddr) {
        let (identity, dir) = authority.identity(&format!("u/node/{index}"), &[host]);
        let (says, manners) =
            (watch::Sender::new(report(index, role, 3, LEASE_MS)), Arc::<Manners>::default());
        let (told, abandoned) = watch::channel(Vec::new());
        let agent = Agent { says: says.subscribe(), manners: manners.clone(), abandoned: told };
        let router = Router::new()
            .route("/v1/report", get(one))
            .route("/v1/watch", get(all))
            .route("/v1/login", post(stored))
            .route("/v1/abandoned", post(end))
            .with_state(agent);
        let ((agents, agent), (postgreses, postgres_at)) = (listen().await, listen().await);
        let serving = serve(agents, identity.clone(), "u".into(), router, CancellationToken::new());
        let (heard, ends) = (Heard::default(), watch::Sender::new(()));
        let postgres = Postgres {
            identity,
            index,
            heard: heard.clone(),
            ends: ends.subscribe(),
            manners: manners.clone(),
        };
        let tasks = [tokio::spawn(serving), tokio::spawn(postgres.run(postgreses))];
        let tasks = tasks.map(AbortOnDropHandle::new);
        (Self { says, manners, heard, abandoned, ends, _tasks: tasks, _dir: dir }, agent, postgres_at)
    }
}
