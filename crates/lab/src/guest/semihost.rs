//! The semihosting calls of Arm's "Semihosting for AArch32 and AArch64" (issue 2.0) that the courier needs.
//!
//! QEMU answers them from EL0 only with `-semihosting-config …,userspace=on`. Paths are relative to QEMU's directory.

use core::arch::asm;
use std::io;

use crate::guest::courier::{HostFiles, Place};

const SYS_OPEN: u64 = 0x01;
const SYS_CLOSE: u64 = 0x02;
const SYS_WRITE: u64 = 0x05;
const SYS_SEEK: u64 = 0x0a;
const SYS_RENAME: u64 = 0x0f;
const SYS_ERRNO: u64 = 0x13;
const SYS_EXIT: u64 = 0x18;

/// Reason code of SYS_EXIT: the application ended by itself.
const ADP_STOPPED_APPLICATION_EXIT: u64 = 0x20026;

/// `fopen` modes "r+b" and "wb" as SYS_OPEN numbers them. QEMU 7.2 takes "ab" and does not append.
const MODE_UPDATE_BINARY: u64 = 3;
const MODE_WRITE_BINARY: u64 = 5;

/// Files on the host of the emulator.
#[derive(Debug)]
pub struct Semihost;

fn call(operation: u64, parameters: &[u64]) -> i64 {
    let result: i64;
    // SAFETY: HLT #0xf000 is the AArch64 semihosting call; QEMU reads `parameters` and the buffers they point to,
    // all of which the callers below keep borrowed and have written before, writes only x0, and returns behind HLT.
    unsafe {
        asm!(
            "hlt #0xf000",
            inlateout("x0") operation => result,
            in("x1") parameters.as_ptr(),
            options(nostack, preserves_flags, readonly),
        );
    }
    result
}

/// Ends the emulator with exit code 0. Returns only where nobody answers semihosting calls this way.
pub fn exit() {
    call(SYS_EXIT, &[ADP_STOPPED_APPLICATION_EXIT, 0]);
}

fn last_error() -> io::Error {
    io::Error::from_raw_os_error(call(SYS_ERRNO, &[]) as i32)
}

/// Returns `name` with the NUL that QEMU wants behind the counted bytes.
fn terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

impl HostFiles for Semihost {
    fn write(
        &mut self,
        name: &str,
        place: Place,
        data: &mut dyn Iterator<Item = io::Result<Vec<u8>>>,
    ) -> io::Result<u64> {
        let path = terminated(name);
        let mode = match place {
            Place::Fresh => MODE_WRITE_BINARY,
            Place::At(_) => MODE_UPDATE_BINARY,
        };
        let handle = call(SYS_OPEN, &[path.as_ptr() as u64, mode, name.len() as u64]);
        if handle < 0 {
            return Err(last_error());
        }
        let mut written = 0;
        let mut outcome = match place {
            Place::At(offset) if call(SYS_SEEK, &[handle as u64, offset]) != 0 => Err(last_error()),
            _ => Ok(()),
        };
        for chunk in data {
            if outcome.is_err() {
                break;
            }
            match chunk {
                Ok(chunk) if call(SYS_WRITE, &[handle as u64, chunk.as_ptr() as u64, chunk.len() as u64]) == 0 => {
                    written += chunk.len() as u64;
                }
                // The host wrote some of it, or nothing: what stops a write to a plain file is lack of space.
                Ok(_) => outcome = Err(io::ErrorKind::StorageFull.into()),
                Err(error) => outcome = Err(error),
            }
        }
        call(SYS_CLOSE, &[handle as u64]);
        outcome.map(|()| written)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let (old, new) = (terminated(from), terminated(to));
        let parameters = [old.as_ptr() as u64, from.len() as u64, new.as_ptr() as u64, to.len() as u64];
        if call(SYS_RENAME, &parameters) == 0 { Ok(()) } else { Err(last_error()) }
    }
}
