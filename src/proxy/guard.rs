//! What would undo the pool's promise is refused (R11): a lower `synchronous_commit`. A commit under it is acknowledged
//! before the other nodes have it.
//!
//! Found by the words of a statement, so what a program hides on purpose isn't found; docs/limits.md says so.
use super::wire::words::Words;

const SETTING: &[u8] = b"synchronous_commit";

/// Where in a SET one is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Elsewhere,
    /// A setting's name may follow.
    Set,
    /// The setting was named: its value follows.
    Named,
}

/// Looks at one text, which may come in pieces.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    words: Words,
    at: At,
    /// Rows of `pg_settings` are changed.
    update: bool,
    view: bool,
}

impl Guard {
    /// Takes the next piece; true as soon as the text may not be sent.
    pub fn refuses(&mut self, piece: &[u8]) -> bool {
        let Self { words, at, update, view } = self;
        let mut refused = false;
        words.over(piece, |word| {
            *at = match (*at, word.as_bytes()) {
                (At::Named, b"to") | (At::Set, SETTING) => At::Named,
                // The least that is promised, or the pool's own value.
                (At::Named, b"remote_apply" | b"default" | b"from") => At::Elsewhere,
                (At::Named, _) => {
                    refused = true;
                    At::Elsewhere
                }
                (_, b"set" | b"local" | b"session" | b"set_config") => At::Set,
                _ => At::Elsewhere,
            };
            let word = word.as_bytes();
            refused |= word == SETTING && *update && *view;
            *update |= word == b"update";
            *view |= word == b"pg_settings";
        });
        refused
    }
}

/// Whether a startup message's parameter asks for it.
pub fn startup(name: &[u8], value: &[u8]) -> bool {
    if name.eq_ignore_ascii_case(SETTING) {
        return !value.eq_ignore_ascii_case(b"remote_apply");
    }
    if !name.eq_ignore_ascii_case(b"options") {
        return false;
    }
    // As in `-c synchronous_commit=off` and `--synchronous-commit=off`; a backslash before any letter goes (PostgreSQL
    // source, `pg_split_opts`).
    let plain = |b: &u8| if *b == b'-' { b'_' } else { b.to_ascii_lowercase() };
    let spelt: Vec<u8> = value.iter().filter(|b| **b != b'\\').map(plain).collect();
    let text: Vec<u8> =
        String::from_utf8_lossy(&spelt).replace("synchronous_commit", " set synchronous_commit ").into();
    Guard::default().refuses(&[text.as_slice(), b"\0"].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuses(text: &str) -> bool {
        let bytes = [text.as_bytes(), b"\0"].concat();
        let whole = Guard::default().refuses(&bytes);
        let mut guard = Guard::default();
        let pieces = bytes.iter().filter(|byte| guard.refuses(&[**byte])).count();
        assert_eq!(whole, pieces > 0, "in pieces: {text}");
        whole
    }

    #[test]
    fn a_lower_setting_is_found() {
        for text in [
            "SET synchronous_commit = off",
            "set synchronous_commit to 'local'",
            "SET LOCAL synchronous_commit=on",
            "SET SESSION synchronous_commit TO remote_write",
            "select set_config('synchronous_commit', $1, true)",
            "ALTER ROLE app SET synchronous_commit = off",
            "alter database app set synchronous_commit to off",
            "CREATE FUNCTION f() RETURNS int SET synchronous_commit = off AS $$select 1$$ LANGUAGE sql",
            "BEGIN; SET LOCAL Synchronous_Commit TO OFF; INSERT INTO t VALUES (1); COMMIT",
            "UPDATE pg_settings SET setting = 'off' WHERE name = 'synchronous_commit'",
        ] {
            assert!(refuses(text), "{text}");
        }
    }

    #[test]
    fn all_else_may_pass() {
        for text in [
            "SHOW synchronous_commit",
            "SET synchronous_commit = remote_apply",
            "SET LOCAL synchronous_commit TO DEFAULT",
            "RESET synchronous_commit",
            "select current_setting('synchronous_commit')",
            "SELECT * FROM pg_settings WHERE name = 'synchronous_commit'",
            "UPDATE notes SET text = 'about synchronous_commit'",
            "SET work_mem = '5MB'",
        ] {
            assert!(!refuses(text), "{text}");
        }
    }

    #[test]
    fn it_is_found_in_a_startup_message() {
        for (name, value, wanted) in [
            ("synchronous_commit", "off", true),
            ("Synchronous_Commit", "local", true),
            ("options", "-c synchronous_commit=off", true),
            ("options", "--synchronous-commit=off -c work_mem=5MB", true),
            ("options", "-csynchronous_commit=local", true),
            ("options", "-c Synchronous_Commit=off", true),
            ("options", r"-c synchronous\_commit=off", true),
            ("synchronous_commit", "remote_apply", false),
            ("options", "-c work_mem=5MB", false),
            ("application_name", "set synchronous_commit off", false),
            ("user", "app", false),
        ] {
            assert_eq!(startup(name.as_bytes(), value.as_bytes()), wanted, "{name}={value}");
        }
    }
}
