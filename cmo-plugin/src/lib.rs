// SPDX-License-Identifier: GPL-2.0-or-later
//! A QEMU TCG plugin that counts cache-maintenance instructions, exactly, by pc and by phase of the run.
//!
//! ```text
//! qemu-system-aarch64 … -plugin libcmo_plugin.so,out=counts.json
//! ```
//!
//! Every `IC` and every `DC` that cleans or invalidates ([`decode`]) is counted each time it *starts* to execute. One that
//! traps or faults and is then repeated counts twice; `DC ZVA` and the tag operations are stores, not maintenance, and are
//! not counted. The key is (pc, operation): two address spaces with code at the same virtual address share it, so only
//! kernel addresses name one thing. Code in AArch32 state is not told apart.
//!
//! # Phases
//!
//! The run says which phase it is in with one instruction that any exception level may execute and that no CPU acts on:
//! `HINT #(96 + n)`, n from 0 to 31. The hint space from 96 up is unallocated and "executes as NOP" (Arm ARM, DDI 0487,
//! C6.2, "HINT"). Everything counted between two markers belongs to the first one's phase; before any marker it is phase 0.
//! A phase may be entered again; its counts add up. The phase belongs to the machine, not to a CPU: with several
//! vCPUs the run brings them to a known place before it writes a marker.
//!
//! # What is kept when things go wrong
//!
//! `out` is rewritten (beside, then renamed) at every marker with `"ended": false`, and at QEMU's exit with
//! `"ended": true`. Power-off, a closed monitor and SIGTERM are exits. After SIGKILL or a crash of QEMU the file holds
//! everything up to the last marker, and says so by `"ended": false`.
//!
//! # Exactness
//!
//! Counters are atomic, so the sum is exact with one thread per vCPU too. What is not exact there is the split between
//! two phases when another vCPU maintains caches while the marker runs.

mod counts;
mod decode;
// The test executable is not loaded by QEMU and cannot resolve its symbols.
#[cfg(not(test))]
mod glue;
#[cfg(not(test))]
mod version;
