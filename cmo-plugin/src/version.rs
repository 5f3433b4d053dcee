// SPDX-License-Identifier: GPL-2.0-or-later
//! The plugin API version this library claims, chosen when it is loaded.
//!
//! QEMU reads `qemu_plugin_version` after loading and before installing, and refuses a number outside its own range: 7.2
//! knows 0 and 1, 10 wants at least 2. The functions used here are in all of them (`qemu_plugin_insn_data` changed its
//! signature: see `glue`), so the number is all that differs.

use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, Ordering};

/// The first version with scoreboards; the oldest that a QEMU without API 1 accepts is 2 and has them too.
const WITH_SCOREBOARDS: c_int = 2;

/// Read by QEMU by name, as a C `int`.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)] // the name is QEMU's
pub static qemu_plugin_version: AtomicI32 = AtomicI32::new(1);

/// Runs when the library is loaded, before anybody reads the version.
#[used]
#[unsafe(link_section = ".init_array")]
static CHOOSE: extern "C" fn() = choose;

extern "C" fn choose() {
    // SAFETY: RTLD_DEFAULT looks the NUL-terminated name up in what is loaded already; nothing is called through the result.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"qemu_plugin_scoreboard_new".as_ptr()) };
    if !found.is_null() {
        qemu_plugin_version.store(WITH_SCOREBOARDS, Ordering::Relaxed);
    }
}
