//! Clients that mean no good, and nodes that aren't what they should be.
use ring::digest;

use super::{
    auth::{PLAIN, PLUS},
    node::NodeError,
    wire::message::{authentication, sasl_initial},
    *,
};

const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];

/// What the front answers to this before it ends the connection.
async fn told(pool: &Pool, said: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(pool.primary).await.unwrap();
    socket.write_all(said).await.unwrap();
    let mut answer = Vec::new();
    // It may break off.
    timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("it was left open").ok();
    answer
}

impl Pool {
    /// A connection behind TLS on which nothing was said.
    async fn encrypted(&self, mut socket: TcpStream) -> Session {
        socket.write_all(&SSL_REQUEST).await.unwrap();
        assert_eq!(socket.read_u8().await.unwrap(), b'S');
        let connector = TlsConnector::from(self.trusting.clone());
        connector.connect("front".try_into().unwrap(), socket).await.unwrap()
    }

    async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.primary).await.unwrap()
    }

    /// Says this behind TLS.
    async fn say_first(&self, said: &[u8]) -> Session {
        let mut session = self.encrypted(self.dial().await).await;
        session.write_all(said).await.unwrap();
        session
    }

    /// A client that is asked for its password.
    async fn asked(&self, user: &str) -> Session {
        let mut session = self.knock(self.primary, &[("user", user)]).await;
        assert_eq!(hear(&mut session).await.tag, b'R');
        session
    }
}

/// A startup message of this version.
fn startup_message(version: [u8; 4], parameters: &[u8]) -> Vec<u8> {
    let length = u32::try_from(8 + parameters.len()).unwrap();
    [&length.to_be_bytes(), &version, parameters].concat()
}

/// True when the front has ended the connection without a word.
async fn is_closed(session: &mut Session) -> bool {
    let mut byte = [0];
    !timeout(PATIENCE, session.read(&mut byte)).await.expect("it was left open").is_ok_and(|read| read > 0)
}

#[tokio::test]
async fn what_is_no_first_message_gets_no_answer() {
    let pool = Pool::start(&POOL, 1).await;
    for length in [0_u32, 7, 10_001, 1 << 24, u32::MAX] {
        let said = [&length.to_be_bytes(), [0, 3, 0, 0].as_slice(), &[b'x'; 200]].concat();
        assert_eq!(told(&pool, &said).await, b"", "{length}");
        assert!(is_closed(&mut pool.say_first(&said).await).await, "{length}");
    }
    assert_eq!(told(&pool, b"GET / HTTP/1.1\r\nHost: front\r\n\r\n").await, b"");
    for parameters in [b"user".as_slice(), b"user\0app", b"\0app\0\0", b"user\0app\0database\0"] {
        assert!(is_closed(&mut pool.say_first(&startup_message([0, 3, 0, 0], parameters)).await).await);
    }
    assert!(echoes(&mut pool.connect(pool.primary).await.0).await);
}

#[tokio::test]
async fn encryption_is_asked_for_once_of_each_kind() {
    let pool = Pool::start(&POOL, 100).await;
    let mut socket = pool.dial().await;
    socket.write_all(&GSS_REQUEST).await.unwrap();
    assert_eq!(socket.read_u8().await.unwrap(), b'N');
    let mut session = pool.encrypted(socket).await;
    session.write_all(&GSS_REQUEST).await.unwrap();
    assert_eq!(session.read_u8().await.unwrap(), b'N', "PostgreSQL takes it here too");
    session.write_all(&startup_message([0, 3, 0, 0], b"user\0app\0\0")).await.unwrap();
    assert_eq!(prove(&mut session, "secret").await, Ok(()));
    assert_eq!(told(&pool, &[GSS_REQUEST; 2].concat()).await, b"NN");
    assert!(is_closed(&mut pool.say_first(&SSL_REQUEST).await).await, "TLS within TLS");
}

#[tokio::test]
async fn tls_at_once_must_be_for_this_protocol() {
    let pool = Pool::start(&POOL, 100).await;
    let with = |names: &[&[u8]]| {
        let mut config = (*pool.trusting).clone();
        config.alpn_protocols = names.iter().map(|name| name.to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    };
    let name = || "front".try_into().unwrap();
    let mut session = with(&[b"postgresql"]).connect(name(), pool.dial().await).await.unwrap();
    session.write_all(&startup_message([0, 3, 0, 0], b"user\0app\0\0")).await.unwrap();
    assert_eq!(prove(&mut session, "secret").await, Ok(()));
    assert!(with(&[b"h2", b"http/1.1"]).connect(name(), pool.dial().await).await.is_err());
    let mut nameless = with(&[]).connect(name(), pool.dial().await).await.unwrap();
    nameless.write_all(&startup_message([0, 3, 0, 0], b"user\0app\0\0")).await.ok();
    assert!(is_closed(&mut nameless).await);
}

#[tokio::test]
async fn other_versions_are_told_what_is_spoken() {
    let pool = Pool::start(&POOL, 100).await;
    // As libpq asks to see whether servers stand it.
    let newest = startup_message([0, 3, 0x27, 0x0f], b"user\0app\0_pq_.test_protocol_negotiation\0\0\0");
    let mut session = pool.say_first(&newest).await;
    let said = hear(&mut session).await;
    assert_eq!((said.tag, &said.body[..8]), (b'v', [0, 3, 0, 0, 0, 0, 0, 1].as_slice()));
    assert_eq!(said.body[8..], *b"_pq_.test_protocol_negotiation\0");
    assert_eq!(prove(&mut session, "secret").await, Ok(()));
    for version in [[0, 2, 0, 0], [0, 4, 0, 0], [0xff; 4]] {
        let mut session = pool.say_first(&startup_message(version, b"user\0app\0\0")).await;
        assert_eq!(ended(&mut session).await, "0A000", "{version:?}");
    }
}

#[tokio::test]
async fn whoever_does_not_keep_to_the_exchange_is_sent_away() {
    let pool = Pool::start(&POOL, 100).await;
    for said in [
        encode(b'Q', b"select 1\0"),
        encode(b'X', b""),
        encode(b'p', b""),
        encode(b'p', b"secret\0"),
        sasl_initial("SCRAM-SHA-1", "n,,n=,r=abc"),
        sasl_initial(PLAIN, "n,,n=app"),
        sasl_initial(PLAIN, "n,a=postgres,n=,r=abc"),
        sasl_initial(PLAIN, "p=tls-server-end-point,,n=,r=abc"),
        // It could bind the channel, and was made to believe that the front can't.
        sasl_initial(PLAIN, "y,,n=,r=abc"),
    ] {
        let mut session = pool.asked("app").await;
        session.write_all(&said).await.unwrap();
        assert_eq!(ended(&mut session).await, "08P01", "{said:?}");
    }
    // The proof comes with another nonce than the front's, or is none.
    for last in ["c=biws,r=abc,p=AAAA", "c=biws,r=abc", "p=AAAA", ""] {
        let mut session = pool.asked("app").await;
        session.write_all(&sasl_initial(PLAIN, "n,,n=,r=abc")).await.unwrap();
        assert_eq!(hear(&mut session).await.tag, b'R');
        session.write_all(&encode(b'p', last.as_bytes())).await.unwrap();
        assert_eq!(ended(&mut session).await, "08P01", "{last}");
    }
    // No memory for what is longer than any answer.
    let mut session = pool.asked("app").await;
    session.write_all(b"p\0\x02\0\0").await.unwrap();
    assert!(is_closed(&mut session).await);
    assert!(echoes(&mut pool.connect(pool.primary).await.0).await);
}

/// Proves the password, bound to a connection with a certificate of this hash.
async fn prove_bound(session: &mut Session, hash: Vec<u8>) -> Result<(), String> {
    let mut scram = ScramSha256::new(b"secret", ChannelBinding::tls_server_end_point(hash));
    let first = sasl_initial(PLUS, std::str::from_utf8(scram.message()).unwrap());
    session.write_all(&first).await.unwrap();
    let challenge = hear(session).await;
    scram.update(challenge.authentication().unwrap().1).unwrap();
    session.write_all(&encode(b'p', scram.message())).await.unwrap();
    let said = hear(session).await;
    match said.authentication() {
        Some((message::AUTH_SASL_FINAL, last)) => scram.finish(last).map_err(|error| error.to_string()),
        _ => Err(message::error_texts(&said.body).0),
    }
}

#[tokio::test]
async fn a_login_is_bound_to_its_own_tls_connection() {
    let pool = Pool::start(&POOL, 100).await;
    let mut session = pool.asked("app").await;
    let seen = session.get_ref().1.peer_certificates().unwrap()[0].clone();
    let hash = digest::digest(&digest::SHA256, &seen).as_ref().to_vec();
    assert_eq!(prove_bound(&mut session, hash.clone()).await, Ok(()));
    // Somebody in between has another certificate.
    let other = hash.iter().map(|byte| byte ^ 1).collect();
    assert_eq!(prove_bound(&mut pool.asked("app").await, other).await, Err("08P01".into()));
}

/// A message as one sees it who can't read it: its kind, what it asks for, how long it is.
type Step = (u8, Option<u32>, usize);

/// What a client without the password sees: the messages, the challenge without its nonce, the error.
async fn seen(pool: &Pool, user: &str) -> (Vec<Step>, String, String) {
    let mut session = pool.knock(pool.primary, &[("user", user)]).await;
    let mut scram = ScramSha256::new(b"guessed", ChannelBinding::unsupported());
    let (mut steps, mut shown) = (Vec::new(), String::new());
    loop {
        let said = hear(&mut session).await;
        steps.push((said.tag, said.authentication().map(|(code, _)| code), said.body.len()));
        let answer = match said.authentication() {
            Some((10, _)) => sasl_initial(PLAIN, std::str::from_utf8(scram.message()).unwrap()),
            Some((11, challenge)) => {
                let text = std::str::from_utf8(challenge).unwrap();
                text.split_once(",s=").unwrap().1.clone_into(&mut shown);
                scram.update(challenge).unwrap();
                encode(b'p', scram.message())
            }
            _ => return (steps, shown, String::from_utf8(said.body).unwrap()),
        };
        session.write_all(&answer).await.unwrap();
    }
}

#[tokio::test]
async fn a_role_that_is_not_there_looks_like_one_with_another_password() {
    let pool = Pool::start(&POOL, 100).await;
    let (there, nobody, again) =
        (seen(&pool, "app").await, seen(&pool, "xyz").await, seen(&pool, "xyz").await);
    assert_eq!(there.0, nobody.0, "as many steps, each as long");
    let kinds: Vec<_> = there.0.iter().map(|(tag, asks, _)| (*tag, *asks)).collect();
    assert_eq!(kinds, [(b'R', Some(10)), (b'R', Some(11)), (b'E', None)]);
    let rounds = |shown: &str| shown.split_once(",i=").map(|(salt, rounds)| (salt.len(), rounds.to_owned()));
    assert_eq!(rounds(&there.1), rounds(&nobody.1), "as long a salt, as many rounds");
    assert_ne!(there.1, nobody.1, "another salt");
    assert_eq!(nobody.1, again.1, "which stays");
    assert_eq!(there.2, nobody.2.replace("xyz", "app"), "the same words");
}

#[tokio::test]
async fn a_password_that_can_not_be_checked_is_not() {
    let pool = Pool::start(&POOL, 100).await;
    assert_eq!(ended(&mut pool.knock(pool.primary, &[("user", "md5")]).await).await, "28000");
}

#[tokio::test]
async fn a_crowd_that_says_nothing_is_not_let_in_further() {
    let pool = Pool::start(&POOL, 1).await;
    let mut silent = Vec::new();
    for _ in 0..ARRIVING_AT_LEAST {
        silent.push(pool.dial().await);
    }
    // Whether or not it has asked for TLS by then.
    for asked in [b"".as_slice(), &SSL_REQUEST] {
        let said = told(&pool, asked).await;
        let said = message::read(&mut said.as_slice()).await.expect("one too many is told so");
        assert_eq!((said.tag, message::error_texts(&said.body).0), (b'E', "53300".to_owned()));
    }
    pool.counts("pgpool_front_connections_refused_total{route=\"primary\",reason=\"crowd\"} 2").await;
    drop(silent);
    pool.has_nobody().await;
    assert!(echoes(&mut pool.connect(pool.primary).await.0).await);
}

/// A front that waits for clients for so short a time that a test can wait for its end.
async fn impatient() -> Pool {
    let login = Duration::from_secs(3);
    Pool::with(&POOL, 100, None, Limits { login, ..Limits::default() }).await
}

#[tokio::test]
async fn whoever_does_not_log_in_in_time_is_sent_away() {
    let pool = impatient().await;
    // One says nothing, one nothing after its wish for TLS, one nothing behind TLS.
    let mut silent = pool.dial().await;
    let mut hesitant = pool.dial().await;
    hesitant.write_all(&SSL_REQUEST).await.unwrap();
    let mut encrypted = pool.encrypted(pool.dial().await).await;
    // These stop after their startup message, and within the exchange of passwords.
    let mut asked = pool.asked("app").await;
    let mut challenged = pool.asked("app").await;
    challenged.write_all(&sasl_initial(PLAIN, "n,,n=,r=abc")).await.unwrap();
    assert_eq!(hear(&mut challenged).await.tag, b'R');
    for socket in [&mut silent, &mut hesitant] {
        let mut said = Vec::new();
        timeout(PATIENCE, socket.read_to_end(&mut said)).await.expect("it was left open").ok();
        assert!(said.is_empty() || said == b"S", "{said:?}");
    }
    for session in [&mut encrypted, &mut asked, &mut challenged] {
        assert!(is_closed(session).await);
    }
    pool.has_nobody().await;
    pool.counts("pgpool_front_connections_refused_total{route=\"primary\",reason=\"late\"} 5").await;
    assert_eq!(pool.front.arriving.available_permits(), 200, "their places are free");
}

/// Says one byte after the other until the front has gone; all of it would take longer than there is patience for.
async fn trickle(session: &mut Session, message: &[u8]) {
    for byte in message {
        if session.write_all(&[*byte]).await.is_err() || session.flush().await.is_err() {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("it could say all of it");
}

#[tokio::test]
async fn a_byte_now_and_then_wins_no_time() {
    let pool = impatient().await;
    let parameters = [b"user\0app\0x\0".as_slice(), &[b'y'; 9000], b"\0\0"].concat();
    let asks = startup_message([0, 3, 0, 0], &parameters);
    let (mut one, mut other) = (pool.encrypted(pool.dial().await).await, pool.asked("app").await);
    let proves = encode(b'p', "z".repeat(60_000).as_bytes());
    tokio::join!(trickle(&mut one, &asks), trickle(&mut other, &proves));
    pool.has_nobody().await;
    pool.counts("pgpool_front_connections_refused_total{route=\"primary\",reason=\"late\"} 2").await;
    assert_eq!(pool.front.arriving.available_permits(), 200);
}

#[tokio::test]
async fn a_node_that_says_something_before_tls_is_not_believed() {
    let authority = Authority::new();
    let (identity, _dir) = authority.identity("u/proxy", &["front"]);
    let answer = async |said: &'static [u8]| {
        let (listener, address) = listen().await;
        let node = tokio::spawn(async move {
            let mut socket = listener.accept().await.unwrap().0;
            let mut request = [0; 8];
            socket.read_exact(&mut request).await.unwrap();
            socket.write_all(said).await.unwrap();
            // Until the front has gone.
            socket.read_to_end(&mut Vec::new()).await.ok();
        });
        let socket = TcpStream::connect(address).await.unwrap();
        let error = timeout(PATIENCE, node::secure(socket, "node", &identity)).await.unwrap().err();
        node.await.unwrap();
        error
    };
    // In the clear, behind its yes (CVE-2021-23222).
    let in_ =
        Box::leak([b"S".to_vec(), authentication(0, b""), encode(b'Z', b"I")].concat().into_boxed_slice());
    assert!(matches!(answer(in_).await, Some(NodeError::Io(_))));
    for no in [b"N".as_slice(), b"E\0\0\0\x05\0", b"R\0\0\0\x08\0\0\0\0"] {
        assert!(matches!(answer(no).await, Some(NodeError::Unencrypted)));
    }
}
