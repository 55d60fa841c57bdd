//! What is passed on in a session that has begun.
use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll, Waker},
};

use prometheus_client::metrics::counter::Counter;

use super::{
    Input,
    side::{Cuts, Side},
};
use crate::{
    clock::Moment,
    messages::Role,
    proxy::{
        cancel::Cancels,
        guard::Guard,
        lane::BUFFER,
        lease::Tenure,
        metrics::{Metrics, Traffic},
        relay::{Flow, Pause, Relay},
        route::Kind,
        screen::{Screen, Then, explained},
        state::Kept,
        table::Entry,
        wire::{message::encode, walk::HEADER},
    },
};

/// The kinds of messages of clients in a session (PostgreSQL documentation, "Message Formats").
pub const OF_CLIENTS: &[u8] = b"BCdcfDEHFPpQSX";
/// Those of nodes.
pub const OF_NODES: &[u8] = b"RK23CdcGHWDIEVvnNAtS1sZT";
/// Longest message that PostgreSQL takes, its length counted.
const LONGEST: usize = 0x3fff_ffff + 4;

static TRAFFIC: LazyLock<Traffic> = LazyLock::new(|| Metrics::new().traffic(Kind::Primary, 0));

/// The bytes of both sides.
#[derive(Clone, Debug, Default)]
pub struct Dialogue {
    pub client: Vec<u8>,
    pub node: Vec<u8>,
}

impl Dialogue {
    /// Made of whole messages, each of a kind that there is, or of whatever it says.
    fn of(mut input: Input<'_>, raw: bool) -> Self {
        let mut all = Self::default();
        if raw {
            let client = usize::from(input.byte()) * 8;
            all.client = input.bytes(client).to_vec();
            all.node = input.rest().to_vec();
            return all;
        }
        while !input.is_over() {
            let (kind, length) = (usize::from(input.byte()), usize::from(input.byte()));
            let mut body = input.bytes(length % 64).to_vec();
            // Some that are looked at in pieces.
            body.resize(body.len() + (length / 64) * 200, b' ');
            let (side, kinds) =
                if kind < 128 { (&mut all.client, OF_CLIENTS) } else { (&mut all.node, OF_NODES) };
            let tag = kinds[kind % kinds.len()];
            if matches!(tag, b'Q' | b'P') {
                body.push(0);
            }
            side.extend(encode(tag, &body));
        }
        all
    }
}

/// How a session stands after all that.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub to_node: Vec<u8>,
    pub to_client: Vec<u8>,
    /// Why the passing has ended, if it has.
    pub end: Option<String>,
    pub stands: Stands,
}

/// What is known of a session.
#[derive(Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an answer of its own of the session's")]
pub struct Stands {
    pub idle: bool,
    pub bare: bool,
    pub quiet: bool,
    pub can_tell: bool,
    pub kept: Option<Kept>,
    pub refers: Option<Kept>,
    pub room: usize,
}

/// In which order it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// First what the client says, then what the node says.
    InTurn,
    /// Both at once.
    AtOnce,
}

/// Passes a dialogue on. With `doubt` a cancel request was passed on before the node answers.
pub fn pass(said: &Dialogue, cuts: &Cuts, order: Order, doubt: bool) -> Outcome {
    let cancels = Arc::<Cancels>::default();
    let mut flow = Flow::new(Arc::clone(&cancels));
    let (mut client, mut node) = (Side::new(&said.client, cuts), Side::new(&said.node, cuts));
    client.due = said.client.len();
    let mut end = None;
    if order == Order::InTurn {
        end = run(&mut client, &mut node, &mut flow, cuts);
    }
    if doubt {
        cancels.cast();
    }
    if end.is_none() {
        node.due = said.node.len();
        end = run(&mut client, &mut node, &mut flow, cuts);
    }
    let stands = Stands {
        idle: flow.is_idle(),
        bare: flow.is_bare(),
        quiet: flow.is_quiet(),
        can_tell: flow.can_tell(),
        kept: flow.kept(),
        refers: flow.refers(),
        room: flow.room(),
    };
    Outcome { to_node: node.heard, to_client: client.heard, end, stands }
}

/// Passes on until nothing more comes; the reason, if there is an end.
fn run(client: &mut Side<'_>, node: &mut Side<'_>, flow: &mut Flow, cuts: &Cuts) -> Option<String> {
    let entry = Entry {
        tenure: (None, String::new()),
        epoch: 1,
        role: Role::Primary,
        open: true,
        draining: false,
        weight: 1,
        lease: Moment::from_millis(u64::MAX),
    };
    let tenure = Tenure::new(&entry, Counter::default());
    let mut context = Context::from_waker(Waker::noop());
    let mut frank = false;
    let mut idle = 0;
    while idle <= cuts.patience() {
        let before = (client.progress(), node.progress());
        let mut relay = Relay::new(client, node, &tenure, flow, TRAFFIC.clone());
        if frank {
            relay.be_frank();
        }
        match Pin::new(&mut relay).poll(&mut context) {
            Poll::Pending => {}
            Poll::Ready(Pause::Farewell) => frank = true,
            Poll::Ready(Pause::Doubt) => flow.is_proved(),
            Poll::Ready(Pause::End(end)) => return Some(format!("{end:?}")),
            Poll::Ready(pause) => panic!("{pause:?}, though the node serves"),
        }
        assert!(flow.room() <= 4 * BUFFER, "{} bytes are kept", flow.room());
        idle = if before == (client.progress(), node.progress()) { idle + 1 } else { 0 };
    }
    None
}

/// What a node is to get of what a client says, and how it ends if it does.
struct Due {
    passes: Vec<u8>,
    /// None: it goes on.
    end: Option<&'static str>,
    /// Bytes of the last message that aren't there yet, and were not sent.
    waits: usize,
    /// Something was refused.
    refused: bool,
}

/// The same as `Screen` and `Walk` come to, but from all that is said at once.
fn due(mut said: &[u8]) -> Due {
    let (mut passes, mut any) = (Vec::new(), false);
    let due = |passes, end, waits, refused| Due { passes, end, waits, refused };
    while let Some(&[tag, a, b, c, d]) = said.first_chunk::<HEADER>() {
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if !(4..=LONGEST).contains(&length) {
            return due(passes, Some("Malformed"), 0, any);
        }
        let (whole, is_text) = (length + 1, matches!(tag, b'Q' | b'P'));
        let message = &said[..whole.min(said.len())];
        if is_text && whole <= BUFFER && message.len() < whole {
            return due(passes, None, said.len(), any);
        }
        let refused = is_text && refuses(message, whole <= BUFFER);
        if refused && whole > BUFFER {
            return due(passes, Some("Refused"), 0, any);
        }
        any |= refused;
        if refused {
            let Then::Replace(_, instead) = Screen::default().over(message, BUFFER).then else {
                panic!("it isn't replaced")
            };
            passes.extend(instead);
        } else {
            passes.extend(message);
        }
        said = &said[message.len()..];
    }
    // Less than a header isn't sent.
    due(passes, None, said.len(), any)
}

/// What a client is to get of what a node says: once a text was refused, its errors are looked at as a whole, and some are
/// explained. Also how many bytes wait for that.
fn told(mut said: &[u8], refused: bool) -> (Vec<u8>, usize) {
    let mut passes = Vec::new();
    while refused && let Some(tag) = said.first() {
        let length =
            said.get(1..HEADER).and_then(<[u8]>::first_chunk).map(|length| u32::from_be_bytes(*length));
        let length = length.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        match length {
            None if *tag == b'E' => return (passes, said.len()),
            Some(length) if *tag == b'E' && (4..BUFFER).contains(&length) => {
                let Some(error) = said.get(..=length) else { return (passes, said.len()) };
                passes.extend(explained(error).unwrap_or_else(|| error.to_vec()));
                said = &said[error.len()..];
            }
            Some(length) if (4..said.len()).contains(&length) => {
                passes.extend(&said[..=length]);
                said = &said[length + 1..];
            }
            _ => break,
        }
    }
    passes.extend(said);
    (passes, 0)
}

/// The name of a statement is no text, where it can be told.
fn refuses(message: &[u8], whole: bool) -> bool {
    let body = &message[HEADER..];
    let name = if whole && message[0] == b'P' { body.iter().position(|b| *b == 0) } else { None };
    Guard::default().refuses(&body[name.map_or(0, |end| end + 1)..])
}

/// What must hold where the client's own words end it: of what is refused nothing arrives but its header and the harmless
/// pieces before.
fn check_ended(outcome: &Outcome, due: &Due, end: &str) {
    assert_eq!(outcome.end.as_deref(), Some(end));
    let common = due.passes.len().min(outcome.to_node.len());
    assert_eq!(outcome.to_node[..common], due.passes[..common]);
    assert!(end != "Refused" || is_harmless(&outcome.to_node[common..]), "a refused text was sent");
}

/// What must hold where all that the client says is passed on.
fn check_passed(outcome: &Outcome, due: &Due, said: &Dialogue) {
    assert_eq!(outcome.to_node, due.passes, "what the node gets isn't what the client says");
    let ended = outcome.end.as_deref();
    assert!(matches!(ended, None | Some("Malformed")), "{ended:?}");
    let (node, waits) = told(&said.node, due.refused);
    let common = node.len().min(outcome.to_client.len());
    assert_eq!(outcome.to_client, node[..common], "what the client gets isn't what the node says");
    if ended.is_none() {
        assert_eq!(common, node.len(), "something is kept back");
        let waits = waits + due.waits;
        assert_eq!(outcome.stands.room > 0, waits > 0, "{waits} bytes wait");
    }
}

/// What must hold of a dialogue, however it is cut.
pub fn check(said: &Dialogue, cuts: &Cuts, doubt: bool) {
    let whole = pass(said, &Cuts::default(), Order::InTurn, doubt);
    let pieces = pass(said, cuts, Order::InTurn, doubt);
    let due = due(&said.client);
    for outcome in [&whole, &pieces] {
        if let Some(end) = due.end {
            check_ended(outcome, &due, end);
        } else {
            check_passed(outcome, &due, said);
        }
    }
    assert_eq!(whole.end, pieces.end);
    if whole.end.is_none() {
        assert_eq!(whole.stands, pieces.stands);
    }
    let mixed = pass(said, cuts, Order::AtOnce, doubt);
    // What came before the refusal isn't explained.
    let (node, told) = (told(&said.node, due.refused).0, told(&mixed.to_client, due.refused).0);
    let common = node.len().min(told.len());
    assert_eq!(told[..common], node[..common]);
    let common = due.passes.len().min(mixed.to_node.len());
    assert_eq!(mixed.to_node[..common], due.passes[..common]);
}

fn is_harmless(sent: &[u8]) -> bool {
    sent.get(HEADER..).is_none_or(|text| !Guard::default().refuses(text))
}

/// Bytes of a client and of a node, in a session.
pub fn relay(bytes: &[u8]) {
    let mut input = Input(bytes);
    let flags = input.byte();
    let cuts = Cuts::of(&mut input);
    check(&Dialogue::of(input, flags & 1 == 1), &cuts, flags & 2 == 2);
}

/// Statements of a client, looked at in pieces of any size.
pub fn screen(bytes: &[u8]) {
    let mut input = Input(bytes);
    let room = 32 + usize::from(input.byte());
    let cuts = Cuts::of(&mut input);
    let said = Dialogue::of(input, false).client;
    assert_eq!(screened(&said, room, &cuts), screened(&said, room, &Cuts::default()));
}

/// What is cleared, or nothing where the session is broken off.
fn screened(said: &[u8], room: usize, cuts: &Cuts) -> Option<Vec<u8>> {
    let (mut screen, mut cuts) = (Screen::default(), cuts.clone());
    let (mut cleared, mut kept, mut at) = (Vec::new(), Vec::new(), 0);
    while at < said.len() {
        let end = at.saturating_add(cuts.next().max(1)).min(said.len());
        kept.extend_from_slice(&said[at..end]);
        at = end;
        loop {
            let seen = screen.over(&kept, room);
            assert!(seen.cleared <= kept.len());
            cleared.extend(kept.drain(..seen.cleared));
            match seen.then {
                Then::Nothing => {
                    assert!(kept.is_empty());
                    break;
                }
                Then::More => {
                    assert!(kept.len() < room.max(HEADER), "{} bytes wait", kept.len());
                    break;
                }
                Then::Replace(total, instead) => {
                    kept.drain(..total);
                    cleared.extend(instead);
                }
                Then::Break => return None,
            }
        }
    }
    Some(cleared)
}
