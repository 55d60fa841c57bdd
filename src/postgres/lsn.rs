//! Positions in the WAL.
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A byte position in the WAL; printed as PostgreSQL does, `16/B374D848` (PostgreSQL docs, "pg_lsn Type").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// A text that is no WAL position.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no WAL position")]
pub struct LsnError(String);

impl FromStr for Lsn {
    type Err = LsnError;

    fn from_str(text: &str) -> Result<Self, LsnError> {
        let error = || LsnError(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(error)?;
        let part = |hex: &str| {
            let plain = !hex.is_empty() && hex.len() <= 8 && hex.bytes().all(|b| b.is_ascii_hexdigit());
            if plain { u64::from_str_radix(hex, 16).map_err(|_| error()) } else { Err(error()) }
        };
        Ok(Self((part(high)? << 32) | part(low)?))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_is_no_position() {
        for text in ["", "0", "0/", "/0", "0/G", "123456789/0", "0/+1", "0/1/2"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn is_read_as_it_was_written(position: u64) {
            prop_assert_eq!(Lsn(position).to_string().parse::<Lsn>().unwrap(), Lsn(position));
        }
    }
}
