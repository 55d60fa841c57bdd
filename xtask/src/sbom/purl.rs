//! Package URLs (purl), by which tools know packages.

/// A published crate.
pub fn of_crate(name: &str, version: &str) -> String {
    format!("pkg:cargo/{}@{}", encoded(name), encoded(version))
}

/// A name or a version as it stands in a package URL.
pub fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_~:".contains(&byte);
    let bytes =
        text.bytes().flat_map(|byte| if plain(byte) { vec![byte] } else { format!("%{byte:02X}").into() });
    bytes.map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_a_part_is_encoded() {
        assert_eq!(of_crate("serde_json", "1.0.154"), "pkg:cargo/serde_json@1.0.154");
        assert_eq!(of_crate("wasi", "0.11.1+wasi-1"), "pkg:cargo/wasi@0.11.1%2Bwasi-1");
        assert_eq!(encoded("1:2.41.5-0+deb13u1~a@é"), "1:2.41.5-0%2Bdeb13u1~a%40%C3%A9");
    }
}
