//! Messages of every kind, both ways (PostgreSQL documentation, "Message Formats"), and bytes that are none.
use proptest::{prelude::*, strategy::BoxedStrategy};

use super::{
    passing::{Dialogue, OF_CLIENTS, OF_NODES, Order, check, pass},
    side::{Cuts, Side, finish},
    *,
};
use crate::proxy::{
    auth::{ClientKey, Login},
    login,
    node::{self, NodeError},
    state::Kept,
    wire::{
        message::{authentication, encode},
        startup::{self, First, Startup, StartupError},
    },
};

type Bytes = BoxedStrategy<Vec<u8>>;

fn any_bytes(length: usize) -> Bytes {
    prop::collection::vec(any::<u8>(), 0..length).boxed()
}

/// A string with its zero.
fn text() -> Bytes {
    "[^\0]{0,12}".prop_map(|text| [text.as_bytes(), b"\0"].concat()).boxed()
}

/// A statement with its zero: harmless, or not.
fn statement() -> Bytes {
    let words = "(select|set|synchronous_commit|to|off|temp|create|;| |=|'|[a-z]{0,9}){0,12}";
    words.prop_map(|text| [text.as_bytes(), b"\0"].concat()).boxed()
}

fn number<const N: usize>() -> Bytes {
    any::<[u8; N]>().prop_map(|bytes| bytes.to_vec()).boxed()
}

fn fixed(bytes: &'static [u8]) -> Bytes {
    Just(bytes.to_vec()).boxed()
}

/// So many of these, behind their number.
fn list(of: Bytes) -> Bytes {
    let with_number = |all: Vec<Vec<u8>>| {
        let number = u16::try_from(all.len()).unwrap().to_be_bytes();
        [number.to_vec(), all.concat()].concat()
    };
    prop::collection::vec(of, 0..4).prop_map(with_number).boxed()
}

/// A value with its length; none is -1.
fn value() -> Bytes {
    let with_length = |value: Option<Vec<u8>>| match value {
        None => (-1_i32).to_be_bytes().to_vec(),
        Some(bytes) => [u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec(), bytes].concat(),
    };
    prop::option::of(any_bytes(20)).prop_map(with_length).boxed()
}

/// One after the other.
fn all(parts: Vec<Bytes>) -> Bytes {
    parts.prop_map(|parts| parts.concat()).boxed()
}

/// A statement or a portal, by its name.
fn named() -> Bytes {
    all(vec![prop_oneof![fixed(b"S"), fixed(b"P")].boxed(), text()])
}

/// Fields of an error or a notice.
fn fields() -> Bytes {
    let field = all(vec!["[SVCMDHPWRF]".prop_map(String::into_bytes).boxed(), text()]);
    all(vec![prop::collection::vec(field, 0..4).prop_map(|all| all.concat()).boxed(), fixed(b"\0")])
}

/// Each kind of message that a client may send in a session: its name, its tag, its body.
fn of_clients() -> Vec<(&'static str, u8, Bytes)> {
    vec![
        ("Bind", b'B', all(vec![text(), text(), list(number::<2>()), list(value()), list(number::<2>())])),
        ("Close", b'C', named()),
        ("CopyData", b'd', any_bytes(60)),
        ("CopyDone", b'c', fixed(b"")),
        ("CopyFail", b'f', text()),
        ("Describe", b'D', named()),
        ("Execute", b'E', all(vec![text(), number::<4>()])),
        ("Flush", b'H', fixed(b"")),
        ("FunctionCall", b'F', all(vec![number::<4>(), list(number::<2>()), list(value()), number::<2>()])),
        ("Parse", b'P', all(vec![text(), statement(), list(number::<4>())])),
        ("Password, SASL and GSS responses", b'p', any_bytes(40)),
        ("Query", b'Q', statement()),
        ("Sync", b'S', fixed(b"")),
        ("Terminate", b'X', fixed(b"")),
    ]
}

/// Each kind of message that a node may send.
fn of_nodes() -> Vec<(&'static str, u8, Bytes)> {
    let copy = || all(vec![number::<1>(), list(number::<2>())]);
    let column = all(vec![text(), number::<18>()]);
    vec![
        ("Authentication", b'R', all(vec![number::<4>(), any_bytes(20)])),
        ("BackendKeyData", b'K', number::<8>()),
        ("BindComplete", b'2', fixed(b"")),
        ("CloseComplete", b'3', fixed(b"")),
        ("CommandComplete", b'C', prop_oneof![text(), fixed(b"SET\0"), fixed(b"DISCARD ALL\0")].boxed()),
        ("CopyData", b'd', any_bytes(60)),
        ("CopyDone", b'c', fixed(b"")),
        ("CopyInResponse", b'G', copy()),
        ("CopyOutResponse", b'H', copy()),
        ("CopyBothResponse", b'W', copy()),
        ("DataRow", b'D', list(value())),
        ("EmptyQueryResponse", b'I', fixed(b"")),
        ("ErrorResponse", b'E', fields()),
        ("FunctionCallResponse", b'V', value()),
        ("NegotiateProtocolVersion", b'v', all(vec![number::<4>(), fixed(b"\0\0\0\x01"), text()])),
        ("NoData", b'n', fixed(b"")),
        ("NoticeResponse", b'N', fields()),
        ("NotificationResponse", b'A', all(vec![number::<4>(), text(), text()])),
        ("ParameterDescription", b't', list(number::<4>())),
        ("ParameterStatus", b'S', all(vec![text(), text()])),
        ("ParseComplete", b'1', fixed(b"")),
        ("PortalSuspended", b's', fixed(b"")),
        ("ReadyForQuery", b'Z', prop_oneof![fixed(b"I"), fixed(b"T"), fixed(b"E")].boxed()),
        ("RowDescription", b'T', list(column)),
    ]
}

/// One of each kind, in any order.
fn one_of_each(kinds: Vec<(&'static str, u8, Bytes)>) -> BoxedStrategy<Vec<u8>> {
    let messages: Vec<Bytes> = kinds
        .into_iter()
        .map(|(_, tag, body)| body.prop_map(move |body| encode(tag, &body)).boxed())
        .collect();
    messages.prop_shuffle().prop_map(|messages| messages.concat()).boxed()
}

fn cuts() -> BoxedStrategy<Cuts> {
    prop::collection::vec(0_usize..40, 0..8).prop_map(Cuts::new).boxed()
}

#[test]
fn no_kind_of_message_is_forgotten() {
    let tags = |kinds: Vec<(&str, u8, Bytes)>| kinds.iter().map(|(_, tag, _)| *tag).collect::<Vec<u8>>();
    assert_eq!(tags(of_clients()), OF_CLIENTS);
    assert_eq!(tags(of_nodes()), OF_NODES);
}

proptest! {
    #[test]
    fn messages_of_every_kind_are_passed_on_however_they_are_cut(
        client in one_of_each(of_clients()),
        node in one_of_each(of_nodes()),
        cuts in cuts(),
        doubt in any::<bool>(),
    ) {
        let said = Dialogue { client, node };
        check(&said, &cuts, doubt);
        prop_assert_eq!(pass(&said, &cuts, Order::InTurn, doubt).end, None);
    }

    #[test]
    fn what_came_in_part_waits_or_is_passed_on(
        client in one_of_each(of_clients()),
        node in one_of_each(of_nodes()),
        cuts in cuts(),
        ends in (0_usize..400, 0_usize..400),
    ) {
        let (mut client, mut node) = (client, node);
        client.truncate(ends.0);
        node.truncate(ends.1);
        check(&Dialogue { client, node }, &cuts, false);
    }

    #[test]
    fn bytes_that_nobody_thought_of_break_nothing(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for target in [relay, screen, startup, scram, node, peers] {
            target(&bytes);
        }
    }

    #[test]
    fn a_statement_that_is_refused_is_replaced_behind_any_other(
        before in one_of_each(of_clients()),
        rest in prop::collection::vec(any::<u8>(), 15_000..17_000),
        cuts in prop::collection::vec(1_usize..9000, 0..4),
    ) {
        // A full buffer behind it leaves no room for what takes its place.
        let bad = encode(b'Q', b"set synchronous_commit = off\0");
        let client = [bad.clone(), before, bad, encode(b'd', &rest)].concat();
        let said = Dialogue { client, node: Vec::new() };
        check(&said, &Cuts::new(cuts), false);
    }
}

proptest! {
    #[test]
    fn the_error_of_a_refused_statement_is_explained_however_it_is_cut(
        before in one_of_each(of_nodes()),
        cuts in cuts(),
        doubt in any::<bool>(),
        lacks in 0_usize..150,
    ) {
        let client = encode(b'Q', b"set synchronous_commit = off\0");
        let error = b"Msyntax error at or near \"\"the setting synchronous_commit belongs to the pool\"\"\0\0";
        let node = [before, encode(b'E', error), encode(b'Z', b"I")].concat();
        let mut said = Dialogue { client, node };
        check(&said, &cuts, doubt);
        let told = pass(&said, &cuts, Order::InTurn, doubt).to_client;
        let has = |text: &[u8]| told.windows(text.len()).any(|part| part == text);
        prop_assert!(has(b"C0A000\0Mthe setting ") && !has(b"syntax error"));
        said.node.truncate(said.node.len() - lacks);
        check(&said, &cuts, doubt);
    }
}

/// An exchange of messages that ends a question, as PostgreSQL's documentation has it ("Message Flow").
#[derive(Clone, Debug)]
struct Exchange {
    asked: &'static [u8],
    answered: &'static [u8],
}

const EXCHANGES: [Exchange; 15] = [
    Exchange { asked: b"Q", answered: b"TDDCZ" },
    Exchange { asked: b"Q", answered: b"IZ" },
    Exchange { asked: b"Q", answered: b"EZ" },
    Exchange { asked: b"Q", answered: b"TDCTDCCZ" },
    Exchange { asked: b"QdddcH", answered: b"GCZ" },
    Exchange { asked: b"Qdf", answered: b"GEZ" },
    Exchange { asked: b"Q", answered: b"HddcCZ" },
    Exchange { asked: b"F", answered: b"VZ" },
    Exchange { asked: b"PBDES", answered: b"12TDCZ" },
    Exchange { asked: b"PDBES", answered: b"1tn2CZ" },
    Exchange { asked: b"PBEHEHS", answered: b"12DsDsZ" },
    Exchange { asked: b"PBEBECS", answered: b"12EZ" },
    Exchange { asked: b"CCS", answered: b"33Z" },
    Exchange { asked: b"PBESddcS", answered: b"12GCZ" },
    Exchange { asked: b"S", answered: b"Z" },
];

fn bodiless(tags: &[u8], ready: u8) -> Vec<u8> {
    let body = |tag: u8| match tag {
        b'Z' => vec![ready],
        b'Q' => b"select 1\0".to_vec(),
        b'P' => b"\0select 1\0\0\0".to_vec(),
        b'C' => b"SELECT 1\0".to_vec(),
        _ => vec![0; 4],
    };
    tags.iter().flat_map(|tag| encode(*tag, &body(*tag))).collect()
}

proptest! {
    #[test]
    fn a_session_is_quiet_once_all_is_answered(
        exchanges in prop::collection::vec(prop::sample::select(EXCHANGES.to_vec()), 1..6),
        cuts in cuts(),
        ready in prop::sample::select(b"ITE".to_vec()),
        // What a node may say at any time.
        aside in prop::sample::select(vec![b"".as_slice(), b"N", b"A", b"NAN"]),
    ) {
        let (mut client, mut node) = (Vec::new(), Vec::new());
        for exchange in &exchanges {
            client.extend(bodiless(exchange.asked, b'I'));
            node.extend(bodiless(aside, b'I'));
            node.extend(bodiless(exchange.answered, ready));
        }
        let said = Dialogue { client, node };
        check(&said, &cuts, false);
        let stands = pass(&said, &cuts, Order::InTurn, false).stands;
        // Who sends the data of a COPY ahead, and a Sync, may be owed less than it seems, and counts as busy.
        let ahead = exchanges.iter().any(|exchange| exchange.answered.contains(&b'G'));
        prop_assert!(stands.quiet || ahead, "{exchanges:?}");
        prop_assert_eq!(stands.idle, stands.quiet && ready == b'I');
        prop_assert!(stands.can_tell);
        let function = exchanges.iter().any(|exchange| exchange.asked.contains(&b'F'));
        prop_assert_eq!(stands.kept, function.then_some(Kept::Code));
        // Without the last word it isn't.
        let Dialogue { client, mut node } = said;
        node.truncate(node.len() - bodiless(b"Z", ready).len());
        let cut_off = pass(&Dialogue { client, node }, &cuts, Order::InTurn, false);
        prop_assert!(!cut_off.stands.quiet);
    }
}

/// What a node may answer to a login, and what comes of it.
#[test]
fn a_node_is_told_apart_by_each_message_of_a_login() {
    let startup = Startup { minor: 0, parameters: vec![(b"user".to_vec(), b"app".to_vec())] };
    let answer = |said: &[u8]| {
        let mut node = Side::leaving(said, &Cuts::default());
        let login = Login::new(ClientKey::of([1; 32])).unwrap();
        let verifier = crate::pki::scram_verifier(&crate::pki::SaltKey::of("a key"), "app", "secret");
        finish(node::log_in(&mut node, &startup, login, &verifier.parse().unwrap()))
    };
    // Kerberos, a password, its md5, GSS, its continuation, SSPI: the front has nothing to answer them by.
    for code in [2, 3, 5, 7, 8, 9] {
        let asked = answer(&authentication(code, &[0; 4]));
        assert!(matches!(asked, Err(NodeError::Unknown)), "{code}: {asked:?}");
    }
    let other = answer(&authentication(10, b"SCRAM-SHA-1\0\0"));
    assert!(matches!(other, Err(NodeError::Unknown)), "{other:?}");
    for unproved in [authentication(11, b"r=x,s=eA==,i=1"), authentication(12, b"v=AAAA")] {
        assert!(matches!(answer(&unproved), Err(NodeError::Scram(_))));
    }
    let refused = answer(&encode(b'E', b"C28P01\0Mno\0\0"));
    assert!(matches!(refused, Err(NodeError::Refused(_))), "{refused:?}");
    // Nothing else is said before it is asked: protocol 3.0 is spoken, without options.
    for tag in OF_NODES.iter().filter(|tag| !b"REN".contains(tag)) {
        let said = answer(&encode(*tag, b"\0\0\0\0"));
        assert!(matches!(said, Err(NodeError::Unknown)), "{}: {said:?}", char::from(*tag));
    }
    let (in_, key) = (authentication(0, b""), encode(b'K', b"pid1key1"));
    let said = [encode(b'S', b"a\0b\0"), encode(b'N', b"\0")].concat();
    let greeting = answer(&[&in_[..], &said, &key, &encode(b'Z', b"I")].concat()).unwrap();
    assert_eq!((greeting.said, greeting.key), (said, *b"pid1key1"));
    for bad in [encode(b'K', b"pid1a key that is too long"), encode(b'Z', b"T"), encode(b'D', b"")] {
        assert!(matches!(answer(&[&in_[..], &bad].concat()), Err(NodeError::Unknown)));
    }
    assert!(matches!(answer(&in_), Err(NodeError::Io(_))), "it breaks off");
}

proptest! {
    #[test]
    fn each_first_message_is_read_and_nothing_behind_it(
        user in "[^\0]{1,80}",
        minor in any::<u16>(),
        behind in any_bytes(40),
        cut in 1_usize..50,
    ) {
        let asked = Startup { minor: 0, parameters: vec![(b"user".to_vec(), user.into_bytes())] };
        let mut session = asked.bytes();
        session[6..8].copy_from_slice(&minor.to_be_bytes());
        let cancel = [&[0, 0, 0, 16, 4, 210, 22, 46], b"pid1key1".as_slice()].concat();
        let long = [&[0, 0, 1, 12, 4, 210, 22, 46], [7; 260].as_slice()].concat();
        for (message, wanted) in [
            (startup::SSL_REQUEST.to_vec(), First::Tls),
            (vec![0, 0, 0, 8, 4, 210, 22, 48], First::Gss),
            (cancel.clone(), First::Cancel(cancel)),
            (long.clone(), First::Cancel(long)),
            (session, First::Startup(Startup { minor, ..asked })),
        ] {
            let said = [message.as_slice(), &behind].concat();
            let mut side = Side::leaving(&said, &Cuts::new(vec![cut]));
            prop_assert_eq!(finish(startup::read(&mut side)).unwrap(), wanted);
            prop_assert_eq!(side.said, message.len());
        }
    }
}

#[test]
fn a_first_message_takes_no_more_memory_than_postgresql_gives() {
    // 10,000 bytes may come, and not one more: the length alone decides, whatever follows.
    let mut longest = [10_000_u32.to_be_bytes().as_slice(), &[0, 3, 0, 0], b"user\0a\0x\0"].concat();
    longest.resize(9_998, b'y');
    longest.extend([0, 0]);
    let read = |bytes: &[u8]| finish(startup::read(&mut Side::leaving(bytes, &Cuts::default())));
    assert!(matches!(read(&longest), Ok(First::Startup(_))));
    for length in [10_001_u32, 1 << 20, u32::MAX, 7, 0] {
        longest[..4].copy_from_slice(&length.to_be_bytes());
        assert!(matches!(read(&longest[..4]), Err(StartupError::Malformed(_))), "{length}");
    }
    let twice = Startup { minor: 0, parameters: vec![(b"user".to_vec(), b"a".to_vec()); 2] };
    assert!(login::refused(&twice).is_some());
}
