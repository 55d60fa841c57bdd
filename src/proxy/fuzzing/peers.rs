//! What other parts say: agents of themselves, other fronts of keys, and clients of the keys that they have.
use super::Input;
use crate::{
    clock,
    messages::{CancelAnswer, CancelQuestion, Leftover, LoginAnswer, NodeReport},
    proxy::{auth::Verifier, cancel, hub::Hub, route::Kind},
};

/// Reports of nodes, answers to questions, and cancel requests.
pub fn peers(bytes: &[u8]) {
    if let Some(key) = cancel::key_of(bytes) {
        assert_eq!(bytes[8..], key);
    }
    let _ = serde_json::from_slice::<CancelQuestion>(bytes);
    let _ = serde_json::from_slice::<CancelAnswer>(bytes);
    let _ = serde_json::from_slice::<Leftover>(bytes);
    if let Ok(answer) = serde_json::from_slice::<LoginAnswer>(bytes) {
        let _ = answer.verifier.parse::<Verifier>();
    }
    let hub = Hub::new();
    let mut input = Input(bytes);
    let asked = input.byte();
    // A few lines, each of which may be a report.
    for line in input.rest().split(|byte| *byte == b'\n') {
        let Ok(report) = serde_json::from_slice::<NodeReport>(line) else { continue };
        hub.told(report.index, &report);
        hub.answered(report.index, &report, clock::now());
        let kind = if asked & 1 == 1 { Kind::Primary } else { Kind::Read };
        let seat = hub.take(kind, &[]);
        assert!(seat.is_none_or(|seat| seat.index < 3));
    }
}
