//! The line protocol in which the guest reports on its console when no host speaks the channel.
//!
//! ```text
//! @faultline start v1
//! @faultline result name=… status=pass|fail|skip value=… unit=…
//! @faultline end
//! ```
//!
//! Names, values and units hold no spaces and no `=`. Lines that do not start with [`PREFIX`] are for people.

use core::fmt;

/// First word of every protocol line.
pub const PREFIX: &str = "@faultline";

/// First line, after [`PREFIX`].
pub const START: &str = "start v1";

/// Last line, after [`PREFIX`].
pub const END: &str = "end";

/// Verdict of one result line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Ran and held.
    Pass,
    /// Ran and did not hold.
    Fail,
    /// Did not run.
    Skip,
}

impl Status {
    /// Returns the protocol's word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }
}

/// One result line; displays as the protocol's line without a line end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResultLine<'a> {
    /// What was checked or measured.
    pub name: &'a str,
    /// vCPU it was seen on, appended to the name as `.cpuN`.
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
