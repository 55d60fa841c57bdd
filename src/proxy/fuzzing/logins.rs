//! What is said before a session begins: by a client that wants one, and by the node that is to give it.
use super::{
    Input,
    side::{Cuts, Side, finish},
};
use crate::proxy::{
    auth::{Binding, ClientKey, Exchange, Login, PLAIN, PLUS, Verifier},
    login::{self, Check, LoginError},
    node,
    wire::startup::{self, First, Startup},
};

/// A verifier; nobody here knows its password.
const VERIFIER: &str = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

fn verifier() -> Verifier {
    let Ok(verifier) = VERIFIER.parse() else { panic!("no verifier") };
    verifier
}

/// The first message of a connection.
pub fn startup(bytes: &[u8]) {
    let mut input = Input(bytes);
    let cuts = Cuts::of(&mut input);
    let said = input.rest();
    let read = |cuts: &Cuts| {
        let mut side = Side::leaving(said, cuts);
        let first = finish(startup::read(&mut side)).map_err(|error| error.to_string());
        (first, side.said)
    };
    let (first, taken) = read(&cuts);
    let (whole, taken_whole) = read(&Cuts::default());
    assert_eq!(first, whole);
    let Ok(first) = first else { return };
    assert_eq!(taken, taken_whole);
    // What comes behind it is left alone.
    let length = said.first_chunk().map(|length| u32::from_be_bytes(*length));
    assert_eq!(length, u32::try_from(taken).ok());
    match first {
        First::Startup(startup) => asked(&startup),
        First::Cancel(message) => assert_eq!(message, said[..taken]),
        First::Tls | First::Gss => {}
    }
}

fn asked(startup: &Startup) {
    let refused = login::refused(startup);
    assert!(refused.is_some() || startup.user().is_some());
    if let Some(fatal) = refused {
        whole_messages(&fatal.bytes());
    }
    if let Some(negotiation) = startup.negotiation() {
        whole_messages(&negotiation);
    }
    // What a node is asked for is read as the same again, but for what isn't passed on.
    let sent = startup.bytes();
    let Ok(First::Startup(again)) = finish(startup::read(&mut sent.as_slice())) else {
        panic!("a node could not read it")
    };
    let passed_on = |name: &[u8]| !name.starts_with(b"_pq_.") && name != b"replication";
    let parameters = startup.parameters.iter().filter(|(name, _)| passed_on(name));
    assert!(again.parameters.iter().eq(parameters) && again.minor == 0);
}

/// The kinds of these messages, which must be whole.
fn whole_messages(mut bytes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let Some(&[tag, a, b, c, d]) = bytes.first_chunk() {
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let Some(rest) = bytes.get(1 + length..) else { panic!("a message of {length} bytes is cut off") };
        kinds.push(tag);
        bytes = rest;
    }
    assert!(bytes.is_empty());
    kinds
}

/// What a client answers when it has to prove its password, and what a server of that name would.
pub fn scram(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (flags, cuts) = (input.byte(), Cuts::of(&mut input));
    let said = input.rest();
    let binding = if flags & 1 == 1 { Binding::EndPoint(vec![7; 32]) } else { Binding::None };
    let prove = |cuts: &Cuts, in_vain: bool| {
        let mut side = Side::leaving(said, cuts);
        let check = if in_vain { Check::InVain(verifier()) } else { Check::Password(verifier()) };
        let error = finish(login::prove(&mut side, "app", check, binding.clone())).map(drop);
        let Err(error) = error else { panic!("it got in") };
        let told = match &error {
            LoginError::Told(fatal) => Some(fatal.clone()),
            _ => None,
        };
        (told, error.to_string(), whole_messages(&side.heard), side.said)
    };
    let proved = prove(&cuts, false);
    assert_eq!(proved, prove(&Cuts::default(), false), "by how it is cut");
    assert_eq!(proved, prove(&cuts, true), "a role that isn't there is told from one that is");
    exchange(&mut Exchange::new(verifier(), binding), flags, said);
}

/// The same behind a beginning that is right.
fn exchange(server: &mut Exchange, flags: u8, said: &[u8]) {
    let (mechanism, first) =
        if flags & 1 == 1 { (PLUS, "p=tls-server-end-point,,n=,r=abc") } else { (PLAIN, "n,,n=,r=abc") };
    let Ok(challenge) = server.first(mechanism, first.as_bytes()) else { panic!("it isn't begun") };
    let nonce = challenge.split(',').next().unwrap_or_default();
    let channel = if flags & 2 == 2 { "c=biws," } else { "" };
    let last = [channel.as_bytes(), nonce.as_bytes(), said].concat();
    assert!(server.last(&last).is_err());
    let Ok(mut login) = Login::new(key()) else { return };
    let first = login.first();
    let nonce = first.split("r=").nth(1).unwrap_or_default();
    let challenge = [b"r=", nonce.as_bytes(), said].concat();
    if login.answer(&challenge, &verifier()).is_ok() {
        assert!(challenge.len() > 2 + nonce.len());
    }
    assert!(login.finish(said).is_err());
    if let Ok(text) = std::str::from_utf8(said) {
        let _ = text.parse::<Verifier>();
    }
}

fn key() -> ClientKey {
    ClientKey::of([1; 32])
}

/// What a node answers to a login, and to what is committed behind a cancel request.
pub fn node(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (flags, cuts) = (input.byte(), Cuts::of(&mut input));
    let said = input.rest();
    let startup = Startup { minor: 0, parameters: vec![(b"user".to_vec(), b"app".to_vec())] };
    let log_in = |cuts: &Cuts| {
        let mut side = Side::leaving(said, cuts);
        let Ok(login) = Login::new(key()) else { panic!("no random numbers") };
        let done = finish(node::log_in(&mut side, &startup, login, &verifier()));
        if let Ok(greeting) = &done {
            assert!(greeting.said.len() <= said.len());
            let kinds = whole_messages(&greeting.said);
            assert!(kinds.iter().all(|kind| b"SN".contains(kind)));
        }
        (done.map_err(|error| error.to_string()), side.said)
    };
    assert_eq!(log_in(&cuts), log_in(&Cuts::default()));
    let barrier = |cuts: &Cuts| {
        let mut side = Side::leaving(said, cuts);
        let done = finish(node::barrier(&mut side, flags & 1 == 1)).map_err(|error| error.to_string());
        (done, side.said)
    };
    assert_eq!(barrier(&cuts), barrier(&Cuts::default()));
}
