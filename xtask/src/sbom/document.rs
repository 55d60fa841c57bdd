//! The document itself, in the form of CycloneDX 1.5.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::crates::{Crate, Graph, Known};
use super::debian::Package;
use super::purl;
use crate::files;

/// How the document calls the image as a whole.
const IMAGE: &str = "image";

/// What there is to be told.
pub struct Content {
    /// The crate of the program.
    pub program: Crate,
    /// Where the program lies in the image.
    pub place: &'static str,
    /// What the program is linked of, itself among them.
    pub crates: Graph,
    /// The version of the compiler.
    pub compiler: String,
    /// The Debian release.
    pub suite: &'static str,
    /// The Debian packages; `None` when they aren't known.
    pub packages: Option<Vec<Package>>,
}

/// The document. What is in it is sorted, and it has no time.
pub fn of(content: &Content) -> Value {
    let mut parts = Parts::default();
    parts.add_crates(content);
    parts.add_compiler(content);
    parts.add_debian(content);
    let uses = parts.uses.iter().map(|(from, to)| json!({ "ref": from, "dependsOn": to }));
    let mut document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": {
            "type": "container",
            "bom-ref": IMAGE,
            "name": content.program.name,
            "version": content.program.version,
        } },
        "dependencies": uses.collect::<Vec<Value>>(),
        "components": parts.components.into_values().collect::<Vec<Value>>(),
    });
    if content.packages.is_none() {
        document["compositions"] = json!([{ "aggregate": "incomplete", "assemblies": [IMAGE] }]);
    }
    let serial = serial(&document.to_string());
    document["serialNumber"] = Value::from(serial);
    document
}

/// A number that follows from the content: version 8 of UUIDs leaves to their maker what they hold (RFC 9562).
fn serial(text: &str) -> String {
    let digits = files::sha256(text.as_bytes());
    format!(
        "urn:uuid:{}-{}-8{}-8{}-{}",
        &digits[..8],
        &digits[8..12],
        &digits[12..15],
        &digits[15..18],
        &digits[18..30]
    )
}

/// A component, as all have it.
fn named(kind: &str, reference: &str, name: &str, version: &str) -> Value {
    json!({ "type": kind, "bom-ref": reference, "name": name, "version": version })
}

/// Components by their references, and who uses whom.
#[derive(Default)]
struct Parts {
    components: BTreeMap<String, Value>,
    uses: BTreeMap<String, BTreeSet<String>>,
}

impl Parts {
    fn add(&mut self, reference: String, component: Value) {
        self.components.insert(reference, component);
    }

    fn add_use(&mut self, from: &str, to: String) {
        self.uses.entry(from.to_owned()).or_default().insert(to);
    }

    fn add_crates(&mut self, content: &Content) {
        for (found, known) in &content.crates {
            let reference = name_of(&content.crates, found);
            let mut component = of_crate(&reference, found, known);
            if *found == content.program {
                component["type"] = Value::from("application");
                component["evidence"] = json!({ "occurrences": [{ "location": content.place }] });
            }
            let others = known.uses.iter().map(|other| name_of(&content.crates, other)).collect();
            self.uses.insert(reference.clone(), others);
            self.add(reference, component);
        }
        self.add_use(IMAGE, name_of(&content.crates, &content.program));
    }

    /// The standard library is linked into the program, and no crate of Cargo.lock.
    fn add_compiler(&mut self, content: &Content) {
        let reference = format!("std@{}", content.compiler);
        let mut component = named("library", &reference, "std", &content.compiler);
        component["description"] =
            Value::from("The standard library of Rust, with the crates that it is made of");
        component["licenses"] = json!([{ "expression": "MIT OR Apache-2.0" }]);
        self.add_use(&name_of(&content.crates, &content.program), reference.clone());
        self.add(reference, component);
    }

    fn add_debian(&mut self, content: &Content) {
        let system = format!("debian@{}", content.suite);
        self.add(system.clone(), named("operating-system", &system, "debian", content.suite));
        self.add_use(IMAGE, system);
        for package in content.packages.iter().flatten() {
            let purl = package.purl(content.suite);
            let mut component = named("library", &purl, &package.name, &package.version);
            component["purl"] = Value::from(purl.as_str());
            self.add(purl.clone(), component);
            self.add_use(IMAGE, purl);
        }
    }
}

/// How the document calls a crate. One of this workspace has no package URL: it would name somebody else's crate, who
/// has published one of that name.
fn name_of(crates: &Graph, found: &Crate) -> String {
    match crates.get(found) {
        Some(Known { sum: None, .. }) => format!("{}@{}", found.name, found.version),
        _ => purl::of_crate(&found.name, &found.version),
    }
}

fn of_crate(reference: &str, found: &Crate, known: &Known) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": reference,
        "name": found.name,
        "version": found.version,
    });
    if !known.licence.is_empty() {
        component["licenses"] = json!([{ "expression": known.licence }]);
    }
    if let Some(sum) = &known.sum {
        component["purl"] = Value::from(reference);
        component["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
    }
    component
}

#[cfg(test)]
mod tests {
    use super::super::debian;
    use super::*;

    const STATUS: &str =
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.41-12+deb13u1\n";

    fn found(name: &str) -> Crate {
        Crate { name: name.to_owned(), version: "1.0.0".to_owned() }
    }

    fn known(licence: &str, sum: Option<&str>, uses: &[&str]) -> Known {
        let uses = uses.iter().map(|name| found(name)).collect();
        Known { licence: licence.to_owned(), sum: sum.map(str::to_owned), uses }
    }

    fn content(status: Option<&str>) -> Content {
        let crates = [
            (found("operator"), known("Apache-2.0", None, &["b", "a"])),
            (found("b"), known("MIT", Some("bb22"), &["a"])),
            (found("a"), known("", Some("aa11"), &[])),
        ];
        Content {
            program: found("operator"),
            place: "/bin/operator",
            crates: crates.into_iter().collect(),
            compiler: "1.95.0".to_owned(),
            suite: "trixie",
            packages: status.map(debian::installed),
        }
    }

    const LIBC: &str = "pkg:deb/debian/libc6@2.41-12%2Bdeb13u1?arch=amd64&distro=trixie";

    #[test]
    fn components_are_sorted_and_each_is_once_there() {
        let document = of(&content(Some(STATUS)));
        let list = document["components"].as_array().unwrap();
        let references: Vec<&str> = list.iter().map(|c| c["bom-ref"].as_str().unwrap()).collect();
        assert_eq!(
            references,
            ["debian@trixie", "operator@1.0.0", "pkg:cargo/a@1.0.0", "pkg:cargo/b@1.0.0", LIBC, "std@1.95.0"]
        );
        assert_eq!(list[1]["type"], "application");
        assert_eq!(list[1]["purl"], Value::Null);
        assert_eq!(list[2]["licenses"], Value::Null);
        assert_eq!(list[3]["licenses"], json!([{ "expression": "MIT" }]));
        assert_eq!(list[3]["hashes"], json!([{ "alg": "SHA-256", "content": "bb22" }]));
        assert_eq!(list[4]["purl"], LIBC);
    }

    #[test]
    fn who_uses_whom_goes_from_the_image_down() {
        let document = of(&content(Some(STATUS)));
        let expected = json!([
            { "ref": "image", "dependsOn": ["debian@trixie", "operator@1.0.0", LIBC] },
            { "ref": "operator@1.0.0", "dependsOn": ["pkg:cargo/a@1.0.0", "pkg:cargo/b@1.0.0", "std@1.95.0"] },
            { "ref": "pkg:cargo/a@1.0.0", "dependsOn": [] },
            { "ref": "pkg:cargo/b@1.0.0", "dependsOn": ["pkg:cargo/a@1.0.0"] },
        ]);
        assert_eq!(document["dependencies"], expected);
    }

    #[test]
    fn what_is_not_known_is_told() {
        assert_eq!(of(&content(Some(STATUS)))["compositions"], Value::Null);
        let without = of(&content(None));
        assert_eq!(without["compositions"][0]["aggregate"], "incomplete");
        assert_eq!(without["components"].as_array().unwrap().len(), 5);
    }

    #[test]
    fn the_serial_number_follows_the_content() {
        let number = |status| of(&content(status))["serialNumber"].as_str().unwrap().to_owned();
        assert_eq!(number(Some(STATUS)), number(Some(STATUS)));
        assert_ne!(number(Some(STATUS)), number(None));
        let groups: Vec<usize> =
            number(None).trim_start_matches("urn:uuid:").split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12]);
    }
}
