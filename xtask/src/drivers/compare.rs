//! What drivers saw by the front, beside what they saw at the primary itself.

/// Most characters of what was seen that are shown.
const SHOWN: usize = 1500;

/// A case that sees another thing by the front, and has to; docs/compatibility.md has the reason.
struct Expected {
    case: &'static str,
    front: &'static str,
    directly: &'static str,
}

/// All of them.
const EXPECTED: [Expected; 1] = [Expected {
    case: "psycopg promise",
    front: r#"["0A000", "the setting synchronous_commit belongs to the pool", "0A000", "the setting synchronous_commit belongs to the pool", "remote_apply"]"#,
    directly: r#"["SET", "SELECT 1", "local"]"#,
}];

/// A case and what it saw.
type Case<'t> = (&'t str, &'t str);

/// The cases of a script that passed.
pub fn cases(said: &str) -> Vec<Case<'_>> {
    said.lines().filter_map(|line| line.strip_prefix("ok ")?.split_once(": ")).collect()
}

/// What isn't as it has to be, in words.
pub fn differences(front: &str, directly: &str) -> Vec<String> {
    let (front, directly) = (cases(front), cases(directly));
    let names = |cases: &[Case<'_>]| cases.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>();
    if front.is_empty() || names(&front) != names(&directly) {
        return vec![format!("cases by the front: {:?}; directly: {:?}", names(&front), names(&directly))];
    }
    let pairs = front.iter().zip(&directly);
    pairs.filter_map(|((name, front), (_, directly))| difference(name, front, directly)).collect()
}

fn difference(name: &str, front: &str, directly: &str) -> Option<String> {
    let expected = EXPECTED.iter().find(|expected| expected.case == name);
    let good = match expected {
        Some(expected) => expected.front == front && expected.directly == directly,
        None => front == directly,
    };
    let words = if expected.is_some() { "differs otherwise than it has to" } else { "differs" };
    (!good).then(|| format!("{name} {words}\n  front:    {}\n  directly: {}", short(front), short(directly)))
}

fn short(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_no_difference() {
        let said = "ok a one: {\"x\": 1}\nnoise\nok a two: [\"b: c\"]\n";
        assert_eq!(cases(said), [("a one", "{\"x\": 1}"), ("a two", "[\"b: c\"]")]);
        assert!(differences(said, said).is_empty());
    }

    #[test]
    fn what_one_way_alone_saw_is_one() {
        let found = differences("ok a one: 1\nok a two: 2\n", "ok a one: 1\nok a two: 3\n");
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("a two differs") && found[0].contains('3'), "{found:?}");
        assert_eq!(differences("ok a one: 1\n", "ok a one: 1\nok a two: 3\n").len(), 1);
        assert_eq!(differences("ok a one: 1\nFAILED a two\n", "ok a one: 1\nok a two: 3\n").len(), 1);
        assert_eq!(differences("", "").len(), 1, "nothing was seen");
    }

    #[test]
    fn what_has_to_differ_has_to() {
        let Expected { case, front, directly } = &EXPECTED[0];
        let line = |saw: &str| format!("ok {case}: {saw}\n");
        assert!(differences(&line(front), &line(directly)).is_empty());
        assert_eq!(differences(&line(directly), &line(directly)).len(), 1);
        assert_eq!(differences(&line(front), &line(front)).len(), 1);
    }
}
