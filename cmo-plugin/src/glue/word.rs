// SPDX-License-Identifier: GPL-2.0-or-later
//! The words of instructions, which QEMU returns in two ways.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use qemu_plugin_sys::{qemu_plugin_insn, qemu_plugin_insn_data, qemu_plugin_insn_size};

/// True if this QEMU copies the bytes of an instruction (since API 3, QEMU 9.1), false if it returns a pointer to them.
static COPIES_DATA: AtomicBool = AtomicBool::new(false);

/// First API version in which `qemu_plugin_insn_data` copies the bytes.
const COPYING_API: c_int = 3;

/// Type of `qemu_plugin_insn_data` since API 3. It copies at most `len` bytes and returns their number.
type CopyData = unsafe extern "C" fn(insn: *const qemu_plugin_insn, dest: *mut c_void, len: usize) -> usize;

/// Chooses the way by the version of QEMU's plugin interface.
pub(super) fn set_api(version: c_int) {
    COPIES_DATA.store(version >= COPYING_API, Ordering::Relaxed);
}

/// Returns the word of the instruction, or `None` if it is not four bytes long.
///
/// # Safety
///
/// `insn` must belong to the block whose translation callback is running.
pub(super) unsafe fn word(insn: *const qemu_plugin_insn) -> Option<u32> {
    let mut bytes = [0; 4];
    // SAFETY: the caller promises that `insn` belongs to the block of the running callback.
    if unsafe { qemu_plugin_insn_size(insn) } != bytes.len() {
        return None;
    }
    if COPIES_DATA.load(Ordering::Relaxed) {
        let function: unsafe extern "C" fn(*const qemu_plugin_insn) -> *const c_void = qemu_plugin_insn_data;
        // SAFETY: this QEMU has said that its API is 3 or later, in which the symbol has the type `CopyData`.
        let copy: CopyData = unsafe { std::mem::transmute(function) };
        // SAFETY: the call copies at most the four bytes for which `bytes` has room.
        let copied = unsafe { copy(insn, bytes.as_mut_ptr().cast(), bytes.len()) };
        return (copied == bytes.len()).then(|| u32::from_le_bytes(bytes));
    }
    // SAFETY: up to API 2 the result points to `qemu_plugin_insn_size` bytes, which is checked to be four above. They
    // are valid during this callback.
    bytes.copy_from_slice(unsafe { std::slice::from_raw_parts(qemu_plugin_insn_data(insn).cast(), 4) });
    Some(u32::from_le_bytes(bytes))
}
