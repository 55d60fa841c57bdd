//! What stands in a pool: its first databases, roles and SQL.
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::{OBJECT_NAME, rules};

/// What a new pool starts with; can't be changed later.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = rules(&[("self == oldSelf", "spec.bootstrap: is used once, when the pool is made, and can't be changed"), ("self.provider == 'libc' || self.provider == 'builtin' || (has(self.icuLocale) && self.icuLocale.size() > 0)", "spec.bootstrap.icuLocale: is needed with provider icu")])))]
#[serde(rename_all = "camelCase", default)]
pub struct Bootstrap {
    /// The first database.
    #[schemars(length(min = 1, max = 63))]
    #[schemars(extend("x-kubernetes-validations" = rules(&[("!(self in ['postgres', 'template0', 'template1'])", "spec.bootstrap.database: postgres, template0 and template1 are there already; name one of your own"), ("self.matches('^[A-Za-z_][A-Za-z0-9_-]*$')", "spec.bootstrap.database: begins with a letter or _ and holds only letters, digits, _ and -")])))]
    pub database: String,
    /// The role that owns it.
    #[schemars(length(min = 1, max = 63))]
    #[schemars(extend("x-kubernetes-validations" = rules(&[("self != 'postgres' && self != 'public' && self != 'none' && !self.startsWith('pg_') && !self.startsWith('pgpool_')", "spec.bootstrap.owner: postgres, public, none, pg_* and pgpool_* are taken; name one of your own"), ("self.matches('^[A-Za-z_][A-Za-z0-9_-]*$')", "spec.bootstrap.owner: begins with a letter or _ and holds only letters, digits, _ and -")])))]
    pub owner: String,
    /// SQL run once in the first database, as its owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sql: Option<BootstrapSql>,
    /// Encoding of the databases.
    #[schemars(length(min = 1, max = 32), regex(pattern = "^[A-Za-z0-9_-]+$"))]
    pub encoding: String,
    /// Locale of the databases.
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[A-Za-z0-9_.@-]+$"))]
    pub locale: String,
    /// Who provides the collations.
    pub provider: LocaleProvider,
    /// ICU locale, for provider icu.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[A-Za-z0-9_@=;-]+$"))]
    pub icu_locale: Option<String>,
    /// Size of a WAL segment in megabytes: a power of two from 1 to 1024.
    #[schemars(extend("x-kubernetes-validations" = rules(&[("self in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]", "spec.bootstrap.walSegmentSize: a power of two from 1 to 1024 (megabytes)")])))]
    pub wal_segment_size: u32,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self {
            database: "app".to_owned(),
            owner: "app".to_owned(),
            sql: None,
            encoding: "UTF8".to_owned(),
            locale: "C.UTF-8".to_owned(),
            provider: LocaleProvider::Libc,
            icu_locale: None,
            wal_segment_size: 16,
        }
    }
}

/// Who provides the collations of a database.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LocaleProvider {
    /// The C library of the image.
    #[default]
    Libc,
    /// ICU.
    Icu,
    /// PostgreSQL itself (17 and newer).
    Builtin,
}

/// Where the bootstrap SQL stands.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(validation = Rule::new("has(self.configMap) != has(self.secret)").message("spec.bootstrap.sql: name either a configMap or a secret"))]
#[serde(rename_all = "camelCase")]
pub struct BootstrapSql {
    /// A key of a ConfigMap in the pool's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<KeyRef>,
    /// A key of a Secret in the pool's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<KeyRef>,
}

/// A key of a ConfigMap or Secret.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub name: String,
    /// Key in it.
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// A login role.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(validation = Rule::new("has(self.secret) || self.name.matches('^[a-z]([a-z0-9_]*[a-z0-9])?$')").message("spec.users.secret: name a Secret for this role: one can be made only for a name of a-z, 0-9 and _ that begins with a letter and doesn't end with _"))]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// Name of the role.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(
        validation = Rule::new("self != 'postgres' && self != 'public' && self != 'none' && !self.startsWith('pg_') && !self.startsWith('pgpool_')").message("spec.users.name: postgres, public, none, pg_* and pgpool_* are taken; name one of your own"),
        validation = Rule::new("self.matches('^[A-Za-z_][A-Za-z0-9_-]*$')").message("spec.users.name: begins with a letter or _ and holds only letters, digits, _ and -")
    )]
    pub name: String,
    /// Secret with the keys username and password; `NAME-user-ROLE` when left out, and made when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub secret: Option<String>,
    /// Roles that it is a member of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    #[x_kube(validation = Rule::new("self.all(r, !r.startsWith('pgpool_') && !(r in ['postgres', 'pg_signal_backend', 'pg_execute_server_program', 'pg_write_server_files', 'pg_read_server_files', 'pg_checkpoint', 'pg_maintain', 'pg_use_reserved_connections']))").message("spec.users.inRoles: roles that reach the server's files, other sessions or the operator's rights can't be given"))]
    pub in_roles: Vec<String>,
    /// May make databases.
    #[serde(default)]
    pub create_db: bool,
    /// May make roles.
    #[serde(default)]
    pub create_role: bool,
}

/// A database.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Database {
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(
        validation = Rule::new("!(self in ['postgres', 'template0', 'template1'])").message("spec.databases.name: postgres, template0 and template1 are there already; name one of your own"),
        validation = Rule::new("self.matches('^[A-Za-z_][A-Za-z0-9_-]*$')").message("spec.databases.name: begins with a letter or _ and holds only letters, digits, _ and -")
    )]
    pub name: String,
    /// The role that owns it.
    #[schemars(length(min = 1, max = 63))]
    pub owner: String,
}
