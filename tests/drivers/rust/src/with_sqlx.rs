//! sqlx, which speaks the protocol itself: it keeps statements by name for a session, pools its sessions, and never asks for a cancel.

use std::pin::pin;

use bytes::Bytes;
use futures::future::join_all;
use futures::{FutureExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgDatabaseError, PgListener, PgPoolOptions, PgSslMode};
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::flows::line;
use crate::session::{Failure, Place, digest};
use crate::statements::WRONG;

/// Most sessions of a pool.
const SESSIONS: u32 = 10;
const IN: &str = "COPY drv_sqlx FROM STDIN";

/// As the variables of the environment say, which are libpq's.
fn options() -> PgConnectOptions {
    PgConnectOptions::new().application_name("drivers")
}

async fn connect() -> Result<PgConnection, sqlx::Error> {
    PgConnection::connect_with(&options()).await
}

async fn pool() -> Result<PgPool, sqlx::Error> {
    PgPoolOptions::new().max_connections(SESSIONS).connect_with(options()).await
}

async fn number(connection: &mut PgConnection, query: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(query).fetch_one(connection).await
}

/// What a server said, without the line of its sources.
fn failing<T>(came: &Result<T, sqlx::Error>) -> Value {
    let Err(error) = came else { return json!("no error") };
    let said = error.as_database_error().and_then(|said| said.try_downcast_ref::<PgDatabaseError>());
    said.map_or_else(|| json!(error.to_string()), fields)
}

fn fields(said: &PgDatabaseError) -> Value {
    json!([
        format!("{:?}", said.severity()),
        said.code(),
        said.message(),
        said.detail(),
        said.hint(),
        said.position().map(|position| format!("{position:?}")),
        said.r#where(),
        said.schema(),
        said.table(),
        said.column(),
        said.constraint(),
    ])
}

async fn came_of(options: PgConnectOptions) -> String {
    let Err(error) = PgConnection::connect_with(&options).await else { return "in".to_owned() };
    let words = error.to_string();
    match error.as_database_error().and_then(sqlx::error::DatabaseError::code) {
        Some(code) => code.into_owned(),
        None if words.contains("not valid for name") => "another name".to_owned(),
        None => words,
    }
}

/// With every mode of TLS that the driver has, and with what is wrong.
pub async fn logins(place: &Place) -> Result<Value, Failure> {
    let address = place.address().await?.to_string();
    Ok(json!({
        "no TLS": came_of(options().ssl_mode(PgSslMode::Disable)).await,
        "whatever": came_of(options().ssl_mode(PgSslMode::Prefer)).await,
        "TLS": came_of(options().ssl_mode(PgSslMode::Require)).await,
        "by the authority": came_of(options().ssl_mode(PgSslMode::VerifyCa)).await,
        "by the authority, another name": came_of(options().ssl_mode(PgSslMode::VerifyCa).host(&address)).await,
        "verified": came_of(options()).await,
        "another name": came_of(options().host(&address)).await,
        "wrong password": came_of(options().password("wrong")).await,
        "no such database": came_of(options().database("nowhere")).await,
        "no such setting": came_of(options().options([("no_such", "1")])).await,
    }))
}

/// What a session is set to.
pub async fn session() -> Result<Value, Failure> {
    let set = options().options([("TimeZone", "Asia/Tokyo"), ("DateStyle", "German")]);
    let mut connection = PgConnection::connect_with(&set).await?;
    let mut saw = vec![json!(connection.server_version_num())];
    for name in ["TimeZone", "DateStyle", "extra_float_digits", "client_encoding", "application_name"] {
        let query = format!("SHOW {name}");
        saw.push(json!(sqlx::query_scalar::<_, String>(&query).fetch_one(&mut connection).await?));
    }
    Ok(json!(saw))
}

/// Prepared once and done often; and anew each time, where the driver keeps none.
pub async fn prepared() -> Result<Value, Failure> {
    let mut saw = Vec::new();
    for kept in [100, 0] {
        let mut connection = PgConnection::connect_with(&options().statement_cache_capacity(kept)).await?;
        let mut sum = 0;
        for n in 0..20 {
            let asked = sqlx::query_as::<_, (i32, String)>("SELECT $1::int + 1, $2::text");
            let row = asked.bind(n).bind("naïve 猫").fetch_one(&mut connection).await?;
            sum += row.0;
        }
        let count = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%$2%'";
        let count = number(&mut connection, count).await?;
        saw.push(json!([sum, connection.cached_statements_size(), count]));
        connection.clear_cached_statements().await?;
        let left = "SELECT count(*) FROM pg_prepared_statements";
        saw.push(json!([connection.cached_statements_size(), number(&mut connection, left).await?]));
    }
    Ok(json!(saw))
}

/// Savepoints, and a transaction that is given up. Leaves a table with a row.
pub async fn transactions() -> Result<Value, Failure> {
    const INSERT: &str = "INSERT INTO drv_sqlx VALUES ($1)";
    let mut connection = connect().await?;
    let create = "DROP TABLE IF EXISTS drv_sqlx; CREATE TABLE drv_sqlx (n int PRIMARY KEY, t text)";
    sqlx::raw_sql(create).execute(&mut connection).await?;
    let mut transaction = connection.begin().await?;
    sqlx::query(INSERT).bind(1).execute(&mut *transaction).await?;
    let mut inner = transaction.begin().await?;
    let again = sqlx::query(INSERT).bind(1).execute(&mut *inner).await;
    let then = sqlx::query("SELECT 1").execute(&mut *inner).await;
    inner.rollback().await?;
    transaction.commit().await?;
    let mut given_up = connection.begin().await?;
    let deleted = sqlx::query("DELETE FROM drv_sqlx").execute(&mut *given_up).await?.rows_affected();
    drop(given_up);
    let rows = number(&mut connection, "SELECT count(*) FROM drv_sqlx").await?;
    Ok(json!([failing(&again), failing(&then), deleted, rows]))
}

/// By both protocols of statements.
pub async fn errors() -> Result<Value, Failure> {
    let mut connection = connect().await?;
    let mut saw = Vec::new();
    for text in WRONG {
        let text = text.replace("drv_rust", "drv_sqlx");
        saw.push(failing(&sqlx::raw_sql(&text).execute(&mut connection).await));
        saw.push(failing(&sqlx::query(&text).execute(&mut connection).await));
    }
    connection.ping().await?;
    Ok(json!(saw))
}

/// Both ways; one is wrong, and one breaks off.
pub async fn copied() -> Result<Value, Failure> {
    let mut connection = connect().await?;
    sqlx::raw_sql("TRUNCATE drv_sqlx").execute(&mut connection).await?;
    let mut sink = connection.copy_in_raw(IN).await?;
    for n in 0..100 {
        let lines: String = (n * 1000..(n + 1) * 1000).map(line).collect();
        sink.send(lines.into_bytes()).await?;
    }
    let came = sink.finish().await?;
    let out = connection.copy_out_raw("COPY drv_sqlx TO STDOUT").await?;
    let out: Vec<Bytes> = out.try_collect().await?;
    let mut wrong = connection.copy_in_raw(IN).await?;
    wrong.send(&b"no number\n"[..]).await?;
    let wrong = wrong.finish().await;
    let mut broken = connection.copy_in_raw(IN).await?;
    broken.send(&b"-1\t\\N\n"[..]).await?;
    broken.abort("no more").await?;
    let count = number(&mut connection, "SELECT count(*) FROM drv_sqlx").await?;
    Ok(json!([came, digest(out.concat()), failing(&wrong), count]))
}

/// Many rows, a large one, a large parameter; and a result of which only the beginning is read.
pub async fn large() -> Result<Value, Failure> {
    let mut connection = connect().await?;
    let rows = "SELECT md5(n::text) FROM generate_series(1, 100000) n";
    let rows: Vec<String> = sqlx::query_scalar(rows).fetch_all(&mut connection).await?;
    let value = "SELECT repeat('y', 10000000)";
    let value: String = sqlx::query_scalar(value).fetch_one(&mut connection).await?;
    let parameter = sqlx::query_scalar("SELECT md5($1)").bind("z".repeat(5_000_000));
    let parameter: String = parameter.fetch_one(&mut connection).await?;
    let mut sum = 0;
    {
        let mut begun =
            sqlx::query_scalar::<_, i32>("SELECT generate_series(1, 200000)").fetch(&mut connection);
        while let Some(n) = begun.try_next().await? {
            sum += n;
            if n == 10 {
                break;
            }
        }
    }
    let after = number(&mut connection, "SELECT count(*) FROM drv_sqlx").await?;
    Ok(json!([digest(rows.concat()), digest(value), parameter, sum, after]))
}

/// A statement that the program gives up: the session takes its answer for nobody else's.
pub async fn abandoned() -> Result<Value, Failure> {
    let mut connection = connect().await?;
    let asked = sqlx::query_scalar::<_, i32>("SELECT 1 FROM pg_sleep(0.2)").fetch_one(&mut connection);
    let at_once = pin!(asked).as_mut().now_or_never().is_some();
    let mut saw = vec![json!(at_once)];
    for n in 2..5 {
        let asked = sqlx::query_scalar::<_, i32>("SELECT $1::int").bind(n);
        saw.push(json!(asked.fetch_one(&mut connection).await?));
    }
    Ok(json!(saw))
}

/// From another session.
pub async fn notified() -> Result<Value, Failure> {
    let pool = pool().await?;
    let (mut listener, mut speaker) = (PgListener::connect_with(&pool).await?, connect().await?);
    listener.listen("drv_sqlx").await?;
    sqlx::raw_sql("NOTIFY drv_sqlx, 'hello: naïve 猫'").execute(&mut speaker).await?;
    let pid = number(&mut speaker, "SELECT pg_backend_pid()::bigint").await?;
    let heard = listener.recv().await?;
    Ok(json!([heard.channel(), heard.payload(), i64::from(heard.process_id()) == pid]))
}

/// Many programs that share a few sessions.
pub async fn pooled() -> Result<Value, Failure> {
    let pool = pool().await?;
    let asked = (0..200).map(|n| sqlx::query_scalar::<_, i32>("SELECT $1::int * 2").bind(n).fetch_one(&pool));
    let answers = join_all(asked).await.into_iter().collect::<Result<Vec<i32>, _>>()?;
    let saw = json!([answers.iter().sum::<i32>(), pool.size() <= SESSIONS]);
    pool.close().await;
    Ok(saw)
}

/// Removes what was made.
pub async fn end() -> Result<Value, Failure> {
    let mut connection = connect().await?;
    let saw = failing(&sqlx::query("DROP TABLE drv_sqlx").execute(&mut connection).await);
    connection.close().await?;
    Ok(saw)
}
