//! The manifests of examples/.
use std::fs;
use std::path::Path;

use serde_json::Value;

/// Every document of every example, with the name of its file.
pub fn examples() -> Vec<(String, Value)> {
    examples_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples"))
}

/// The same of another folder.
pub fn examples_in(folder: &Path) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap();
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        found.extend(documents.into_iter().map(|document| (name.clone(), document)));
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    found
}
