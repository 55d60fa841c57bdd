//! The pool's certificate authority is replaced, step by step, while clients come and stay.
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams};
use pgpool_operator::api::v1alpha1::PgPoolStatus;
use pgpool_operator::names;
use pgpool_operator::resources::{ANNOTATION_NEXT_SINCE, ANNOTATION_PREVIOUS_SINCE};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::json;

use super::harness::{Outcome, ensure, failed};
use super::install::as_app;
use super::pool::{NODES, WHOLE};
use super::sessions::{client, containers, is_shown, issued, open, secret, still_open};
use super::world::{POOL, SPACE, World, until};

/// Years for which the authority has been in use, and after which it ends: more than two thirds have passed.
const YEARS: (i32, i32) = (9, 1);
/// A time that lies long enough back for everybody to have heard of what was changed then.
const LONG_AGO: &str = "2020-01-01T00:00:00Z";
/// What is told of each step of a new authority.
const STEPS: [&str; 3] = [
    "a new certificate authority was made and is trusted beside the old one",
    "the new certificate authority signs from now on",
    "the old certificate authority is no longer trusted",
];
/// A byte that no text has, as a Secret is written.
const NO_TEXT: &str = "/w==";
/// Logins that must have been tried.
const LOGINS: usize = 40;
/// Logs in again and again, until it is told to stop; one letter each time.
const COME_AND_GO: &str = "rm -f /tmp/stop /tmp/came; touch /tmp/came; { while [ ! -e /tmp/stop ]; do \
    psql -XAtq 'host=demo sslmode=verify-full' -c 'SELECT 1' >/dev/null 2>>/tmp/came && printf . >>/tmp/came; \
    done; } >/dev/null 2>&1 </dev/null &";

/// The pool's authority as it would be after years: the same key and the same name, but soon to end.
fn aged(cert_pem: &str, key_pem: &str) -> Outcome<String> {
    let pem = x509_parser::pem::Pem::iter_from_buffer(cert_pem.as_bytes()).next();
    let Some(Ok(pem)) = pem else { return failed("the authority's certificate can't be read") };
    let cert = pem.parse_x509()?;
    let name = cert.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, name.unwrap_or_default());
    let year = pgpool_operator::clock::timestamp().to_zoned(jiff::tz::TimeZone::UTC).year();
    params.not_before = rcgen::date_time_ymd(i32::from(year) - YEARS.0, 1, 1);
    params.not_after = rcgen::date_time_ymd(i32::from(year) + YEARS.1, 12, 31);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(&KeyPair::from_pem(key_pem)?)?.pem())
}

async fn patch(world: &World, change: serde_json::Value) -> Outcome {
    patch_secret(world, &names::ca_secret(POOL), change).await
}

async fn patch_secret(world: &World, name: &str, change: serde_json::Value) -> Outcome {
    let api: Api<Secret> = Api::namespaced(world.client.clone(), SPACE);
    api.patch(name, &PatchParams::default(), &Patch::Merge(change)).await?;
    Ok(())
}

/// Waits until the Secret of the authority says so.
async fn noted(world: &World, annotation: &str, wanted: bool) -> Outcome {
    let api: Api<Secret> = Api::namespaced(world.client.clone(), SPACE);
    until("the next step of the authority", WHOLE, || async {
        let secret = api.get(&names::ca_secret(POOL)).await?;
        let there = secret.metadata.annotations.is_some_and(|all| all.contains_key(annotation));
        ensure(there == wanted, || format!("{annotation} there: {there}"))
    })
    .await
}

/// Waits until all nodes, fronts and the client have what is in the Secrets now.
async fn spread(world: &World) -> Outcome {
    let bundle = secret(world, &names::ca_secret(POOL), "ca.crt").await?;
    for index in NODES {
        let pod = names::node_pod(POOL, index);
        // The agent's own copy: Postgres reads it again in the same step.
        let path = format!("{}/ca.crt", names::RUN_DIR);
        until("a node to trust whom it shall", WHOLE, || async {
            let now = world.here(&["exec", &pod, "-c", "postgres", "--", "cat", &path]).await?;
            ensure(now.trim() == bundle.trim(), || format!("{pod} trusts others"))
        })
        .await?;
    }
    until("the client to trust whom it shall", WHOLE, || async {
        let now = client(world, "cat /ca/ca.crt").await?;
        ensure(now.trim() == bundle.trim(), || "it trusts others".to_owned())
    })
    .await?;
    until("the front's certificate to be issued anew", WHOLE, || async {
        let trusts = secret(world, &names::part_tls_secret(POOL, "proxy"), "ca.crt").await?;
        ensure(trusts == bundle, || "its Secret trusts others".to_owned())
    })
    .await?;
    // Its certificate and what it trusts come to a front together.
    is_shown(world, &issued(world).await?).await
}

/// The authority is near its end: a successor is trusted, then signs, then is the only one. No login fails, no session
/// ends, nothing restarts.
pub async fn replaced(world: &World) -> Outcome {
    let running = containers(world).await?;
    open(world).await?;
    client(world, COME_AND_GO).await?;
    let replaced = rotate(world).await;
    client(world, "touch /tmp/stop").await?;
    replaced?;
    let came = client(world, "cat /tmp/came").await?;
    println!("    {} logins", came.matches('.').count());
    ensure(came.chars().all(|c| c == '.'), || format!("a login failed: {came}"))?;
    ensure(came.len() >= LOGINS, || format!("only {} logins", came.len()))?;
    still_open(world).await?;
    let now = containers(world).await?;
    ensure(now == running, || format!("{running:?} became {now:?}"))?;
    until("an event of each step", WHOLE, || async {
        let told = world.events("AuthorityRenewed").await?;
        ensure(STEPS.iter().all(|step| told.iter().any(|note| note == step)), || format!("{told:?}"))
    })
    .await?;
    world.whole(WHOLE).await.map(drop)
}

async fn rotate(world: &World) -> Outcome {
    let name = names::ca_secret(POOL);
    let (cert, key) = (secret(world, &name, "tls.crt").await?, secret(world, &name, "tls.key").await?);
    let old = aged(&cert, &key)?;
    patch(world, json!({"stringData": {"tls.crt": old, "ca.crt": old}})).await?;
    noted(world, ANNOTATION_NEXT_SINCE, true).await?;
    spread(world).await?;
    let since = |annotation: &str| json!({"metadata": {"annotations": {annotation: LONG_AGO}}});
    patch(world, since(ANNOTATION_NEXT_SINCE)).await?;
    noted(world, ANNOTATION_PREVIOUS_SINCE, true).await?;
    spread(world).await?;
    patch(world, since(ANNOTATION_PREVIOUS_SINCE)).await?;
    noted(world, ANNOTATION_PREVIOUS_SINCE, false).await?;
    spread(world).await?;
    let now = secret(world, &name, "ca.crt").await?;
    ensure(!now.contains(old.trim()), || "the old authority is still trusted".to_owned())
}

/// Secrets of a running pool are spoilt: it serves as before and says which ones, until they are put right.
pub async fn spoilt(world: &World) -> Outcome {
    let (ca, app) = (names::ca_secret(POOL), names::app_secret(POOL));
    let (key, password) = (secret(world, &ca, "tls.key").await?, secret(world, &app, "password").await?);
    patch_secret(world, &ca, json!({"stringData": {"tls.key": "spoilt"}})).await?;
    patch_secret(world, &app, json!({"data": {"password": null}})).await?;
    let told = async {
        let words = |status: &PgPoolStatus| {
            let said: Vec<&str> = status.conditions.iter().map(|c| c.message.as_str()).collect();
            said.join(" ")
        };
        let names =
            |status: &PgPoolStatus| [&ca, &app].iter().all(|name| words(status).contains(name.as_str()));
        let status = world.when("the spoilt Secrets to be told of", WHOLE, names).await?;
        println!("    {}", words(&status));
        let said = as_app(world, POOL, "SELECT 'as before'").await?;
        ensure(said == "as before", || said.clone())
    }
    .await;
    patch_secret(world, &ca, json!({"stringData": {"tls.key": key}})).await?;
    patch_secret(world, &app, json!({"stringData": {"password": password}})).await?;
    told?;
    world.whole(WHOLE).await?;
    for reason in ["AuthorityUnreadable", "SecretUnusable"] {
        let reasons = ["get", "events", "-o", "jsonpath={.items[*].reason}"];
        let said = world.here(&reasons).await?;
        ensure(said.contains(reason), || format!("no event {reason}: {said}"))?;
    }
    keyless(world, &password).await
}

/// From a new password PostgreSQL is told something that takes the authority's key: while that is no text it keeps the old one, and
/// that is told.
async fn keyless(world: &World, password: &str) -> Outcome {
    let (ca, app) = (names::ca_secret(POOL), names::app_secret(POOL));
    let key = secret(world, &ca, "tls.key").await?;
    patch_secret(world, &ca, json!({"data": {"tls.key": NO_TEXT}})).await?;
    let told = async {
        patch_secret(world, &app, json!({"stringData": {"password": format!("{password}-new")}})).await?;
        let words = format!("Secret {ca}: key tls.key is missing or no text");
        until("the event", WHOLE, || async {
            let events = world.events("CertificateFailed").await?;
            ensure(events.iter().any(|note| note.contains(&words)), || format!("{events:?}"))
        })
        .await?;
        let said = as_app(world, POOL, "SELECT 'as before'").await?;
        ensure(said == "as before", || said.clone())
    }
    .await;
    // The old password first: the new one must not be given to the role.
    patch_secret(world, &app, json!({"stringData": {"password": password}})).await?;
    patch_secret(world, &ca, json!({"stringData": {"tls.key": key}})).await?;
    told?;
    world.whole(WHOLE).await?;
    until("a login with the old password", WHOLE, || as_app(world, POOL, "SELECT 1")).await.map(drop)
}
