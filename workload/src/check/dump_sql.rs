//! The SQL that dumps a database for comparison: every permanent table and materialized view outside of the
//! system schemas, each row as one line of text, ordered by that text byte by byte, all in one snapshot.

/// Settings that decide how values look; fixed so that they can't differ between nodes.
pub const SETTINGS: &str = "SET client_encoding = 'UTF8';
SET extra_float_digits = 3;
SET bytea_output = 'hex';
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
SET timezone = 'UTC';
SET lc_monetary = 'C';
SET xmlbinary = 'base64';
SET statement_timeout = 0;
SET row_security = off;";

/// One snapshot for all tables.
pub const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;";

/// One row of one column: the `#node` line.
pub const NODE: &str = "SELECT '#node ' || json_build_object(
    'cluster_name', current_setting('cluster_name'),
    'in_recovery', pg_is_in_recovery(),
    'lsn', CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text,
    'in_flight', (SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'pgpool-workload'
        AND state <> 'idle' AND pid <> pg_backend_pid()))::text";

/// A row for each table: its `#table` line, and the COPY that prints its rows. A row's text begins with a
/// bracket, so no row looks like a `#` line.
pub const TABLES: &str = r#"SELECT '#table ' || json_build_object('schema', n.nspname, 'table', c.relname,
        'columns', (SELECT coalesce(string_agg(format('%I %s', a.attname,
                format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum), '')
            FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped))::text AS head,
    format('COPY (SELECT "~row"::text FROM ONLY %I.%I AS "~row" ORDER BY "~row"::text COLLATE "C") TO STDOUT',
        n.nspname, c.relname) AS copy
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND c.relispopulated
    AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
    AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C""#;

/// The script for `psql -X -f -` or `psql -XAt`; its output is what `check --dump` reads.
pub fn script() -> String {
    format!(
        "\\set QUIET on
\\set ON_ERROR_STOP on
\\pset format unaligned
\\pset tuples_only on
\\pset pager off
{SETTINGS}
{BEGIN}
{NODE};
SELECT format('SELECT %L', head), copy FROM (
{TABLES}
) AS tables \\gexec
SELECT '#end ' || json_build_object('tables', count(*))::text FROM (
{TABLES}
) AS tables;
COMMIT;
"
    )
}
