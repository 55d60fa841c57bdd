//! The two ways, and a run of all files by one of them.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::NAMESPACE;
use super::source::Tests;
use crate::bench::{NAME, PROGRAMS, Pool};
use crate::clock::Stopwatch;
use crate::error::{Error, OnFile, Result, refused};
use crate::interrupt;
use crate::progress::{say, step, until};
use crate::{files, run};

/// Where the tests are in the primary's pod.
const AT: &str = "/tmp/regress";
/// The pod of the primary, from which both ways begin.
const NODE: u8 = 0;
/// The superuser of both ways; its name is no test's.
const ROLE: &str = "tester";
/// Seconds for one file.
const FILE_LIMIT: u32 = 300;
/// Seconds for all.
const LIMIT: u32 = 3600;
/// How long a way may take until it is open.
const OPEN: Duration = Duration::from_secs(120);

/// What `pg_regress` says to psql and its environment (PostgreSQL source, `src/test/regress/pg_regress.c` and
/// `pg_regress_main.c`). A file that took too long has code 124 or 137.
///
/// Plans hang on which pages VACUUM found visible to all. Standbys say once a second what they still see
/// (`hot_standby_feedback`), so rows that have just come in may be left out: those VACUUMs are done until they aren't.
const SCRIPT: &str = r#"
conninfo=$1 limit=$2; shift 2
cd /tmp/regress
rm -rf results out; mkdir results out
unset LANG LANGUAGE LC_ALL LC_COLLATE LC_CTYPE LC_MONETARY LC_NUMERIC LC_TIME PGCLIENTENCODING
export LC_MESSAGES=C PGTZ=America/Los_Angeles PGDATESTYLE='Postgres, MDY' PGOPTIONS='-c intervalstyle=postgres_verbose'
export PG_ABS_SRCDIR=$PWD PG_ABS_BUILDDIR=$PWD PG_LIBDIR=$PWD/lib PG_DLSUFFIX=.so PGPASSFILE=$PWD/pgpass
settle() {
    for _ in {1..100}; do
        grep '^VACUUM' sql/test_setup.sql | psql -X -q -d "$conninfo" >settle.out 2>&1
        seen=$(psql -XAt -d "$conninfo" -c "SELECT relallvisible = relpages FROM pg_class WHERE relname = 'tenk1'")
        if [ "$seen" = t ]; then return; fi
    done
    echo "pages of tenk1 are not visible to all: $seen"
    return 1
}
for name in "$@"; do
    begin=$(date +%s%3N) code=0
    PGAPPNAME=pg_regress/$name timeout --kill-after=10 "$limit" \
        psql -X -a -q -d "$conninfo" -v HIDE_TABLEAM=on -v HIDE_TOAST_COMPRESSION=on \
        <"sql/$name.sql" >"out/$name.out" 2>&1 || code=$?
    echo "$name $code $(($(date +%s%3N) - begin))"
    if [ "$name" = test_setup ]; then settle; fi
done
"#;

/// What an earlier run has left of databases, tablespaces and roles. A role can be the grantor of another's membership,
/// hence twice.
const CLEAN: &str = r"
SELECT format('DROP DATABASE %I WITH (FORCE)', datname) FROM pg_database WHERE datname LIKE 'regress%' \gexec
SELECT format('DROP TABLESPACE %I', spcname) FROM pg_tablespace WHERE spcname LIKE 'regress%' \gexec
SELECT format('DROP ROLE %I', rolname) FROM pg_roles WHERE rolname LIKE 'regress%' \gexec
SELECT format('DROP ROLE %I', rolname) FROM pg_roles WHERE rolname LIKE 'regress%' \gexec
\set ON_ERROR_STOP on
SELECT 1 / (count(*) = 0)::int FROM pg_roles WHERE rolname LIKE 'regress%';
DROP ROLE IF EXISTS tester;
";

/// The database, as `pg_regress` makes it.
const CREATE: &str = r"
CREATE DATABASE regression OWNER tester TEMPLATE template0;
ALTER DATABASE regression SET lc_messages TO 'C';
ALTER DATABASE regression SET lc_monetary TO 'C';
ALTER DATABASE regression SET lc_numeric TO 'C';
ALTER DATABASE regression SET lc_time TO 'C';
ALTER DATABASE regression SET bytea_output TO 'hex';
ALTER DATABASE regression SET timezone_abbreviations TO 'Default';
";

/// How psql gets to the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To its port, with a certificate of the pool as the front has one.
    Direct,
    /// To the Service of the front.
    Front,
}

impl Way {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Front => "front",
        }
    }

    fn conninfo(self) -> String {
        let run = "/run/pgpool";
        let to = match self {
            Self::Direct => {
                format!("host=127.0.0.1 sslmode=require sslcert={run}/tls.crt sslkey={run}/tls.key")
            }
            Self::Front => {
                format!("host={NAME}.{NAMESPACE}.svc sslmode=verify-full sslrootcert={run}/ca.crt")
            }
        };
        format!("{to} port=5432 user={ROLE} dbname=regression")
    }
}

/// How one file went.
#[derive(Debug, Clone)]
pub struct Went {
    /// The file.
    pub name: String,
    /// With what psql ended.
    pub code: i32,
}

/// All files by one way.
pub struct Course {
    /// The way.
    pub way: Way,
    /// One for each file, in the order of the schedule.
    pub went: Vec<Went>,
    /// Where `NAME.out` are.
    pub folder: PathBuf,
    /// How long all took together.
    pub took: Duration,
}

impl Course {
    /// Runs all files in a fresh database; what psql said goes to `folder`.
    pub fn run(pool: &Pool<'_>, names: &[String], way: Way, folder: &Path) -> Result<Self> {
        step("a fresh database", || fresh(pool))?;
        until(&format!("a session by way of {}", way.name()), OPEN, || {
            let psql =
                format!("{PROGRAMS}; PGPASSFILE={AT}/pgpass psql -XAtc 'SELECT 1' '{}'", way.conninfo());
            let said = run::output(&mut pool.script(&Pool::pod(NODE), &psql)?)?;
            let why = String::from_utf8_lossy(&said.stderr).into_owned();
            Ok(if said.status.success() { Ok(()) } else { Err(why) })
        })?;
        let watch = Stopwatch::start();
        let went = went(pool, names, way)?;
        let took = watch.elapsed();
        bring_back(pool, folder)?;
        Ok(Self { way, went, folder: folder.join("out"), took })
    }
}

/// bash in the primary's pod, which reads what it is given.
fn bash(pool: &Pool<'_>, text: &str, words: &[&str]) -> Result<Command> {
    let mut kubectl = pool.kubectl(&["exec", "--stdin", &Pool::pod(NODE), "--container=postgres", "--"])?;
    kubectl.args(["bash", "-o", "pipefail", "-euc", &format!("{PROGRAMS}; {text}"), "regress"]).args(words);
    Ok(kubectl)
}

/// Debian's version of PostgreSQL in the pod.
pub fn package_version(pool: &Pool<'_>, major: u32) -> Result<String> {
    pool.exec(NODE, &format!("dpkg-query --show --showformat '${{Version}}' postgresql-{major}"))
}

/// When the primary's PostgreSQL was started.
pub fn primary_since(pool: &Pool<'_>) -> Result<String> {
    pool.sql("SELECT pg_is_in_recovery() || ' ' || pg_postmaster_start_time()")
}

/// Puts the tests into the primary's pod, where the server finds their data and libraries too.
pub fn put(pool: &Pool<'_>, major: u32, tests: &Tests) -> Result<()> {
    let text = format!(
        "rm -rf {AT}; mkdir {AT}; tar -xf - -C {AT}; cd {AT}; \
         ln -s /usr/lib/postgresql/{major}/lib/{{autoinc,refint}}.so lib/"
    );
    let tar = File::open(&tests.tar).on("open", &tests.tar)?;
    run::visible(bash(pool, &text, &[])?.stdin(tar))
}

fn fresh(pool: &Pool<'_>) -> Result<()> {
    let password = password()?;
    let text = format!("{CLEAN}CREATE ROLE {ROLE} SUPERUSER LOGIN PASSWORD '{password}';{CREATE}");
    run::fed(&mut bash(pool, "psql -X -q -d postgres", &[])?, &text)?;
    let keep = format!("umask 077; cat >{AT}/pgpass");
    run::fed(&mut bash(pool, &keep, &[])?, &format!("*:*:*:{ROLE}:{password}\n")).map(drop)
}

fn password() -> Result<String> {
    let source = "/dev/urandom";
    let mut bytes = [0; 32];
    File::open(source).and_then(|mut file| file.read_exact(&mut bytes)).on("read", source)?;
    Ok(files::sha256(&bytes))
}

fn went(pool: &Pool<'_>, names: &[String], way: Way) -> Result<Vec<Went>> {
    let (conninfo, limit) = (way.conninfo(), FILE_LIMIT.to_string());
    let words: Vec<&str> =
        [conninfo.as_str(), &limit].into_iter().chain(names.iter().map(String::as_str)).collect();
    let mut command = bash(pool, SCRIPT, &words)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let shown = format!("all files by way of {}", way.name());
    let mut child = command.spawn().map_err(|source| Error::Start { command: shown.clone(), source })?;
    let read =
        child.stdout.take().map_or(Ok(Vec::new()), |out| listen(BufReader::new(out), names.len(), way));
    if read.is_err() {
        // It may have ended by itself.
        let _ = child.kill();
    }
    let status = child.wait().on("wait for", "kubectl")?;
    let went = read?;
    if !status.success() || went.len() != names.len() {
        return refused(format!("{shown}: {}, {} of {} came", run::told(status), went.len(), names.len()));
    }
    Ok(went)
}

/// Hears of each file when it is through.
fn listen(lines: impl BufRead, all: usize, way: Way) -> Result<Vec<Went>> {
    let watch = Stopwatch::start();
    let mut went = Vec::new();
    for line in lines.lines() {
        interrupt::check()?;
        let line = line.on("read from", "kubectl")?;
        let Some((one, milliseconds)) = parse(&line) else {
            return refused(format!("the pod said: {line}"));
        };
        let ended =
            if one.code == 0 { String::new() } else { format!(", psql ended with code {}", one.code) };
        let (at, name, total) = (went.len() + 1, &one.name, watch.elapsed().as_secs());
        say(format!("  {} {at}/{all} {name} ({milliseconds} ms{ended}; {total} s in all)", way.name()));
        went.push(one);
        if total > u64::from(LIMIT) {
            return refused(format!("not all files were through within {LIMIT} s"));
        }
    }
    Ok(went)
}

fn parse(line: &str) -> Option<(Went, u64)> {
    let mut words = line.split(' ');
    let went = Went { name: words.next()?.to_owned(), code: words.next()?.parse().ok()? };
    Some((went, words.next()?.parse().ok()?))
}

fn bring_back(pool: &Pool<'_>, folder: &Path) -> Result<()> {
    files::make_dir(folder)?;
    let tar = folder.join("out.tar");
    let mut pack = bash(pool, &format!("tar -cf - -C {AT} out"), &[])?;
    run::visible(pack.stdin(Stdio::null()).stdout(File::create(&tar).on("create", &tar)?))?;
    run::captured(run::command("tar", ["--extract", "--file"]).arg(&tar).arg("--directory").arg(folder))
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_tells_how_it_went() {
        let went = listen("boolean 0 120\ncopy 124 300001\n".as_bytes(), 2, Way::Direct).unwrap();
        assert_eq!((went[0].name.as_str(), went[1].code), ("boolean", 124));
        assert!(listen("bash: no such file\n".as_bytes(), 2, Way::Direct).is_err());
    }

    #[test]
    fn both_ways_have_role_and_database_in_common() {
        for way in [Way::Direct, Way::Front] {
            assert!(way.conninfo().ends_with("port=5432 user=tester dbname=regression"));
        }
        assert!(CLEAN.contains(&format!("DROP ROLE IF EXISTS {ROLE};")) && SCRIPT.contains(AT));
    }
}
