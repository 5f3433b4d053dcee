//! A parser of the text of `trace_pipe`: guest faults and calls of maintenance functions.
//!
//! Time stamps in that text have a resolution of 1 µs with every clock, and so have all times here.

use std::collections::HashMap;

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

/// Events of a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceLog {
    /// Stage-2 faults.
    pub faults: Vec<GuestFault>,
    /// I-cache invalidations.
    pub icache: Vec<Maintenance>,
    /// D-cache cleans.
    pub dcache: Vec<Maintenance>,
    /// Number of events that the kernel lost in full buffers or missed probes. Unless it is 0, all counts are lower
    /// bounds.
    pub lost: u64,
    /// Number of lines of the trace's own events that could not be parsed.
    pub malformed: u64,
}

impl TraceLog {
    /// Adds the events of a later part of the trace.
    pub fn append(&mut self, later: Self) {
        self.faults.extend(later.faults);
        self.icache.extend(later.icache);
        self.dcache.extend(later.dcache);
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
            "kvm_guest_fault" => self.log.faults.push(guest_fault(line)?),
            "icache" => drop(self.icache.insert(line.pid, open_call(line)?)),
            "dcache" => drop(self.dcache.insert(line.pid, open_call(line)?)),
            "icache_ret" => self.log.icache.extend(close_call(&mut self.icache, line)),
            "dcache_ret" => self.log.dcache.extend(close_call(&mut self.dcache, line)),
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
    let (kind, level, access) = decode_fault(field(line.args, "hsr ")?);
    Some(GuestFault { ts_ns: line.ts_ns, pid: line.pid, ipa: field(line.args, "ipa ")?, kind, level, access })
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
        let fault = &log.faults[0];
        assert_eq!((fault.kind, fault.level, fault.access), (FaultKind::Permission, 1, Access::Fetch));
        assert_eq!((fault.ipa, fault.pid, fault.ts_ns), (0x8000_0000, 123, 12_345_680_000));
        let data = &log.faults[1];
        assert_eq!((data.kind, data.level, data.access), (FaultKind::Translation, 2, Access::Data));
        let call = Maintenance { ts_ns: 12_345_690_000, duration_ns: 107_000_000, size: 0x4000_0000, pid: 123 };
        assert_eq!(log.icache, [call]);
        assert_eq!(log.dcache, []);
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
        assert_eq!((log.malformed, log.faults.len()), (4, 0));
        assert_eq!(parse("").malformed, 0);
    }
}
