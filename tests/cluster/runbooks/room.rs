//! What takes the room of a volume, and WAL files in its archive that can't stay.
use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::page::Page;
use crate::failover::{primary, standby};
use crate::harness::{Outcome, ensure};
use crate::load;
use crate::majors::{FILL, archived};
use crate::pool::{NODES, WHOLE};
use crate::volumes::{complaint, content_again, plant, switch};
use crate::world::{POOL, World, until};

/// KiB that the archive may take once it is lowered; a few segments that can't be compressed are more.
const LOWERED: u64 = 32 << 10;
/// Those segments.
const SEGMENTS: usize = 4;

/// The page shows what takes the room; the oldest files of the archive go by hand, and by a smaller size within seconds.
pub async fn archive(world: &World) -> Outcome {
    let page = Page::open("volume-full")?;
    let (first, node) = (primary(world).await?, standby(world).await?);
    let index = node.to_string();
    let values = [("K", index.as_str())];
    let told = page.types("du -sh", &values).await?;
    for words in ["archive", "pgdata/pg_wal", "Avail"] {
        ensure(told.contains(words), || format!("no {words}: {told}"))?;
    }
    for _ in 0..SEGMENTS {
        world.psql(first, "postgres", FILL).await?;
    }
    until("an archive that is too large", WHOLE, || async {
        let (_, size) = archived(world, node).await?;
        ensure(size > LOWERED, || format!("{size} KiB"))
    })
    .await?;
    let oldest = page.types("ls -t", &values).await?;
    let oldest = oldest.lines().last().unwrap_or_default();
    ensure(oldest.contains(".lz4"), || oldest.to_owned())?;
    world.shell(node, &format!("rm /var/lib/pgpool/archive/{oldest}")).await?;
    page.says("the oldest files go at the next look, within seconds")?;
    keep(world, &json!({"maxSize": format!("{}Mi", LOWERED >> 10)})).await?;
    let kept = until("the archive to keep to its size", WHOLE, || async {
        let (names, size) = archived(world, node).await?;
        ensure(size <= LOWERED && !names.is_empty(), || format!("{names:?}, {size} KiB"))
    })
    .await;
    keep(world, &Value::Null).await?;
    kept?;
    load::unharmed(world).await
}

/// Says how much of the archive is kept.
async fn keep(world: &World, archive: &Value) -> Outcome {
    let spec = json!({"spec": {"walArchive": archive}}).to_string();
    world.here(&["patch", "pgpool", POOL, "--type=merge", "-p", &spec]).await.map(drop)
}

/// A file with other content in the archive of a standby: the other nodes say which one is right, and it is moved out.
pub async fn wrong_file(world: &World) -> Outcome {
    const WORDS: &str = "is in the archive with other content; it isn't overwritten";
    let page = Page::open("volume-full")?;
    page.says(WORDS)?;
    let (first, node, before) = (primary(world).await?, standby(world).await?, world.status().await?);
    let file = plant(world, first, node, "cat $(ls -t 0*.lz4 | head -1)").await?;
    switch(world, first).await?;
    let told = complaint(world, node, &file).await?;
    println!("    {told}");
    ensure(told.contains(WORDS), || told.clone())?;
    let mut others = BTreeSet::new();
    for at in NODES.into_iter().filter(|at| *at != node) {
        others.insert(sum(&page, at, &file).await?);
    }
    let own = sum(&page, node, &file).await?;
    ensure(others.len() == 1 && !others.contains(&own), || format!("{own} here, {others:?} elsewhere"))?;
    let index = node.to_string();
    Page::open("recovery-fails")?.types("recover=K", &[("K", index.as_str())]).await?;
    world.recovered(node, &before).await?;
    moved_out(world, first, node, &file).await?;
    let now = sum(&page, node, &file).await?;
    ensure(others.contains(&now), || format!("{now} here, {others:?} elsewhere"))?;
    load::unharmed(world).await
}

/// A damaged file in the archive of a standby is moved out.
pub async fn damaged_file(world: &World) -> Outcome {
    const WORDS: &str = "is in the archive but can't be read: ";
    Page::open("volume-full")?.says(WORDS)?;
    let (first, node) = (primary(world).await?, standby(world).await?);
    let file = plant(world, first, node, "head -c 4096 /dev/urandom").await?;
    switch(world, first).await?;
    let told = complaint(world, node, &file).await?;
    println!("    {told}");
    ensure(told.contains(WORDS), || told.clone())?;
    moved_out(world, first, node, &file).await?;
    load::unharmed(world).await
}

/// The digest of a node's file, by the page's command, once it is there.
async fn sum(page: &Page, node: u8, file: &str) -> Outcome<String> {
    let index = node.to_string();
    let values = [("K", index.as_str()), ("FILE", file)];
    let said = until("the file in the archive", WHOLE, || page.types("sha256sum", &values)).await?;
    Ok(said.split_whitespace().next().unwrap_or_default().to_owned())
}

/// Moves the file out of the archive: PostgreSQL tries again with the next segment, and the condition goes.
async fn moved_out(world: &World, first: u8, node: u8, file: &str) -> Outcome {
    let path = format!("/var/lib/pgpool/archive/{}/{file}.lz4", &file[..8]);
    world.shell(node, &format!("mv {path} /var/lib/pgpool/moved.lz4")).await?;
    switch(world, first).await?;
    until("the right file in the archive", WHOLE, || async {
        world.shell(node, &format!("test -s {path}")).await.map(drop)
    })
    .await?;
    content_again(world).await?;
    world.shell(node, "rm /var/lib/pgpool/moved.lz4").await.map(drop)
}
