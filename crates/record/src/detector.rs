//! The lockup detectors of a kernel: their state, their settings and the CPUs that they watch.
//!
//! The absence of complaints proves nothing if the detector was off or did not watch the CPUs of the run. Such a run
//! must not pass.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The state of one detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The detector is on.
    On,
    /// The kernel has the detector, and it is switched off.
    Off,
    /// This kernel or machine has no such detector. For example, arm64 has none for hard lockups before v6.5.
    NotAvailable,
    /// The state is not known, because the run died before it was read.
    Unknown,
}

/// The lockup detectors of a kernel at one time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Detector {
    /// The soft lockup detector.
    pub soft: State,
    /// The hard lockup detector.
    pub hard: State,
    /// `kernel.watchdog_thresh` in seconds. The kernel reports a soft lockup after twice this time.
    pub thresh_s: Option<u32>,
    /// The CPUs that the detectors watch.
    pub cpus: Vec<usize>,
    /// True if a soft lockup makes this kernel panic.
    pub softlockup_panic: bool,
    /// True if a warning makes this kernel panic.
    pub panic_on_warn: bool,
    /// `kernel.hung_task_timeout_secs`. 0 means off.
    pub hung_task_timeout_s: Option<u32>,
    /// `kernel.hung_task_warnings`: the number of reports that the kernel still prints. -1 means no limit.
    pub hung_task_warnings: Option<i64>,
    /// The counters of this kernel.
    pub counters: Counters,
}

/// Counters of lockups and stalls. Older kernels lack some or all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counters {
    /// `/sys/kernel/softlockup_count`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub soft_lockups: Option<u64>,
    /// `/sys/kernel/hardlockup_count`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hard_lockups: Option<u64>,
    /// `/sys/kernel/rcu_stall_count`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rcu_stalls: Option<u64>,
    /// `kernel.hung_task_detect_count`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hung_tasks: Option<u64>,
}

/// A reason for which the kernel would not report a soft lockup.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotWatched {
    /// The kernel has no soft lockup detector.
    #[error("this kernel has no soft lockup detector (CONFIG_SOFTLOCKUP_DETECTOR)")]
    NotAvailable,
    /// The detector is switched off.
    #[error("the soft lockup detector is off; switch it on with `sysctl kernel.watchdog=1 kernel.soft_watchdog=1`")]
    Off,
    /// The threshold is zero, which switches all detectors off.
    #[error("kernel.watchdog_thresh is 0, which switches the detectors off; set it to 1 or more")]
    NoThreshold,
    /// The detector does not watch this CPU.
    #[error("the lockup detector does not watch CPU {0}; see kernel.watchdog_cpumask, isolcpus= and nohz_full=")]
    Cpu(usize),
}

impl Detector {
    /// Returns detectors about which nothing is known.
    pub fn unknown() -> Self {
        Self {
            soft: State::Unknown,
            hard: State::Unknown,
            thresh_s: None,
            cpus: Vec::new(),
            softlockup_panic: false,
            panic_on_warn: false,
            hung_task_timeout_s: None,
            hung_task_warnings: None,
            counters: Counters::default(),
        }
    }

    /// Returns the time without scheduling after which the kernel reports a soft lockup, in seconds.
    pub fn soft_threshold_s(&self) -> Option<u32> {
        self.thresh_s.map(|thresh| thresh.saturating_mul(2))
    }

    /// Checks that the kernel would report a soft lockup on each of these CPUs.
    ///
    /// # Errors
    ///
    /// Returns the reason for which it would not.
    pub fn watches(&self, cpus: &[usize]) -> Result<(), NotWatched> {
        match self.soft {
            State::NotAvailable | State::Unknown => return Err(NotWatched::NotAvailable),
            State::Off => return Err(NotWatched::Off),
            State::On => {}
        }
        if self.thresh_s == Some(0) {
            return Err(NotWatched::NoThreshold);
        }
        match cpus.iter().find(|cpu| !self.cpus.contains(cpu)) {
            Some(&cpu) => Err(NotWatched::Cpu(cpu)),
            None => Ok(()),
        }
    }
}

impl Counters {
    /// Returns the difference of each counter to its value in `before`.
    pub fn since(&self, before: &Self) -> Self {
        let rise = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
        Self {
            soft_lockups: rise(self.soft_lockups, before.soft_lockups),
            hard_lockups: rise(self.hard_lockups, before.hard_lockups),
            rcu_stalls: rise(self.rcu_stalls, before.rcu_stalls),
            hung_tasks: rise(self.hung_tasks, before.hung_tasks),
        }
    }
}
