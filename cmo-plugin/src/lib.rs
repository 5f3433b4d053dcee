// SPDX-License-Identifier: GPL-2.0-or-later
//! QEMU TCG plugin with two modes. `mode=count` counts cache-maintenance instructions exactly, by pc and by phase of the
//! run. `mode=sanitize` judges the maintenance (`shadow`; docs/sanitizer.md has the model), and needs QEMU 10.
//!
//! ```text
//! qemu-system-aarch64 … -plugin libcmo_plugin.so,out=counts.json
//! ```
//!
//! # Licence and place
//!
//! QEMU's plugin interface is GPL-2.0-or-later, and so is this crate. No other crate of the workspace may depend on it,
//! and it depends on none of them. QEMU loads the library into its own process. The rest of faultline only reads the
//! file that the plugin writes.
//!
//! The crate holds code that must run inside QEMU, and nothing else. `shadow` is pure: events in, reports out. Symbols, tables and verdicts about the counts
//! belong to the programs that read the file.
//!
//! # Counts
//!
//! The plugin counts every `IC` instruction and every `DC` instruction that cleans or invalidates (`decode`). It
//! counts an instruction each time that it *begins* to execute. An instruction that traps or faults, and is then
//! repeated, counts twice.
//!
//! - `DC ZVA` and the operations on tags are stores, not maintenance. The plugin does not count them.
//! - A count belongs to a pc and an operation. Two address spaces with code at the same virtual address share it, so
//!   only the addresses of a kernel identify one place.
//! - The plugin does not distinguish code in AArch32 state.
//!
//! # Phases
//!
//! The emulated software begins a phase with one instruction, which every exception level may execute and which no CPU
//! acts on: `HINT #(96 + n)`, with n from 0 to 31. The hint numbers from 96 up are unallocated and execute as NOP (Arm
//! ARM, DDI 0487, C6.2, "HINT").
//!
//! Counts between two markers belong to the phase of the first one. Counts before any marker belong to phase 0. If a
//! phase begins again, its counts add up. All CPUs share the phase. Software with several CPUs brings them to a known
//! place before it executes a marker.
//!
//! # File
//!
//! The plugin rewrites `out` at every marker with `"ended": false`, and when QEMU exits with `"ended": true`. It writes
//! a new file beside `out` and renames it. Power-off, a closed monitor and SIGTERM are exits. After SIGKILL or a crash
//! of QEMU the file holds the counts up to the last marker, with `"ended": false`.
//!
//! # Exactness
//!
//! Counters are atomic, so that the sum is exact even if each vCPU has a thread of its own. The division into two
//! phases is then inexact if another vCPU maintains caches while one executes the marker.

mod counts;
mod decode;
mod events;
// QEMU does not load the test executable, so the executable cannot resolve the symbols of QEMU.
#[cfg(not(test))]
mod glue;
#[cfg(not(test))]
mod version;
// The tests lack the glue, which uses the rest.
#[cfg_attr(test, allow(dead_code, unused_imports))]
mod shadow;
