//! Exploring a model: every state within its bounds, or the first that breaks a property.
use std::fmt::Debug;
use std::hash::Hash;

use stateright::{Checker, HasDiscoveries, Model};

/// A model that can be explored, with states that can be shown.
pub trait Explored:
    Model<State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static, Action: Clone + Debug + PartialEq>
    + Send
    + Sync
    + 'static
{
}

impl<M> Explored for M where
    M: Model<
            State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
            Action: Clone + Debug + PartialEq,
        > + Send
        + Sync
        + 'static
{
}

/// Says what the model covers.
const DOCS: &str = include_str!("../../docs/membership.md");

/// Whether the wide bounds are asked for (`PGPOOL_MODEL=full`).
pub fn full() -> bool {
    std::env::var("PGPOOL_MODEL").is_ok_and(|v| v == "full")
}

/// Of narrow and of wide bounds, what is asked for.
pub fn pick<T>(narrow: T, wide: T) -> T {
    if full() { wide } else { narrow }
}

/// Looks at every state; each property holds and each of the situations occurs. With wide bounds it stops after
/// `most` states, and says so. Prints the row of the tables in docs/membership.md, of which `title` is what comes
/// before the numbers.
pub fn holds<M: Explored>(title: &str, model: M, most: usize, situations: &[&str]) {
    let search = model.checker().threads(2);
    let search = if full() { search.target_state_count(most) } else { search };
    let checker = search.spawn_bfs().join();
    let (generated, different) = (checker.state_count(), checker.unique_state_count());
    let stopped = full() && generated >= most;
    let end = if stopped { format!("stopped, depth {}", checker.max_depth()) } else { "all".to_owned() };
    let row = format!("| {title} | {} | {} | {end} |", figure(generated), figure(different));
    println!("{row}");
    is_sound(title, &checker);
    occur(title, &checker, situations);
    // One that was stopped has come as far as its threads came.
    assert!(
        (full() && stopped) || DOCS.contains(&row),
        "docs/membership.md has another number of states: {row}"
    );
}

/// No property is broken.
pub fn is_sound<M: Explored>(name: &str, checker: &impl Checker<M>) {
    if let Some(property) = broken(checker).first() {
        let path = checker.discovery(property).expect("it was found");
        let last = path.last_state().clone();
        panic!("{name}: not {property}: {:?}\n{last:?}", path.into_actions());
    }
}

/// Each of the situations was met.
pub fn occur<M: Explored>(name: &str, checker: &impl Checker<M>, situations: &[&str]) {
    let known = checker.model().properties();
    for situation in situations {
        let property = known.iter().find(|p| p.name == *situation).expect("a situation of the model");
        assert!(checker.discovery(property.name).is_some(), "{name}: never: {situation}");
    }
}

/// Names of the properties that don't hold.
fn broken<M: Explored>(checker: &impl Checker<M>) -> Vec<&'static str> {
    let always = checker.model().properties().into_iter().filter(|p| p.expectation.discovery_is_failure());
    let names: Vec<&'static str> = always.map(|p| p.name).collect();
    names.into_iter().filter(|name| checker.discovery(name).is_some()).collect()
}

/// Most states in which a rule that is off has to be missed.
const MOST: usize = 5_000_000;

/// With `off` switched off, `property` is broken. In the same world with the rules on, or with only a part of them off,
/// nothing is broken as far as the search has to go for that: so it is the rules that are missed, and not the world that
/// is wrong.
pub fn misses<M: Explored>(off: &str, property: &'static str, without: M, with: Vec<(String, M)>) {
    // One thread each: so the search goes by depth.
    let first = HasDiscoveries::AnyOf([property].into());
    let checker = without.checker().target_state_count(MOST).finish_when(first).spawn_bfs().join();
    let states = checker.state_count();
    let Some(path) = checker.discovery(property) else {
        panic!("{off} off: \"{property}\" holds in {states} states; broken are {:?}", broken(&checker))
    };
    let steps = path.into_actions();
    println!("{off} off, after {} steps: not {property}: {steps:?} ({states} states)", steps.len());
    for (on, world) in with {
        // The first state has depth 1; states of the target's depth aren't looked at.
        let search = world.checker().target_max_depth(steps.len() + 2);
        let checker = search.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        is_sound(&format!("{off} off is no proof: with {on}"), &checker);
        println!("with {on} everything holds so near ({} states)", checker.state_count());
    }
}

/// A number as people read it.
pub fn figure(count: usize) -> String {
    if count >= 10_000_000 {
        return format!("{}.{} M", count / 1_000_000, count / 100_000 % 10);
    }
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}
