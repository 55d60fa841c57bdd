//! What metrics tell of a pool: its status, in numbers.
use crate::api::v1alpha1::conditions::{DEGRADED, READY};
use crate::api::v1alpha1::{Health, NodeState, PgPoolStatus};
use crate::plan::Happening;
use crate::telemetry::operator::{Metrics, NodeFigures, PoolFigures};

/// The status of a pool that shall have so many nodes.
pub fn of(status: &PgPoolStatus, wished: u8) -> PoolFigures {
    let condition = |kind: &str| status.conditions.iter().find(|c| c.type_ == kind && c.status == "True");
    let nodes = status.nodes.iter().map(|node| NodeFigures {
        index: node.index,
        state: state(node.state),
        failed_recoveries: node.failed_recoveries.as_ref().map_or(0, |failed| failed.count),
    });
    PoolFigures {
        ready: condition(READY).is_some(),
        phase: status.phase.map(phase),
        degraded: condition(DEGRADED).map(|condition| condition.reason.clone()),
        wished,
        nodes: nodes.collect(),
    }
}

/// The word that the status has for it.
fn phase(health: Health) -> &'static str {
    match health {
        Health::Creating => "Creating",
        Health::Recovering => "Recovering",
        Health::Updating => "Updating",
        Health::Ready => "Ready",
        Health::Degraded => "Degraded",
        Health::Unavailable => "Unavailable",
        Health::Suspended => "Suspended",
        Health::Invalid => "Invalid",
    }
}

fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Attached => "Attached",
        NodeState::Detached => "Detached",
        NodeState::Recovering => "Recovering",
        NodeState::Unreachable => "Unreachable",
    }
}

/// Counts a recovery that has ended with this plan: it is told of once, and stands in the status that goes with it.
pub fn count_recovery(metrics: &Metrics, happenings: &[Happening], status: &PgPoolStatus) {
    let ended = |happening: &Happening| ["RecoveryFinished", "RecoveryFailed"].contains(&happening.reason);
    if let (true, Some(last)) = (happenings.iter().any(ended), &status.last_recovery) {
        metrics.recovered(last.succeeded, last.seconds, u64::try_from(last.bytes).unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::telemetry::operator::PHASES;

    fn status() -> PgPoolStatus {
        let since = "2026-11-29T10:00:00Z";
        let condition = |kind, status, reason| json!({"type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": since});
        serde_json::from_value(json!({
            "phase": "Degraded",
            "conditions": [condition("Ready", "False", "NodesMissing"), condition("Degraded", "True", "NodesMissing")],
            "nodes": [
                {"index": 0, "pod": "orchard-0-0", "state": "Attached", "primary": true},
                {"index": 1, "pod": "orchard-1-0", "state": "Unreachable",
                 "failedRecoveries": {"count": 4, "last": since}},
            ],
            "lastRecovery": {
                "id": "x", "node": 1, "succeeded": false, "message": "", "bytes": 7, "seconds": 2.5, "endedAt": since,
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_status_is_told_in_its_own_words() {
        let found = of(&status(), 3);
        assert_eq!((found.ready, found.phase, found.wished), (false, Some("Degraded"), 3));
        assert_eq!(found.degraded.as_deref(), Some("NodesMissing"));
        let nodes: Vec<_> =
            found.nodes.iter().map(|node| (node.index, node.state, node.failed_recoveries)).collect();
        assert_eq!(nodes, [(0, "Attached", 0), (1, "Unreachable", 4)]);
        let new = of(&PgPoolStatus::default(), 1);
        assert_eq!(new, PoolFigures { wished: 1, ..PoolFigures::default() });
    }

    #[test]
    fn every_word_is_that_of_the_status() {
        for word in PHASES {
            let health: Health = serde_json::from_value(json!(word)).unwrap();
            assert_eq!(phase(health), word);
        }
        for word in ["Attached", "Detached", "Recovering", "Unreachable"] {
            let found: NodeState = serde_json::from_value(json!(word)).unwrap();
            assert_eq!(state(found), word);
        }
    }

    #[test]
    fn a_recovery_is_counted_when_it_ends() {
        let metrics = Metrics::new(&[], []);
        count_recovery(&metrics, &[Happening::normal("RecoveryStarted", "")], &status());
        count_recovery(&metrics, &[], &status());
        assert!(metrics.text().contains("pgpool_operator_recoveries_total{result=\"failed\"} 0\n"));
        count_recovery(&metrics, &[Happening::warning("RecoveryFailed", "")], &status());
        let text = metrics.text();
        assert!(text.contains("pgpool_operator_recoveries_total{result=\"failed\"} 1\n"), "{text}");
        assert!(text.contains("pgpool_operator_recovery_copied_bytes_total 7\n"), "{text}");
    }
}
