//! Login roles, databases and the bootstrap SQL: Secrets made and kept in step, the primary told.
use super::draft::Draft;
use super::{AT_ONCE, Action, EnsureOrder, Happening, UNDER_WAY};
use crate::model::{Login, LoginSeen, Sensitive};
use crate::resources::{ROLE_KEYS, login_data};

pub(super) fn plan(draft: &mut Draft<'_>) {
    let mut usable = Vec::new();
    for login in &draft.pool.logins {
        draft.keep("Secret", login.secret.clone());
        let key = format!("login/{}", login.secret);
        match draft.seen.secrets.logins.get(&login.secret) {
            Some(Ok(seen)) => {
                draft.untell(&key);
                keep_in_step(draft, login, seen);
                usable.push((login.clone(), seen.password.clone()));
            }
            Some(Err(problem)) if problem.missing && login.generated => {
                draft.act(Action::CreateLogin(login.clone()));
                draft.requeue(AT_ONCE);
            }
            Some(Err(problem)) => {
                draft.tell_once(key, Happening::warning("SecretUnusable", problem.message.clone()));
                draft.troubles.push(("SecretUnusable", problem.message.clone()));
            }
            None => draft.requeue(UNDER_WAY),
        }
    }
    let sql = match &draft.seen.secrets.sql {
        None => None,
        Some(Ok(sql)) => Some(Sensitive::new(sql.clone())),
        Some(Err(problem)) => {
            draft.tell_once(
                "sql".to_owned(),
                Happening::warning("BootstrapSqlUnusable", problem.message.clone()),
            );
            draft.troubles.push(("BootstrapSqlUnusable", problem.message.clone()));
            // The SQL runs once, with the databases: without it they have to wait too.
            return;
        }
    };
    ensure(draft, usable, sql);
}

fn keep_in_step(draft: &mut Draft<'_>, login: &Login, seen: &LoginSeen) {
    if !seen.ours {
        return;
    }
    let mut data = login_data(draft.pool, login, &seen.password);
    data.retain(|key, _| !ROLE_KEYS.contains(&key.as_str()));
    if data.iter().any(|(key, value)| seen.derived.get(key) != Some(value)) {
        draft.act(Action::UpdateLogin { secret: login.secret.clone(), data });
    }
}

/// The primary is told once for each start of the operator and each change.
fn ensure(draft: &mut Draft<'_>, logins: Vec<(Login, Sensitive)>, sql: Option<Sensitive>) {
    let errors = draft.plan.memory.ensure_errors.join("; ");
    let told = (!errors.is_empty())
        .then(|| format!("{errors}; it is tried again: correct the spec, or what is in the way"));
    draft.warn("roles", "RolesNotMade", told);
    // The owner comes first: without it there is nothing to hang the databases on.
    let owner = draft.pool.logins.first().map(|login| &login.role);
    if logins.first().map(|(login, _)| &login.role) != owner {
        return;
    }
    let Some((primary, report)) = draft.primary() else { return };
    let databases = draft.pool.databases.clone();
    let databases =
        databases.into_iter().filter(|d| logins.iter().any(|(login, _)| login.role == d.owner)).collect();
    // A database that was made a moment before its primary was lost may be missing on the next one.
    let timeline = draft.record().map_or(0, |record| record.timeline);
    let fingerprint = format!("{timeline}/{}", fingerprint(&logins, &databases, sql.as_ref()));
    // The data of an earlier pool has the mark already, but not these passwords.
    let told = draft.seen.status.bootstrapped || draft.seen.memory.ensured.is_some();
    draft.status().bootstrapped = report.bootstrapped && told;
    if draft.seen.memory.ensured.as_ref() == Some(&fingerprint) && report.bootstrapped {
        return;
    }
    // Its commits would wait for nodes that are missing (R15), and this pass with them, which has to bring those back.
    if draft.attached() < usize::from(draft.pool.min_attached) {
        return;
    }
    draft.act(Action::Ensure(EnsureOrder { primary, logins, databases, sql, fingerprint }));
    draft.requeue(UNDER_WAY);
}

fn fingerprint(
    logins: &[(Login, Sensitive)],
    databases: &Vec<crate::api::v1alpha1::Database>,
    sql: Option<&Sensitive>,
) -> String {
    let roles: Vec<String> =
        logins.iter().map(|(login, password)| format!("{login:?}/{}", password.reveal())).collect();
    let sql = sql.map(Sensitive::reveal).unwrap_or_default();
    let text = format!("{}\n{databases:?}\n{sql}", roles.join("\n"));
    crate::resources::fingerprint(&text)
}
