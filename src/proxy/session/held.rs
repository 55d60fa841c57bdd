//! Waiting in a client's place, as long as it is there.
use std::{future::pending, io, net, os::fd::AsFd, time::Duration};

use tokio::{io::Interest, net::TcpStream, time::timeout};

use super::super::login::Secure;

/// Why it isn't waited any longer.
pub enum Unheld {
    /// A client may not be held for longer.
    Late,
    /// The client has gone.
    Gone,
}

/// Waits for this, while the client is there and no longer than that. What the client says meanwhile stays unread.
pub async fn held<T>(client: &Secure, limit: Duration, what: impl Future<Output = T>) -> Result<T, Unheld> {
    tokio::select! {
        biased;
        done = timeout(limit, what) => done.map_err(|_| Unheld::Late),
        () = gone(client.get_ref().0) => Err(Unheld::Gone),
    }
}

/// Waits until a client that isn't read has ended its side or broken off, as PostgreSQL does where it looks for that
/// (`client_connection_check_interval`). With a registration of its own: that of the connection says nothing new as long as
/// there is anything unread. Where there is none to be had, it isn't noticed.
pub fn gone<S: AsFd>(client: &S) -> impl Future<Output = ()> + Send + use<S> {
    let socket = client.as_fd().try_clone_to_owned();
    async move {
        match socket.map(net::TcpStream::from).and_then(TcpStream::from_std) {
            Ok(socket) => ended(&socket).await,
            Err(_) => pending().await,
        }
    }
}

async fn ended(socket: &TcpStream) {
    loop {
        match socket.ready(Interest::READABLE).await {
            Ok(ready) if ready.is_read_closed() => return,
            // It has said something, which stays unread: only what comes next is news.
            Ok(_) => {
                drop(socket.try_io(Interest::READABLE, || -> io::Result<()> {
                    Err(io::ErrorKind::WouldBlock.into())
                }));
            }
            Err(_) => return pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(40);

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_client_is_seen_to_go_behind_what_it_has_said() {
        let (mut client, ours) = pair().await;
        client.write_all(b"a question").await.unwrap();
        ours.readable().await.unwrap();
        let mut going = Box::pin(gone(&ours));
        // It is there as long as it only says something.
        assert!(timeout(Duration::from_millis(50), &mut going).await.is_err());
        client.write_all(b"another one").await.unwrap();
        assert!(timeout(Duration::from_millis(50), &mut going).await.is_err());
        drop(client);
        timeout(PATIENCE, going).await.expect("nobody noticed");
        timeout(PATIENCE, gone(&ours)).await.expect("nobody noticed who was gone before");
        let mut said = [0; 30];
        assert_eq!(ours.try_read(&mut said).unwrap(), 21, "all of it is still there");
    }
}
