//! The lines that follow the first line of a complaint: the task, the registers and the call trace.

use crate::parser::number::{number, number32};

/// One recognised line of a report's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detail<'a> {
    /// `CPU: 1 UID: 0 PID: 123 Comm: vcpu-0 Tainted: G L 6.12…`.
    Cpu { cpu: u32, pid: Option<u32>, comm: Option<&'a str>, taint: Option<String> },
    /// `NMI backtrace for cpu 1`. The body of another report may begin here.
    Backtrace { cpu: u32 },
    /// `pc : …` or `RIP: 0010:…`.
    Pc(&'a str),
    /// `lr : …`.
    Lr(&'a str),
    /// `Call trace:`.
    TraceStart,
    /// One frame of a call trace.
    Frame(&'a str),
    /// A frame that the unwinder only guesses, or a bracket such as `<TASK>`. It is left out of the call trace.
    TraceNoise(&'a str),
    /// `---[ end trace … ]---`, the end of a report.
    End,
    /// The CPU named in the body of an RCU stall.
    StalledCpu(u32),
    /// `(t=5250 jiffies g=…`: the duration of an RCU stall.
    Jiffies(u64),
    /// `task:foo state:D stack:0 pid:11`. A dump of this task follows.
    TaskDump(&'a str),
}

/// Recognises a line of a report's body.
pub fn recognise(text: &str) -> Option<Detail<'_>> {
    match text.as_bytes().first()? {
        b'C' => match text {
            "Call trace:" | "Call Trace:" => Some(Detail::TraceStart),
            _ => cpu_line(text),
        },
        b'N' => Some(Detail::Backtrace { cpu: number32(text.strip_prefix("NMI backtrace for cpu ")?)?.0 }),
        b'p' => text.strip_prefix("pc : ").map(|pc| Detail::Pc(symbol(pc))),
        b'l' => text.strip_prefix("lr : ").map(|lr| Detail::Lr(symbol(lr))),
        b'R' => text.strip_prefix("RIP: 0010:").map(|pc| Detail::Pc(symbol(pc))),
        b'-' => text.starts_with("---[ end ").then_some(Detail::End),
        b't' => text.strip_prefix("task:").map(Detail::TaskDump),
        b'r' => stall_line(text.strip_prefix("rcu: ")?),
        b' ' | b'\t' => stall_line(text).or_else(|| frame(text)),
        _ => None,
    }
}

/// Returns a symbol without a suffix, such as ` [kvm]` or ` (P)`, and without an address in front of it.
fn symbol(text: &str) -> &str {
    let text = text.trim();
    let text = match text.strip_prefix("[<").and_then(|rest| rest.split_once(">]")) {
        Some((_, rest)) => rest.trim_start(),
        None => text,
    };
    text.split_whitespace().next().unwrap_or("")
}

fn cpu_line(text: &str) -> Option<Detail<'_>> {
    let (cpu, mut rest) = number(text.strip_prefix("CPU: ")?)?;
    if let Some((_, after)) = rest.strip_prefix(" UID: ").and_then(number) {
        rest = after;
    }
    let (pid, rest) = rest.strip_prefix(" PID: ").and_then(number)?;
    let rest = rest.strip_prefix(" Comm: ")?;
    let (comm, taint) = match (rest.rfind(" Not tainted"), rest.rfind(" Tainted: ")) {
        (Some(at), _) => (&rest[..at], None),
        (None, Some(at)) => (&rest[..at], Some(taint_letters(&rest[at + " Tainted: ".len()..]))),
        (None, None) => (rest, None),
    };
    let comm = comm.strip_suffix(" Kdump: loaded").unwrap_or(comm);
    Some(Detail::Cpu { cpu: u32::try_from(cpu).ok()?, pid: u32::try_from(pid).ok(), comm: Some(comm), taint })
}

/// Returns the taint letters, which stand before the kernel's version: `GL` for `G             L     6.1.0`.
fn taint_letters(text: &str) -> String {
    text.split_whitespace()
        .take_while(|word| word.bytes().all(|b| b.is_ascii_uppercase() || b == b'-'))
        .flat_map(str::chars)
        .filter(char::is_ascii_uppercase)
        .collect()
}

/// Recognises `\t1-....: (5249 ticks this GP) …`, which names the stalled CPU, and `\t(t=5250 jiffies …`, which gives
/// the duration.
fn stall_line(text: &str) -> Option<Detail<'_>> {
    let text = text.trim_start();
    if text.starts_with('(') {
        let (jiffies, rest) = number(text.split_once("t=")?.1)?;
        return rest.starts_with(" jiffies").then_some(Detail::Jiffies(jiffies));
    }
    let (cpu, rest) = number(text)?;
    (rest.starts_with('-') && rest.contains(": (")).then_some(())?;
    Some(Detail::StalledCpu(u32::try_from(cpu).ok()?))
}

/// Recognises a frame such as ` el0_svc+0x2c/0x88 (P)`. `? foo+0x1/0x2` is a guess of the x86 unwinder.
fn frame(text: &str) -> Option<Detail<'_>> {
    let text = text.trim();
    if text.starts_with('<') || text.starts_with("? ") {
        return Some(Detail::TraceNoise(text));
    }
    let symbol = symbol(text);
    let (name, offset) = symbol.split_once("+0x")?;
    let (offset, length) = offset.split_once("/0x")?;
    let hex = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    (!name.is_empty() && hex(offset) && hex(length)).then_some(Detail::Frame(symbol))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lines() {
        let line =
            "CPU: 1 UID: 0 PID: 77 Comm: a b: c Kdump: loaded Tainted: G             L     6.12.1-arm64 #1  Debian";
        let Some(Detail::Cpu { cpu, pid, comm, taint }) = recognise(line) else { panic!("not recognised") };
        assert_eq!((cpu, pid, comm, taint.as_deref()), (1, Some(77), Some("a b: c"), Some("GL")));
        assert!(matches!(
            recognise("CPU: 0 PID: 1 Comm: x Not tainted 6.1.0 #1"),
            Some(Detail::Cpu { taint: None, .. })
        ));
        assert_eq!(recognise("CPU: Physical"), None);
    }

    #[test]
    fn frames_and_pc() {
        assert_eq!(recognise(" el0_svc+0x2c/0x88 (P)"), Some(Detail::Frame("el0_svc+0x2c/0x88")));
        assert_eq!(recognise(" kvm_x+0x2c/0x88 [kvm]"), Some(Detail::Frame("kvm_x+0x2c/0x88")));
        assert_eq!(recognise(" [<ffff0000>] f+0x1/0x2"), Some(Detail::Frame("f+0x1/0x2")));
        assert_eq!(recognise(" ? f+0x1/0x2"), Some(Detail::TraceNoise("? f+0x1/0x2")));
        assert_eq!(recognise(" just words"), None);
        assert_eq!(recognise("pc : icache_inval_pou+0x10/0x30"), Some(Detail::Pc("icache_inval_pou+0x10/0x30")));
        assert_eq!(recognise("RIP: 0010:f+0x1/0x2 [kvm]"), Some(Detail::Pc("f+0x1/0x2")));
        assert_eq!(recognise("RIP: 0033:0x7f00"), None);
    }
}
