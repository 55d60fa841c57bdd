//! Roles, databases and the bootstrap SQL: named calls of the operator, carried out on the primary.
use tokio_postgres::types::Type;

use super::sql::{self, Client, SqlError};
use crate::messages::{DatabaseSpec, EnsureRoles, Ensured, RoleSpec};
use crate::names::SCHEMA;

/// Marker of the bootstrap, in its own transaction with the SQL.
const BOOTSTRAP: &str = "bootstrap";

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// Carries out the whole request; one failure doesn't keep the rest from being done.
pub async fn ensure(client: &Client, request: &EnsureRoles) -> Ensured {
    let mut answer = Ensured::default();
    for role in &request.roles {
        note(&mut answer, &format!("role {}", role.name), ensure_role(client, role).await);
    }
    for database in &request.databases {
        let what = format!("database {}", database.name);
        note(&mut answer, &what, ensure_database(client, database).await);
    }
    if let Some(first) = request.databases.first()
        && answer.errors.is_empty()
    {
        let done = bootstrap(first, request.bootstrap_sql.as_deref()).await;
        note(&mut answer, "bootstrap SQL", done);
    }
    answer
}

fn note(answer: &mut Ensured, what: &str, done: Result<Option<&'static str>, SqlError>) {
    match done {
        Ok(Some(change)) => answer.changed.push(format!("{what} {change}")),
        Ok(None) => {}
        Err(error) => answer.errors.push(format!("{what}: {error}")),
    }
}

/// From this major version on CREATEROLE reaches only roles that it made itself (PostgreSQL docs, release notes of 16).
const OWN_ROLES: i32 = 16;

async fn major(client: &Client) -> Result<i32, SqlError> {
    let text = "SELECT current_setting('server_version_num')::int / 10000";
    Ok(sql::within(client.query_one(text, &[])).await?.get(0))
}

/// A statement whose text is not logged, whatever the user's `log_statement` says: it holds a verifier.
async fn quietly(client: &Client, statement: &str) -> Result<(), SqlError> {
    let text = format!(
        "BEGIN; SET LOCAL log_statement = 'none'; SET LOCAL log_min_duration_statement = -1;
         SET LOCAL log_min_error_statement = 'panic'; SET LOCAL synchronous_commit = remote_apply; {statement}; COMMIT"
    );
    let done = sql::within(client.batch_execute(&text)).await;
    if done.is_err() {
        // The block is left; when the session is gone there is no block.
        let _ = sql::within(client.batch_execute("ROLLBACK")).await;
    }
    done
}

/// The rest of what is asked for is made also where a right can't be given.
async fn ensure_role(client: &Client, role: &RoleSpec) -> Result<Option<&'static str>, SqlError> {
    let refused = role.create_role && major(client).await? < OWN_ROLES;
    let role = RoleSpec { create_role: role.create_role && !refused, ..role.clone() };
    let done = make_role(client, &role).await?;
    if refused {
        return Err(SqlError::Unsafe(format!(
            "createRole is for PostgreSQL {OWN_ROLES} and newer: before, such a role may give itself any right"
        )));
    }
    Ok(done)
}

async fn make_role(client: &Client, role: &RoleSpec) -> Result<Option<&'static str>, SqlError> {
    let row = sql::within(client.query_opt(
        "SELECT rolpassword IS NOT DISTINCT FROM $2 AND rolcanlogin AND rolcreatedb = $3 AND rolcreaterole = $4
                AND NOT rolsuper AND NOT rolreplication,
                ARRAY(SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
                      WHERE m.member = a.oid)
         FROM pg_authid a WHERE rolname = $1",
        &[&role.name, &role.verifier, &role.create_db, &role.create_role],
    ))
    .await?;
    let name = identifier(&role.name);
    let flag = |on: bool, word: &str| format!("{}{word}", if on { "" } else { "NO" });
    let options = format!(
        "LOGIN NOSUPERUSER NOREPLICATION NOBYPASSRLS {} {} PASSWORD {}",
        flag(role.create_db, "CREATEDB"),
        flag(role.create_role, "CREATEROLE"),
        literal(&role.verifier)
    );
    let grants: Vec<String> =
        role.in_roles.iter().map(|g| format!("; GRANT {} TO {name}", identifier(g))).collect();
    let grants = grants.concat();
    let Some(row) = row else {
        quietly(client, &format!("CREATE ROLE {name} {options}{grants}")).await?;
        return Ok(Some("made"));
    };
    let held: Vec<String> = row.get(1);
    if row.get(0) && role.in_roles.iter().all(|g| held.contains(g)) {
        return Ok(None);
    }
    quietly(client, &format!("ALTER ROLE {name} {options}{grants}")).await?;
    Ok(Some("changed"))
}

async fn ensure_database(client: &Client, database: &DatabaseSpec) -> Result<Option<&'static str>, SqlError> {
    let row = sql::within(client.query_opt(
        "SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = $1",
        &[&database.name],
    ))
    .await?;
    let (name, owner) = (identifier(&database.name), identifier(&database.owner));
    match row {
        Some(row) if row.get::<_, String>(0) == database.owner => Ok(None),
        Some(_) => {
            sql::within(client.batch_execute(&format!("ALTER DATABASE {name} OWNER TO {owner}"))).await?;
            Ok(Some("given to another owner"))
        }
        None => {
            // FILE_COPY would checkpoint; WAL_LOG (the default since 15) replicates as ordinary WAL.
            sql::within(client.batch_execute(&format!("CREATE DATABASE {name} OWNER {owner}"))).await?;
            Ok(Some("made"))
        }
    }
}

/// True once the bootstrap was done in this pool.
pub async fn bootstrapped(client: &Client) -> Result<bool, SqlError> {
    let text = format!("SELECT EXISTS (SELECT FROM {SCHEMA}.markers WHERE name = $1)");
    let statement = sql::within(client.prepare_typed(&text, &[Type::TEXT])).await?;
    Ok(sql::within(client.query_one(&statement, &[&BOOTSTRAP])).await?.get(0))
}

/// Runs the user's SQL once, as the owner of the first database. The marker in that database is written by
/// the same transaction; the one in `postgres` only spares the look.
async fn bootstrap(
    database: &DatabaseSpec,
    user_sql: Option<&str>,
) -> Result<Option<&'static str>, SqlError> {
    let control = sql::connect("postgres").await?;
    if bootstrapped(&control).await? {
        return Ok(None);
    }
    if let Some(text) = user_sql {
        run_once(database, text).await?;
    }
    let mark = format!("INSERT INTO {SCHEMA}.markers (name) VALUES ('{BOOTSTRAP}') ON CONFLICT DO NOTHING");
    sql::within(control.batch_execute(&mark)).await?;
    Ok(Some("done"))
}

async fn run_once(database: &DatabaseSpec, text: &str) -> Result<(), SqlError> {
    let client = sql::connect(&database.name).await?;
    let table = format!(
        "CREATE SCHEMA IF NOT EXISTS {SCHEMA}; REVOKE ALL ON SCHEMA {SCHEMA} FROM PUBLIC;
         CREATE TABLE IF NOT EXISTS {SCHEMA}.markers (name text PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())"
    );
    sql::within(client.batch_execute(&table)).await?;
    if bootstrapped(&client).await? {
        return Ok(());
    }
    let owner = identifier(&database.owner);
    // Not within the limit of a question: the user's SQL may take its time, but not for ever.
    let script = format!(
        "BEGIN; SET LOCAL statement_timeout = '10min';
         INSERT INTO {SCHEMA}.markers (name) VALUES ('{BOOTSTRAP}');
         SET LOCAL search_path = \"$user\", public; SET LOCAL ROLE {owner};
         {text}
         ; RESET ROLE; COMMIT"
    );
    Ok(client.batch_execute(&script).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_one_name() {
        assert_eq!(identifier("a\"; DROP TABLE x; --"), "\"a\"\"; DROP TABLE x; --\"");
        assert_eq!(literal("it's"), "'it''s'");
    }
}
