//! Parses the text of a tracefs `trace` or `trace_pipe` file: guest faults, maintenance calls, time outside the guest.
//!
//! Time stamps in that text have a resolution of 1 µs whatever the clock, and so have all durations here.

use std::collections::HashMap;

use record::maintenance::{Access, FaultKind};

/// One `kvm_guest_fault`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestFault {
    /// Time on the trace clock (`CLOCK_MONOTONIC` unless the log says otherwise), 1 µs resolution.
    pub ts_ns: u64,
    /// The physical CPU.
    pub cpu: u32,
    /// The vCPU thread's name; tracefs prints `<...>` when it has forgotten it.
    pub comm: String,
    /// The vCPU thread.
    pub pid: u32,
    /// The guest's pc.
    pub vcpu_pc: u64,
    /// `ESR_EL2`.
    pub hsr: u64,
    /// `FAR_EL2`: the guest's virtual address.
    pub hxfar: u64,
    /// The faulting IPA; tracefs gives the page, the low bits are in `hxfar`.
    pub ipa: u64,
    /// What kind of fault.
    pub kind: FaultKind,
    /// The level of the table that lacked the entry or the permission; 4 when the code carries none.
    pub level: u8,
    /// The access that faulted.
    pub access: Access,
}

/// One call of a cache-maintenance function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maintenance {
    /// When it began.
    pub ts_ns: u64,
    /// How long it took, 1 µs resolution.
    pub duration_ns: u64,
    /// The first host VA.
    pub va: u64,
    /// Bytes asked for; which instructions were used for them is the kernel's policy.
    pub size: u64,
    /// The thread.
    pub pid: u32,
    /// The function it returned to.
    pub caller: String,
}

/// One stay outside the guest: from `kvm_exit` to the same thread's next `kvm_entry`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostStay {
    /// When the guest exited.
    pub ts_ns: u64,
    /// How long until it ran again, 1 µs resolution.
    pub duration_ns: u64,
    /// The vCPU thread.
    pub pid: u32,
    /// The exception class of the exit, `ESR_EL2.EC`; 0 for an interrupt.
    pub ec: u8,
}

/// What was traced since the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceLog {
    /// Stage-2 faults.
    pub faults: Vec<GuestFault>,
    /// I-cache invalidations.
    pub icache: Vec<Maintenance>,
    /// D-cache cleans.
    pub dcache: Vec<Maintenance>,
    /// Stays outside the guest, when asked for.
    pub stays: Vec<HostStay>,
    /// Events that the kernel dropped: overrun buffers, missed probes. Counts are lower bounds unless this is 0.
    pub lost: u64,
    /// Lines of our own events that could not be parsed.
    pub malformed: u64,
}

impl TraceLog {
    /// Adds what was traced later.
    pub fn append(&mut self, later: Self) {
        self.faults.extend(later.faults);
        self.icache.extend(later.icache);
        self.dcache.extend(later.dcache);
        self.stays.extend(later.stays);
        self.lost += later.lost;
        self.malformed += later.malformed;
    }
}

/// Exception class of an instruction abort from a lower exception level (Arm ARM DDI 0487, `ESR_ELx.EC`).
const EC_IABT_LOWER: u64 = 0x20;

/// Decodes kind and level from `ESR_EL2`: the fault status code is `0bxxyyLL` (Arm ARM, "ISS encoding for an exception
/// from a Data Abort", DFSC, and the same for instruction aborts).
pub fn decode_fault(esr: u64) -> (FaultKind, u8, Access) {
    let status = esr & 0x3f;
    let kind = match status >> 2 {
        0b0001 => FaultKind::Translation,
        0b0010 => FaultKind::AccessFlag,
        0b0011 => FaultKind::Permission,
        _ => FaultKind::Other,
    };
    // Levels -1 of LPA2 (0b101011) and external aborts carry theirs elsewhere.
    let level = if kind == FaultKind::Other { 4 } else { (status & 0b11) as u8 };
    let access = if (esr >> 26) & 0x3f == EC_IABT_LOWER { Access::Fetch } else { Access::Data };
    (kind, level, access)
}

/// A maintenance function that was entered and has not returned.
#[derive(Debug)]
struct Entered {
    ts_ns: u64,
    va: u64,
    size: u64,
}

/// Parses trace text piece by piece; calls may begin in one piece and end in the next.
#[derive(Debug, Default)]
pub struct TraceParser {
    log: TraceLog,
    icache: HashMap<u32, Entered>,
    dcache: HashMap<u32, Entered>,
    exits: HashMap<u32, (u64, u8)>,
}

/// One line, split into its columns.
struct Line<'a> {
    comm: &'a str,
    pid: u32,
    cpu: u32,
    ts_ns: u64,
    event: &'a str,
    args: &'a str,
}

impl TraceParser {
    /// Takes whole lines of trace text.
    pub fn push(&mut self, text: &str) {
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            if let Some(lost) = lost_events(line) {
                self.log.lost += lost;
            } else if line_of(line).is_none_or(|line| self.event(&line).is_none()) {
                self.log.malformed += 1;
            }
        }
    }

    /// Returns what was parsed so far and starts a new log; open calls are kept.
    pub fn take(&mut self) -> TraceLog {
        std::mem::take(&mut self.log)
    }

    fn event(&mut self, line: &Line<'_>) -> Option<()> {
        match line.event {
            "kvm_guest_fault" => self.log.faults.push(guest_fault(line)?),
            "kvm_exit" => {
                let ec = line.args.split_once("HSR_EC: ").map_or(Some(0), |(_, rest)| hex(first_word(rest)))?;
                self.exits.insert(line.pid, (line.ts_ns, u8::try_from(ec).ok()?));
            }
            "kvm_entry" => {
                if let Some((ts_ns, ec)) = self.exits.remove(&line.pid) {
                    let duration_ns = line.ts_ns.saturating_sub(ts_ns);
                    self.log.stays.push(HostStay { ts_ns, duration_ns, pid: line.pid, ec });
                }
            }
            "icache" => drop(self.icache.insert(line.pid, entered(line)?)),
            "dcache" => drop(self.dcache.insert(line.pid, entered(line)?)),
            "icache_ret" => self.log.icache.extend(returned(&mut self.icache, line)),
            "dcache_ret" => self.log.dcache.extend(returned(&mut self.dcache, line)),
            _ => return None,
        }
        Some(())
    }
}

/// Parses a whole trace.
pub fn parse(text: &str) -> TraceLog {
    let mut parser = TraceParser::default();
    parser.push(text);
    parser.take()
}

/// `CPU:1 [LOST 23 EVENTS]`.
fn lost_events(line: &str) -> Option<u64> {
    let (_, rest) = line.strip_prefix("CPU:")?.split_once("[LOST ")?;
    first_word(rest).parse().ok()
}

/// `          vcpu-0-123     [001] .....    12.345678: event: args`. A comm may hold anything, so read from the right.
fn line_of(line: &str) -> Option<Line<'_>> {
    let at = line.match_indices(" [").find(|(at, _)| {
        let cpu = line.get(at + 2..at + 5);
        cpu.is_some_and(|cpu| cpu.bytes().all(|b| b.is_ascii_digit())) && line.get(at + 5..at + 7) == Some("] ")
    })?;
    let (comm, pid) = line[..at.0].trim().rsplit_once('-')?;
    let cpu = line[at.0 + 2..at.0 + 5].parse().ok()?;
    // The flags column (`d..1.`) has 4 to 6 characters, depending on the kernel.
    let rest = line[at.0 + 7..].trim_start().split_once(' ')?.1.trim_start();
    let (time, rest) = rest.split_once(": ")?;
    let (event, args) = rest.split_once(": ")?;
    let (seconds, micros) = time.split_once('.')?;
    let ts_ns = seconds.parse::<u64>().ok()?.checked_mul(1_000_000_000)?;
    let ts_ns = ts_ns.checked_add(micros.parse::<u64>().ok()?.checked_mul(1000)?)?;
    Some(Line { comm, pid: pid.trim().parse().ok()?, cpu, ts_ns, event, args })
}

fn first_word(text: &str) -> &str {
    text.split([' ', ',']).next().unwrap_or("")
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

/// Returns the hexadecimal value behind `name` in `args`.
fn field(args: &str, name: &str) -> Option<u64> {
    hex(first_word(args.split_once(name)?.1))
}

/// `ipa 0x40000000, hsr 0x8200000d, hxfar 0x40000000, pc 0x40201234`.
fn guest_fault(line: &Line<'_>) -> Option<GuestFault> {
    let hsr = field(line.args, "hsr ")?;
    let (kind, level, access) = decode_fault(hsr);
    Some(GuestFault {
        ts_ns: line.ts_ns,
        cpu: line.cpu,
        comm: line.comm.to_owned(),
        pid: line.pid,
        vcpu_pc: field(line.args, ", pc ")?,
        hsr,
        hxfar: field(line.args, "hxfar ")?,
        ipa: field(line.args, "ipa ")?,
        kind,
        level,
        access,
    })
}

/// `(invalidate_icache_guest_page+0x0/0x78) va=0xffff… size=0x40000000`.
fn entered(line: &Line<'_>) -> Option<Entered> {
    Some(Entered { ts_ns: line.ts_ns, va: field(line.args, "va=")?, size: field(line.args, "size=")? })
}

/// `(stage2_attr_walker+0x88/0x110 <- invalidate_icache_guest_page)`. A return whose entry was before the trace began
/// says nothing.
fn returned(open: &mut HashMap<u32, Entered>, line: &Line<'_>) -> Option<Maintenance> {
    let Entered { ts_ns, va, size } = open.remove(&line.pid)?;
    let caller = line.args.trim_start_matches('(').split(['+', ' ']).next().unwrap_or("").to_owned();
    Some(Maintenance { ts_ns, duration_ns: line.ts_ns.saturating_sub(ts_ns), va, size, pid: line.pid, caller })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# tracer: nop
#
          vcpu-0-123     [001] d..1.    12.345678: kvm_exit: TRAP: HSR_EC: 0x0020 (IABT_LOW), PC: 0x0000000040201234
       vcpu - 0-123     [001] .....    12.345680: kvm_guest_fault: ipa 0x80000000, hsr 0x8200000d, hxfar 0x80000000, pc 0x0000000080000000
           <...>-123     [001] d....    12.345690: icache: (invalidate_icache_guest_page+0x0/0x78) va=0xffff000040000000 size=0x40000000
           <...>-124     [000] .....    12.345691: kvm_guest_fault: ipa 0x90000000, hsr 0x92000046, hxfar 0x90000008, pc 0x0000000040201238
           <...>-123     [001] d....    12.452690: icache_ret: (stage2_attr_walker+0x88/0x110 <- invalidate_icache_guest_page)
          vcpu-0-123     [001] d..1.    12.452700: kvm_entry: PC: 0x0000000080000000
CPU:1 [LOST 23 EVENTS]
";

    #[test]
    fn a_permission_fault_and_its_invalidation() {
        let log = parse(TEXT);
        assert_eq!((log.lost, log.malformed), (23, 0));
        let fault = &log.faults[0];
        assert_eq!((fault.kind, fault.level, fault.access), (FaultKind::Permission, 1, Access::Fetch));
        assert_eq!((fault.ipa, fault.pid, fault.cpu, fault.comm.as_str()), (0x8000_0000, 123, 1, "vcpu - 0"));
        assert_eq!(fault.ts_ns, 12_345_680_000);
        let data = &log.faults[1];
        assert_eq!((data.kind, data.level, data.access), (FaultKind::Translation, 2, Access::Data));
        let call = &log.icache[0];
        assert_eq!(
            (call.size, call.duration_ns, call.caller.as_str()),
            (0x4000_0000, 107_000_000, "stage2_attr_walker")
        );
        assert_eq!(log.stays, [HostStay { ts_ns: 12_345_678_000, duration_ns: 107_022_000, pid: 123, ec: 0x20 }]);
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
