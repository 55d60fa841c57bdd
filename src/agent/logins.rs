//! What a node has stored of a role's password, for the front to check a client by.
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::sql::{self, Client, SqlError, within};
use crate::clock::{self, Moment};
use crate::messages::LoginAnswer;
use crate::names::REPLICATION_ROLE;

/// Rounds of a verifier that is made up where no role has one: as many as PostgreSQL's own have (`scram_iterations`).
const ROUNDS: i32 = 4096;
/// The rounds of most are looked for anew after so long.
const KEPT: Duration = Duration::from_secs(60);
/// Whose sessions come by the unix socket only.
const SUPERUSER: &str = "postgres";
/// Time for an answer: a front waits for a second.
const LIMIT: Duration = Duration::from_millis(900);
/// Bytes of a salt.
const SALT: usize = 16;

/// Where verifiers are looked up: in a session of its own, so that a crowd of logins keeps nobody from asking this
/// Postgres how it is.
#[derive(Default)]
pub struct Logins {
    session: Mutex<Option<Arc<Client>>>,
    /// The rounds that most verifiers have, and when that was found.
    rounds: Mutex<Option<(i32, Moment)>>,
}

impl Logins {
    /// Asks for the verifier of a role. `mock` is the cluster's secret for those that are made up.
    pub async fn verifier(&self, user: &str, mock: &str) -> Result<LoginAnswer, SqlError> {
        // These never come by a front: pg_hba.conf refuses them.
        if [SUPERUSER, REPLICATION_ROLE].contains(&user) {
            let rounds = self.rounds.lock().await.map_or(ROUNDS, |(rounds, _)| rounds);
            return Ok(answer(None, user, mock, rounds));
        }
        let client = self.session().await?;
        let asked = async { Ok::<_, SqlError>((self.rounds(&client).await?, look_up(&client, user).await?)) };
        match asked.await {
            Ok((rounds, stored)) => Ok(answer(stored, user, mock, rounds)),
            Err(error) => {
                if matches!(error, SqlError::Late | SqlError::Session(_)) {
                    *self.session.lock().await = None;
                }
                Err(error)
            }
        }
    }

    /// The rounds that a made-up verifier has: with others than most roles' it would tell that there is no such role. They
    /// are looked for whoever logs in, so that time tells nothing either.
    async fn rounds(&self, client: &Client) -> Result<i32, SqlError> {
        let mut known = self.rounds.lock().await;
        if let Some((rounds, _)) = known.filter(|(_, found)| clock::now().since(*found) < KEPT) {
            return Ok(rounds);
        }
        let rounds = timeout(LIMIT, usual_rounds(client)).await.unwrap_or(Err(SqlError::Late))?;
        *known = Some((rounds, clock::now()));
        Ok(rounds)
    }

    async fn session(&self) -> Result<Arc<Client>, SqlError> {
        let mut kept = self.session.lock().await;
        if let Some(client) = kept.as_ref().filter(|client| !client.is_closed()) {
            return Ok(Arc::clone(client));
        }
        let client = Arc::new(sql::connect("postgres").await?);
        *kept = Some(Arc::clone(&client));
        Ok(client)
    }
}

/// What is stored; none where the role isn't there, or may not use its password any more.
async fn look_up(client: &Client, user: &str) -> Result<Option<String>, SqlError> {
    // A password that has expired is as good as none (CVE-2025-2291); the schema is named lest another's table be
    // read (CVE-2025-12819). The cast to a name cuts what is too long for one, as a login at PostgreSQL does.
    let text = "SELECT rolpassword FROM pg_catalog.pg_authid
                WHERE rolname = $1::pg_catalog.text::pg_catalog.name
                AND (rolvaliduntil IS NULL OR rolvaliduntil > pg_catalog.now())";
    let asked = timeout(LIMIT, within(client.query_opt(text, &[&user]))).await;
    match asked.unwrap_or(Err(SqlError::Late)) {
        Ok(row) => Ok(row.and_then(|row| row.get(0))),
        // A name that can't be written in the database's encoding is no role's.
        Err(SqlError::Refused { code, .. }) if code.starts_with("22") => Ok(None),
        Err(error) => Err(error),
    }
}

/// The rounds that most roles have, of equals the greater; those of a new one where no role has any.
async fn usual_rounds(client: &Client) -> Result<i32, SqlError> {
    let text = "SELECT coalesce(
            (SELECT rounds FROM (
                SELECT substring(rolpassword FROM '^SCRAM-SHA-256[$]([0-9]{1,9}):')::int4 AS rounds
                FROM pg_catalog.pg_authid) AS stored
            WHERE rounds > 0 GROUP BY rounds ORDER BY count(*) DESC, rounds DESC LIMIT 1),
            pg_catalog.current_setting('scram_iterations', true)::int4)";
    let row = within(client.query_one(text, &[])).await?;
    Ok(row.get::<_, Option<i32>>(0).unwrap_or(ROUNDS))
}

fn answer(stored: Option<String>, user: &str, mock: &str, rounds: i32) -> LoginAnswer {
    match stored {
        Some(verifier) if verifier.starts_with("SCRAM-SHA-256$") => LoginAnswer { verifier, genuine: true },
        // The hash itself would be enough to log in with.
        Some(_) => LoginAnswer { verifier: "md5".to_owned(), genuine: true },
        None => LoginAnswer { verifier: made_up(user, mock, rounds), genuine: false },
    }
}

/// The salt that PostgreSQL itself would show (PostgreSQL source, `scram_mock_salt`), and keys that fit no password.
fn made_up(user: &str, mock: &str, rounds: i32) -> String {
    let salt = digest(&SHA256, &[user.as_bytes(), &decoded(mock)].concat());
    let salt = STANDARD.encode(&salt.as_ref()[..SALT]);
    let key = STANDARD.encode(digest(&SHA256, &[mock.as_bytes(), user.as_bytes()].concat()));
    format!("SCRAM-SHA-256${rounds}:{salt}${key}:{key}")
}

fn decoded(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().filter_map(|c| c.to_digit(16)?.try_into().ok()).collect();
    digits.as_chunks::<2>().0.iter().map(|[high, low]| high * 16 + low).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_without_a_password_looks_like_one_with() {
        let known = answer(Some("SCRAM-SHA-256$4096:c2E=$a:b".into()), "app", "0aff", 4096);
        assert!(known.genuine);
        let nobody = |user| answer(None, user, "0aff", 5000);
        let (one, again, other) = (nobody("x"), nobody("x"), nobody("y"));
        assert!(!one.genuine && one == again && one != other);
        let (head, keys) = one.verifier.rsplit_once('$').unwrap();
        let salt = head.strip_prefix("SCRAM-SHA-256$5000:").unwrap();
        let length = |text: &str| STANDARD.decode(text).unwrap().len();
        assert_eq!((length(salt), length(keys.split_once(':').unwrap().1)), (16, 32));
        assert_ne!(one.verifier, answer(None, "x", "0afe", 5000).verifier);
        assert!(!format!("{one:?}").contains("SCRAM"));
    }

    #[test]
    fn the_md5_of_a_password_goes_to_nobody() {
        let stored = "md53175bce1d3201d16594cebf9d7eb3f9d";
        assert_eq!(answer(Some(stored.into()), "app", "00", 4096).verifier, "md5");
    }

    #[test]
    fn the_secret_is_read_as_bytes() {
        assert_eq!(decoded("0aff"), [10, 255]);
    }
}
