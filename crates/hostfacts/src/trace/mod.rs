//! A tracing instance of our own: guest faults and the kernel's cache maintenance, with sizes and times.
//!
//! Never the global instance, which may be in use. Instance and probe groups carry our pid in their names
//! (`faultline_<pid>`), go away on drop, and those of dead runs go away at the next [`Trace::open`].

pub mod parse;
mod probe;
mod survey;

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::procfs;
pub use crate::trace::parse::{GuestFault, HostStay, Maintenance, TraceLog, TraceParser, decode_fault};
use crate::trace::probe::Probe;
pub use crate::trace::survey::{Survey, survey};

/// Why there is no trace at all.
#[derive(Debug, thiserror::Error)]
pub enum Absent {
    /// tracefs is not mounted, or the kernel has none.
    #[error("no tracing: tracefs is not mounted at {0}; mount it with `mount -t tracefs tracefs {0}`")]
    NoTracefs(&'static str),
    /// Not root.
    #[error("no tracing: {0} needs root")]
    NoPermission(PathBuf),
    /// KVM has no such tracepoint: not arm64, or KVM is not there.
    #[error("no tracing: this kernel has no tracepoint kvm:{0}")]
    NoTracepoint(&'static str),
    /// Reading or writing a control file failed.
    #[error("no tracing: cannot use {path} ({source})")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// One part of the trace that this kernel does not give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbsentPart {
    /// `icache`, `dcache` or `exits`.
    pub part: String,
    /// Why.
    pub why: String,
}

/// Whether to trace every exit and entry, which costs two more events a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exits {
    /// Fill [`TraceLog::stays`].
    Record,
    /// Leave them out.
    Ignore,
}

/// What to trace, and with how much memory.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Exits and entries.
    pub exits: Exits,
    /// Ring buffer for each CPU, KiB; one guest fault with its probes takes about 250 bytes.
    pub buffer_kib: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { exits: Exits::Ignore, buffer_kib: 4096 }
    }
}

/// A running trace.
#[derive(Debug)]
pub struct Trace {
    instance: PathBuf,
    pipe: Option<File>,
    rest: Vec<u8>,
    buffer: Vec<u8>,
    quiet_drains: u32,
    parser: TraceParser,
    absent: Vec<AbsentPart>,
    clock: String,
    lost_before: u64,
    icache: Option<Probe>,
    dcache: Option<Probe>,
}

/// Size of one read of the pipe.
const BUFFER_BYTES: usize = 64 * 1024;
/// Looks without events between two looks at the loss counters.
const QUIET_DRAINS: u32 = 16;

const TRACEFS: &str = "/sys/kernel/tracing";
const PREFIX: &str = "faultline_";

/// Names of the functions, newest first; both kernels of the reference (6.1, 6.12) have the first ones.
const ICACHE_SYMBOLS: [&str; 2] = ["invalidate_icache_guest_page", "__invalidate_icache_guest_page"];
const DCACHE_SYMBOLS: [&str; 2] = ["clean_dcache_guest_page", "__clean_dcache_guest_page"];

impl Trace {
    /// Starts tracing with the default options. One trace a process: another one would remove this one's instance.
    ///
    /// # Errors
    ///
    /// Why there is no trace. Missing parts are no error: see [`Trace::absent`].
    pub fn open() -> Result<Self, Absent> {
        Self::with(Options::default())
    }

    /// Starts tracing.
    ///
    /// # Errors
    ///
    /// Those of [`Trace::open`].
    pub fn with(options: Options) -> Result<Self, Absent> {
        let root = tracefs()?;
        remove_stale(&root);
        if !root.join("events/kvm/kvm_guest_fault").exists() {
            return Err(Absent::NoTracepoint("kvm_guest_fault"));
        }
        let group = format!("{PREFIX}{}", std::process::id());
        let instance = root.join("instances").join(&group);
        fs::create_dir(&instance).map_err(|source| Absent::Io { path: instance.clone(), source })?;
        // From here on a drop cleans up.
        let mut trace = Self {
            instance,
            pipe: None,
            rest: Vec::new(),
            buffer: Vec::new(),
            quiet_drains: 0,
            parser: TraceParser::default(),
            absent: Vec::new(),
            clock: String::new(),
            lost_before: 0,
            icache: None,
            dcache: None,
        };
        trace.configure(options)?;
        trace.icache = trace.probe(&root, &group, "icache", &ICACHE_SYMBOLS);
        trace.dcache = trace.probe(&root, &group, "dcache", &DCACHE_SYMBOLS);
        trace.start()?;
        Ok(trace)
    }

    /// Returns what this kernel does not give, each with the reason.
    pub fn absent(&self) -> &[AbsentPart] {
        &self.absent
    }

    /// Returns the name of the trace clock: `mono` unless the kernel refused it.
    pub fn clock(&self) -> &str {
        &self.clock
    }

    /// Takes what was traced since the last call, without stopping the trace.
    ///
    /// Loss counters are looked at where events came, and only now and then where none did: on an idle trace they are
    /// most of the cost of looking. [`Trace::finish`] has the last word.
    ///
    /// # Errors
    ///
    /// Those of reading; events read before are in the next log.
    pub fn drain(&mut self) -> io::Result<TraceLog> {
        let mut quiet = true;
        while let Some(pipe) = self.pipe.as_mut() {
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.resize(BUFFER_BYTES, 0);
            let read = pipe.read(&mut buffer);
            if let Ok(length) = read {
                self.take_text(&buffer[..length]);
            }
            self.buffer = buffer;
            match read {
                Ok(0) => break,
                Ok(_) => quiet = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.quiet_drains = if quiet { self.quiet_drains + 1 } else { 0 };
        let mut log = self.parser.take();
        if self.quiet_drains.is_multiple_of(QUIET_DRAINS) {
            self.count_losses(&mut log);
        }
        Ok(log)
    }

    /// Takes the rest and stops.
    ///
    /// # Errors
    ///
    /// Those of [`Trace::drain`].
    pub fn finish(mut self) -> io::Result<TraceLog> {
        let mut log = self.drain()?;
        self.count_losses(&mut log);
        Ok(log)
    }

    fn count_losses(&mut self, log: &mut TraceLog) {
        let lost = self.lost_by_kernel();
        // The pipe's own "[LOST n EVENTS]" lines count the same overruns: take the larger of both.
        log.lost = log.lost.max(lost.saturating_sub(self.lost_before));
        self.lost_before = lost;
    }

    fn take_text(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let Some(end) = self.rest.iter().rposition(|&byte| byte == b'\n') else { return };
        let tail = self.rest.split_off(end + 1);
        self.parser.push(&String::from_utf8_lossy(&self.rest));
        self.rest = tail;
    }

    fn configure(&mut self, options: Options) -> Result<(), Absent> {
        self.control("tracing_on", "0")?;
        self.control("buffer_size_kb", &options.buffer_kib.to_string())?;
        // Lines of this trace must not be told apart by irq or task names of the trace's own moment.
        if self.control("trace_clock", "mono").is_err() {
            self.control("trace_clock", "mono_raw")?;
        }
        self.clock = procfs::read(&self.instance, "trace_clock")
            .map(|clocks| procfs::selected(&clocks).to_owned())
            .unwrap_or_default();
        self.control("events/kvm/kvm_guest_fault/enable", "1")?;
        if options.exits == Exits::Record {
            for event in ["kvm_exit", "kvm_entry"] {
                if let Err(error) = self.control(&format!("events/kvm/{event}/enable"), "1") {
                    self.absent.push(AbsentPart { part: "exits".into(), why: error.to_string() });
                }
            }
        }
        Ok(())
    }

    fn probe(&mut self, root: &Path, group: &str, name: &'static str, symbols: &[&str]) -> Option<Probe> {
        match Probe::create(root, group, name, symbols).and_then(|probe| probe.enable(&self.instance).map(|()| probe)) {
            Ok(probe) => Some(probe),
            Err(why) => {
                self.absent.push(AbsentPart { part: name.into(), why });
                None
            }
        }
    }

    fn start(&mut self) -> Result<(), Absent> {
        let path = self.instance.join("trace_pipe");
        let pipe = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
        self.pipe = Some(pipe.map_err(|source| Absent::Io { path, source })?);
        self.control("tracing_on", "1")
    }

    fn control(&self, file: &str, value: &str) -> Result<(), Absent> {
        let path = self.instance.join(file);
        write(&path, value).map_err(|source| Absent::Io { path, source })
    }

    /// Returns how many events were lost since the instance was made: overruns, drops, missed probe hits.
    fn lost_by_kernel(&self) -> u64 {
        let cpus = fs::read_dir(self.instance.join("per_cpu")).into_iter().flatten().flatten();
        let stats: u64 =
            cpus.filter_map(|cpu| fs::read_to_string(cpu.path().join("stats")).ok()).map(|text| lost_in(&text)).sum();
        let missed: u64 = [&self.icache, &self.dcache].into_iter().flatten().map(Probe::missed).sum();
        stats + missed
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // Order matters: a probe in use by an instance, and an instance with an open pipe, are busy.
        self.pipe = None;
        let _ = self.control("tracing_on", "0");
        let _ = self.control("events/enable", "0");
        self.icache = None;
        self.dcache = None;
        let _ = fs::remove_dir(&self.instance);
    }
}

/// Adds up the loss counters of one CPU's `stats` file.
fn lost_in(stats: &str) -> u64 {
    const LOSSES: [&str; 3] = ["overrun", "commit overrun", "dropped events"];
    stats
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| LOSSES.contains(name))
        .filter_map(|(_, count)| count.trim().parse::<u64>().ok())
        .sum()
}

/// Writes a control file; it must exist. Appends, since truncating some of these files clears them.
fn write(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().append(true).open(path)?.write_all(value.as_bytes())
}

fn tracefs() -> Result<PathBuf, Absent> {
    const PLACES: [&str; 2] = [TRACEFS, "/sys/kernel/debug/tracing"];
    for place in PLACES.map(Path::new) {
        match fs::read_dir(place.join("instances")) {
            Ok(_) => return Ok(place.to_owned()),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return Err(Absent::NoPermission(place.to_owned()));
            }
            Err(_) => {}
        }
    }
    Err(Absent::NoTracefs(TRACEFS))
}

/// Removes what dead runs left of their tracing, where this user may: it costs every fault. To be called before this
/// process traces itself.
pub fn clean_up() {
    if let Ok(root) = tracefs() {
        remove_stale(&root);
    }
}

/// Removes instances and probes of runs that are dead, and of our own pid when it was somebody's before.
fn remove_stale(root: &Path) {
    let entries = fs::read_dir(root.join("instances")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    for name in names.filter(|name| is_stale(name)) {
        let _ = write(&root.join("instances").join(&name).join("events/enable"), "0");
        let _ = fs::remove_dir(root.join("instances").join(&name));
    }
    let probes = fs::read_to_string(root.join("kprobe_events")).unwrap_or_default();
    for name in probes.lines().filter_map(probe::name_of).filter(|name| is_stale(name)) {
        probe::remove(root, name);
    }
}

/// Says whether `faultline_<pid>` or `faultline_<pid>/event` belongs to no living run.
fn is_stale(name: &str) -> bool {
    let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('/').next()).and_then(|pid| pid.parse::<u32>().ok());
    pid.is_some_and(|pid| pid == std::process::id() || !Path::new(&format!("/proc/{pid}")).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_counters() {
        let stats =
            "entries: 5\noverrun: 3\ncommit overrun: 1\nbytes: 244\nnow ts: 12.5\ndropped events: 2\nread events: 9\n";
        assert_eq!(lost_in(stats), 6);
        assert_eq!(lost_in(""), 0);
    }

    #[test]
    fn staleness() {
        assert!(is_stale("faultline_4294967294"));
        assert!(is_stale("faultline_4294967294/icache"));
        assert!(is_stale(&format!("faultline_{}", std::process::id())));
        for name in ["faultline_1", "other", "faultline_x"] {
            assert!(!is_stale(name), "{name}");
        }
    }
}
