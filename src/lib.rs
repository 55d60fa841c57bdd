//! The PgPool operator.
