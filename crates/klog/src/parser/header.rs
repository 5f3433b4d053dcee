//! The first line of a complaint.
//!
//! Every pattern is anchored at the start of the message. Text that only mentions a lockup does not match, and neither
//! does text that user space printed with a prefix of its own. The patterns follow the format strings of v5.10 and
//! later, in these files:
//!
//! - `kernel/watchdog.c`, `kernel/hung_task.c`, `kernel/panic.c` and `lib/bug.c`,
//! - `kernel/rcu/{tree_stall,tree_exp,tasks}.h`,
//! - `arch/arm64/{kernel/traps.c,mm/fault.c}` and `arch/x86/{kernel,mm}`.

use crate::complaint::Kind;
use crate::parser::number::{number, number32};

/// The contents of the first line of a complaint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The kind of complaint.
    pub kind: Kind,
    /// The CPU that the complaint is about.
    pub cpu: Option<u32>,
    /// The name of the task that the complaint is about.
    pub comm: Option<String>,
    /// The thread id of the task.
    pub pid: Option<u32>,
    /// The duration in seconds.
    pub seconds: Option<u64>,
    /// The duration in jiffies. RCU gives no other unit.
    pub jiffies: Option<u64>,
    /// A source line or a flavour of RCU. It tells two complaints of one kind apart if they name no CPU and no task.
    pub place: String,
    /// True if the line ended before its closing bracket.
    pub unclosed: bool,
}

impl Header {
    fn of(kind: Kind) -> Self {
        let place = String::new();
        Self { kind, cpu: None, comm: None, pid: None, seconds: None, jiffies: None, place, unclosed: false }
    }

    fn at(kind: Kind, place: &str) -> Self {
        Self { place: place.to_owned(), ..Self::of(kind) }
    }
}

/// Recognises the header of a complaint, or returns `None` for any other line.
///
/// The first byte rules out nearly all lines of a log, so long logs are read fast.
pub fn recognise(text: &str) -> Option<Header> {
    match text.as_bytes().first()? {
        b'w' | b'N' => watchdog(text).or_else(|| rcu_prefixed(text)),
        b'W' => watchdog(text).or_else(|| warning(text)),
        b'B' => soft_lockup(text).or_else(|| bug(text)),
        b'r' => rcu_prefixed(text),
        b'I' => info(text).or_else(|| internal_error(text)),
        b'k' => kernel_bug(text),
        b'K' => panic(text),
        b'U' => starts(text, "Unable to handle kernel ", Kind::Oops),
        b'O' => oops(text),
        b'[' => lockdep_bug(text),
        b'g' | b'd' | b'i' | b's' | b'p' | b't' | b'c' | b'a' | b'b' | b'S' => numbered_trap(text),
        _ => None,
    }
}

fn starts(text: &str, prefix: &str, kind: Kind) -> Option<Header> {
    text.starts_with(prefix).then(|| Header::of(kind))
}

/// Splits `comm:pid` at the last colon, because the name of a task may contain spaces and colons.
fn task(text: &str) -> (Option<String>, Option<u32>) {
    match text.rsplit_once(':').map(|(comm, pid)| (comm, pid.parse())) {
        Some((comm, Ok(pid))) => (Some(comm.to_owned()), Some(pid)),
        _ => (None, None),
    }
}

fn watchdog(text: &str) -> Option<Header> {
    let text = text.strip_prefix("NMI ").unwrap_or(text);
    let text = text.strip_prefix("watchdog: ").unwrap_or(text);
    soft_lockup(text).or_else(|| hard_lockup(text))
}

/// Recognises `BUG: soft lockup - CPU#%d stuck for %us! [%s:%d]`.
fn soft_lockup(text: &str) -> Option<Header> {
    let (cpu, rest) = number32(text.strip_prefix("BUG: soft lockup - CPU#")?)?;
    let (seconds, rest) = number(rest.strip_prefix(" stuck for ")?)?;
    let task_text = rest.strip_prefix("s!")?.trim_start().strip_prefix('[').unwrap_or("");
    let (inside, unclosed) = match task_text.rfind(']') {
        Some(end) => (&task_text[..end], false),
        None => (task_text, true),
    };
    let (comm, pid) = if unclosed { (None, None) } else { task(inside) };
    Some(Header { cpu: Some(cpu), comm, pid, seconds: Some(seconds), unclosed, ..Header::of(Kind::SoftLockup) })
}

/// Recognises `Watchdog detected hard LOCKUP on cpu %d`. From v6.17 on, `CPU%u: ` stands in front of it. powerpc has
/// its own wordings.
fn hard_lockup(text: &str) -> Option<Header> {
    const DETECTED: &str = "Watchdog detected hard LOCKUP on cpu ";
    let cpu = match text.strip_prefix(DETECTED) {
        Some(rest) => number32(rest)?.0,
        None => {
            let (this, rest) = number32(text.strip_prefix("CPU")?.trim_start())?;
            if let Some(rest) = rest.strip_prefix(": ").and_then(|rest| rest.strip_prefix(DETECTED)) {
                number32(rest)?.0
            } else if let Some(rest) = rest.strip_prefix(" detected hard LOCKUP on other CPUs ") {
                number32(rest)?.0
            } else if rest.starts_with(" self-detected hard LOCKUP") || rest.starts_with(" Hard LOCKUP") {
                this
            } else {
                return None;
            }
        }
    };
    Some(Header { cpu: Some(cpu), ..Header::of(Kind::HardLockup) })
}

fn rcu_prefixed(text: &str) -> Option<Header> {
    rcu_stall(text.strip_prefix("rcu: ")?.strip_prefix("INFO: ")?)
}

fn info(text: &str) -> Option<Header> {
    let text = text.strip_prefix("INFO: ")?;
    hung_task(text).or_else(|| rcu_stall(text)).or_else(|| starts(text, "possible recursive locking", Kind::Warn))
}

/// Recognises the stalls of RCU:
///
/// - `rcu_preempt self-detected stall on CPU`,
/// - `rcu_preempt detected stalls on CPUs/tasks:`,
/// - `rcu_preempt detected expedited stalls on CPUs/tasks: {…}`,
/// - `rcu_tasks detected stalls on tasks:`.
fn rcu_stall(text: &str) -> Option<Header> {
    let (flavour, rest) = text.split_once(' ')?;
    // The flavour is a name such as rcu_sched. Prose, such as "I saw … detected stalls", has no such first word.
    if !flavour.contains("rcu") {
        return None;
    }
    let list = if let Some(rest) = rest.strip_prefix("self-detected stall on CPU") {
        rest
    } else if let Some(rest) = rest.strip_prefix("detected stalls on ") {
        rest.strip_prefix("CPUs/tasks:").or_else(|| rest.strip_prefix("tasks:"))?
    } else {
        rest.strip_prefix("detected expedited stalls on CPUs/tasks:")?
    };
    let mut header = Header::at(Kind::RcuStall, flavour);
    if let Some((inside, after)) = list.trim_start().strip_prefix('{').and_then(|list| list.split_once('}')) {
        stalled(inside, &mut header);
        header.jiffies = number(after.trim_start()).filter(|(_, rest)| rest.starts_with(" jiffies")).map(|(n, _)| n);
    }
    Some(header)
}

/// Reads the first stalled CPU or task of ` 3-...D P161097 `.
fn stalled(list: &str, header: &mut Header) {
    for word in list.split_whitespace() {
        match word.strip_prefix('P') {
            Some(pid) => header.pid = header.pid.or(number32(pid).map(|(pid, _)| pid)),
            None => header.cpu = header.cpu.or(number32(word).map(|(cpu, _)| cpu)),
        }
    }
}

/// Recognises `task %s:%d blocked for more than %ld seconds.`. Newer kernels write `blocked in I/O wait for more than`.
fn hung_task(text: &str) -> Option<Header> {
    let text = text.strip_prefix("task ")?;
    let (who, rest) = text.split_once(" blocked ")?;
    let (seconds, rest) = number(rest.split_once("for more than ")?.1)?;
    if !rest.starts_with(" second") {
        return None;
    }
    let (comm, pid) = task(who);
    pid?;
    Some(Header { comm, pid, seconds: Some(seconds), ..Header::of(Kind::HungTask) })
}

/// Recognises `WARNING: CPU: %d PID: %d at %s:%d %pS`, from v6.18 on `WARNING: %s:%d at %pS, CPU#%d: %s/%d`, and the
/// warnings of lockdep and RCU.
fn warning(text: &str) -> Option<Header> {
    let text = text.strip_prefix("WARNING: ")?;
    if let Some(rest) = text.strip_prefix("CPU: ") {
        let (cpu, rest) = number32(rest)?;
        let (pid, rest) = number32(rest.strip_prefix(" PID: ")?)?;
        let place = rest.strip_prefix(" at ")?;
        return Some(Header { cpu: Some(cpu), pid: Some(pid), ..Header::at(Kind::Warn, first_word(place)) });
    }
    if let Some((place, rest)) = text.split_once(" at ")
        && is_source_line(place)
    {
        let mut header = Header::at(Kind::Warn, place);
        if let Some((cpu, task)) =
            rest.rsplit_once(", CPU#").and_then(|(_, rest)| number32(rest)).and_then(|(cpu, rest)| {
                rest.strip_prefix(": ").and_then(|task| task.rsplit_once('/')).map(|task| (cpu, task))
            })
        {
            header.cpu = Some(cpu);
            header.comm = Some(task.0.to_owned());
            header.pid = task.1.trim().parse().ok();
        }
        return Some(header);
    }
    const LOCKDEP: [&str; 9] = [
        "possible ",
        "suspicious RCU usage",
        "inconsistent lock state",
        "bad unlock balance",
        "bad contention detected",
        "held lock freed",
        "lock held when returning to user space",
        "Nested lock was not taken",
        "at ",
    ];
    LOCKDEP.iter().any(|words| text.starts_with(words)).then(|| Header::at(Kind::Warn, text))
}

fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or("")
}

/// Returns whether `text` looks like `mm/page_alloc.c:123`.
fn is_source_line(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(file, line)| {
        !line.is_empty()
            && line.bytes().all(|b| b.is_ascii_digit())
            && !file.contains(' ')
            && (file.ends_with(".c") || file.ends_with(".h") || file.ends_with(".S") || file.ends_with(".rs"))
    })
}

/// Recognises `BUG: …` in all its forms. A bad access of the kernel is an oops, as it is on arm64.
fn bug(text: &str) -> Option<Header> {
    let rest = text.strip_prefix("BUG: ")?;
    const ACCESS: [&str; 3] = ["kernel NULL pointer dereference", "unable to handle ", "TASK stack guard page was hit"];
    if ACCESS.iter().any(|words| rest.starts_with(words)) {
        return Some(Header::of(Kind::Oops));
    }
    Some(Header::at(Kind::Bug, rest))
}

/// Recognises `kernel BUG at %s:%u!`.
fn kernel_bug(text: &str) -> Option<Header> {
    let place = text.strip_prefix("kernel BUG at ")?;
    Some(Header::at(Kind::Bug, place.trim_end_matches('!')))
}

/// Recognises `[ BUG: Invalid wait context ]`, the second style of lockdep.
fn lockdep_bug(text: &str) -> Option<Header> {
    let rest = text.strip_prefix("[ BUG: ")?;
    Some(Header::at(Kind::Bug, rest))
}

/// Recognises `Internal error: Oops: 0000000096000004 [#1] PREEMPT SMP` of arm64. There, a BUG is `Oops - BUG: …`.
fn internal_error(text: &str) -> Option<Header> {
    let rest = text.strip_prefix("Internal error: ")?;
    let kind = if rest.starts_with("Oops - BUG") { Kind::Bug } else { Kind::Oops };
    Some(Header::of(kind))
}

/// Recognises `Oops: 0000 [#1] …` of x86. From v6.10 on, the line has the name of the trap. `Oops#1 Part1` is no oops
/// but the file header of pstore.
fn oops(text: &str) -> Option<Header> {
    let rest = text.strip_prefix("Oops: ")?;
    let kind = if rest.starts_with("invalid opcode") { Kind::Bug } else { Kind::Oops };
    has_oops_number(rest).then(|| Header::of(kind))
}

/// Recognises `general protection fault, probably for …: 0000 [#1] SMP` and the other traps of x86 before v6.10.
fn numbered_trap(text: &str) -> Option<Header> {
    const TRAPS: [&str; 10] = [
        "general protection fault",
        "double fault",
        "divide error",
        "invalid opcode",
        "stack segment",
        "segment not present",
        "traps: PANIC: double fault",
        "control protection fault",
        "alignment check",
        "bounds",
    ];
    let known = TRAPS.iter().any(|trap| text.starts_with(trap));
    let kind = if text.starts_with("invalid opcode") { Kind::Bug } else { Kind::Oops };
    (known && has_oops_number(text)).then(|| Header::of(kind))
}

/// Returns whether the text has the number that the kernel gives each oops, such as `[#1]`.
fn has_oops_number(text: &str) -> bool {
    text.split_once("[#").is_some_and(|(_, rest)| number(rest).is_some_and(|(_, rest)| rest.starts_with(']')))
}

/// Recognises `Kernel panic - not syncing: …`.
fn panic(text: &str) -> Option<Header> {
    let reason = text.strip_prefix("Kernel panic - not syncing")?;
    Some(Header::at(Kind::Panic, reason.trim_start_matches(": ")))
}
