//! Which lockup detectors this kernel has, whether they are on, and which CPUs they watch.
//!
//! A run on CPUs that nobody watches, or with the detector off, must never pass for want of complaints.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// State of one detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It watches.
    On,
    /// The kernel has it, and it is switched off.
    Off,
    /// This kernel or machine has none (hard lockups on arm64 before v6.5): silence of it means nothing.
    NotAvailable,
    /// Nobody looked: the run died before it could.
    Unknown,
}

/// The kernel's lockup detectors as they are now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Detector {
    /// The soft lockup detector.
    pub soft: State,
    /// The hard lockup detector.
    pub hard: State,
    /// `kernel.watchdog_thresh` in seconds; soft lockups are reported after twice this time.
    pub thresh_s: Option<u32>,
    /// The CPUs watched.
    pub cpus: Vec<usize>,
    /// A soft lockup panics this machine.
    pub softlockup_panic: bool,
    /// A warning panics this machine.
    pub panic_on_warn: bool,
    /// `kernel.hung_task_timeout_secs`; 0 means off.
    pub hung_task_timeout_s: Option<u32>,
    /// `kernel.hung_task_warnings`: reports left; -1 means without end.
    pub hung_task_warnings: Option<i64>,
    /// The event counters of this kernel.
    pub counters: Counters,
}

/// Event counters that newer kernels keep; absent where the kernel has none.
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

/// Why soft lockups on some CPU would go unseen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotWatched {
    /// The kernel has no soft lockup detector.
    #[error("this kernel has no soft lockup detector (CONFIG_SOFTLOCKUP_DETECTOR)")]
    NotAvailable,
    /// It is switched off.
    #[error("the soft lockup detector is off; switch it on with `sysctl kernel.watchdog=1 kernel.soft_watchdog=1`")]
    Off,
    /// A threshold of zero switches everything off.
    #[error("kernel.watchdog_thresh is 0, which switches the detectors off; set it to 1 or more")]
    NoThreshold,
    /// Some CPU in use is left out.
    #[error("the lockup detector does not watch CPU {0}; see kernel.watchdog_cpumask, isolcpus= and nohz_full=")]
    Cpu(usize),
}

impl Detector {
    /// Returns the state of detectors that nobody looked at.
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

    /// Returns the time without scheduling after which a soft lockup is reported, in seconds.
    pub fn soft_threshold_s(&self) -> Option<u32> {
        self.thresh_s.map(|thresh| thresh.saturating_mul(2))
    }

    /// Checks that a soft lockup on any of these CPUs would be seen.
    ///
    /// # Errors
    ///
    /// The reason why one would not.
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
    /// Returns how far each counter rose since `before`.
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
