//! The CTR_EL0 that a guest reads in place of the machine's.

use std::fmt;
use std::str::FromStr;

use abi::Ctr;

/// A CTR_EL0 for a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestCtr {
    /// A whole value, which replaces the machine's.
    Value(u64),
    /// The machine's value with some fields changed.
    Fields {
        /// Size of the smallest I-cache line in bytes.
        imin_line_bytes: Option<u64>,
        /// Size of the smallest D-cache line in bytes.
        dmin_line_bytes: Option<u64>,
        /// The bit IDC.
        idc: Option<bool>,
        /// The bit DIC.
        dic: Option<bool>,
    },
}

/// Error for a text that is not a [`GuestCtr`]; it holds the wrong part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}': give imin=BYTES or dmin=BYTES (a power of two from 4 to 2048), idc=0|1 or dic=0|1, or a whole value 0x…"
)]
pub struct ParseCtrError(String);

impl GuestCtr {
    /// Returns the value for a guest on a machine whose own value is `machine`.
    pub fn apply_to(self, machine: Ctr) -> Ctr {
        match self {
            Self::Value(value) => Ctr(value),
            Self::Fields { imin_line_bytes, dmin_line_bytes, idc, dic } => {
                let ctr = imin_line_bytes.map_or(machine, |bytes| machine.with_imin_line_bytes(bytes));
                let ctr = dmin_line_bytes.map_or(ctr, |bytes| ctr.with_dmin_line_bytes(bytes));
                let ctr = idc.map_or(ctr, |idc| ctr.with_idc(idc));
                dic.map_or(ctr, |dic| ctr.with_dic(dic))
            }
        }
    }
}

/// Writes the form that [`FromStr`] reads.
impl fmt::Display for GuestCtr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Value(value) => write!(f, "{value:#x}"),
            Self::Fields { imin_line_bytes, dmin_line_bytes, idc, dic } => {
                let fields = [
                    ("imin", imin_line_bytes),
                    ("dmin", dmin_line_bytes),
                    ("idc", idc.map(u64::from)),
                    ("dic", dic.map(u64::from)),
                ];
                let parts = fields.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
                f.write_str(&parts.collect::<Vec<_>>().join(","))
            }
        }
    }
}

/// Parses a line size. The four bits of IminLine and DminLine can hold 4 bytes times a power of two.
fn line_bytes(text: &str) -> Option<u64> {
    text.parse().ok().filter(|bytes: &u64| bytes.is_power_of_two() && (4..=2048).contains(bytes))
}

fn flag(text: &str) -> Option<bool> {
    match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

impl FromStr for GuestCtr {
    type Err = ParseCtrError;

    fn from_str(text: &str) -> Result<Self, ParseCtrError> {
        if let Some(digits) = text.strip_prefix("0x") {
            return u64::from_str_radix(digits, 16).map(Self::Value).map_err(|_| ParseCtrError(text.into()));
        }
        let (mut imin_line_bytes, mut dmin_line_bytes, mut idc, mut dic) = (None, None, None, None);
        for part in text.split(',') {
            let wrong = || ParseCtrError(part.into());
            let (name, value) = part.split_once('=').ok_or_else(wrong)?;
            match name {
                "imin" => imin_line_bytes = Some(line_bytes(value).ok_or_else(wrong)?),
                "dmin" => dmin_line_bytes = Some(line_bytes(value).ok_or_else(wrong)?),
                "idc" => idc = Some(flag(value).ok_or_else(wrong)?),
                "dic" => dic = Some(flag(value).ok_or_else(wrong)?),
                _ => return Err(wrong()),
            }
        }
        Ok(Self::Fields { imin_line_bytes, dmin_line_bytes, idc, dic })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_n1(text: &str) -> Result<u64, ParseCtrError> {
        text.parse::<GuestCtr>().map(|shown| shown.apply_to(Ctr(0x9444_c004)).0)
    }

    #[test]
    fn fields_change_the_machines_value_and_a_value_replaces_it() {
        assert_eq!(on_n1("imin=32"), Ok(0x9444_c003));
        assert_eq!(on_n1("dmin=16,idc=0"), Ok(0x8442_c004));
        assert_eq!(on_n1("dic=1"), Ok(0xb444_c004));
        assert_eq!(on_n1("0x8444c003"), Ok(0x8444_c003));
    }

    #[test]
    fn the_written_form_is_read_back() {
        for text in ["imin=32", "imin=16,dmin=2048,idc=0,dic=1", "0x8444c003"] {
            assert_eq!(text.parse::<GuestCtr>().map(|shown| shown.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn an_error_names_the_wrong_part() {
        for (text, part) in
            [("", ""), ("imin=48", "imin=48"), ("idc=0,line=4", "line=4"), ("dic=2", "dic=2"), ("0xg", "0xg")]
        {
            assert_eq!(on_n1(text), Err(ParseCtrError(part.into())), "{text}");
        }
    }
}
