//! A complaint of the kernel, as plain data.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The kinds of complaint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A CPU ran kernel code without scheduling for twice `watchdog_thresh`.
    SoftLockup,
    /// A CPU took no timer interrupt for `watchdog_thresh`.
    HardLockup,
    /// An RCU grace period did not end. The kernel words it as self-detected, detected, expedited, or of tasks.
    RcuStall,
    /// A task stayed in uninterruptible sleep.
    HungTask,
    /// A `WARN_ON` or the like. Most reports of lockdep are warnings, too.
    Warn,
    /// A `BUG_ON`, or a `BUG:` message that is not about a lockup.
    Bug,
    /// A bad access or a trap in the kernel.
    Oops,
    /// The kernel gave up.
    Panic,
}

impl Kind {
    /// Returns the name used in results and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::SoftLockup => "soft_lockup",
            Self::HardLockup => "hard_lockup",
            Self::RcuStall => "rcu_stall",
            Self::HungTask => "hung_task",
            Self::Warn => "warn",
            Self::Bug => "bug",
            Self::Oops => "oops",
            Self::Panic => "panic",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Another place at which repeats of a complaint found the CPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Place {
    /// The time that the first report from this place gives, in seconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub seconds: Option<u64>,
    /// The number of reports from this place.
    pub repeats: u32,
    /// As in [`Complaint::pc`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pc: Option<String>,
    /// As in [`Complaint::lr`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lr: Option<String>,
    /// As in [`Complaint::call_trace`].
    pub call_trace: Vec<String>,
}

/// One complaint with all its repeats. The kernel repeats a complaint while its cause lasts; each time is one *report*.
///
/// A field is absent if the log does not tell it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Complaint {
    /// The kind of complaint.
    pub kind: Kind,
    /// The CPU that the complaint is about. An RCU stall can name several CPUs; this is the first of them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cpu: Option<u32>,
    /// The name of the task that ran on the CPU, or that hung.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub comm: Option<String>,
    /// The thread id of the task.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pid: Option<u32>,
    /// The longest time that any report gives, in seconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub seconds: Option<u64>,
    /// The longest time that any report gives, in jiffies. RCU gives no seconds, and the log does not tell HZ.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub jiffies: Option<u64>,
    /// The number of reports; 1 if nothing was repeated.
    pub repeats: u32,
    /// The kernel's taint letters at the first report, such as `GL`. Absent if the kernel was not tainted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub taint: Option<String>,
    /// The place where the CPU was, as `symbol+offset/length`. It is from the longest report that has a place, and from
    /// the first of equally long ones.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pc: Option<String>,
    /// The link register. Only arm64 has it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lr: Option<String>,
    /// The call trace, innermost frame first. It does not contain the frames of the interrupt that reported.
    pub call_trace: Vec<String>,
    /// Other places at which reports about the same CPU and task found it. For example, a vCPU can stall first while
    /// KVM cleans the D-cache and later while it invalidates the I-cache. Do not judge a complaint by its first place
    /// alone.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub elsewhere: Vec<Place>,
    /// The time stamp of the first report, in microseconds of the kernel's log clock.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub timestamp_usec: Option<u64>,
    /// The time stamp of the last report, in the same unit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_timestamp_usec: Option<u64>,
    /// True if lines of several CPUs were mixed and nothing told them apart. The pc and the call trace may then belong
    /// to another CPU.
    pub interleaved: bool,
    /// The first line of the first report, as printed.
    pub first_line: String,
}
