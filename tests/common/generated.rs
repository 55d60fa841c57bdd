//! Files of the repository that are made from the code.
use std::path::Path;
use std::{env, fs};

/// Fails unless the generated file holds `text`; with `UPDATE=1` it is written anew instead.
pub fn generated(path: &str, text: &str, target: &str) {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if env::var_os("UPDATE").is_some() {
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(&place, text).unwrap();
        return;
    }
    let found = fs::read_to_string(&place).unwrap_or_default();
    if found == text {
        return;
    }
    let line = 1 + found.lines().zip(text.lines()).take_while(|(ours, theirs)| ours == theirs).count();
    panic!("{path} isn't what the code says, from line {line} on; run: UPDATE=1 cargo test --test {target}");
}
