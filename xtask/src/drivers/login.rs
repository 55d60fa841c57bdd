//! How the drivers log in: by the front, or at the primary's own port. They are told by the environment, so that nothing
//! of it stands in an argument.

use std::ffi::OsString;
use std::process::Command;

use serde_json::Value;

use crate::cluster::{self, Cluster};
use crate::error::{Error, Result, refused};
use crate::{files, pods, run};

/// The pool.
const POOL: &str = "demo";
/// The pod of its primary.
const PRIMARY: &str = "pgpool-operator.dev/pool=demo,pgpool-operator.dev/role=primary";

/// Where the pool is.
pub struct Pool<'c> {
    /// The cluster.
    pub cluster: &'c Cluster,
    /// The namespace in it.
    pub namespace: &'c str,
}

/// Names and values of variables.
pub type Environment = Vec<(&'static str, OsString)>;

impl Pool<'_> {
    fn kubectl(&self, words: &[&str]) -> Result<Command> {
        let mut kubectl = cluster::enter::kubectl(self.cluster)?;
        kubectl.args(["-n", self.namespace]).args(words);
        Ok(kubectl)
    }

    /// A key of a Secret.
    fn secret(&self, name: &str, key: &str) -> Result<String> {
        let object = run::captured(&mut self.kubectl(&["get", "secret", name, "-o", "json"])?)?;
        let object: Value = serde_json::from_str(&object).unwrap_or_default();
        match object["data"][key].as_str() {
            Some(text) => run::fed(&mut run::command("base64", ["--decode"]), text),
            None => refused(format!("Secret {name} has no key {key}: is the pool there (cargo xtask demo)?")),
        }
    }

    /// A key of a Secret as a file for the owner alone, which goes with the cluster.
    fn file(&self, name: &str, key: &str) -> Result<OsString> {
        let path = self.cluster.run().join("drivers").join(format!("{name}-{key}"));
        files::write_private(&path, self.secret(name, key)?)?;
        Ok(path.into())
    }

    /// As the pool's application, by the front.
    pub fn by_the_front(&self) -> Result<Environment> {
        let app = |key: &str| Ok::<OsString, Error>(self.secret("demo-app", key)?.into());
        Ok(vec![
            ("DRIVERS_WAY", "front".into()),
            ("PGHOST", format!("{POOL}.{}.svc", self.namespace).into()),
            ("PGPORT", "5432".into()),
            ("PGUSER", app("username")?),
            ("PGPASSWORD", app("password")?),
            ("PGDATABASE", app("dbname")?),
            ("PGSSLMODE", "verify-full".into()),
            ("PGSSLROOTCERT", self.file("demo-ca", "ca.crt")?),
        ])
    }

    /// The same at the primary itself: from within its pod, and with the certificate of a node. Gives a process of the pod that stays.
    pub fn directly(&self) -> Result<(Environment, u32)> {
        let mut pods = self.kubectl(&["get", "pods", "-l", PRIMARY, "-o", "json"])?;
        let pods: Value = serde_json::from_str(&run::captured(&mut pods)?).unwrap_or_default();
        let found = pods::first_process(pods["items"][0]["metadata"]["uid"].as_str().unwrap_or_default())?;
        let mut environment = self.by_the_front()?;
        environment.retain(|(name, _)| !["DRIVERS_WAY", "PGHOST"].contains(name));
        environment.extend([
            ("DRIVERS_WAY", "directly".into()),
            ("PGHOST", "localhost".into()),
            ("PGSSLCERT", self.file("demo-0-tls", "tls.crt")?),
            ("PGSSLKEY", self.file("demo-0-tls", "tls.key")?),
        ]);
        Ok((environment, found))
    }
}
