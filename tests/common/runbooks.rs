//! The runbooks as a person has them before them: what to type, and what is to be seen.
use std::fs;
use std::path::{Path, PathBuf};

/// What a command leaves open, for whoever types it to fill in.
pub const OPEN: [&str; 9] = ["NS", "POOL", "K", "P", "ID", "FILE", "HOST", "MACHINE", "TAG"];
/// How a line begins that is a command, and not an example of something else.
const PROGRAMS: [&str; 4] = ["kubectl ", "helm ", "curl ", "openssl "];

/// The folder of the runbooks.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbooks")
}

/// The text of a page.
pub fn page(name: &str) -> Result<String, String> {
    let path = folder().join(format!("{name}.md"));
    fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The commands of a page: those of its indented lines, and those that stand in its sentences.
pub fn commands(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in text.lines() {
        let code = line.strip_prefix("    ").map(str::trim);
        match (code, found.last_mut().filter(|_| goes_on)) {
            (Some(code), Some(begun)) => {
                begun.push('\n');
                begun.push_str(code);
            }
            (Some(code), None) if is_command(code) => found.push(code.to_owned()),
            _ => {
                goes_on = false;
                continue;
            }
        }
        goes_on = found.last().is_some_and(|command| !is_whole(command));
    }
    let spans = text.split('`').skip(1).step_by(2).filter(|span| is_command(span));
    // In a table each `|` of a command is written with a backslash.
    found.extend(spans.map(|span| span.replace("\\|", "|")));
    found
}

fn is_command(text: &str) -> bool {
    PROGRAMS.iter().any(|program| text.starts_with(program))
}

/// Whether a shell would run it, and not wait for more.
fn is_whole(command: &str) -> bool {
    let even = |quote: char| command.matches(quote).count().is_multiple_of(2);
    even('"') && even('\'') && !command.ends_with('\\')
}

/// The command with the values of what it leaves open; an error when one is missing.
pub fn filled(command: &str, values: &[(&str, &str)]) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = command;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        match values.iter().find(|(open, _)| *open == word) {
            Some((_, value)) => out.push_str(value),
            None if OPEN.contains(&word) => return Err(format!("nothing to put for {word}: {command}")),
            None => out.push_str(word),
        }
        let next = behind.find(|c: char| c.is_ascii_alphanumeric()).unwrap_or(behind.len());
        let (between, after) = behind.split_at(next);
        out.push_str(between);
        rest = after;
    }
    Ok(out)
}

/// The text in one line, as words that are looked for may begin on one line and end on the next.
pub fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
