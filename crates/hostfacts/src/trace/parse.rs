//! A parser of the text of `trace_pipe`: guest faults, calls of maintenance functions, MMU notifiers and marks.
//!
//! Time stamps in that text have a resolution of 1 µs with every clock, and so have all times here.

use std::collections::HashMap;
use std::ops::Range;

use record::maintenance::{Access, FaultKind};

/// A stage-2 fault: one `kvm_guest_fault` event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestFault {
    /// Time on the trace clock.
    pub ts_ns: u64,
    /// Id of the vCPU's thread.
    pub pid: u32,
    /// IPA of the page at which the access faulted.
    pub ipa: u64,
    /// Kind of the fault.
    pub kind: FaultKind,
    /// Level of the table that lacked the entry or the permission; 4 if the fault status code has no level.
    pub level: u8,
    /// Access that faulted.
    pub access: Access,
    /// True if a store faulted. Cache maintenance by address needs no permission to write and does not count as one.
    pub write: bool,
}

/// One call of a cache-maintenance function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maintenance {
    /// Time of the entry on the trace clock.
    pub ts_ns: u64,
    /// Time from entry to return.
    pub duration_ns: u64,
    /// Size of the range in bytes. The policy of the kernel decides which instructions it executes for the range.
    pub size: u64,
    /// Id of the thread.
    pub pid: u32,
}

/// One event of a trace. A call of a maintenance function stands where it returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A stage-2 fault.
    Fault(GuestFault),
    /// An I-cache invalidation.
    Icache(Maintenance),
    /// A D-cache clean.
    Dcache(Maintenance),
    /// An MMU notifier removes the stage-2 mappings of these host virtual addresses.
    Unmap(Range<u64>),
    /// An MMU notifier clears the access flags of these host virtual addresses.
    Age(Range<u64>),
    /// A text that this process wrote into the trace, see [`Trace::mark`](crate::trace::Trace::mark).
    Mark(String),
}

/// Events of a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceLog {
    /// Events in the order of the trace.
    pub steps: Vec<Step>,
    /// Number of events that the kernel lost in full buffers or missed probes. Unless it is 0, all counts are lower
    /// bounds.
    pub lost: u64,
    /// Number of lines of the trace's own events that could not be parsed.
    pub malformed: u64,
}

impl TraceLog {
    /// Returns the stage-2 faults.
    pub fn faults(&self) -> impl Iterator<Item = &GuestFault> {
        self.steps.iter().filter_map(|step| if let Step::Fault(fault) = step { Some(fault) } else { None })
    }

    /// Returns the I-cache invalidations.
    pub fn icache(&self) -> impl Iterator<Item = &Maintenance> {
        self.steps.iter().filter_map(|step| if let Step::Icache(call) = step { Some(call) } else { None })
    }

    /// Returns the D-cache cleans.
    pub fn dcache(&self) -> impl Iterator<Item = &Maintenance> {
        self.steps.iter().filter_map(|step| if let Step::Dcache(call) = step { Some(call) } else { None })
    }

    /// Adds the events of a later part of the trace.
    pub fn append(&mut self, later: Self) {
        self.steps.extend(later.steps);
        self.lost += later.lost;
        self.malformed += later.malformed;
    }
}

/// Exception class of an instruction abort from a lower exception level (Arm ARM DDI 0487, `ESR_ELx.EC`).
const EC_IABT_LOWER: u64 = 0x20;

/// Decodes kind, level and access from `ESR_EL2`. The fault status code is `0bxxyyLL` (Arm ARM, "ISS encoding for an
/// exception from a Data Abort", DFSC, and the same for instruction aborts).
fn decode_fault(esr: u64) -> (FaultKind, u8, Access) {
    let status = esr & 0x3f;
    let kind = match status >> 2 {
        0b0001 => FaultKind::Translation,
        0b0010 => FaultKind::AccessFlag,
        0b0011 => FaultKind::Permission,
        _ => FaultKind::Other,
    };
    // Level -1 of LPA2 (0b101011) and external aborts encode their levels elsewhere.
    let level = if kind == FaultKind::Other { 4 } else { (status & 0b11) as u8 };
    let access = if (esr >> 26) & 0x3f == EC_IABT_LOWER { Access::Fetch } else { Access::Data };
    (kind, level, access)
}

/// Returns whether a data abort is for a store: WnR without CM (Arm ARM, "ISS encoding for an exception from a Data
/// Abort"). Cache maintenance by address sets both.
fn is_store(esr: u64) -> bool {
    const WNR: u64 = 1 << 6;
    const CM: u64 = 1 << 8;
    (esr >> 26) & 0x3f != EC_IABT_LOWER && esr & (WNR | CM) == WNR
}

/// A call of a maintenance function that has not returned.
#[derive(Debug)]
struct OpenCall {
    ts_ns: u64,
    size: u64,
}

/// Parser of a trace that comes in pieces. A call may begin in one piece and end in a later one.
#[derive(Debug, Default)]
pub struct TraceParser {
    log: TraceLog,
    /// Open call of each thread.
    icache: HashMap<u32, OpenCall>,
    dcache: HashMap<u32, OpenCall>,
}

/// The columns of one line.
struct Line<'a> {
    pid: u32,
    ts_ns: u64,
    event: &'a str,
    args: &'a str,
}

impl TraceParser {
    /// Parses whole lines.
    pub fn push(&mut self, text: &str) {
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            if let Some(lost) = lost_events(line) {
                self.log.lost += lost;
            } else if columns(line).is_none_or(|line| self.event(&line).is_none()) {
                self.log.malformed += 1;
            }
        }
    }

    /// Returns the events since the last call. Open calls stay in the parser.
    pub fn take(&mut self) -> TraceLog {
        std::mem::take(&mut self.log)
    }

    fn event(&mut self, line: &Line<'_>) -> Option<()> {
        match line.event {
            "kvm_guest_fault" => self.log.steps.push(Step::Fault(guest_fault(line)?)),
            "kvm_unmap_hva_range" => self.log.steps.push(Step::Unmap(hva_range(line)?)),
            "kvm_age_hva" => self.log.steps.push(Step::Age(hva_range(line)?)),
            "tracing_mark_write" => self.log.steps.push(Step::Mark(line.args.trim_end().to_owned())),
            "icache" => drop(self.icache.insert(line.pid, open_call(line)?)),
            "dcache" => drop(self.dcache.insert(line.pid, open_call(line)?)),
            "icache_ret" => self.log.steps.extend(close_call(&mut self.icache, line).map(Step::Icache)),
            "dcache_ret" => self.log.steps.extend(close_call(&mut self.dcache, line).map(Step::Dcache)),
            _ => return None,
        }
        Some(())
    }
}

/// Parses `CPU:1 [LOST 23 EVENTS]`.
fn lost_events(line: &str) -> Option<u64> {
    let (_, rest) = line.strip_prefix("CPU:")?.split_once("[LOST ")?;
    first_word(rest).parse().ok()
}

/// Parses `          vcpu-0-123     [001] .....    12.345678: event: args`.
///
/// A thread's name may contain anything, so the parser first looks for the CPU column behind it.
fn columns(line: &str) -> Option<Line<'_>> {
    let at = line.match_indices(" [").find(|(at, _)| {
        let cpu = line.get(at + 2..at + 5);
        cpu.is_some_and(|cpu| cpu.bytes().all(|b| b.is_ascii_digit())) && line.get(at + 5..at + 7) == Some("] ")
    })?;
    let (_, pid) = line[..at.0].trim().rsplit_once('-')?;
    // The flags column (`d..1.`) has 4 to 6 characters, depending on the kernel.
    let rest = line[at.0 + 7..].trim_start().split_once(' ')?.1.trim_start();
    let (time, rest) = rest.split_once(": ")?;
    let (event, args) = rest.split_once(": ")?;
    let (seconds, micros) = time.split_once('.')?;
    let ts_ns = seconds.parse::<u64>().ok()?.checked_mul(1_000_000_000)?;
    let ts_ns = ts_ns.checked_add(micros.parse::<u64>().ok()?.checked_mul(1000)?)?;
    Some(Line { pid: pid.trim().parse().ok()?, ts_ns, event, args })
}

fn first_word(text: &str) -> &str {
    text.split([' ', ',']).next().unwrap_or("")
}

/// Returns the hexadecimal value behind `name` in `args`.
fn field(args: &str, name: &str) -> Option<u64> {
    let value = first_word(args.split_once(name)?.1);
    u64::from_str_radix(value.strip_prefix("0x").unwrap_or(value), 16).ok()
}

/// Parses `ipa 0x40000000, hsr 0x8200000d, hxfar 0x40000000, pc 0x40201234`. `hsr` is ESR_EL2.
fn guest_fault(line: &Line<'_>) -> Option<GuestFault> {
    let esr = field(line.args, "hsr ")?;
    let (kind, level, access) = decode_fault(esr);
    let ipa = field(line.args, "ipa ")?;
    Some(GuestFault { ts_ns: line.ts_ns, pid: line.pid, ipa, kind, level, access, write: is_store(esr) })
}

/// Parses `mmu notifier unmap range: 0x0000ffff7fe00000 -- 0x0000ffff80000000`.
fn hva_range(line: &Line<'_>) -> Option<Range<u64>> {
    let (start, end) = line.args.rsplit_once(": ")?.1.split_once(" -- ")?;
    let number = |text: &str| u64::from_str_radix(first_word(text).trim_start_matches("0x"), 16).ok();
    Some(number(start)?..number(end)?)
}

/// Parses `(invalidate_icache_guest_page+0x0/0x78) size=0x40000000`.
fn open_call(line: &Line<'_>) -> Option<OpenCall> {
    Some(OpenCall { ts_ns: line.ts_ns, size: field(line.args, "size=")? })
}

/// Closes the call that returns in `line`; there is none if the call began before the trace.
fn close_call(open: &mut HashMap<u32, OpenCall>, line: &Line<'_>) -> Option<Maintenance> {
    let OpenCall { ts_ns, size } = open.remove(&line.pid)?;
    Some(Maintenance { ts_ns, duration_ns: line.ts_ns.saturating_sub(ts_ns), size, pid: line.pid })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# tracer: nop
#
       vcpu - 0-123     [001] .....    12.345680: kvm_guest_fault: ipa 0x80000000, hsr 0x8200000d, hxfar 0x80000000, pc 0x0000000080000000
           <...>-123     [001] d....    12.345690: icache: (invalidate_icache_guest_page+0x0/0x78) size=0x40000000
           <...>-124     [000] .....    12.345691: kvm_guest_fault: ipa 0x90000000, hsr 0x92000046, hxfar 0x90000008, pc 0x0000000040201238
           <...>-123     [001] d....    12.452690: icache_ret: (stage2_attr_walker+0x88/0x110 <- invalidate_icache_guest_page)
           <...>-124     [000] .....    12.460000: kvm_unmap_hva_range: mmu notifier unmap range: 0x0000ffff7fe00000 -- 0x0000ffff80000000
           <...>-124     [000] .....    12.460001: kvm_age_hva: mmu notifier age hva: 0x0000000000001000 -- 0x0000000000002000
           <...>-124     [000] .....    12.460002: tracing_mark_write: begin: x-y
CPU:1 [LOST 23 EVENTS]
";

    fn parse(text: &str) -> TraceLog {
        let mut parser = TraceParser::default();
        parser.push(text);
        parser.take()
    }

    #[test]
    fn a_permission_fault_and_its_invalidation() {
        let log = parse(TEXT);
        assert_eq!((log.lost, log.malformed), (23, 0));
        let faults: Vec<_> = log.faults().collect();
        let fault = faults[0];
        assert_eq!((fault.kind, fault.level, fault.access), (FaultKind::Permission, 1, Access::Fetch));
        assert_eq!((fault.ipa, fault.pid, fault.ts_ns), (0x8000_0000, 123, 12_345_680_000));
        let data = faults[1];
        assert_eq!((data.kind, data.level, data.access), (FaultKind::Translation, 2, Access::Data));
        assert_eq!((fault.write, data.write), (false, true));
        let call = Maintenance { ts_ns: 12_345_690_000, duration_ns: 107_000_000, size: 0x4000_0000, pid: 123 };
        assert_eq!(log.icache().collect::<Vec<_>>(), [&call]);
        assert_eq!(log.dcache().count(), 0);
        let rest = [
            Step::Unmap(0xffff_7fe0_0000..0xffff_8000_0000),
            Step::Age(0x1000..0x2000),
            Step::Mark("begin: x-y".into()),
        ];
        assert_eq!(log.steps[3..], rest);
    }

    #[test]
    fn cache_maintenance_by_address_is_no_store() {
        assert!(is_store(0x9200_004e));
        assert!(!is_store(0x9200_0146), "WnR with CM");
        assert!(!is_store(0x9200_000e));
        assert!(!is_store(0x8200_004e), "a fetch");
    }

    #[test]
    fn pieces_join() {
        let mut parser = TraceParser::default();
        for line in TEXT.lines() {
            parser.push(line);
        }
        assert_eq!(parser.take(), parse(TEXT));
        assert_eq!(parser.take(), TraceLog::default());
    }

    #[test]
    fn status_codes() {
        assert_eq!(decode_fault(0x8200_000f), (FaultKind::Permission, 3, Access::Fetch));
        assert_eq!(decode_fault(0x9200_000a), (FaultKind::AccessFlag, 2, Access::Data));
        assert_eq!(decode_fault(0x9200_0010), (FaultKind::Other, 4, Access::Data));
    }

    #[test]
    fn garbage_is_counted() {
        let log = parse(
            "what\n x-1 [000] ... 1.2: kvm_guest_fault: ipa\n x-1 [0é0] d 1.000000: icache: \nCPU:1 [LOST x EVENTS]\n",
        );
        assert_eq!((log.malformed, log.faults().count()), (4, 0));
        assert_eq!(parse("").malformed, 0);
    }
}
