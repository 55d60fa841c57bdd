//! Roles and databases: passwords become verifiers here, and only verifiers leave.
use super::{ApplyError, Context, authority};
use crate::messages::{DatabaseSpec, EnsureRoles, Ensured, RoleSpec};
use crate::pki::scram_verifier;
use crate::plan::EnsureOrder;

/// Tells the primary.
pub(super) async fn ensure(context: Context<'_>, order: &EnsureOrder) -> Result<Ensured, ApplyError> {
    let key = authority::salt_key(context).await?;
    let roles = order
        .logins
        .iter()
        .map(|(login, password)| RoleSpec {
            name: login.role.clone(),
            verifier: scram_verifier(&key, &login.role, password.reveal()),
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
