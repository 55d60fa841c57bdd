//! What the parts tell of themselves: metrics and logs. No label has a value that a client, a user or an error makes up.
mod catalog;
pub mod front;
pub mod logs;
pub mod node;
pub mod operator;

#[cfg(test)]
pub(crate) use catalog::told;
pub use catalog::{CONTENT_TYPE, Kind, Metric, know, text};
