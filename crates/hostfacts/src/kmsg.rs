//! Reads `/dev/kmsg`: drained on demand, without a thread.
//!
//! One `read(2)` returns one record, `prio,seq,usec,flags[,caller=T1];text`. `EPIPE` says that records were overwritten
//! before they were read; the sequence numbers then tell how many. See `Documentation/ABI/testing/dev-kmsg`.
//!
//! A record flagged `c` (fragment) stays a line of its own. Since v5.10 the kernel joins the parts of a line itself; what
//! still carries the flag was printed as a continuation after the line had ended, as RCU's `\t(t=750 jiffies …` of 6.1.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;

use klog::kmsg::KmsgRecord;

/// Reading the kernel log failed.
#[derive(Debug, thiserror::Error)]
pub enum KmsgError {
    /// The device cannot be opened.
    #[error("cannot open {path} ({source}); kernel messages need root or CAP_SYSLOG (sysctl kernel.dmesg_restrict)")]
    Open {
        /// The device.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A read failed in a way the interface does not document.
    #[error("cannot read the kernel log: {0}")]
    Read(io::Error),
    /// The copy of the raw records cannot be written.
    #[error("cannot write the copy of the kernel log: {0}; is the disk full?")]
    Copy(io::Error),
}

/// A reader of kernel records that keeps count of what was lost.
#[derive(Debug)]
pub struct Kmsg<R> {
    source: R,
    last_sequence: Option<u64>,
    lost: u64,
    malformed: u64,
}

impl Kmsg<File> {
    /// Opens `/dev/kmsg` behind the last record, so that only messages from now on are read.
    ///
    /// # Errors
    ///
    /// [`KmsgError::Open`] without the device or the permission.
    pub fn open() -> Result<Self, KmsgError> {
        const PATH: &str = "/dev/kmsg";
        let open = || {
            let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(PATH)?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        Ok(Self::new(open().map_err(|source| KmsgError::Open { path: PATH, source })?))
    }
}

impl<R: Read> Kmsg<R> {
    /// Reads records from any source that returns one record per read.
    pub fn new(source: R) -> Self {
        Self { source, last_sequence: None, lost: 0, malformed: 0 }
    }

    /// Returns how many records were overwritten before they could be read.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Returns how many records could not be parsed; they are in the raw copy.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Reads everything there is, and appends every raw record to `raw`.
    ///
    /// # Errors
    ///
    /// [`KmsgError::Read`] and [`KmsgError::Copy`]; what was read before stays in `raw`.
    pub fn drain(&mut self, raw: &mut impl Write) -> Result<Vec<KmsgRecord>, KmsgError> {
        // CONSOLE_EXT_LOG_MAX and PRINTK_MESSAGE_MAX are 8 KiB at most; a buffer too small would give EINVAL.
        let mut buffer = [0; 16 * 1024];
        let mut records: Vec<KmsgRecord> = Vec::new();
        let mut overwritten = false;
        loop {
            let bytes = match self.source.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => &buffer[..length],
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {
                    overwritten = true;
                    continue;
                }
                Err(error) => return Err(KmsgError::Read(error)),
            };
            raw.write_all(bytes).map_err(KmsgError::Copy)?;
            let Some(record) = KmsgRecord::parse(bytes) else {
                self.malformed += 1;
                continue;
            };
            self.count_gap(record.sequence, std::mem::take(&mut overwritten));
            records.push(record);
        }
        raw.flush().map_err(KmsgError::Copy)?;
        Ok(records)
    }

    fn count_gap(&mut self, sequence: u64, overwritten: bool) {
        self.lost += match self.last_sequence {
            Some(last) => sequence.saturating_sub(last + 1),
            // Before the first record the sequence tells nothing: at least one was lost if the kernel says so.
            None => u64::from(overwritten),
        };
        self.last_sequence = Some(sequence);
    }
}

/// Reads the part of the kernel log that is still there, by syslog(2): it holds the mode in which KVM started.
pub fn boot_log() -> Option<String> {
    const SYSLOG_ACTION_READ_ALL: i32 = 3;
    let mut buffer = vec![0u8; 1 << 20];
    let room = i32::try_from(buffer.len()).ok()?;
    // SAFETY: klogctl writes at most `room` bytes into the buffer that long.
    let length = unsafe { libc::klogctl(SYSLOG_ACTION_READ_ALL, buffer.as_mut_ptr().cast(), room) };
    buffer.truncate(usize::try_from(length).ok()?);
    Some(String::from_utf8_lossy(&buffer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use klog::complaint::{Complaint, Kind};
    use klog::parser::Parser;
    use std::collections::VecDeque;

    /// Returns one item per read, as the device does.
    struct Device(VecDeque<Result<&'static [u8], i32>>);

    impl Read for Device {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.pop_front() {
                Some(Ok(record)) => {
                    buffer[..record.len()].copy_from_slice(record);
                    Ok(record.len())
                }
                Some(Err(errno)) => Err(io::Error::from_raw_os_error(errno)),
                None => Err(ErrorKind::WouldBlock.into()),
            }
        }
    }

    fn device(items: &[Result<&'static str, i32>]) -> Kmsg<Device> {
        Kmsg::new(Device(items.iter().map(|item| item.map(str::as_bytes)).collect()))
    }

    #[test]
    fn counts_gaps() {
        let mut kmsg =
            device(&[Ok("6,10,1,-;a\n"), Err(libc::EINTR), Ok("6,11,1,-;b\n"), Err(libc::EPIPE), Ok("6,20,1,-;c\n")]);
        let mut raw = Vec::new();
        assert_eq!(kmsg.drain(&mut raw).unwrap().len(), 3);
        assert_eq!(kmsg.lost(), 8);
        assert_eq!(raw, b"6,10,1,-;a\n6,11,1,-;b\n6,20,1,-;c\n");
        let mut kmsg = device(&[Err(libc::EPIPE), Ok("6,20,1,-;c\n")]);
        kmsg.drain(&mut raw).unwrap();
        assert_eq!(kmsg.lost(), 1);
    }

    #[test]
    fn keeps_fragments_and_counts_the_malformed() {
        let mut kmsg = device(&[Ok("6,1,1,-;a\n"), Ok("6,2,1,c;\\x09(b\n"), Ok("what\n"), Ok("6,3,1,-;d\n")]);
        let texts: Vec<_> = kmsg.drain(&mut Vec::new()).unwrap().into_iter().map(|record| record.text).collect();
        assert_eq!(texts, ["a", "\t(b", "d"]);
        assert_eq!((kmsg.malformed(), kmsg.lost()), (1, 0));
    }

    /// Returns what a parser makes of the records.
    fn believed(items: &[Result<&'static str, i32>]) -> Vec<Complaint> {
        let mut parser = Parser::new();
        for record in device(items).drain(&mut Vec::new()).unwrap() {
            record.lines().for_each(|line| parser.push(&line));
        }
        parser.finish()
    }

    #[test]
    fn only_facility_zero_is_believed() {
        let events = believed(&[
            Ok("12,1,5,-;watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [fake:1]\n"),
            Ok("0,2,9,-;watchdog: BUG: soft lockup - CPU#1 stuck for 23s! [vcpu-0:7]\n"),
        ]);
        assert_eq!(events.len(), 1);
        assert_eq!((events[0].kind, events[0].pid, events[0].timestamp_usec), (Kind::SoftLockup, Some(7), Some(9)));
    }

    /// fs/exec.c prints the name of a file as it is.
    #[test]
    fn a_line_break_in_a_message_begins_no_report() {
        let events = believed(&[
            Ok("4,1,5,-;process '/tmp/x\\x0awatchdog: BUG: soft lockup - CPU#1 stuck for 22s! [vcpu-0:7]' started\n"),
            Ok("0,2,9,-;\\x0awatchdog: BUG: soft lockup - CPU#2 stuck for 23s! [vcpu-1:8]\n"),
        ]);
        assert_eq!(events.iter().map(|event| event.pid).collect::<Vec<_>>(), [Some(8)]);
    }

    #[test]
    fn other_errors_are_reported() {
        assert!(matches!(device(&[Err(libc::EIO)]).drain(&mut Vec::new()), Err(KmsgError::Read(_))));
    }
}
