//! A running trace: one tracefs instance with its probes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use klog::routines::{DCACHE, ICACHE};

use crate::machine;
use crate::trace::parse::{TraceLog, TraceParser};
use crate::trace::probe::Probe;
use crate::trace::stale::{PREFIX, remove_stale};
use crate::trace::tracefs::{self, Absent};

/// A part of the trace that this kernel does not give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbsentPart {
    /// The part: `icache` or `dcache`.
    pub part: &'static str,
    /// The reason.
    pub why: String,
}

/// A running trace. A drop ends it and removes its instance and probes.
#[derive(Debug)]
pub struct Trace {
    instance: PathBuf,
    pipe: Option<File>,
    /// The start of a line whose end has not been read yet.
    partial_line: Vec<u8>,
    buffer: Vec<u8>,
    quiet_drains: u32,
    parser: TraceParser,
    absent: Vec<AbsentPart>,
    /// File that takes marks.
    marker: Option<File>,
    /// Reason why the trace shows no MMU notifiers, if it does not.
    no_notifiers: Option<String>,
    lost_before: u64,
    icache: Option<Probe>,
    dcache: Option<Probe>,
}

/// Size of one read of the pipe.
const BUFFER_BYTES: usize = 64 * 1024;
/// Number of drains without events between two reads of the loss counters.
const QUIET_DRAINS: u32 = 16;
/// Ring buffer of each CPU in KiB. One guest fault with its probes takes about 250 bytes.
const RING_BUFFER_KIB: u32 = 4096;

impl Trace {
    /// Starts a trace. A process can have only one: a second one would remove the instance of the first.
    ///
    /// # Errors
    ///
    /// The reason why there is no trace. Missing parts are not an error, see [`Trace::absent`].
    pub fn open() -> Result<Self, Absent> {
        let root = tracefs::root()?;
        remove_stale(&root);
        tracefs::require_guest_fault(&root)?;
        let group = format!("{PREFIX}{}", std::process::id());
        let instance = root.join("instances").join(&group);
        fs::create_dir(&instance).map_err(|source| Absent::Io { path: instance.clone(), source })?;
        // From here on, the drop removes the instance after an error.
        let mut trace = Self {
            instance,
            pipe: None,
            partial_line: Vec::new(),
            buffer: Vec::new(),
            quiet_drains: 0,
            parser: TraceParser::default(),
            absent: Vec::new(),
            marker: None,
            no_notifiers: None,
            lost_before: 0,
            icache: None,
            dcache: None,
        };
        trace.configure()?;
        trace.icache = trace.probe(&root, &group, "icache", &ICACHE);
        trace.dcache = trace.probe(&root, &group, "dcache", &DCACHE);
        trace.start()?;
        Ok(trace)
    }

    /// Returns the parts that this kernel does not give, each with the reason.
    pub fn absent(&self) -> &[AbsentPart] {
        &self.absent
    }

    /// Returns the reason why the trace shows no MMU notifiers or no marks; none if it shows both.
    pub fn no_notifiers(&self) -> Option<&str> {
        self.no_notifiers.as_deref()
    }

    /// Writes a mark into the trace, between the events before and after this call.
    pub fn mark(&mut self, text: &str) {
        if let Some(Err(error)) = self.marker.as_mut().map(|marker| marker.write_all(text.as_bytes())) {
            self.no_notifiers = Some(format!("trace_marker: {error}"));
        }
    }

    /// Returns the events since the last call, without stopping the trace.
    ///
    /// The loss counters are read after events came, and otherwise only at every sixteenth call: on an idle trace they
    /// cost more than all else. [`Trace::finish`] always reads them.
    ///
    /// # Errors
    ///
    /// The error of reading the pipe. Events that were read before it are in the next log.
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

    /// Ends the trace and returns the events since the last drain.
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
        // "[LOST n EVENTS]" lines in the pipe count the same overruns, so the larger number is right.
        log.lost = log.lost.max(lost.saturating_sub(self.lost_before));
        self.lost_before = lost;
    }

    fn take_text(&mut self, bytes: &[u8]) {
        self.partial_line.extend_from_slice(bytes);
        let Some(end) = self.partial_line.iter().rposition(|&byte| byte == b'\n') else { return };
        let tail = self.partial_line.split_off(end + 1);
        self.parser.push(&String::from_utf8_lossy(&self.partial_line));
        self.partial_line = tail;
    }

    fn configure(&mut self) -> Result<(), Absent> {
        self.control("tracing_on", "0")?;
        self.control("buffer_size_kb", &RING_BUFFER_KIB.to_string())?;
        // The default clock, `local`, may differ between CPUs.
        if self.control("trace_clock", "mono").is_err() {
            self.control("trace_clock", "mono_raw")?;
        }
        self.control("events/kvm/kvm_guest_fault/enable", "1")?;
        self.no_notifiers = self.show_notifiers().err().map(|absent| absent.to_string());
        Ok(())
    }

    /// Makes the trace show the MMU notifiers, and opens the file for marks.
    fn show_notifiers(&mut self) -> Result<(), Absent> {
        for event in ["kvm_unmap_hva_range", "kvm_age_hva"] {
            self.control(&format!("events/kvm/{event}/enable"), "1")?;
        }
        let path = self.instance.join("trace_marker");
        let marker = OpenOptions::new().append(true).open(&path);
        self.marker = Some(marker.map_err(|source| Absent::Io { path, source })?);
        Ok(())
    }

    fn probe(&mut self, root: &Path, group: &str, name: &'static str, routines: &[&str]) -> Option<Probe> {
        if let Some(why) = machine::stage2_at_el2() {
            self.absent.push(AbsentPart { part: name, why: why.into() });
            return None;
        }
        match Probe::define(root, group, name, routines).and_then(|probe| probe.enable(&self.instance).map(|()| probe))
        {
            Ok(probe) => Some(probe),
            Err(why) => {
                self.absent.push(AbsentPart { part: name, why });
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
        tracefs::write(&path, value).map_err(|source| Absent::Io { path, source })
    }

    /// Returns the number of events that were lost since the instance was made: overruns, drops and missed probe hits.
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
        // The order matters: a probe that an instance uses is busy, and so is an instance with an open pipe.
        self.pipe = None;
        self.marker = None;
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
}
