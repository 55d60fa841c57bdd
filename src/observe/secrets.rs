//! Secrets, parsed: what decides about them is passed on, keys are not.
use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client, ResourceExt};

use super::ObserveError;
use super::kubernetes::{Lists, error};
use crate::api::v1alpha1::KeyRef;
use crate::model::{
    AuthoritySeen, LeafSeen, Login, LoginSeen, SecretProblem, SecretsSeen, Sensitive, SqlSource, ValidPool,
};
use crate::names;
use crate::pki;
use crate::resources::{ANNOTATION_ISSUED_FOR, ANNOTATION_NEXT_SINCE, ANNOTATION_PREVIOUS_SINCE, ROLE_KEYS};

/// Longest password in bytes; PostgreSQL's own clients read no longer ones.
const PASSWORD_BYTES: usize = 1024;
/// Longest bootstrap SQL in bytes: what a ConfigMap holds.
const SQL_BYTES: usize = 1 << 20;

pub(super) async fn read(
    client: &Client,
    pool: &ValidPool,
    lists: &Lists,
    bootstrapped: bool,
) -> Result<SecretsSeen, ObserveError> {
    let mut seen = SecretsSeen::default();
    if let Some(secret) = lists.secret(&names::ca_secret(pool.name())) {
        match authority(secret) {
            Ok(authority) => seen.authority = Some(authority),
            Err(problem) => seen.authority_problem = Some(problem),
        }
    }
    for secret in &lists.secrets {
        if let Some(leaf) = leaf(secret) {
            seen.leaves.insert(secret.name_any(), leaf);
        }
    }
    for login in &pool.logins {
        let found = match lists.secret(&login.secret) {
            Some(secret) => Some(secret.clone()),
            None => get(client, pool, &login.secret).await?,
        };
        seen.logins.insert(login.secret.clone(), read_login(pool, login, found.as_ref()));
    }
    if let Some(name) = &pool.server_secret {
        let secret = get(client, pool, name).await?;
        seen.server = Some(server(name, secret.as_ref()));
    }
    if let Some(source) = pool.sql.as_ref().filter(|_| !bootstrapped) {
        seen.sql = Some(sql(client, pool, source).await?);
    }
    Ok(seen)
}

async fn get(client: &Client, pool: &ValidPool, name: &str) -> Result<Option<Secret>, ObserveError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), pool.namespace());
    api.get_opt(name).await.map_err(|source| error(pool, "Secret", source))
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    let bytes = &secret.data.as_ref()?.get(key)?.0;
    String::from_utf8(bytes.clone()).ok()
}

fn time(secret: &Secret, annotation: &str) -> Option<Timestamp> {
    secret.annotations().get(annotation)?.parse().ok()
}

fn authority(secret: &Secret) -> Result<AuthoritySeen, String> {
    let name = secret.name_any();
    let problem = |what: &str| {
        format!(
            "Secret {name}: {what}; the pool's certificate authority can't be read: restore the Secret, or delete it to get a new one"
        )
    };
    let cert_pem = text(secret, "tls.crt").ok_or_else(|| problem("key tls.crt is missing"))?;
    let key_pem = text(secret, "tls.key").ok_or_else(|| problem("key tls.key is missing"))?;
    let bundle = text(secret, "ca.crt").ok_or_else(|| problem("key ca.crt is missing"))?;
    pki::Authority::load(&cert_pem, &key_pem).map_err(|error| problem(&error.to_string()))?;
    let renew_at = pki::renew_at(&cert_pem).map_err(|error| problem(&error.to_string()))?;
    Ok(AuthoritySeen {
        cert_pem,
        bundle,
        renew_at,
        next_since: time(secret, ANNOTATION_NEXT_SINCE),
        previous_since: time(secret, ANNOTATION_PREVIOUS_SINCE),
    })
}

fn leaf(secret: &Secret) -> Option<LeafSeen> {
    let issued_for = secret.annotations().get(ANNOTATION_ISSUED_FOR)?.clone();
    let cert = text(secret, "tls.crt")?;
    text(secret, "tls.key")?;
    Some(LeafSeen { renew_at: pki::renew_at(&cert).ok()?, bundle: text(secret, "ca.crt")?, issued_for })
}

/// When the certificate that clients see ends.
fn server(name: &str, secret: Option<&Secret>) -> Result<Timestamp, SecretProblem> {
    let problem = |missing: bool, what: &str| SecretProblem {
        message: format!("spec.tls.serverSecret: Secret {name}: {what}"),
        missing,
    };
    let secret = secret.ok_or_else(|| problem(true, "isn't there: make it, of type kubernetes.io/tls"))?;
    let key = |key: &str| {
        text(secret, key).ok_or_else(|| problem(false, &format!("key {key} is missing, or no text")))
    };
    pki::check_pair(&key("tls.crt")?, &key("tls.key")?).map_err(|error| problem(false, &error.to_string()))
}

fn read_login(pool: &ValidPool, login: &Login, secret: Option<&Secret>) -> Result<LoginSeen, SecretProblem> {
    let problem = |missing: bool, what: String| SecretProblem {
        message: format!("Secret {} of user {}: {what}", login.secret, login.role),
        missing,
    };
    let Some(secret) = secret else {
        return Err(problem(true, "isn't there: make it, with the keys username and password".to_owned()));
    };
    let username =
        text(secret, "username").ok_or_else(|| problem(false, "key username is missing".to_owned()))?;
    if username != login.role {
        return Err(problem(false, format!("key username must be {}", login.role)));
    }
    let password =
        text(secret, "password").ok_or_else(|| problem(false, "key password is missing".to_owned()))?;
    if password.is_empty() || password.len() > PASSWORD_BYTES || password.contains(['\0', '\n', '\r']) {
        let what = format!("key password must have 1 to {PASSWORD_BYTES} bytes and no line break");
        return Err(problem(false, what));
    }
    let derived: BTreeMap<String, Sensitive> = secret
        .data
        .iter()
        .flatten()
        .filter(|(key, _)| !ROLE_KEYS.contains(&key.as_str()))
        .filter_map(|(key, value)| {
            Some((key.clone(), Sensitive::new(String::from_utf8(value.0.clone()).ok()?)))
        })
        .collect();
    let ours = secret.owner_references().iter().any(|owner| owner.uid == pool.object_uid);
    Ok(LoginSeen { password: Sensitive::new(password), derived, ours })
}

async fn sql(
    client: &Client,
    pool: &ValidPool,
    source: &SqlSource,
) -> Result<Result<String, SecretProblem>, ObserveError> {
    Ok(match source {
        SqlSource::Secret(key) => {
            let secret = get(client, pool, &key.name).await?;
            usable("Secret", key, secret.is_some(), secret.and_then(|secret| text(&secret, &key.key)))
        }
        SqlSource::ConfigMap(key) => {
            let api: Api<ConfigMap> = Api::namespaced(client.clone(), pool.namespace());
            let map = api.get_opt(&key.name).await.map_err(|source| error(pool, "ConfigMap", source))?;
            let there = map.is_some();
            usable("ConfigMap", key, there, map.and_then(|map| map.data?.remove(&key.key)))
        }
    })
}

fn usable(kind: &str, key: &KeyRef, there: bool, text: Option<String>) -> Result<String, SecretProblem> {
    let problem = |missing: bool, what: &str| SecretProblem {
        message: format!("spec.bootstrap.sql: {kind} {}, key {}: {what}", key.name, key.key),
        missing,
    };
    if !there {
        return Err(problem(true, "isn't there; the databases wait for it"));
    }
    let text = text.ok_or_else(|| problem(false, "the key is missing, or no text"))?;
    if text.len() > SQL_BYTES {
        return Err(problem(false, "is longer than 1 MiB"));
    }
    Ok(text)
}
