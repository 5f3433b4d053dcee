//! One message of the kernel log, whatever it was read from.

/// Names who printed a message, as kernels built with `CONFIG_PRINTK_CALLER` tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// A task, by its thread id: `T123`.
    Task(u32),
    /// A CPU outside task context: `C1`.
    Cpu(u32),
}

impl Caller {
    /// Parses `T123` or `C1`. A newer kernel may append more after the number; that part is ignored.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (kind, rest) = text.split_at_checked(1)?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number = rest[..end].parse().ok()?;
        match kind {
            "T" => Some(Self::Task(number)),
            "C" => Some(Self::Cpu(number)),
            _ => None,
        }
    }
}

/// Says whether a message came from the kernel itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Facility 0, which user space cannot write.
    Kernel,
    /// A further line of a message of facility 0: it may go on with a report, but begins none. A message that quotes the
    /// name of a file has that file's line breaks.
    KernelContinued,
    /// Another facility: written by user space, so never believed.
    User,
    /// The log format does not carry the facility.
    Unknown,
}

impl Origin {
    /// Decodes the origin from a syslog priority value (`facility << 3 | level`).
    pub fn from_priority(priority: u32) -> Self {
        if priority >> 3 == 0 { Self::Kernel } else { Self::User }
    }
}

/// One message, without its prefix; leading white space is kept, since it tells a stack frame from a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The message.
    pub text: &'a str,
    /// The kernel's time stamp in microseconds, where the format has one.
    pub timestamp_usec: Option<u64>,
    /// Who printed it, where the kernel says so.
    pub caller: Option<Caller>,
    /// Whether the kernel itself printed it.
    pub origin: Origin,
}

impl<'a> Record<'a> {
    /// Returns a record that holds nothing but text.
    pub fn plain(text: &'a str) -> Self {
        Self { text, timestamp_usec: None, caller: None, origin: Origin::Unknown }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers() {
        assert_eq!(Caller::parse("  T123"), Some(Caller::Task(123)));
        assert_eq!(Caller::parse("C1"), Some(Caller::Cpu(1)));
        assert_eq!(Caller::parse("T7/comm"), Some(Caller::Task(7)));
        for bad in ["", "T", "X1", "é1"] {
            assert_eq!(Caller::parse(bad), None, "{bad}");
        }
    }
}
