//! The manifests of examples/, but for that of the demonstration: each pool becomes Ready on the cluster, and whoever has a login
//! of it gets in.

use std::ops::Add as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::demo::{object, parsed, seen};
use super::tally::Tally;
use crate::cluster::{self, Cluster};
use crate::demo;
use crate::error::{Result, refused};
use crate::progress::{step, until, until_every};
use crate::{files, paths, run};

const FOLDER: &str = "examples";
/// The demonstration's own.
const DEMO: &str = "demo.yaml";
/// Namespace of the pools.
const SPACE: &str = "examples";
/// What they name and don't make, the namespace among it.
const NEEDS: &str = include_str!("../../manifests/examples.yaml");
/// How long a pool may take until it is Ready, beside the others.
const READY: Duration = Duration::from_secs(300);
/// How often it is looked at; each look starts a kubectl.
const LOOK: Duration = Duration::from_secs(1);
/// How long a login that has to be may not be yet.
const LOGIN: Duration = Duration::from_secs(60);
/// Reads the password, which is to stand in nobody's arguments, and asks by the Service of the pool.
pub const PSQL: &str = r#"IFS= read -r PGPASSWORD; export PGPASSWORD; exec psql -XAtw -d "$1" -c "$2""#;
const ASKED: &str = "SELECT session_user, current_database(), pg_get_userbyid(datdba) = session_user \
                     FROM pg_database WHERE datname = current_database()";

/// Makes pools of all examples, beside each other; a test each.
pub fn run(cluster: &Cluster) -> Result<Tally> {
    run::fed(cluster::enter::kubectl(cluster)?.args(["apply", "--server-side", "-f", "-"]), NEEDS)?;
    let manifests = manifests()?;
    let one = |file: &Path| {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        seen(&format!("examples::{name}"), || tried(cluster, file))
    };
    let sum = thread::scope(|scope| {
        let running: Vec<_> = manifests.iter().map(|file| scope.spawn(move || one(file))).collect();
        let ended = running.into_iter().map(|thread| thread.join().unwrap_or(Tally::FAILURE));
        ended.fold(Tally::default(), Tally::add)
    });
    Ok(sum)
}

fn manifests() -> Result<Vec<PathBuf>> {
    let folder = paths::checkout().join(FOLDER);
    let mut found = files::walk(&folder)?;
    found.retain(|file| file.file_name().is_some_and(|name| name != DEMO));
    if found.is_empty() { refused(format!("no example is in {}", folder.display())) } else { Ok(found) }
}

fn kubectl(cluster: &Cluster, words: &[&str]) -> Result<Command> {
    let mut kubectl = cluster::enter::kubectl(cluster)?;
    kubectl.args(["--namespace", SPACE]).args(words);
    Ok(kubectl)
}

fn tried(cluster: &Cluster, file: &Path) -> Result<()> {
    let mut apply = kubectl(cluster, &["apply", "--server-side", "--output=json", "--filename"])?;
    let applied = parsed("what was applied", &run::captured(apply.arg(file))?)?;
    let pools = pools(&applied);
    if pools.is_empty() {
        return refused(format!("no pool is in {}", file.display()));
    }
    for pool in pools {
        let name = text(&pool["metadata"]["name"]);
        step(&format!("example {name}"), || ready(cluster, name))?;
        for login in logins(pool) {
            logs_in(cluster, name, &login)?;
        }
        run::captured(&mut kubectl(cluster, &["delete", "pgpool", name, "--timeout=120s"])?)?;
    }
    Ok(())
}

/// kubectl shows one object as it is, and several as a list.
fn pools(applied: &Value) -> Vec<&Value> {
    let all = applied["items"].as_array().map_or_else(|| vec![applied], |items| items.iter().collect());
    all.into_iter().filter(|object| object["kind"] == "PgPool").collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn ready(cluster: &Cluster, name: &str) -> Result<()> {
    until_every(LOOK, &format!("the condition Ready of pool {name}"), READY, || {
        let pool = object(cluster, &["--namespace", SPACE, "get", "pgpool", name])?;
        Ok(if demo::ready(&pool) { Ok(()) } else { Err(pool["status"]["conditions"].to_string()) })
    })
}

/// Who gets in, and where.
#[derive(Debug, PartialEq, Eq)]
struct Login {
    /// The Secret with name and password.
    secret: String,
    /// The database; the pool's first one where none is named.
    database: Option<String>,
    /// Whether it is theirs.
    owns: bool,
}

/// Every role at the first database, and the owner of each further one there.
fn logins(pool: &Value) -> Vec<Login> {
    let name = text(&pool["metadata"]["name"]);
    let list = |field: &str| pool["spec"][field].as_array().cloned().unwrap_or_default();
    let (users, databases) = (list("users"), list("databases"));
    let app = format!("{name}-app");
    let of_user = |user: &Value| {
        let made_up = || format!("{name}-user-{}", text(&user["name"]).replace('_', "-"));
        user["secret"].as_str().map_or_else(made_up, str::to_owned)
    };
    let of_owner = |database: &Value| {
        let user = users.iter().find(|user| user["name"] == database["owner"]);
        user.map_or_else(|| app.clone(), of_user)
    };
    let first = |secret, owns| Login { secret, database: None, owns };
    let further = |database: &Value| {
        let named = Some(text(&database["name"]).to_owned());
        Login { secret: of_owner(database), database: named, owns: true }
    };
    let mut all = vec![first(app.clone(), true)];
    all.extend(users.iter().map(|user| first(of_user(user), false)));
    all.extend(databases.iter().map(further));
    all
}

/// Logs in through the Service of the pool, whose certificate is verified, with what stands in the Secret.
fn logs_in(cluster: &Cluster, pool: &str, login: &Login) -> Result<()> {
    let user = key(cluster, SPACE, &login.secret, "username")?;
    let password = key(cluster, SPACE, &login.secret, "password")?;
    let database = match &login.database {
        Some(database) => database.clone(),
        None => key(cluster, SPACE, &format!("{pool}-app"), "dbname")?,
    };
    let to = by_service(pool, SPACE, &user, &database);
    let wanted = format!("{user}|{database}|{}", if login.owns { "t" } else { "f" });
    let pod = format!("{pool}-0-0");
    let words = ["exec", "--stdin", &pod, "--container=postgres", "--", "sh", "-c", PSQL, "sh", &to, ASKED];
    until(&format!("the login of {user} to {database} of pool {pool}"), LOGIN, || {
        let said = run::fed(&mut kubectl(cluster, &words)?, &format!("{password}\n"));
        Ok(match said {
            Ok(said) if said.trim() == wanted => Ok(()),
            Ok(said) => Err(format!("{said:?}, not {wanted:?}")),
            Err(e) => Err(e.to_string()),
        })
    })
}

/// How psql in a node's pod finds a Service of a pool, whose certificate it verifies.
pub fn by_service(service: &str, space: &str, user: &str, database: &str) -> String {
    format!(
        "host={service}.{space}.svc user={user} dbname={database} sslmode=verify-full sslrootcert=/run/pgpool/ca.crt \
         connect_timeout=10"
    )
}

/// A key of a Secret.
pub fn key(cluster: &Cluster, space: &str, secret: &str, key: &str) -> Result<String> {
    let template = format!("go-template={{{{index .data \"{key}\" | base64decode}}}}");
    let mut kubectl = cluster::enter::kubectl(cluster)?;
    kubectl.args(["--namespace", space, "get", "secret", secret, "--output", &template]);
    run::captured(&mut kubectl)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_object_and_a_list_of_them_are_read() {
        let pool = json!({ "kind": "PgPool" });
        let list = json!({ "kind": "List", "items": [{ "kind": "Namespace" }, { "kind": "PgPool" }] });
        assert_eq!((pools(&pool).len(), pools(&list).len()), (1, 1));
        assert!(pools(&json!({ "kind": "Namespace" })).is_empty());
    }

    #[test]
    fn every_role_and_every_database_is_tried() {
        let pool = json!({ "metadata": { "name": "shop" }, "spec": {
            "users": [{ "name": "night_report" }, { "name": "billing", "secret": "billing-login" }],
            "databases": [{ "name": "billing", "owner": "billing" }, { "name": "archive", "owner": "shop" }],
        } });
        let shown = |login: Login| (login.secret, login.database.unwrap_or_default(), login.owns);
        let shown: Vec<_> = logins(&pool).into_iter().map(shown).collect();
        let wanted = [
            ("shop-app", "", true),
            ("shop-user-night-report", "", false),
            ("billing-login", "", false),
            ("billing-login", "billing", true),
            ("shop-app", "archive", true),
        ];
        let wanted = wanted.map(|(secret, database, owns)| (secret.to_owned(), database.to_owned(), owns));
        assert_eq!(shown, wanted);
    }

    #[test]
    fn the_demonstrations_example_is_not_among_the_others() {
        let names: Vec<_> = manifests().unwrap().iter().map(|f| f.file_name().unwrap().to_owned()).collect();
        assert!(names.iter().any(|name| name == "users.yaml") && !names.iter().any(|name| name == DEMO));
    }
}
