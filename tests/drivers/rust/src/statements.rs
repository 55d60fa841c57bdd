//! Statements one by one, and what a server says beside their results.

use serde_json::{Value, json};
use tokio_postgres::AsyncMessage;

use crate::session::{Failure, Place, failing, fields};

/// Each fails in another way; the table has a row.
pub const WRONG: [&str; 4] = [
    "SELECT * FROM no_such_table",
    "INSERT INTO drv_rust VALUES (1)",
    "SELECT 1 / 0",
    "DO $$BEGIN RAISE 'own: naïve 猫' USING ERRCODE = 'MY001', DETAIL = 'd', HINT = 'h', COLUMN = 'c'; END$$",
];
const NOTICES: &str = "DO $$BEGIN RAISE NOTICE 'a notice' USING DETAIL = 'd', HINT = 'h'; RAISE WARNING 'naïve 猫'; \
    FOR i IN 1..200 LOOP RAISE NOTICE 'notice %', i; END LOOP; END$$";

/// Prepared once, done often.
pub async fn prepared(place: &Place) -> Result<Value, Failure> {
    let session = place.connect().await?;
    let statement = session.client.prepare("SELECT $1::int + 1, $2::text").await?;
    let mut sum = 0;
    for n in 0..20 {
        sum += session.client.query_one(&statement, &[&n, &"naïve 猫"]).await?.try_get::<_, i32>(0)?;
    }
    let columns: Vec<&str> = statement.columns().iter().map(|column| column.type_().name()).collect();
    let count = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%$2%'";
    let count: i64 = session.client.query_one_scalar(count, &[]).await?;
    Ok(json!([sum, columns, count]))
}

/// Savepoints, and a transaction that is given up. Leaves a table with a row.
pub async fn transactions(place: &Place) -> Result<Value, Failure> {
    let mut session = place.connect().await?;
    let create = "DROP TABLE IF EXISTS drv_rust; CREATE TABLE drv_rust (n int PRIMARY KEY, t text)";
    session.client.batch_execute(create).await?;
    let mut transaction = session.client.transaction().await?;
    transaction.execute("INSERT INTO drv_rust VALUES ($1)", &[&1]).await?;
    let inner = transaction.transaction().await?;
    let again = inner.execute("INSERT INTO drv_rust VALUES ($1)", &[&1]).await;
    let then = inner.query("SELECT 1", &[]).await;
    inner.rollback().await?;
    transaction.commit().await?;
    let given_up = session.client.transaction().await?;
    let deleted = given_up.execute("DELETE FROM drv_rust", &[]).await?;
    drop(given_up);
    let rows: i64 = session.client.query_one_scalar("SELECT count(*) FROM drv_rust", &[]).await?;
    Ok(json!([failing(&again), failing(&then), deleted, rows]))
}

/// By both protocols of statements.
pub async fn errors(place: &Place) -> Result<Value, Failure> {
    let session = place.connect().await?;
    let mut saw = Vec::new();
    for text in WRONG {
        saw.push(failing(&session.client.simple_query(text).await));
        saw.push(failing(&session.client.query(text, &[]).await));
    }
    saw.push(failing(&session.client.query("SELECT 1 / $1::int", &[&0]).await));
    session.client.check_connection().await?;
    Ok(json!(saw))
}

/// All of them, and before the result.
pub async fn notices(place: &Place) -> Result<Value, Failure> {
    let mut session = place.connect().await?;
    session.client.batch_execute(NOTICES).await?;
    let mut saw = Vec::new();
    while let Ok(AsyncMessage::Notice(notice)) = session.unasked.try_recv() {
        saw.push(fields(&notice));
    }
    Ok(json!([saw.len(), &saw[..saw.len().min(3)]]))
}

/// Removes what was made.
pub async fn end(place: &Place) -> Result<Value, Failure> {
    let session = place.connect().await?;
    Ok(failing(&session.client.execute("DROP TABLE drv_rust", &[]).await))
}
