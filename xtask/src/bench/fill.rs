//! The data: a table in the manner of pgbench's, half of which no compressor makes smaller.

use std::time::Duration;

use super::pool::Pool;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::progress::{say, step, until_every};

/// Rows added at a time, of about 1080 bytes each with their index.
const BATCH: u64 = 50_000;
/// Bytes of a row in table and index, roughly; the real size is looked at after each batch.
const ROW: u64 = 1080;
/// How long the standbys may take to be at the primary's position.
const SAME: Duration = Duration::from_secs(300);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// 512 bytes of SHA-512 sums (not compressible), 400 characters of words (compressible), as pgbench's filler.
const TABLE: &str = "create table if not exists bench (aid bigint primary key, bid int not null, \
    abalance int not null, touched timestamptz not null, noise bytea not null, filler text not null); \
    alter table bench alter noise set storage plain, alter filler set storage plain";

/// Reads a size such as 300M or 5G, in powers of ten.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.strip_suffix('G') {
        Some(number) => (number, 1_000_000_000),
        None => (text.strip_suffix('M').unwrap_or(text), 1_000_000),
    };
    let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).filter(|n| *n > 0);
    bytes.ok_or_else(|| format!("{text} is no size: write it as 300M or 5G"))
}

/// Volume for so much data: old and new copy at once, WAL and its archive.
pub fn storage_for(bytes: u64) -> String {
    format!("{}Mi", (bytes * 5 / 2).div_ceil(1 << 20) + 2048)
}

fn insert(first: u64, last: u64) -> String {
    let noise = (0..8).map(|i| format!("sha512((g || '/{i}')::bytea)")).collect::<Vec<_>>().join(" || ");
    format!(
        "insert into bench select g, g % 100, (g::bigint * 7919 % 200000) - 100000, \
         timestamptz '2026-01-01' + g * interval '1 second', {noise}, \
         rpad('account ' || g || ' of branch ' || g % 100 || ' ', 400, 'paid in full, thank you; ') \
         from generate_series({first}, {last}) g"
    )
}

/// Fills the primary up to so many bytes of table and index, and waits until all nodes have it.
pub fn fill(pool: &Pool<'_>, bytes: u64) -> Result<()> {
    step(&format!("{} MB of data", bytes / 1_000_000), || {
        pool.sql(TABLE)?;
        let mut have = table_bytes(pool)?;
        let mut shown = 0;
        while have < bytes {
            interrupt::check()?;
            let rows = ((bytes - have) / ROW + 1).min(BATCH);
            let first = number(pool, "select coalesce(max(aid), 0) + 1 from bench")?;
            pool.sql(&insert(first, first + rows - 1))?;
            have = table_bytes(pool)?;
            let tenths = have * 10 / bytes;
            if tenths > shown {
                shown = tenths;
                say(format!("  {} of {} MB", have / 1_000_000, bytes / 1_000_000));
            }
        }
        // Frozen and with hint bits, so that no later checkpoint writes the table again.
        pool.sql("vacuum (freeze, analyze) bench")?;
        same(pool)?;
        pool.settle()
    })
}

fn same(pool: &Pool<'_>) -> Result<()> {
    let behind =
        "select coalesce(max(pg_current_wal_lsn() - replay_lsn), 0)::bigint from pg_stat_replication";
    until_every(LOOK, "the standbys at the primary's position", SAME, || {
        let behind = number(pool, behind)?;
        Ok(if behind < 1_000_000 { Ok(()) } else { Err(format!("{behind} bytes behind")) })
    })
}

fn table_bytes(pool: &Pool<'_>) -> Result<u64> {
    number(pool, "select pg_total_relation_size('bench')")
}

fn number(pool: &Pool<'_>, query: &str) -> Result<u64> {
    let answer = pool.sql(query)?;
    answer.parse().map_err(|_| Error::Refused(format!("`{query}` gave no number but: {answer}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_ten() {
        assert_eq!(size("1G"), Ok(1_000_000_000));
        assert_eq!(size("300M"), Ok(300_000_000));
        for bad in ["", "G", "0G", "1.5G", "-1M", "1K", "99999999999999G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_volume_has_room_for_both_copies() {
        assert_eq!(storage_for(1_000_000_000), "4433Mi");
        assert_eq!(storage_for(5_000_000_000), "13969Mi");
    }
}
