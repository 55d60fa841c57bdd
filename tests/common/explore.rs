//! Exploring a model: every state within its bounds, or the first that breaks a property.
use stateright::{Checker, Expectation, HasDiscoveries, Model};

/// Whether the wide bounds are asked for (`PGPOOL_MODEL=full`).
pub fn full() -> bool {
    std::env::var("PGPOOL_MODEL").is_ok_and(|v| v == "full")
}

/// Looks at every state; each property holds and each of the situations occurs. With wide bounds it stops after
/// `most` states, and says so.
pub fn holds<M>(name: &str, model: M, most: usize, situations: &[&str])
where
    M: Model<
            State: Clone + std::fmt::Debug + std::hash::Hash + PartialEq + Send + Sync,
            Action: Clone + std::fmt::Debug + PartialEq,
        > + Send
        + Sync
        + 'static,
    M::State: 'static,
{
    let search = model.checker().threads(2);
    let search = if full() { search.target_state_count(most) } else { search };
    let checker = search.spawn_bfs().join();
    println!(
        "{name}: {}, {} states, {} of them different, depth {}",
        if full() && checker.state_count() >= most { "bounded" } else { "exhausted" },
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth()
    );
    for property in checker.model().properties() {
        match property.expectation {
            Expectation::Sometimes => {
                let found = checker.discovery(property.name).is_some();
                assert!(found || !situations.contains(&property.name), "{name}: never: {}", property.name);
            }
            Expectation::Always | Expectation::Eventually => {
                if let Some(path) = checker.discovery(property.name) {
                    let last = path.last_state().clone();
                    panic!("{name}: not {}: {:?}\n{last:?}", property.name, path.into_actions());
                }
            }
        }
    }
}

/// With `off` switched off in the model, something goes wrong.
pub fn misses<M>(off: &str, model: M)
where
    M: Model<
            State: Clone + std::fmt::Debug + std::hash::Hash + PartialEq + Send + Sync,
            Action: Clone + std::fmt::Debug + PartialEq,
        > + Send
        + Sync
        + 'static,
    M::State: 'static,
{
    let checker = model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = checker
        .model()
        .properties()
        .into_iter()
        .filter(|property| matches!(property.expectation, Expectation::Always))
        .find_map(|property| Some((property.name, checker.discovery(property.name)?.into_actions())));
    let (name, steps) =
        found.unwrap_or_else(|| panic!("{off} off was not missed in {} states", checker.state_count()));
    println!("{off} off, after {} steps: not {name}: {steps:?}", steps.len());
}
