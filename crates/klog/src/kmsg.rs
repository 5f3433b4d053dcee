//! A record of `/dev/kmsg`: `prio,seq,usec,flags[,caller=T1];text`.
//!
//! `Documentation/ABI/testing/dev-kmsg` in the kernel's source describes the format.

use crate::line::{Caller, LogLine, Origin};

/// A record of `/dev/kmsg`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmsgRecord {
    /// Syslog priority, `facility << 3 | level`.
    pub priority: u32,
    /// Sequence number. A gap in the sequence means that records were lost.
    pub sequence: u64,
    /// Microseconds of the kernel's log clock.
    pub timestamp_usec: u64,
    /// The context that printed the record, if the kernel tells it.
    pub caller: Option<Caller>,
    /// The message, with its escapes resolved. It may contain line breaks.
    pub text: String,
}

impl KmsgRecord {
    /// Parses one record. Returns `None` if it is malformed. The dictionary lines after the message are ignored.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let raw = String::from_utf8_lossy(bytes);
        let (prefix, rest) = raw.split_once(';')?;
        let mut fields = prefix.split(',');
        let priority = fields.next()?.parse().ok()?;
        let sequence = fields.next()?.parse().ok()?;
        let timestamp_usec = fields.next()?.parse().ok()?;
        let caller = fields.find_map(|field| field.strip_prefix("caller=")).and_then(Caller::parse);
        let text = unescape(rest.split('\n').next().unwrap_or(""));
        Some(Self { priority, sequence, timestamp_usec, caller, text })
    }

    /// Returns whether the kernel itself printed the record at level error (3) or a more severe one. Lockups and stalls
    /// have such a level.
    pub fn is_grave(&self) -> bool {
        self.priority <= 3
    }

    /// Returns the lines of the record, for [`Parser::push`](crate::parser::Parser::push).
    pub fn lines(&self) -> impl Iterator<Item = LogLine<'_>> {
        let mut origin = Origin::from_priority(self.priority);
        self.text.split('\n').map(move |text| {
            let line = LogLine { text, timestamp_usec: Some(self.timestamp_usec), caller: self.caller, origin };
            if origin == Origin::Kernel && !text.trim().is_empty() {
                origin = Origin::KernelContinued;
            }
            line
        })
    }
}

/// Resolves the `\xNN` escapes. The kernel writes them for control characters, backslashes and bytes above 126.
fn unescape(text: &str) -> String {
    if !text.contains("\\x") {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = bytes[at..].strip_prefix(b"\\x").and_then(|rest| rest.get(..2));
        let value =
            escaped.and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(value.unwrap_or(bytes[at]));
        at += if value.is_some() { 4 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_prefix_escapes_and_dictionary() {
        let record =
            KmsgRecord::parse(b"6,339,5140900,-,caller=T7;NET: a\\x0ab \\x5cx41 \\xzz\n SUBSYSTEM=net\n").unwrap();
        assert_eq!((record.priority, record.sequence, record.timestamp_usec), (6, 339, 5_140_900));
        assert_eq!(record.caller, Some(Caller::Task(7)));
        assert_eq!(record.text, "NET: a\nb \\x41 \\xzz");
        assert_eq!(record.lines().count(), 2);
        for bad in ["", ";", "a,b,c;d", "6,1;x", "6,1,2"] {
            assert_eq!(KmsgRecord::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
