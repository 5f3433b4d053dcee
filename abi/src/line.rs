//! The line protocol in which the guest reports on its console when there is no channel.
//!
//! ```text
//! @faultline start v1
//! @faultline result name=… status=pass|fail|skip value=… unit=…
//! @faultline end
//! ```
//!
//! Names, values and units contain neither a space nor `=`. Lines that do not begin with [`PREFIX`] are for people.

use core::fmt;

/// First word of every protocol line.
pub const PREFIX: &str = "@faultline";

/// First line, after [`PREFIX`].
pub const START: &str = "start v1";

/// Last line, after [`PREFIX`].
pub const END: &str = "end";

/// Verdict of a result line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The check ran, and its condition holds.
    Pass,
    /// The check ran, and its condition does not hold.
    Fail,
    /// The check did not run.
    Skip,
}

impl Status {
    /// Returns the word that the protocol uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }
}

/// Result line. Its `Display` is the line of the protocol, without a line end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResultLine<'a> {
    /// Name of the check or of the measured value.
    pub name: &'a str,
    /// vCPU that the line is about. It is appended to the name as `.cpuN`.
    pub cpu: Option<usize>,
    /// Verdict.
    pub status: Status,
    /// Measured value.
    pub value: u64,
    /// Unit of the value.
    pub unit: &'a str,
}

impl fmt::Display for ResultLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX} result name={}", self.name)?;
        if let Some(cpu) = self.cpu {
            write!(f, ".cpu{cpu}")?;
        }
        write!(f, " status={} value={} unit={}", self.status.name(), self.value, self.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_line() {
        let line = ResultLine { name: "fetch", cpu: Some(3), status: Status::Pass, value: 12, unit: "ticks" };
        assert_eq!(line.to_string(), "@faultline result name=fetch.cpu3 status=pass value=12 unit=ticks");
    }
}
