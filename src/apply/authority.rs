//! Certificates: the authority, its successor, and the leaves.
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, PostParams};

use super::{ApplyError, Context, is_code};
use crate::model::Sensitive;
use crate::names;
use crate::pki::{Authority, Leaf, PkiError, SaltKey};
use crate::plan::AuthorityStep;
use crate::resources::{ANNOTATION_NEXT_SINCE, LeafOrder, MANAGER, authority_secret, leaf_secret};

/// The authority lives four times as long as what it signs: at two thirds of its life, when its
/// successor comes, more than a whole leaf's life is left.
const AUTHORITY_LIVES: u32 = 4;

fn api(context: Context<'_>) -> Api<Secret> {
    Api::namespaced(context.client.clone(), context.pool.namespace())
}

fn manager() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

fn certificate(name: &str) -> impl Fn(PkiError) -> ApplyError {
    let name = name.to_owned();
    move |source| ApplyError::Certificate { name: name.clone(), source }
}

fn text(secret: &Secret, key: &'static str) -> Result<String, ApplyError> {
    let value = secret.data.as_ref().and_then(|data| data.get(key));
    value
        .and_then(|value| String::from_utf8(value.0.clone()).ok())
        .ok_or_else(|| ApplyError::Key { name: secret.name_any(), key })
}

async fn current(context: Context<'_>) -> Result<Secret, ApplyError> {
    let name = names::ca_secret(context.pool.name());
    api(context).get(&name).await.map_err(|source| ApplyError::api("Secret", &name, source))
}

fn generate(context: Context<'_>, now: Timestamp) -> Result<Authority, ApplyError> {
    let name = names::ca_secret(context.pool.name());
    let validity: Duration = context.pool.tls_validity.saturating_mul(AUTHORITY_LIVES);
    let common_name = format!("{} of {}", context.pool.name(), context.pool.namespace());
    Authority::generate(&common_name, now, validity).map_err(certificate(&name))
}

/// One step of the authority's life. Each reads the Secret, and writes it only if it is still the same.
pub(super) async fn step(
    context: Context<'_>,
    step: AuthorityStep,
    now: Timestamp,
) -> Result<(), ApplyError> {
    let pool = context.pool;
    let name = names::ca_secret(pool.name());
    if step == AuthorityStep::Generate {
        let made = generate(context, now)?;
        let secret = authority_secret(pool, (made.cert_pem(), &Sensitive::new(made.key_pem())), None, None);
        return match api(context).create(&manager(), &secret).await {
            Ok(_) => Ok(()),
            Err(error) if is_code(&error, 409) => Ok(()),
            Err(source) => Err(ApplyError::api("Secret", &name, source)),
        };
    }
    let old = current(context).await?;
    let cert = text(&old, "tls.crt")?;
    let key = Sensitive::new(text(&old, "tls.key")?);
    let mut secret = match step {
        AuthorityStep::Generate | AuthorityStep::DropPrevious => {
            authority_secret(pool, (&cert, &key), None, None)
        }
        AuthorityStep::AddNext => {
            let next = generate(context, now)?;
            let next_key = Sensitive::new(next.key_pem());
            authority_secret(pool, (&cert, &key), Some((next.cert_pem(), &next_key, now)), None)
        }
        AuthorityStep::Switch => {
            let next = text(&old, "next.crt")?;
            let next_key = Sensitive::new(text(&old, "next.key")?);
            authority_secret(pool, (&next, &next_key), None, Some((&cert, now)))
        }
    };
    secret.metadata.resource_version = old.resource_version();
    let twice = step == AuthorityStep::AddNext && old.annotations().contains_key(ANNOTATION_NEXT_SINCE);
    if twice {
        return Ok(());
    }
    api(context)
        .replace(&name, &manager(), &secret)
        .await
        .map(|_| ())
        .map_err(|source| ApplyError::api("Secret", &name, source))
}

/// From what the salts of passwords are made. Another authority means other salts: roles are then told their
/// verifiers once more.
pub(super) async fn salt_key(context: Context<'_>) -> Result<SaltKey, ApplyError> {
    let ca = current(context).await?;
    Ok(SaltKey::of(Sensitive::new(text(&ca, "tls.key")?).reveal()))
}

/// Issues a leaf and puts it into its Secret.
pub(super) async fn issue(
    context: Context<'_>,
    order: &LeafOrder,
    now: Timestamp,
) -> Result<Secret, ApplyError> {
    let pool = context.pool;
    let ca = current(context).await?;
    let cert = text(&ca, "tls.crt")?;
    let authority = Authority::load(&cert, &text(&ca, "tls.key")?)
        .map_err(certificate(&names::ca_secret(pool.name())))?;
    let dns: Vec<String> = order.dns.clone();
    let leaf = Leaf {
        common_name: &order.common_name,
        uri: &order.uri,
        dns: &dns,
        now,
        validity: pool.tls_validity,
    };
    let issued = authority.issue(&leaf).map_err(certificate(&order.secret))?;
    let key = Sensitive::new(issued.key_pem.clone());
    Ok(leaf_secret(pool, order, &order.issued_for(&cert), &issued.cert_pem, &key, &text(&ca, "ca.crt")?))
}
