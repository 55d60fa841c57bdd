//! The control port: plain HTTP/1.1, one request a connection. `GET /summary` answers with the summary so far,
//! `GET /journal` with the journal so far, `POST /stop` ends the run. It knows no secret and changes no data.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::shared::Shared;

/// Connections served at once; more wait in the kernel.
const CONNECTIONS: usize = 16;

/// Largest request head in bytes.
const LARGEST_HEAD: usize = 8192;

/// Longest time for a request to arrive.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);

/// Pause after a connection that could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Longest time for an answer to be taken.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// Serves until its task is dropped. `finished` turns true when the summary is final.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>, finished: watch::Receiver<bool>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(permit) = Arc::clone(&free).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors or the like: writers give some back soon.
            tokio::time::sleep(ACCEPT_AGAIN).await;
            continue;
        };
        let (shared, finished) = (Arc::clone(&shared), finished.clone());
        tokio::spawn(async move {
            // Whoever asked may hang up half-way; the run doesn't care.
            let _ = answer(stream, &shared, &finished).await;
            drop(permit);
        });
    }
}

async fn answer(mut stream: TcpStream, shared: &Shared, finished: &watch::Receiver<bool>) -> io::Result<()> {
    let head = tokio::time::timeout(REQUEST_WITHIN, read_head(&mut stream)).await??;
    let mut words = head.split_ascii_whitespace();
    let asked = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    if asked == ("POST", "/stop") {
        shared.stop();
    }
    let is_final = *finished.borrow();
    let reply = async {
        match asked {
            ("GET", "/summary") | ("POST", "/stop") => send_summary(&mut stream, shared, is_final).await,
            ("GET", "/journal") => match &shared.journal_path {
                Some(path) => send_file(&mut stream, path).await,
                None => send(&mut stream, "404 Not Found", b"no journal\n").await,
            },
            (_, "/summary" | "/stop" | "/journal") => {
                send(&mut stream, "405 Method Not Allowed", b"GET /summary, GET /journal, POST /stop\n").await
            }
            _ => send(&mut stream, "404 Not Found", b"GET /summary, GET /journal, POST /stop\n").await,
        }
    };
    tokio::time::timeout(ANSWER_WITHIN, reply).await??;
    stream.shutdown().await
}

/// Reads up to the empty line; a body, which none of the requests needs, is left alone.
async fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let read = stream.read(&mut chunk).await?;
        if read == 0 || head.len() + read > LARGEST_HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.extend_from_slice(&chunk[..read]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

async fn send_summary(stream: &mut TcpStream, shared: &Shared, finished: bool) -> io::Result<()> {
    let body = serde_json::to_vec(&shared.summary(finished))?;
    send(stream, "200 OK", &body).await
}

async fn send(stream: &mut TcpStream, status: &str, body: &[u8]) -> io::Result<()> {
    send_head(stream, status, body.len() as u64).await?;
    stream.write_all(body).await
}

/// Sends the file as long as it was when asked; lines that come later aren't in the answer.
async fn send_file(stream: &mut TcpStream, path: &Path) -> io::Result<()> {
    let file = tokio::fs::File::open(path).await?;
    let length = file.metadata().await?.len();
    send_head(stream, "200 OK", length).await?;
    tokio::io::copy(&mut file.take(length), stream).await?;
    Ok(())
}

async fn send_head(stream: &mut TcpStream, status: &str, length: u64) -> io::Result<()> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await
}
