//! Tells which changed parameters every attached node has loaded; of those that take a restart [`super::restart`] tells.
//!
//! Whether an agent has loaded what it was told is its own word: nothing is told while a node runs one of an older version.
use std::collections::{BTreeMap, BTreeSet};

use super::Happening;
use super::draft::Draft;
use crate::config::postgresql::mark;
use crate::model::{NodeSeen, ParametersChanged};

pub(super) fn plan(draft: &mut Draft<'_>) {
    let (seen, pool) = (draft.seen, draft.pool);
    let Some(membership) = &seen.membership else { return };
    let told = &membership.spec.parameters;
    let changed = &mut draft.plan.memory.parameters;
    if *told != pool.parameters {
        // Agents are told in this pass. What they were told before and never loaded, none had.
        changed
            .get_or_insert_with(|| ParametersChanged { before: told.clone(), restarting: BTreeSet::new() });
        return;
    }
    let Some(change) = changed else { return };
    let reports = seen.nodes.values().filter_map(NodeSeen::report);
    change
        .restarting
        .extend(reports.flat_map(|report| &report.pending_restart).map(|name| name.to_lowercase()));
    if !are_everywhere(draft) {
        return;
    }
    let Some(change) = draft.plan.memory.parameters.take() else { return };
    let mut names = differing(&change.before, &pool.parameters);
    names.retain(|name| !change.restarting.contains(name));
    if !names.is_empty() {
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        let note = format!("every attached node has loaded the changed parameters: {names}");
        draft.tell(Happening::normal("ParametersLoaded", note));
    }
}

/// Names of those that one has alone, or with another value; in small letters, since PostgreSQL takes no notice of case.
fn differing(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> BTreeSet<String> {
    let names = old.keys().chain(new.keys()).filter(|name| old.get(*name) != new.get(*name));
    names.map(|name| name.to_lowercase()).collect()
}

fn are_everywhere(draft: &Draft<'_>) -> bool {
    let wanted = mark(&draft.pool.parameters);
    let has = |index: u8| {
        draft.report(index).is_some_and(|report| report.loaded_parameters.as_ref() == Some(&wanted))
    };
    draft.record().is_some_and(|record| record.attached.iter().all(|member| has(member.index)))
}
