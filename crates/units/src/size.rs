//! Sizes of memory, written as `4K`, `2M` or `1G`.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Size(pub u64);

/// The error for a text that is not a size.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is not a size: write a number with K, M, G or T, as in 4K or 1G")]
pub struct NotASize(String);

const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

impl FromStr for Size {
    type Err = NotASize;

    fn from_str(text: &str) -> Result<Self, NotASize> {
        let error = || NotASize(text.to_owned());
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match text[digits.len()..].to_ascii_uppercase().trim_end_matches("IB").trim_end_matches('B') {
            "" => 0,
            unit => UNITS.iter().find(|(name, _)| unit.starts_with(*name) && unit.len() == 1).ok_or_else(error)?.1,
        };
        let number: u64 = digits.parse().map_err(|_| error())?;
        number.checked_shl(shift).filter(|n| n >> shift == number && *n > 0).map(Self).ok_or_else(error)
    }
}

impl Size {
    /// Returns the size with the unit of IEC 80000-13, as in `2 MiB`.
    pub fn iec(self) -> String {
        let unit = UNITS.iter().find(|(_, shift)| self.0 != 0 && self.0.trailing_zeros() >= *shift);
        unit.map_or_else(|| format!("{} B", self.0), |(name, shift)| format!("{} {name}iB", self.0 >> shift))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(_, shift)| self.0 != 0 && self.0.trailing_zeros() >= *shift);
        match unit {
            Some((name, shift)) => f.pad(&format!("{}{name}", self.0 >> shift)),
            None => f.pad(&self.0.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        for text in ["4K", "64K", "2M", "32M", "1G", "3T", "7"] {
            assert_eq!(text.parse::<Size>().expect("a size").to_string(), text);
        }
        assert_eq!("2MiB".parse(), Ok(Size(2 << 20)));
        assert_eq!([Size(4096).iec(), Size(1 << 30).iec(), Size(7).iec()], ["4 KiB", "1 GiB", "7 B"]);
        assert_eq!("1g".parse(), Ok(Size(1 << 30)));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "K", "-1M", "0", "4X", "4KK", "99999999T", "1.5G"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
