//! One line of a kernel log, without the prefix that its format puts before the message.

/// The context that printed a line. Only kernels built with `CONFIG_PRINTK_CALLER` tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// A task, by its thread id: `T123`.
    Task(u32),
    /// A CPU outside of task context: `C1`.
    Cpu(u32),
}

impl Caller {
    /// Parses `T123` or `C1`. Newer kernels may append more after the number; that part is ignored.
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

/// The author of a line. The parser ignores lines that user space wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The kernel: facility 0, which user space cannot write.
    Kernel,
    /// The kernel, in a further line of one record. Such a line may continue a complaint, but it cannot begin one. A
    /// record that quotes a file name also contains the line breaks of that name, and user space chose them.
    KernelContinued,
    /// User space: any other facility.
    User,
    /// Unknown: the format of the log does not carry the facility.
    Unknown,
}

impl Origin {
    /// Decodes the origin from a syslog priority (`facility << 3 | level`).
    pub(crate) fn from_priority(priority: u32) -> Self {
        if priority >> 3 == 0 { Self::Kernel } else { Self::User }
    }
}

/// One line of a kernel log. The white space at the start of the message is kept, because it tells a frame of a call
/// trace from the first line of a complaint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLine<'a> {
    /// The message.
    pub text: &'a str,
    /// The kernel's time stamp in microseconds, if the format has one.
    pub timestamp_usec: Option<u64>,
    /// The context that printed the line, if the kernel tells it.
    pub caller: Option<Caller>,
    /// The author of the line.
    pub origin: Origin,
}

impl<'a> LogLine<'a> {
    /// Returns a line of which only the message is known.
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
