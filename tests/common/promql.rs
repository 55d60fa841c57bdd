//! What an expression of PromQL names: metrics, each with the labels that it is chosen by, and labels that it groups by.
use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Chars;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Metrics, and the labels in their braces.
    pub metrics: BTreeSet<(String, Vec<String>)>,
    /// Labels after `by`, `on` and their like.
    pub grouped: BTreeSet<String>,
}

/// Words after which labels stand in parentheses.
const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
/// Words that are no metrics and are not called.
const WORDS: [&str; 20] = [
    "and",
    "or",
    "unless",
    "bool",
    "offset",
    "inf",
    "nan",
    "sum",
    "max",
    "min",
    "count",
    "avg",
    "group",
    "stddev",
    "stdvar",
    "topk",
    "bottomk",
    "quantile",
    "count_values",
    "atan2",
];

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Mark(char),
}

fn word(chars: &mut Peekable<Chars<'_>>) -> String {
    let mut text = String::new();
    while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.')) {
        text.push(c);
    }
    text
}

/// The words and marks; strings, numbers, spans of time and a dashboard's variables are left out.
fn tokens(text: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(&c) = chars.peek() {
        if c.is_ascii_digit() {
            word(&mut chars);
        } else if c.is_ascii_alphabetic() || c == '_' {
            found.push(Token::Word(word(&mut chars)));
        } else if c == '$' {
            chars.next();
            word(&mut chars);
        } else if matches!(c, '"' | '\'') {
            chars.next();
            while chars.next_if(|inner| *inner != c).is_some() {}
            chars.next();
        } else {
            chars.next();
            if !c.is_whitespace() {
                found.push(Token::Mark(c));
            }
        }
    }
    found
}

/// The words up to the mark that ends them.
fn until(tokens: &mut Peekable<std::vec::IntoIter<Token>>, end: char) -> Vec<String> {
    let mut words = Vec::new();
    for token in tokens.by_ref() {
        match token {
            Token::Word(word) => words.push(word),
            Token::Mark(mark) if mark == end => break,
            Token::Mark(_) => {}
        }
    }
    words
}

/// Reads an expression. What is chosen by has to be in quotes: a label's value is none of its words.
pub fn named(text: &str) -> Named {
    let mut found = Named::default();
    let mut tokens = tokens(text).into_iter().peekable();
    while let Some(token) = tokens.next() {
        let Token::Word(word) = token else { continue };
        let next = tokens.peek();
        if GROUPING.contains(&word.as_str()) && next == Some(&Token::Mark('(')) {
            found.grouped.extend(until(&mut tokens, ')'));
        } else if next == Some(&Token::Mark('(')) || WORDS.contains(&word.as_str()) {
            // A function, or an aggregation before its grouping.
        } else if next == Some(&Token::Mark('{')) {
            found.metrics.insert((word, until(&mut tokens, '}')));
        } else {
            found.metrics.insert((word, Vec::new()));
        }
    }
    found
}
