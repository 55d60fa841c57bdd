//! Certificates: what is presented, and an authority that is lost.
use pgpool_operator::names;
use serde_json::json;

use super::page::Page;
use crate::harness::{Outcome, ensure};
use crate::install;
use crate::load;
use crate::pool::{NODES, WHOLE};
use crate::sessions::secret;
use crate::world::{POOL, SPACE, World, until};

/// The pool whose authority is lost: clients of another one, such as the load, trust what they were given at their start.
const LOST: &str = "lost-ca";
/// Its nodes.
const BOTH: [u8; 2] = [0, 1];
/// Its client.
const CLIENT: &str = "lost-ca-client";

/// What nodes present to each other, and what clients see, by the page's commands.
pub async fn presented(world: &World) -> Outcome {
    let page = Page::open("certificates")?;
    for node in NODES {
        let index = node.to_string();
        let said = page.types("get secret POOL-K-tls", &[("K", index.as_str())]).await?;
        ensure(said.contains("notAfter=") && said.contains("DNS:"), || said.clone())?;
    }
    let authority = page.types("get secret POOL-ca", &[]).await?;
    ensure(authority.starts_with("-----BEGIN CERTIFICATE-----"), || authority.clone())?;
    let host = format!("{POOL}.{SPACE}.svc");
    let shown = page.types("openssl s_client", &[("HOST", host.as_str())]).await?;
    ensure(shown.contains(&format!("DNS:{host}")), || shown.clone())?;
    compared(world, &page, POOL, &NODES).await?;
    load::unharmed(world).await
}

/// Every pod has the certificate that stands in its Secret, or is given it.
async fn compared(world: &World, page: &Page, pool: &str, nodes: &[u8]) -> Outcome {
    page.says("compare its `/etc/pgpool/tls/tls.crt` with the Secret")?;
    for node in nodes {
        let (pod, name) = (names::node_pod(pool, *node), names::node_tls_secret(pool, *node));
        until("the pod to have its certificate", WHOLE, || async {
            let path = format!("{}/tls.crt", names::TLS_DIR);
            let has = world.here(&["exec", &pod, "-c", "postgres", "--", "cat", &path]).await?;
            let wanted = secret(world, &name, "tls.crt").await?;
            ensure(has.trim() == wanted.trim(), || format!("{pod} has another one"))
        })
        .await?;
    }
    Ok(())
}

/// The Secret of the authority is deleted: a new one is made, every leaf is issued from it, and nodes and clients trust it.
pub async fn lost_authority(world: &World) -> Outcome {
    let page = Page::open("certificates")?;
    let other = world.of_pool(LOST, &BOTH)?;
    let mut pool = install::pool();
    pool["metadata"]["name"] = json!(LOST);
    pool["spec"]["nodes"] = json!(BOTH.len());
    pool["spec"]["storage"]["whenDeleted"] = json!("Delete");
    world.apply(&pool).await?;
    other.whole(WHOLE).await?;
    world.apply(&install::client_pod(CLIENT, SPACE, Some(LOST))).await?;
    world.here(&["wait", "--for=condition=Ready", "pod", CLIENT, "--timeout=60s"]).await?;
    write(world, "CREATE TABLE kept AS SELECT 1 AS n").await?;

    let values = [("POOL", LOST)];
    let old = page.types("get secret POOL-ca", &values).await?;
    page.types("delete secret POOL-ca", &values).await?;
    until("another authority", WHOLE, || async {
        let now = page.types("get secret POOL-ca", &values).await?;
        ensure(now != old, || "it is the old one".to_owned())
    })
    .await?;
    until("every leaf to be issued from it", WHOLE, || async {
        let now = page.types("get secret POOL-ca", &values).await?;
        for node in BOTH {
            let trusts = secret(world, &names::node_tls_secret(LOST, node), "ca.crt").await?;
            ensure(trusts.trim() == now, || format!("node {node} trusts the old one"))?;
        }
        Ok(())
    })
    .await?;
    compared(world, &page, LOST, &BOTH).await?;
    until("a client with the new authority", WHOLE, || write(world, "INSERT INTO kept VALUES (2)")).await?;
    other.whole(WHOLE).await?;
    for node in BOTH {
        let held = other.psql(node, "app", "SELECT count(*) > 1 FROM kept").await?;
        ensure(held == "t", || format!("node {node}: {held}"))?;
    }
    world.here(&["delete", "pod", CLIENT, "--wait=false"]).await?;
    world.here(&["delete", "pgpool", LOST, "--timeout=100s"]).await?;
    load::unharmed(world).await
}

/// By the front, as the application, with the authority that kubelet has brought.
async fn write(world: &World, sql: &str) -> Outcome {
    let target = format!("host={LOST} sslmode=verify-full connect_timeout=5");
    world.here(&["exec", CLIENT, "--", "psql", "-XAtq", "-d", &target, "-c", sql]).await.map(drop)
}
