//! A fake PostgreSQL for the agent's own session: rows by the text of the question.
use bytes::{Buf as _, BufMut as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_postgres::NoTls;

use super::super::sql::Client;
use super::*;

/// A value of a row, in PostgreSQL's binary form.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Bool(bool),
    Int8(i64),
    Text(&'static str),
}

/// What is said to a question: names of the columns and rows. Every row has the same types.
pub(super) struct Rows(pub Vec<&'static str>, pub Vec<Vec<Value>>);

/// One row.
pub(super) fn row<const N: usize>(values: [(&'static str, Value); N]) -> Rows {
    let (names, values) = values.into_iter().unzip();
    Rows(names, vec![values])
}

impl Value {
    fn oid(&self) -> i32 {
        match self {
            Self::Bool(_) => 16,
            Self::Int8(_) => 20,
            Self::Text(_) => 25,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Bool(value) => vec![u8::from(*value)],
            Self::Int8(value) => value.to_be_bytes().to_vec(),
            Self::Text(value) => value.as_bytes().to_vec(),
        }
    }
}

/// A session with it. `answers` is asked each time that a question is put.
pub(super) async fn session(answers: impl FnMut(&str) -> Rows + Send + 'static) -> Arc<Client> {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    tokio::spawn(serve(theirs, answers));
    let mut config = tokio_postgres::Config::new();
    let (client, connection) = config.user("postgres").connect_raw(ours, NoTls).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    Arc::new(Client::unprepared(client))
}

async fn serve(mut socket: impl AsyncRead + AsyncWrite + Unpin, mut answers: impl FnMut(&str) -> Rows) {
    let length = socket.read_u32().await.unwrap();
    let mut start = vec![0; usize::try_from(length).unwrap() - 4];
    socket.read_exact(&mut start).await.unwrap();
    let mut out = BytesMut::new();
    say(&mut out, b'R', |body| body.put_i32(0));
    say(&mut out, b'Z', |body| body.put_u8(b'I'));
    let (mut known, mut parameters) = (Rows(Vec::new(), Vec::new()), 0);
    loop {
        socket.write_all_buf(&mut out).await.unwrap();
        let Ok(tag) = socket.read_u8().await else { return };
        let length = socket.read_u32().await.unwrap();
        let mut body = vec![0; usize::try_from(length).unwrap() - 4];
        socket.read_exact(&mut body).await.unwrap();
        match tag {
            // The answer is found once, when the question is put: rows and their types belong together.
            b'P' => {
                let texts: Vec<&str> =
                    body.split(|b| *b == 0).filter_map(|t| str::from_utf8(t).ok()).collect();
                (known, parameters) = (answers(texts[1]), texts[1].matches('$').count());
                say(&mut out, b'1', |_| {});
            }
            b'D' => describe(&mut out, &known, parameters),
            b'B' => say(&mut out, b'2', |_| {}),
            b'E' => execute(&mut out, &known),
            b'C' => say(&mut out, b'3', |_| {}),
            b'S' => say(&mut out, b'Z', |body| body.put_u8(b'I')),
            b'X' => return,
            other => panic!("a message of the kind {:?}", char::from(other)),
        }
    }
}

fn say(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    let mut text = BytesMut::new();
    body(&mut text);
    out.put_u8(tag);
    out.put_u32(u32::try_from(text.remaining() + 4).unwrap());
    out.put(text);
}

/// All parameters are text.
fn describe(out: &mut BytesMut, rows: &Rows, parameters: usize) {
    let Rows(names, rows) = rows;
    say(out, b't', |body| {
        body.put_i16(i16::try_from(parameters).unwrap());
        for _ in 0..parameters {
            body.put_i32(25);
        }
    });
    say(out, b'T', |body| {
        body.put_i16(i16::try_from(names.len()).unwrap());
        for (at, name) in names.iter().enumerate() {
            body.put(name.as_bytes());
            body.put_u8(0);
            body.put_i32(0);
            body.put_i16(0);
            body.put_i32(rows.first().map_or(25, |row| row[at].oid()));
            body.put_i16(-1);
            body.put_i32(-1);
            body.put_i16(1);
        }
    });
}

fn execute(out: &mut BytesMut, rows: &Rows) {
    for row in &rows.1 {
        say(out, b'D', |body| {
            body.put_i16(i16::try_from(row.len()).unwrap());
            for value in row {
                let bytes = value.bytes();
                body.put_i32(i32::try_from(bytes.len()).unwrap());
                body.put(bytes.as_slice());
            }
        });
    }
    say(out, b'C', |body| body.put(&b"SELECT\0"[..]));
}
