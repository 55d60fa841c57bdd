//! A report that says nothing yet.
use super::{Join, NodeReport, Role};

impl NodeReport {
    /// Of a node of which nothing is known yet.
    #[must_use]
    pub fn unknown(index: u8, boot: &str) -> Self {
        Self {
            pool_uid: String::new(),
            index,
            incarnation: None,
            boot: boot.to_owned(),
            epoch: 0,
            seen: 0,
            put_back: false,
            role: Role::Stopped,
            open: false,
            restarting: false,
            draining: false,
            lease_ms: 0,
            streaming: false,
            timeline: None,
            lsn: None,
            weight: 1,
            nodes: None,
            lag_ms: None,
            join: Join::Unknown,
            message: "starting".into(),
            needs_person: false,
            postgres_version: None,
            volume_bytes: 0,
            volume_free: 0,
            archive_bytes: 0,
            archive_error: None,
            backups: Vec::new(),
            replicas: Vec::new(),
            synchronous: Vec::new(),
            attach_note: String::new(),
            bootstrapped: false,
            pending_restart: Vec::new(),
            lowered_limits: Vec::new(),
            refused_parameters: None,
            loaded_parameters: None,
            unsafe_settings: Vec::new(),
            refused_handover: None,
            office: None,
        }
    }
}
