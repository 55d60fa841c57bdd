//! WAL positions: bytes in the code, `0/3000028` where PostgreSQL and people read them.

/// Reads a position as PostgreSQL prints it (`pg_lsn`: two hexadecimal halves).
pub fn parse(text: &str) -> Option<u64> {
    let (high, low) = text.trim().split_once('/')?;
    let half = |digits: &str| {
        let plain = !digits.is_empty() && digits.len() <= 8 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        if plain { u64::from_str_radix(digits, 16).ok() } else { None }
    };
    Some(half(high)? << 32 | half(low)?)
}

/// Prints a position as PostgreSQL does.
pub fn print(position: u64) -> String {
    format!("{:X}/{:X}", position >> 32, position & 0xFFFF_FFFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_and_printed_as_postgresql_does() {
        assert_eq!(parse("0/3000028"), Some(0x0300_0028));
        assert_eq!(parse("16/B374D848"), Some(0x16_B374_D848));
        assert_eq!(print(0x16_B374_D848), "16/B374D848");
        for bad in ["", "/", "1", "1/", "/1", "+1/2", "1/123456789", "x/1", "1/2/3"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
