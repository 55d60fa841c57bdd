//! Roles and databases: passwords become verifiers here, and only verifiers leave.
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::{ApplyError, Context};
use crate::messages::{DatabaseSpec, EnsureRoles, Ensured, RoleSpec};
use crate::model::{PoolKey, Sensitive};
use crate::pki::scram_verifier;
use crate::plan::EnsureOrder;

/// Verifiers by pool, role and password: each has a random salt, and the same password shall not look
/// like a change at each call.
#[derive(Default)]
pub(super) struct Verifiers(Mutex<BTreeMap<(PoolKey, String), (Sensitive, String)>>);

impl Verifiers {
    fn get(&self, pool: &PoolKey, role: &str, password: &Sensitive) -> String {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (pool.clone(), role.to_owned());
        if let Some((of, verifier)) = known.get(&key)
            && of == password
        {
            return verifier.clone();
        }
        let verifier = scram_verifier(password.reveal());
        known.insert(key, (password.clone(), verifier.clone()));
        verifier
    }

    pub fn forget(&self, pool: &PoolKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(key, _), _| key != pool);
    }
}

/// Tells the primary.
pub(super) async fn ensure(
    context: Context<'_>,
    verifiers: &Verifiers,
    order: &EnsureOrder,
) -> Result<Ensured, ApplyError> {
    let roles = order
        .logins
        .iter()
        .map(|(login, password)| RoleSpec {
            name: login.role.clone(),
            verifier: verifiers.get(&context.pool.key, &login.role, password),
            in_roles: login.in_roles.clone(),
            create_db: login.create_db,
            create_role: login.create_role,
        })
        .collect();
    let databases = order
        .databases
        .iter()
        .map(|d| DatabaseSpec { name: d.name.clone(), owner: d.owner.clone() })
        .collect();
    let request = EnsureRoles {
        roles,
        databases,
        bootstrap_sql: order.sql.as_ref().map(|sql| sql.reveal().to_owned()),
    };
    Ok(context.agents.ensure(context.pool, order.primary, &request).await?)
}
