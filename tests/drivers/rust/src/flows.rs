//! What flows: COPY, large results, pipelines, portals; and what breaks into it.

use std::pin::pin;

use bytes::Bytes;
use futures::future::join_all;
use futures::{SinkExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::config::SslMode;
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::session::{Failure, Place, digest, failing};

/// Looks at a statement that is to sleep before it is cancelled.
const LOOKS: usize = 5000;

async fn number(client: &Client, query: &str) -> Result<i64, Failure> {
    Ok(client.query_one_scalar(query, &[]).await?)
}

/// Both ways, in text and binary; one breaks off, and one is wrong.
pub async fn copied(place: &Place) -> Result<Value, Failure> {
    const IN: &str = "COPY drv_rust FROM STDIN";
    let session = place.connect().await?;
    let client = &session.client;
    client.batch_execute("TRUNCATE drv_rust").await?;
    let mut sink = pin!(client.copy_in(IN).await?);
    let lines: Vec<String> = (0..100).map(|n| (n * 1000..(n + 1) * 1000).map(line).collect()).collect();
    sink.send_all(&mut stream::iter(lines.into_iter().map(|lines| Ok(Bytes::from(lines))))).await?;
    let text = sink.finish().await?;
    let sink = client.copy_in("COPY drv_rust FROM STDIN BINARY").await?;
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &[Type::INT4, Type::TEXT]));
    for n in 100_000..120_000 {
        writer.as_mut().write(&[&n, &"naïve\t猫"]).await?;
    }
    let binary = writer.finish().await?;
    let out = client.copy_out("COPY drv_rust TO STDOUT").await?;
    let out: Vec<Bytes> = out.try_collect().await?;
    let mut wrong = pin!(client.copy_in(IN).await?);
    wrong.send(Bytes::from_static(b"no number\n")).await?;
    let wrong = wrong.finish().await;
    let mut broken = Box::pin(client.copy_in::<_, Bytes>(IN).await?);
    broken.send(Bytes::from_static(b"-1\t\\N\n")).await?;
    drop(broken);
    let count = number(client, "SELECT count(*) FROM drv_rust").await?;
    Ok(json!([text, binary, digest(out.concat()), failing(&wrong), count]))
}

/// A line of COPY.
pub fn line(n: i32) -> String {
    format!("{n}\tnumber {n}\n")
}

/// Many rows, a large one, a large parameter.
pub async fn large(place: &Place) -> Result<Value, Failure> {
    let session = place.connect().await?;
    let rows = "SELECT md5(n::text) FROM generate_series(1, 100000) n";
    let rows = session.client.query(rows, &[]).await?;
    let rows = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<&str>, _>>()?;
    let value: String = session.client.query_one_scalar("SELECT repeat('y', 10000000)", &[]).await?;
    let parameter = "z".repeat(5_000_000);
    let parameter: String = session.client.query_one_scalar("SELECT md5($1)", &[&parameter]).await?;
    Ok(json!([digest(rows.concat()), digest(value), parameter]))
}

/// What is asked before anything is answered; a failure among it is nobody else's.
pub async fn pipelined(place: &Place) -> Result<Value, Failure> {
    let session = place.connect().await?;
    let client = &session.client;
    let divided = client.prepare("SELECT 1000 / $1::int").await?;
    let asked = (0..300).map(|n| {
        let divided = &divided;
        async move { client.query_one_scalar::<i32, _>(divided, &[&n]).await }
    });
    let answers = join_all(asked).await;
    let sum: i32 = answers.iter().filter_map(|answer| answer.as_ref().ok()).sum();
    Ok(json!([sum, failing(&answers[0]), answers.iter().filter(|answer| answer.is_err()).count()]))
}

/// A result in pieces.
pub async fn fetched(place: &Place) -> Result<Value, Failure> {
    let mut session = place.connect().await?;
    let transaction = session.client.transaction().await?;
    let portal = transaction.bind("SELECT generate_series(1, 2500)", &[]).await?;
    let mut saw = Vec::new();
    for _ in 0..4 {
        let rows = transaction.query_portal(&portal, 1000).await?;
        let last = rows.last().map(|row| row.try_get::<_, i32>(0)).transpose()?;
        saw.push(json!([rows.len(), last]));
    }
    transaction.commit().await?;
    Ok(json!(saw))
}

/// Once it sleeps, a statement is cancelled by TLS, and the next one without.
pub async fn cancelled(place: &Place) -> Result<Value, Failure> {
    // With a session that insists on TLS the driver asks for nothing without TLS.
    let mut config = place.config.clone();
    let session = place.connect_as(config.host(&place.host).ssl_mode(SslMode::Prefer), &place.tls).await?;
    let looking = place.connect().await?;
    let pid = session.client.query_one_scalar::<i32, _>("SELECT pg_backend_pid()", &[]).await?;
    let mut saw = Vec::new();
    for by_tls in [true, false] {
        let token = session.client.cancel_token();
        let ask = async {
            until_asleep(&looking.client, pid).await?;
            if by_tls {
                token.cancel_query(place.tls.clone()).await?;
            } else {
                token.cancel_query(NoTls).await?;
            }
            Ok::<(), Failure>(())
        };
        let (asked, said) = tokio::join!(ask, session.client.query("SELECT pg_sleep(60)", &[]));
        asked?;
        saw.push(failing(&said));
        session.client.check_connection().await?;
    }
    Ok(json!(saw))
}

async fn until_asleep(client: &Client, pid: i32) -> Result<(), Failure> {
    let asleep =
        format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep'");
    for _ in 0..LOOKS {
        if number(client, &asleep).await? == 1 {
            return Ok(());
        }
    }
    Err(Failure::Seen("the statement that is to be cancelled doesn't sleep".to_owned()))
}

/// From another session.
pub async fn notified(place: &Place) -> Result<Value, Failure> {
    let (mut session, speaker) = (place.connect().await?, place.connect().await?);
    session.client.batch_execute("LISTEN drv_rust").await?;
    speaker.client.batch_execute("NOTIFY drv_rust, 'hello: naïve 猫'").await?;
    let pid = speaker.client.query_one_scalar::<i32, _>("SELECT pg_backend_pid()", &[]).await?;
    match session.unasked.recv().await {
        Some(AsyncMessage::Notification(heard)) => {
            Ok(json!([heard.channel(), heard.payload(), heard.process_id() == pid]))
        }
        other => Err(Failure::Seen(format!("heard {other:?}"))),
    }
}
