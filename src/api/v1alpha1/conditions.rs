//! The conditions of a PgPool, and the reasons that they carry.

/// All wished nodes are attached and the front is up.
pub const READY: &str = "Ready";
/// Something is under way.
pub const PROGRESSING: &str = "Progressing";
/// Fewer nodes are attached than wished, or something needs a person.
pub const DEGRADED: &str = "Degraded";
