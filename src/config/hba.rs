//! pg_hba.conf: who may log in to a node (PostgreSQL docs, "The pg_hba.conf File").
use crate::names::REPLICATION_ROLE;

/// Whether clients are let in. Only the gate differs between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Nobody but the agent and the other nodes.
    Shut,
    /// Users too.
    Open,
}

/// Users log in by SCRAM, and only by who shows a certificate of the pool: the front. The superuser and the operator's roles never come over the network this way.
pub fn render(gate: Gate) -> String {
    let mut text = format!(
        "# Written by the agent.\n\
         local all postgres peer\n\
         local all all reject\n\
         hostssl replication {REPLICATION_ROLE} all cert\n\
         host replication all all reject\n\
         host all postgres,{REPLICATION_ROLE} all reject\n"
    );
    if gate == Gate::Open {
        text.push_str("hostssl all all all scram-sha-256 clientcert=verify-ca\n");
    }
    text.push_str("host all all all reject\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `INSTA_UPDATE=always cargo test --lib config` writes them anew.
    #[test]
    fn the_whole_file_is_as_it_was() {
        insta::assert_snapshot!("hba_open", render(Gate::Open));
        insta::assert_snapshot!("hba_shut", render(Gate::Shut));
    }

    #[test]
    fn only_the_open_gate_lets_users_in() {
        assert!(!render(Gate::Shut).contains("scram"));
        assert!(render(Gate::Open).contains("hostssl all all all scram-sha-256 clientcert=verify-ca\n"));
    }

    #[test]
    fn the_superuser_is_refused_before_users_are_let_in() {
        let text = render(Gate::Open);
        let line = |needle: &str| text.find(needle).unwrap();
        assert!(line("host all postgres,pgpool_replication all reject") < line("scram-sha-256"));
    }
}
