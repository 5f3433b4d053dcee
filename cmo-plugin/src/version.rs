// SPDX-License-Identifier: GPL-2.0-or-later
//! Version of the plugin API that the library declares. It chooses the version when QEMU loads it.
//!
//! QEMU reads `qemu_plugin_version` after it has loaded the library and before it calls the install function. It
//! refuses a number outside its own range: QEMU 7.2 accepts 0 and 1, QEMU 10 requires at least 2. All of these versions
//! have the functions that the plugin uses, so one library works with each of them. Only `qemu_plugin_insn_data` has
//! changed its signature; see `glue`.

use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, Ordering};

/// First version with scoreboards. A QEMU that does not accept version 1 has them, and accepts this version.
const WITH_SCOREBOARDS: c_int = 2;

/// Declared version. QEMU looks it up by its name, and reads it as a C `int`.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "QEMU defines the name")]
static qemu_plugin_version: AtomicI32 = AtomicI32::new(1);

/// Initialiser, which the dynamic linker calls before QEMU reads the version.
#[used]
#[unsafe(link_section = ".init_array")]
static CHOOSE: extern "C" fn() = choose;

extern "C" fn choose() {
    // SAFETY: the name ends in NUL. RTLD_DEFAULT searches the objects that are loaded, and the result is only compared.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"qemu_plugin_scoreboard_new".as_ptr()) };
    if !found.is_null() {
        qemu_plugin_version.store(WITH_SCOREBOARDS, Ordering::Relaxed);
    }
}
