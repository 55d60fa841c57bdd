//! PostgreSQL as seen from outside: files and programs. A leaf: knows nothing of pools.
pub mod programs;
