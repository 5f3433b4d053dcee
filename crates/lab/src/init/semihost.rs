//! Semihosting calls (Arm, "Semihosting for AArch32 and AArch64", issue 2.0): files outside, and the end of QEMU.
//!
//! QEMU accepts the calls from EL0 only with `-semihosting-config …,userspace=on`. Paths are relative to the directory
//! in which QEMU runs.

use core::arch::asm;
use std::io;

use crate::init::exporter::{OutsideFiles, Position};

const SYS_OPEN: u64 = 0x01;
const SYS_CLOSE: u64 = 0x02;
const SYS_WRITE: u64 = 0x05;
const SYS_SEEK: u64 = 0x0a;
const SYS_RENAME: u64 = 0x0f;
const SYS_ERRNO: u64 = 0x13;
const SYS_EXIT: u64 = 0x18;

/// Reason code of SYS_EXIT: the program ended by itself.
const ADP_STOPPED_APPLICATION_EXIT: u64 = 0x20026;

/// SYS_OPEN's numbers of the fopen(3) modes "r+b" and "wb". The mode "ab" is no choice: QEMU 7.2 accepts it, but does
/// not append.
const MODE_UPDATE_BINARY: u64 = 3;
const MODE_WRITE_BINARY: u64 = 5;

/// Files on the machine that runs QEMU.
#[derive(Debug)]
pub struct Semihost;

fn call(operation: u64, parameters: &[u64]) -> i64 {
    let result: i64;
    // SAFETY: HLT #0xf000 is the AArch64 semihosting call. QEMU reads `parameters` and the buffers that they point to,
    // which the callers below borrow until the call returns. It writes only x0, and continues after the HLT.
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

/// Ends QEMU with exit code 0. The call returns only if QEMU does not accept semihosting calls from EL0.
pub fn exit() {
    call(SYS_EXIT, &[ADP_STOPPED_APPLICATION_EXIT, 0]);
}

fn last_error() -> io::Error {
    io::Error::from_raw_os_error(call(SYS_ERRNO, &[]) as i32)
}

/// Returns `name` with a NUL after it, which QEMU expects although the call gives the length.
fn terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

impl OutsideFiles for Semihost {
    fn write(
        &mut self,
        name: &str,
        position: Position,
        data: &mut dyn Iterator<Item = io::Result<Vec<u8>>>,
    ) -> io::Result<u64> {
        let path = terminated(name);
        let mode = match position {
            Position::NewFile => MODE_WRITE_BINARY,
            Position::At(_) => MODE_UPDATE_BINARY,
        };
        let handle = call(SYS_OPEN, &[path.as_ptr() as u64, mode, name.len() as u64]);
        if handle < 0 {
            return Err(last_error());
        }
        let mut written = 0;
        let mut outcome = match position {
            Position::At(offset) if call(SYS_SEEK, &[handle as u64, offset]) != 0 => Err(last_error()),
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
                // QEMU wrote only a part of the chunk. For a plain file, the usual cause is a full disk.
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
