//! The device tree that the payload is handed: the payload's own reader, on the host.
#![no_main]

use dtoolkit::fdt::Fdt;
use libfuzzer_sys::fuzz_target;

/// What the reader needs of the payload's console.
mod console {
    /// As in the payload.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Model {
        /// PL011.
        Pl011,
        /// 16550.
        Ns16550 {
            /// Distance of registers, as a power of two.
            shift: u32,
        },
    }
}

#[allow(dead_code, reason = "the payload uses what this target does not")]
#[path = "../../payload/src/platform.rs"]
mod platform;

fuzz_target!(|data: &[u8]| {
    if let Ok(fdt) = Fdt::new(data) {
        let platform = platform::read(&fdt);
        assert!(platform.cpu_count >= 1 && platform.cpu_count <= platform.cpus.len());
    }
});
