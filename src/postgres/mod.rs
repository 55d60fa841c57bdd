//! PostgreSQL as seen from outside: positions, files and programs. A leaf: knows nothing of pools.
pub mod lsn;
pub mod programs;

pub use lsn::Lsn;
