//! What of the checks is asked for.

use std::str::FromStr;

use clap::ValueEnum;

use super::Name;

/// A word of the command line: a part of the checks, or the tests of a part whose names hold a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The part.
    pub part: Name,
    /// Of its tests only these; all when empty.
    pub filter: String,
}

impl FromStr for Wish {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let (part, filter) = word.split_once("::").unwrap_or((word, ""));
        let part = Name::from_str(part, false).map_err(|_| {
            let parts: Vec<String> = Name::value_variants().iter().map(|name| name.text()).collect();
            format!("name one of {}, or tests of it, as in cluster::failover", parts.join(", "))
        })?;
        if !filter.is_empty() && !part.has_tests() {
            return Err(format!("{} has no tests to choose from", part.text()));
        }
        Ok(Self { part, filter: filter.to_owned() })
    }
}

/// A part that is to run, and which of its tests: all when there is no filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The part.
    pub part: Name,
    /// Parts of names of tests.
    pub filters: Vec<String>,
}

/// The parts in their order; all of them where nothing is asked for.
pub fn chosen(wishes: &[Wish]) -> Vec<Chosen> {
    let wanted = |part: &Name| wishes.is_empty() || wishes.iter().any(|wish| wish.part == *part);
    let filters = |part: Name| {
        let own: Vec<String> =
            wishes.iter().filter(|wish| wish.part == part).map(|wish| wish.filter.clone()).collect();
        // Who asks for a part as a whole gets it.
        if own.iter().any(String::is_empty) { Vec::new() } else { own }
    };
    let parts = Name::value_variants().iter().filter(|part| wanted(part));
    parts.map(|part| Chosen { part: *part, filters: filters(*part) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &str) -> Vec<Chosen> {
        let wishes: Vec<Wish> = words.split_whitespace().map(|word| word.parse().unwrap()).collect();
        chosen(&wishes)
    }

    fn filters(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn parts_run_in_their_order_and_all_of_them_when_none_is_named() {
        let parts: Vec<Name> = read("unit fmt unit").into_iter().map(|chosen| chosen.part).collect();
        assert_eq!(parts, [Name::Fmt, Name::Unit]);
        // It has the processors to itself.
        let parts: Vec<Name> = read("cluster demo").into_iter().map(|chosen| chosen.part).collect();
        assert_eq!(parts, [Name::Demo, Name::Cluster]);
        assert_eq!(read("").len(), Name::value_variants().len());
    }

    #[test]
    fn tests_of_a_part_can_be_named_and_the_whole_part_wins() {
        let some = read("cluster::failover cluster::changes::scale unit");
        assert_eq!(some[0], Chosen { part: Name::Unit, filters: Vec::new() });
        assert_eq!(
            some[1],
            Chosen { part: Name::Cluster, filters: filters(&["failover", "changes::scale"]) }
        );
        assert_eq!(read("cluster::failover cluster")[0].filters, filters(&[]));
    }

    #[test]
    fn what_is_no_part_is_refused_with_the_names_of_them() {
        let refusal = "failover".parse::<Wish>().unwrap_err();
        assert!(refusal.contains("cluster") && refusal.contains("fmt"), "{refusal}");
        for word in ["fmt::x", "demo::x"] {
            assert!(word.parse::<Wish>().unwrap_err().contains("no tests"), "{word}");
        }
    }
}
