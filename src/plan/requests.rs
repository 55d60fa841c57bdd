//! Requests by annotation: each is answered once, by an Event and in status, and then removed.
use super::draft::Draft;
use super::recovery::guards;
use super::{Action, Happening};
use crate::api::v1alpha1::{AnsweredRequest, RequestAnswer, annotations};
use crate::messages::Join;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Recover,
    Detach,
    Attach,
    ReplaceVolume,
    Switchover,
    Restart,
    Fence,
    Release,
}

impl Ask {
    fn of(annotation: &str) -> Option<Self> {
        match annotation {
            annotations::RECOVER => Some(Self::Recover),
            annotations::DETACH => Some(Self::Detach),
            annotations::ATTACH => Some(Self::Attach),
            annotations::REPLACE_VOLUME => Some(Self::ReplaceVolume),
            annotations::SWITCHOVER => Some(Self::Switchover),
            annotations::RESTART => Some(Self::Restart),
            annotations::FENCE => Some(Self::Fence),
            annotations::RELEASE => Some(Self::Release),
            _ => None,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Recover => "recover",
            Self::Detach => "detach",
            Self::Attach => "attach",
            Self::ReplaceVolume => "replace-volume",
            Self::Switchover => "switchover",
            Self::Restart => "restart",
            Self::Fence => "fence",
            Self::Release => "release",
        }
    }
}

/// Answers every request that stands on the pool.
pub(super) fn answer(draft: &mut Draft<'_>) {
    let asked = standing(draft);
    for (ask, _, value) in &asked {
        if answered(draft, *ask, value).is_none() {
            let result = take_on(draft, *ask, value);
            note(draft, *ask, value, result);
        }
    }
    remove(draft, asked.into_iter().map(|(_, annotation, _)| annotation).collect());
}

/// Answers them where there are volumes of an earlier pool, and nothing yet of this one. Gives the node with whose data a
/// person wants it to go on.
///
/// That request stands until the pool is there: wherever an operator dies, the next one still knows of it. What has become
/// impossible meanwhile is answered once more.
pub(super) fn answer_over_old_volumes(draft: &mut Draft<'_>) -> Option<u8> {
    let mut released = None;
    let mut refused = Vec::new();
    for (ask, annotation, value) in standing(draft) {
        let result = match ask {
            Ask::Release => release(draft, &value),
            _ => Err(NOTHING_YET.to_owned()),
        };
        let result = result.map(|(node, message)| {
            released = Some(node);
            message
        });
        if result.is_err() {
            refused.push(annotation);
        }
        if answered(draft, ask, &value) != Some(result.is_ok()) {
            note(draft, ask, &value, result);
        }
    }
    remove(draft, refused);
    released
}

/// All at once: after the first removal, a second one of this pass would come too late.
fn remove(draft: &mut Draft<'_>, annotations: Vec<&'static str>) {
    if !annotations.is_empty() {
        draft.act(Action::RemoveAnnotations(annotations));
    }
}

/// What is to be said of a release while there is nothing to go on with.
pub(super) fn release_over_nothing(draft: &Draft<'_>) -> Option<String> {
    let value = draft.pool.requests.get(annotations::RELEASE).filter(|_| draft.seen.claims.is_empty())?;
    let why = release(draft, value).err()?;
    Some(format!("{}={}: {why}", annotations::RELEASE, short(value)))
}

const NOTHING_YET: &str =
    "the pool has no node yet: volumes of an earlier pool are there, see the condition Degraded";

fn release(draft: &Draft<'_>, value: &str) -> Result<(u8, String), String> {
    let node = index(value, draft.pool.nodes)?;
    let warning = guards::may_release(draft, node)?;
    let message =
        format!("the pool goes on with the data of node {node}, the others are copied from it{warning}");
    Ok((node, message))
}

/// The requests that stand on the pool: each with its annotation and value. Of those that were answered and are gone it is
/// forgotten that they were: the same again is a new request, whoever sees it.
fn standing(draft: &mut Draft<'_>) -> Vec<(Ask, &'static str, String)> {
    let asked = annotations::REQUESTS.into_iter().filter_map(|name| {
        let value = draft.pool.requests.get(name)?.clone();
        Some((Ask::of(name)?, name, value))
    });
    let asked: Vec<_> = asked.collect();
    let stands = |old: &AnsweredRequest| asked.iter().any(|(ask, _, value)| is_about(old, *ask, value));
    draft.plan.status.answered.retain(stands);
    asked
}

/// Whether the request was answered already, by whichever operator, and if so whether it was taken on. Between the answer
/// in status and the removal of the annotation any operator may die.
fn answered(draft: &Draft<'_>, ask: Ask, value: &str) -> Option<bool> {
    let mut known = draft.plan.status.answered.iter();
    known.find(|old| is_about(old, ask, value)).map(|old| old.accepted)
}

fn is_about(old: &AnsweredRequest, ask: Ask, value: &str) -> bool {
    old.request == ask.word() && old.value == short(value)
}

fn note(draft: &mut Draft<'_>, ask: Ask, value: &str, result: Result<String, String>) {
    let accepted = result.is_ok();
    let (Ok(message) | Err(message)) = result;
    let note = format!("{}={}: {message}", ask.word(), short(value));
    draft.tell(if accepted {
        Happening::normal("RequestAccepted", note)
    } else {
        Happening::warning("RequestRefused", note)
    });
    let at = draft.seen.now;
    let (request, value) = (ask.word().to_owned(), short(value));
    let status = draft.status();
    status.answered.retain(|old| old.request != request);
    status.answered.push(AnsweredRequest { request: request.clone(), value: value.clone(), accepted });
    status.last_request = Some(RequestAnswer { request, value, accepted, message, at, outcome: None });
}

/// People's text, cut to what fits into a message.
fn short(value: &str) -> String {
    value.chars().take(40).collect()
}

/// Reads the index of a node.
fn index(value: &str, nodes: u8) -> Result<u8, String> {
    let last = nodes.saturating_sub(1);
    let plain = !value.is_empty() && value.len() <= 2 && value.bytes().all(|b| b.is_ascii_digit());
    let number: Option<u8> = if plain { value.parse().ok() } else { None };
    match number {
        Some(number) if number <= last => Ok(number),
        Some(number) => Err(format!("there is no node {number}: the nodes of this pool are 0 to {last}")),
        None => Err(format!("the value must be the index of one node, 0 to {last}")),
    }
}

fn take_on(draft: &mut Draft<'_>, ask: Ask, value: &str) -> Result<String, String> {
    let node = index(value, draft.pool.nodes);
    match ask {
        Ask::Recover => recover(draft, node?),
        Ask::Detach => detach(draft, node?),
        Ask::Attach => attach(draft, node?),
        Ask::ReplaceVolume => replace_volume(draft, node?),
        Ask::Switchover => switch_over(draft, node?),
        Ask::Restart => restart(draft, value),
        Ask::Fence if value == "off" => lift_fences(draft),
        Ask::Fence => {
            let node = node.map_err(|why| format!("{why}, or off"))?;
            fence(draft, node)
        }
        Ask::Release => {
            Err("it is for a new pool that finds volumes of an earlier one; this one has its data".to_owned())
        }
    }
}

fn switch_over(draft: &mut Draft<'_>, node: u8) -> Result<String, String> {
    guards::may_switch_over(draft, node)?;
    super::switchover::begin(draft, node, super::switchover::ASKED, false);
    Ok(format!("the primary hands over to node {node}"))
}

fn restart(draft: &mut Draft<'_>, value: &str) -> Result<String, String> {
    if value != "now" {
        return Err("the value must be now".to_owned());
    }
    guards::nothing_under_way(draft)?;
    draft.status().restarted_at = Some(draft.seen.now);
    Ok("every node is restarted, one at a time; the primary hands over first".to_owned())
}

fn fence(draft: &mut Draft<'_>, node: u8) -> Result<String, String> {
    guards::may_fence(draft, node)?;
    draft.attach.remove(&node);
    draft.status().fenced.push(node);
    draft.status().fenced.sort_unstable();
    Ok(format!("node {node} leaves the pool and its PostgreSQL stops; fence=off lifts it"))
}

fn lift_fences(draft: &mut Draft<'_>) -> Result<String, String> {
    let fenced = std::mem::take(&mut draft.status().fenced);
    if fenced.is_empty() {
        return Err("no node is fenced".to_owned());
    }
    let list = super::conditions::list(&fenced);
    Ok(format!("the fence of {list} is lifted: it comes back unless it was detached by wish too"))
}

/// Keeps a node out until it is asked back.
pub(super) fn wish_out(draft: &mut Draft<'_>, node: u8) {
    if !draft.status().detached_by_wish.contains(&node) {
        draft.status().detached_by_wish.push(node);
        draft.status().detached_by_wish.sort_unstable();
    }
}

fn recover(draft: &mut Draft<'_>, node: u8) -> Result<String, String> {
    guards::may_recover(draft, node)?;
    forget_wish(draft, node);
    draft.plan.memory.backoff.remove(&node);
    super::recovery::begin(draft, node, "asked for by annotation", false);
    Ok(format!("the recovery of node {node} begins"))
}

fn detach(draft: &mut Draft<'_>, node: u8) -> Result<String, String> {
    if let Some(to) = guards::detaches_primary(draft, node)? {
        super::switchover::begin(draft, to, super::switchover::ASKED, true);
        return Ok(format!(
            "node {node} is the primary: it hands over to node {to}, then it leaves the pool"
        ));
    }
    guards::may_detach(draft, node)?;
    draft.attach.remove(&node);
    wish_out(draft, node);
    Ok(format!(
        "node {node} leaves the pool and stays out until it is asked back (attach={node} or recover={node})"
    ))
}

fn attach(draft: &mut Draft<'_>, node: u8) -> Result<String, String> {
    if draft.is_attached(node) && draft.attach.contains(&node) {
        return Err(format!("node {node} is attached already"));
    }
    guards::no_recovery(draft)?;
    guards::no_switchover(draft)?;
    guards::not_fenced(draft, node)?;
    match draft.report(node).map(|report| &report.join) {
        Some(Join::Proved) => {}
        Some(Join::NeedsCopy(why)) => {
            return Err(format!("node {node} can't come back without a copy ({why}): use recover={node}"));
        }
        Some(Join::Unknown) => {
            return Err(format!(
                "it isn't proved (yet) that node {node} missed nothing: try again in a moment, or use recover={node}"
            ));
        }
        None => {
            return Err(format!(
                "node {node} doesn't answer, so nothing is proved about its data: use recover={node}"
            ));
        }
    }
    forget_wish(draft, node);
    draft.attach.insert(node);
    Ok(format!("node {node} is attached without a copy: it missed nothing that can't be streamed"))
}

fn replace_volume(draft: &mut Draft<'_>, node: u8) -> Result<String, String> {
    guards::may_replace(draft, node)?;
    forget_wish(draft, node);
    draft.plan.memory.backoff.remove(&node);
    super::recovery::begin(draft, node, super::recovery::GIVEN_UP, true);
    Ok(format!(
        "the volume of node {node} is given up: its claim is deleted and the node recovered on a new one"
    ))
}

fn forget_wish(draft: &mut Draft<'_>, node: u8) {
    draft.status().detached_by_wish.retain(|wished| *wished != node);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_one_plain_number_below_the_number_of_nodes() {
        assert_eq!(index("2", 3), Ok(2));
        for value in ["9", "3", "", "x", "1,2", "-1", "+1", " 1", "1 ", "0x1", "256", "1.0", "٣"] {
            assert!(index(value, 3).is_err(), "{value:?}");
        }
    }
}
