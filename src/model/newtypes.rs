//! Small types that keep one text from being taken for another.
use std::fmt;

/// Namespace and name of a pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for PoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A secret: never shown by `Debug`, so that no log or error can hold it by accident.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Sensitive(String);

impl Sensitive {
    /// Takes a secret in.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself; for a Secret or an encrypted message only.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Sensitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

const SUFFIXES: [(&str, f64); 12] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
    ("", 1.0),
];

/// Bytes of a Kubernetes quantity such as `1Gi` or `1.5G`; none when it is no such thing.
pub fn bytes(quantity: &str) -> Option<u64> {
    let digits = quantity.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(quantity.len());
    let number: f64 = quantity[..digits].parse().ok()?;
    let factor = SUFFIXES.iter().find(|(suffix, _)| *suffix == &quantity[digits..])?.1;
    let value = number * factor;
    // 2^53: beyond it a float no longer counts single bytes.
    if !(0.0..=9_007_199_254_740_992.0).contains(&value) {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within 0 to 2^53, as just checked"
    )]
    Some(value as u64)
}

/// Suffixes of amounts that no size has.
const SMALL: [(&str, f64); 4] = [("n", 1e-9), ("u", 1e-6), ("m", 1e-3), ("Ei", 1_152_921_504_606_846_976.0)];

/// What a Kubernetes quantity such as `300m`, `1.5Gi` or `1e9` counts; none when it is no such thing.
pub fn amount(quantity: &str) -> Option<f64> {
    if !quantity.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if let Ok(plain) = quantity.parse() {
        return Some(plain);
    }
    let digits = quantity.find(|c: char| c != '.' && !c.is_ascii_digit())?;
    let number: f64 = quantity[..digits].parse().ok()?;
    let known = SUFFIXES.iter().chain(&SMALL).find(|(suffix, _)| *suffix == &quantity[digits..]);
    known.map(|(_, factor)| number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, expected) in
            [("1Gi", 1 << 30), ("1.5Ki", 1536), ("2G", 2_000_000_000), ("7", 7), ("256Mi", 256 << 20)]
        {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for text in ["", "Gi", "1X", "-1", "1e99P", "9999999P"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn amounts_are_read_as_kubernetes_reads_them() {
        for (text, expected) in [
            ("2", 2.0),
            ("0.5", 0.5),
            ("500m", 0.5),
            ("1e9", 1e9),
            ("1E3", 1e3),
            ("2E", 2e18),
            ("1Ki", 1024.0),
        ] {
            assert_eq!(amount(text), Some(expected), "{text}");
        }
        for text in ["", "m", "1x", "-1", "inf"] {
            assert_eq!(amount(text), None, "{text}");
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Sensitive::new("hunter2")), "***");
    }
}
