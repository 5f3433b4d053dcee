// SPDX-License-Identifier: GPL-2.0-or-later
//! Interface to QEMU: arguments of the plugin, translation callback, execution callbacks, exit.

mod operands;
mod qemu;
mod sanitize;
mod word;

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use qemu_plugin_sys::qemu_plugin_cb_flags::QEMU_PLUGIN_CB_NO_REGS;
use qemu_plugin_sys::{
    qemu_info_t, qemu_plugin_id_t, qemu_plugin_insn, qemu_plugin_insn_vaddr, qemu_plugin_register_atexit_cb,
    qemu_plugin_register_vcpu_insn_exec_cb, qemu_plugin_register_vcpu_tb_trans_cb, qemu_plugin_tb,
    qemu_plugin_tb_get_insn, qemu_plugin_tb_n_insns,
};

use crate::counts::{Counter, Counts, Ended};
use word::word;

use crate::decode::{Watched, decode};

static COUNTS: OnceLock<Mutex<Counts>> = OnceLock::new();

/// Installs the plugin. QEMU calls it once, before any vCPU runs.
///
/// # Safety
///
/// `info` must be valid during the call, and `argv` must hold `argc` strings that end in NUL.
#[unsafe(no_mangle)]
unsafe extern "C" fn qemu_plugin_install(
    id: qemu_plugin_id_t,
    info: *const qemu_info_t,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    // SAFETY: the caller promises that `info` is valid during the call.
    let info = unsafe { &*info };
    // SAFETY: `target_name` is a C string of QEMU, which lives as long as QEMU.
    let target = unsafe { CStr::from_ptr(info.target_name) };
    if target != c"aarch64" {
        return refuse(&format!("counts AArch64 instructions, not those of {}", target.to_string_lossy()));
    }
    // SAFETY: the caller promises that `argv` holds `argc` strings that end in NUL.
    let arguments = (0..argc as usize).map(|i| unsafe { CStr::from_ptr(*argv.add(i)) }.to_string_lossy().into_owned());
    let Arguments { mode, out } = match Arguments::parse(arguments) {
        Ok(arguments) => arguments,
        Err(problem) => return refuse(&problem),
    };
    word::set_api(info.version.cur);
    if mode == Mode::Sanitize {
        if let Err(problem) = sanitize::install(id, out) {
            return refuse(&problem);
        }
        // SAFETY: as below.
        unsafe {
            qemu_plugin_register_vcpu_tb_trans_cb(id, Some(sanitize::translated));
            qemu_plugin_register_atexit_cb(id, Some(sanitize::exiting), std::ptr::null_mut());
        }
        return 0;
    }
    let mut counts = Counts::new(out);
    // The first write is here so that an unwritable path stops QEMU before the guest runs, not after it.
    if let Err(error) = counts.write(Ended::No) {
        return refuse(&format!("cannot write {}: {error}", counts.out().display()));
    }
    if COUNTS.set(Mutex::new(counts)).is_err() {
        return refuse("loaded twice into one QEMU");
    }
    // SAFETY: `id` is the id of this plugin. Both callbacks are functions of this library, which QEMU does not unload
    // while they are registered.
    unsafe {
        qemu_plugin_register_vcpu_tb_trans_cb(id, Some(translated));
        qemu_plugin_register_atexit_cb(id, Some(exiting), std::ptr::null_mut());
    }
    0
}

/// Prints the reason why the plugin does not load. Returns the number that makes QEMU stop.
fn refuse(problem: &str) -> c_int {
    let _ = writeln!(std::io::stderr(), "cmo-plugin: {problem}");
    1
}

/// Mode of the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Counts maintenance instructions.
    Count,
    /// Judges maintenance.
    Sanitize,
}

/// Arguments of the plugin.
struct Arguments {
    mode: Mode,
    out: PathBuf,
}

impl Arguments {
    /// Parses `mode=count|sanitize` and `out=PATH`. The mode is `count` if it is not given.
    ///
    /// # Errors
    ///
    /// The reason why the arguments are wrong.
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut mode, mut out) = (Mode::Count, None);
        for argument in arguments {
            match argument.split_once('=') {
                Some(("out", path)) if !path.is_empty() => out = Some(PathBuf::from(path)),
                Some(("mode", "count")) => mode = Mode::Count,
                Some(("mode", "sanitize")) => mode = Mode::Sanitize,
                _ => return Err(format!("unknown argument `{argument}`: mode=count|sanitize and out=PATH are known")),
            }
        }
        let out = out.ok_or("needs out=PATH: -plugin libcmo_plugin.so,out=counts.json")?;
        Ok(Self { mode, out })
    }
}

/// Returns the counters.
///
/// It ignores a poisoned lock: a panic aborts the process, and the counts are valid between any two statements.
fn counts() -> MutexGuard<'static, Counts> {
    COUNTS.get().expect("set before any callback is registered").lock().unwrap_or_else(PoisonError::into_inner)
}

/// Instruments each block that QEMU translates.
extern "C" fn translated(_id: qemu_plugin_id_t, tb: *mut qemu_plugin_tb) {
    // SAFETY: QEMU passes the block that it translates, which is valid during this callback.
    let instructions = unsafe { qemu_plugin_tb_n_insns(tb) };
    for index in 0..instructions {
        // SAFETY: `index` is below the number of instructions of the block.
        let insn = unsafe { qemu_plugin_tb_get_insn(tb, index) };
        // SAFETY: `insn` belongs to the block, and `instrument` uses it only during this callback.
        unsafe { instrument(insn) };
    }
}

/// Attaches a counter or the phase switch to one instruction.
///
/// # Safety
///
/// `insn` must belong to the block whose translation callback is running.
unsafe fn instrument(insn: *mut qemu_plugin_insn) {
    // SAFETY: the caller promises that `insn` belongs to the block of the running callback.
    let Some(watched) = (unsafe { word(insn) }).and_then(decode) else { return };
    match watched {
        Watched::Maintenance(op) => {
            // SAFETY: the caller promises that `insn` belongs to the block of the running callback.
            let pc = unsafe { qemu_plugin_insn_vaddr(insn) };
            let counter: *const Counter = counts().counter(pc, op);
            // SAFETY: `executed` takes the pointer that is passed here, to a counter that is never freed.
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
            // SAFETY: `marked` takes a number instead of a pointer, and does not dereference it.
            unsafe { qemu_plugin_register_vcpu_insn_exec_cb(insn, Some(marked), QEMU_PLUGIN_CB_NO_REGS, phase) };
        }
    }
}

/// Counts one execution of an instruction.
extern "C" fn executed(_vcpu: c_uint, counter: *mut c_void) {
    // SAFETY: `instrument` registered this function with a `Counter` that is never freed. All accesses to it are
    // atomic.
    unsafe { &*counter.cast_const().cast::<Counter>() }.add();
}

/// Enters the phase of a marker that a vCPU executes.
extern "C" fn marked(_vcpu: c_uint, phase: *mut c_void) {
    let mut counts = counts();
    counts.enter(phase.addr() as u8);
    save(&mut counts, Ended::No);
}

/// Writes the final counts when QEMU exits.
extern "C" fn exiting(_id: qemu_plugin_id_t, _data: *mut c_void) {
    save(&mut counts(), Ended::Yes);
}

/// Writes the counts. A failure is printed, because QEMU has no way to take it.
fn save(counts: &mut Counts, ended: Ended) {
    if let Err(error) = counts.write(ended) {
        let _ = writeln!(std::io::stderr(), "cmo-plugin: cannot write {}: {error}", counts.out().display());
    }
}
