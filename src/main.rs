//! The PgPool operator.
fn main() {}
