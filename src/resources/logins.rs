//! Secrets that people and applications log in with: `NAME-app` and those of further users.
use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use super::labels::{Part, metadata};
use crate::model::{Login, Sensitive, ValidPool};
use crate::names;

/// The keys that name and authenticate a role; the others follow from them.
pub const ROLE_KEYS: [&str; 2] = ["username", "password"];

/// Every key of a login's Secret.
pub fn login_data(pool: &ValidPool, login: &Login, password: &Sensitive) -> BTreeMap<String, Sensitive> {
    let mut data = BTreeMap::from([
        ("username".to_owned(), Sensitive::new(login.role.clone())),
        ("password".to_owned(), password.clone()),
    ]);
    if login.app {
        data.extend(connection(pool, login, password));
    }
    data
}

/// What an application needs to connect, in the forms in which clients want it.
fn connection(pool: &ValidPool, login: &Login, password: &Sensitive) -> BTreeMap<String, Sensitive> {
    let host = format!("{}.{}.svc", pool.name(), pool.namespace());
    let (port, database, user) = (names::POSTGRES_PORT, &pool.bootstrap.database, &login.role);
    let (user_enc, password_enc, database_enc) =
        (percent(user), percent(password.reveal()), percent(database));
    let uri = format!("postgresql://{user_enc}:{password_enc}@{host}:{port}/{database_enc}");
    let jdbc =
        format!("jdbc:postgresql://{host}:{port}/{database_enc}?password={password_enc}&user={user_enc}");
    let pgpass = format!("{host}:{port}:{}:{}:{}\n", colon(database), colon(user), colon(password.reveal()));
    [
        ("dbname", database.clone()),
        ("host", host),
        ("port", port.to_string()),
        ("uri", uri),
        ("jdbc-uri", jdbc),
        ("pgpass", pgpass),
    ]
    .map(|(key, value)| (key.to_owned(), Sensitive::new(value)))
    .into()
}

/// The Secret, made where it isn't there.
pub fn login_secret(pool: &ValidPool, login: &Login, password: &Sensitive) -> Secret {
    let data = login_data(pool, login, password)
        .into_iter()
        .map(|(key, value)| (key, ByteString(value.reveal().as_bytes().to_vec())));
    Secret {
        metadata: metadata(pool, &login.secret, Part::Pool),
        type_: Some("Opaque".to_owned()),
        data: Some(data.collect()),
        ..Secret::default()
    }
}

/// RFC 3986: everything but unreserved characters as %XX.
fn percent(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String can't fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// `.pgpass`: a colon or backslash in a field is written with a backslash before it.
fn colon(text: &str) -> String {
    text.replace('\\', "\\\\").replace(':', "\\:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_with_every_awkward_character_fits_in_a_uri_and_in_pgpass() {
        assert_eq!(percent("a:b/c@d?e%f g\u{e9}"), "a%3Ab%2Fc%40d%3Fe%25f%20g%C3%A9");
        assert_eq!(colon(r"a:b\c"), r"a\:b\\c");
    }
}
