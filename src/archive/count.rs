//! How many nodes there are in whose archives a file may be.
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::names;

/// As the agent of the node heard last; kept in the volume for `restore-wal`, since a pod knows of the nodes that there were at its
/// start, and isn't restarted when there are more.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeCount {
    /// So many.
    pub nodes: u8,
}

/// By the file in `path`; where it isn't there, can't be read or says what can't be, there are as many as at the pod's start.
pub(super) fn nodes(path: &Path, at_start: u8) -> u8 {
    let noted = std::fs::read(path).ok().and_then(|text| serde_json::from_slice::<NodeCount>(&text).ok());
    let noted = noted.map(|count| count.nodes).filter(|nodes| (1..=names::MAX_NODES).contains(nodes));
    noted.unwrap_or(at_start)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_noted_counts_where_it_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nodes.json");
        assert_eq!(nodes(&path, 3), 3, "nothing is noted");
        for (noted, known) in [
            (r#"{"nodes":5}"#, 5),
            (r#"{"nodes":2,"ofALaterVersion":1}"#, 2),
            (r#"{"nodes":0}"#, 3),
            (r#"{"nodes":16}"#, 3),
            ("{", 3),
        ] {
            fs::write(&path, noted).unwrap();
            assert_eq!(nodes(&path, 3), known, "{noted}");
        }
    }
}
