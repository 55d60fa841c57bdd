//! The text of PostgreSQL's configuration files: pure functions.
pub mod hba;
pub mod postgresql;
