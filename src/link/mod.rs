//! HTTP/1.1 with mutual TLS between the parts of a pool: agents, fronts, recovery Jobs, the operator.
//!
//! Both sides show a certificate of the pool's own authority. Who a caller is stands in a URI name of
//! its certificate, `pgpool://UID/node/INDEX`, `…/proxy`, `…/recovery` or `…/operator`; a message says
//! nothing about its sender that is believed. TLS 1.3 only, and no session resumption: connections are
//! kept, so a handshake is rare, and every one of them verifies the certificate again.
mod book;
mod client;
mod error;
mod lines;
mod server;
mod tls;
mod validity;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use book::{Book, Proved};
pub use client::Client;
pub use error::LinkError;
pub use server::{Caller, Origin, Refused, bind, serve};
pub use tls::{Identity, peer_of};
pub(crate) use tls::{Stamp, certificates, private_key, provider, stamp_of};
pub use validity::Validity;
