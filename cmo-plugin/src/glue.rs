// SPDX-License-Identifier: GPL-2.0-or-later
//! QEMU's side: arguments, translation, callbacks, exit.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use qemu_plugin_sys::qemu_plugin_cb_flags::QEMU_PLUGIN_CB_NO_REGS;
use qemu_plugin_sys::{
    qemu_info_t, qemu_plugin_id_t, qemu_plugin_insn, qemu_plugin_insn_data, qemu_plugin_insn_size,
    qemu_plugin_insn_vaddr, qemu_plugin_register_atexit_cb, qemu_plugin_register_vcpu_insn_exec_cb,
    qemu_plugin_register_vcpu_tb_trans_cb, qemu_plugin_tb, qemu_plugin_tb_get_insn, qemu_plugin_tb_n_insns,
};

use crate::counts::{Counter, Counts, Ended};
use crate::decode::{Watched, decode};

static COUNTS: OnceLock<Mutex<Counts>> = OnceLock::new();

/// Whether this QEMU copies instruction bytes out (API 3, QEMU 9.1) instead of returning a pointer to them.
static COPIES_DATA: AtomicBool = AtomicBool::new(false);

/// The API version in which `qemu_plugin_insn_data` began to copy.
const COPYING_API: c_int = 3;

/// `qemu_plugin_insn_data` since API 3: copies at most `len` bytes, returns how many.
type CopyData = unsafe extern "C" fn(insn: *const qemu_plugin_insn, dest: *mut c_void, len: usize) -> usize;

/// Entry point: QEMU calls it once, before any vCPU runs.
///
/// # Safety
///
/// As QEMU promises: `info` is valid during the call and `argv` holds `argc` NUL-terminated strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: qemu_plugin_id_t,
    info: *const qemu_info_t,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    // SAFETY: the caller's promise: `info` is valid during the call.
    let info = unsafe { &*info };
    // SAFETY: `target_name` is a C string inside QEMU that lives as long as it does.
    let target = unsafe { CStr::from_ptr(info.target_name) };
    if target != c"aarch64" {
        return refuse(&format!("counts AArch64 instructions, not those of {}", target.to_string_lossy()));
    }
    // SAFETY: the caller's promise about `argc` and `argv`.
    let arguments = (0..argc as usize).map(|i| unsafe { CStr::from_ptr(*argv.add(i)) }.to_string_lossy().into_owned());
    let out = match out_path(arguments) {
        Ok(out) => out,
        Err(problem) => return refuse(&problem),
    };
    let mut counts = Counts::new(out);
    // Written at once: a place that cannot be written stops QEMU before the run, not after it.
    if let Err(error) = counts.write(Ended::No) {
        return refuse(&format!("cannot write {}: {error}", counts.out().display()));
    }
    COPIES_DATA.store(info.version.cur >= COPYING_API, Ordering::Relaxed);
    if COUNTS.set(Mutex::new(counts)).is_err() {
        return refuse("loaded twice into one QEMU");
    }
    // SAFETY: `id` is this plugin's; both callbacks are functions of this library, which QEMU never unloads while they are set.
    unsafe {
        qemu_plugin_register_vcpu_tb_trans_cb(id, Some(translated));
        qemu_plugin_register_atexit_cb(id, Some(exiting), std::ptr::null_mut());
    }
    0
}

/// Prints why the plugin does not load. A non-zero return makes QEMU stop.
fn refuse(problem: &str) -> c_int {
    eprintln!("cmo-plugin: {problem}");
    1
}

fn out_path(arguments: impl Iterator<Item = String>) -> Result<PathBuf, String> {
    let mut out = None;
    for argument in arguments {
        match argument.split_once('=') {
            Some(("out", path)) if !path.is_empty() => out = Some(PathBuf::from(path)),
            _ => return Err(format!("unknown argument `{argument}`: only out=PATH is known")),
        }
    }
    out.ok_or_else(|| "needs out=PATH: -plugin libcmo_plugin.so,out=counts.json".into())
}

/// Returns the counters. A panic elsewhere aborts the process, so a poisoned lock never gets here; the counts are
/// valid between any two statements anyway.
fn counts() -> MutexGuard<'static, Counts> {
    COUNTS.get().expect("set before any callback is registered").lock().unwrap_or_else(PoisonError::into_inner)
}

extern "C" fn translated(_id: qemu_plugin_id_t, tb: *mut qemu_plugin_tb) {
    // SAFETY: QEMU passes the block being translated, valid during this callback.
    let instructions = unsafe { qemu_plugin_tb_n_insns(tb) };
    for index in 0..instructions {
        // SAFETY: `index` is below the block's number of instructions.
        let insn = unsafe { qemu_plugin_tb_get_insn(tb, index) };
        // SAFETY: `insn` belongs to the block and is used only during this callback.
        unsafe { instrument(insn) };
    }
}

/// Attaches a counter or the phase switch to one instruction.
///
/// # Safety
///
/// `insn` belongs to the block whose translation callback is running.
unsafe fn instrument(insn: *mut qemu_plugin_insn) {
    // SAFETY: the caller's promise covers both calls.
    let Some(watched) = (unsafe { word(insn) }).and_then(decode) else { return };
    match watched {
        Watched::Maintenance(op) => {
            // SAFETY: the caller's promise.
            let pc = unsafe { qemu_plugin_insn_vaddr(insn) };
            let counter: *const Counter = counts().counter(pc, op);
            // SAFETY: `execute` takes what is passed here, a counter that is never freed.
            unsafe {
                qemu_plugin_register_vcpu_insn_exec_cb(
                    insn,
                    Some(executed),
                    QEMU_PLUGIN_CB_NO_REGS,
                    counter as *mut c_void,
                )
            };
        }
        Watched::Marker(phase) => {
            let phase = std::ptr::without_provenance_mut(usize::from(phase));
            // SAFETY: `marked` takes the number itself in place of a pointer and does not dereference it.
            unsafe { qemu_plugin_register_vcpu_insn_exec_cb(insn, Some(marked), QEMU_PLUGIN_CB_NO_REGS, phase) };
        }
    }
}

/// Returns the instruction's word; `None` if it is not four bytes long.
///
/// # Safety
///
/// `insn` belongs to the block whose translation callback is running.
unsafe fn word(insn: *const qemu_plugin_insn) -> Option<u32> {
    let mut bytes = [0; 4];
    // SAFETY: the caller's promise.
    if unsafe { qemu_plugin_insn_size(insn) } != bytes.len() {
        return None;
    }
    if COPIES_DATA.load(Ordering::Relaxed) {
        let function: unsafe extern "C" fn(*const qemu_plugin_insn) -> *const c_void = qemu_plugin_insn_data;
        // SAFETY: the QEMU that loaded us said it speaks API 3 or later, in which this symbol has the type `CopyData`.
        let copy: CopyData = unsafe { std::mem::transmute(function) };
        // SAFETY: copies at most the four bytes that `bytes` has.
        let copied = unsafe { copy(insn, bytes.as_mut_ptr().cast(), bytes.len()) };
        return (copied == bytes.len()).then(|| u32::from_le_bytes(bytes));
    }
    // SAFETY: up to API 2 the result points at `qemu_plugin_insn_size` bytes, checked to be four, valid in this callback.
    bytes.copy_from_slice(unsafe { std::slice::from_raw_parts(qemu_plugin_insn_data(insn).cast(), 4) });
    Some(u32::from_le_bytes(bytes))
}

extern "C" fn executed(_vcpu: c_uint, counter: *mut c_void) {
    // SAFETY: `instrument` registered this with a leaked `Counter`; it is shared, and all access to it is atomic.
    unsafe { &*counter.cast_const().cast::<Counter>() }.add();
}

extern "C" fn marked(_vcpu: c_uint, phase: *mut c_void) {
    let mut counts = counts();
    counts.enter(phase.addr() as u8);
    save(&mut counts, Ended::No);
}

extern "C" fn exiting(_id: qemu_plugin_id_t, _data: *mut c_void) {
    save(&mut counts(), Ended::Yes);
}

fn save(counts: &mut Counts, ended: Ended) {
    if let Err(error) = counts.write(ended) {
        eprintln!("cmo-plugin: cannot write {}: {error}", counts.out().display());
    }
}
