//! What becomes of a session while its node can't be spoken to, or not for long any more. Pure.
use super::{lease::Standing, relay::Mode, route::Kind};

/// What is known of a session and its node.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "facts: each is one of its own")]
pub struct View {
    /// How the node stands.
    pub standing: Standing,
    /// What the client came for.
    pub kind: Kind,
    /// No transaction is open and nothing is under way.
    pub idle: bool,
    /// It has nothing at its node that it would lose.
    pub bare: bool,
    /// The client has asked something that the node may not be sent.
    pub waiting: bool,
    /// This front is being shut down.
    pub draining: bool,
    /// It has been held for as long as one may be.
    pub tired: bool,
    /// What the node said before its time was over has had its time to arrive.
    pub late: bool,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// This much is passed on.
    Pass(Mode),
    /// It goes on at another node, as soon as there is one.
    Move,
    /// It ends, since its node does.
    End,
    /// It ends, since this front does.
    Drained,
}

/// Decides. A session that can go on elsewhere does so when its client asks something: a thousand that are idle don't
/// all log in while a new primary has just begun.
pub fn course(view: View) -> Course {
    let View { standing, kind, idle, bare, waiting, draining, tired, late } = view;
    let free = idle && bare;
    match (standing, kind) {
        _ if draining && idle => Course::Drained,
        // Another node that may be read from is as good; there is but one primary, and it may come back.
        (Standing::Over, _) | (Standing::Leaving | Standing::Lapsed, Kind::Read) if free && waiting => {
            Course::Move
        }
        (Standing::Over, _) | (Standing::Leaving, Kind::Read) if free => Course::Pass(Mode::Questions),
        // It was asked under the lease.
        (Standing::Over, _) if !idle && !late => Course::Pass(Mode::Answers),
        (Standing::Over, _) => Course::End,
        (Standing::Lapsed, _) if waiting => Course::Pass(Mode::Answers),
        // The primary waits for its readers too.
        (Standing::Leaving, _) if idle && !tired => Course::Pass(Mode::Answers),
        (Standing::Leaving, _) if !tired => Course::Pass(Mode::UntilIdle),
        (Standing::Serving | Standing::Leaving, _) if draining => Course::Pass(Mode::UntilIdle),
        // Without a lease nothing is sent all the same, and it is noticed that something waits.
        (Standing::Serving | Standing::Leaving | Standing::Lapsed, _) => Course::Pass(Mode::All),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: View = View {
        standing: Standing::Serving,
        kind: Kind::Primary,
        idle: true,
        bare: true,
        waiting: false,
        draining: false,
        tired: false,
        late: false,
    };

    #[test]
    fn a_session_waits_between_two_transactions_while_the_primary_hands_over() {
        let leaving = View { standing: Standing::Leaving, ..USUAL };
        assert_eq!(course(View { idle: false, ..leaving }), Course::Pass(Mode::UntilIdle));
        assert_eq!(course(leaving), Course::Pass(Mode::Answers));
        assert_eq!(course(View { bare: false, ..leaving }), Course::Pass(Mode::Answers));
        assert_eq!(course(View { tired: true, ..leaving }), Course::Pass(Mode::All), "not for ever");
    }

    #[test]
    fn a_session_without_a_node_looks_for_one_when_it_is_asked_something() {
        for view in [
            View { standing: Standing::Over, ..USUAL },
            View { standing: Standing::Leaving, kind: Kind::Read, ..USUAL },
        ] {
            assert_eq!(course(view), Course::Pass(Mode::Questions));
            assert_eq!(course(View { waiting: true, ..view }), Course::Move);
        }
        let over = View { standing: Standing::Over, waiting: true, ..USUAL };
        assert_eq!(course(View { bare: false, ..over }), Course::End);
        assert_eq!(
            course(View { idle: false, ..over }),
            Course::Pass(Mode::Answers),
            "an answer may be near"
        );
        assert_eq!(course(View { idle: false, late: true, ..over }), Course::End);
        let leaving = View { standing: Standing::Leaving, kind: Kind::Read, ..USUAL };
        assert_eq!(course(View { idle: false, ..leaving }), Course::Pass(Mode::UntilIdle));
        assert_eq!(
            course(View { bare: false, ..leaving }),
            Course::Pass(Mode::Answers),
            "it begins nothing more"
        );
    }

    #[test]
    fn a_statement_waits_for_the_lease_or_goes_elsewhere() {
        let lapsed = View { standing: Standing::Lapsed, ..USUAL };
        assert_eq!(course(lapsed), Course::Pass(Mode::All), "nothing waits");
        let waiting = View { waiting: true, ..lapsed };
        assert_eq!(course(waiting), Course::Pass(Mode::Answers));
        assert_eq!(course(View { kind: Kind::Read, ..waiting }), Course::Move);
        assert_eq!(course(View { kind: Kind::Read, idle: false, ..waiting }), Course::Pass(Mode::Answers));
        assert_eq!(course(View { kind: Kind::Read, bare: false, ..waiting }), Course::Pass(Mode::Answers));
    }

    #[test]
    fn a_front_that_is_shut_down_ends_idle_sessions_first() {
        let draining = View { draining: true, ..USUAL };
        assert_eq!(course(draining), Course::Drained);
        assert_eq!(course(View { idle: false, ..draining }), Course::Pass(Mode::UntilIdle));
    }
}
