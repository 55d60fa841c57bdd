//! Writer and checker.
fn main() {}
