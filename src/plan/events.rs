//! What people are told by Kubernetes Events.

/// Whether it is good or bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing to worry about.
    Normal,
    /// Something to look at.
    Warning,
}

/// One thing that happened to a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// Whether it is good or bad.
    pub severity: Severity,
    /// One word, in CamelCase.
    pub reason: &'static str,
    /// What happened, and what to do where a person must act.
    pub note: String,
}

impl Happening {
    /// Something good.
    pub fn normal(reason: &'static str, note: impl Into<String>) -> Self {
        Self { severity: Severity::Normal, reason, note: note.into() }
    }

    /// Something bad.
    pub fn warning(reason: &'static str, note: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, reason, note: note.into() }
    }
}
