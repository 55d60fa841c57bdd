//! Clients for whom there is not even a place to log in.
use std::{
    io::{Read, Write},
    net::TcpStream,
};

use super::{refusal::Refusal, wire::startup::TLS_HANDSHAKE};

/// So much of what a client has said is taken before it is answered.
const HEARD: usize = 1024;

/// Tells a client so, as far as that takes no time: the socket doesn't block, and its caller closes it. A server may answer
/// a wish for encryption by an error (PostgreSQL documentation, "SSL Session Encryption"). What the client has said is taken
/// first: where anything is left unread the kernel ends a connection by a reset, with which an answer may be lost.
pub fn turn_away(mut client: &TcpStream) {
    let mut said = [0; HEARD];
    let heard = client.read(&mut said).unwrap_or_default();
    // It speaks TLS already, and would take a word in the clear for a broken record.
    if !said[..heard].starts_with(&[TLS_HANDSHAKE]) {
        client.write_all(&Refusal::Crowd.fatal().bytes()).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::proxy::wire::{message::error_texts, startup::SSL_REQUEST};

    /// What a client hears that has said this.
    fn told(said: &[u8]) -> Vec<u8> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = listener.accept().unwrap().0;
        client.write_all(said).unwrap();
        if !said.is_empty() {
            // Waits until it is there.
            server.peek(&mut [0]).unwrap();
        }
        server.set_nonblocking(true).unwrap();
        turn_away(&server);
        drop(server);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        answer
    }

    #[test]
    fn whoever_is_one_too_many_is_told_so_before_tls() {
        for said in [b"".as_slice(), &SSL_REQUEST] {
            let answer = told(said);
            assert_eq!(answer[0], b'E', "{answer:?}");
            assert_eq!(error_texts(&answer[5..]).0, "53300");
        }
    }

    #[test]
    fn whoever_speaks_tls_at_once_is_not_told_anything_in_the_clear() {
        assert_eq!(told(&[TLS_HANDSHAKE, 3, 1, 2, 0, 1]), b"");
    }
}
