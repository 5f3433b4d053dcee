//! Fuzz target for the payload's reader of the device tree, which it builds for the host.
#![no_main]

use dtoolkit::fdt::Fdt;
use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "the payload uses what this target does not")]
#[path = "../../payload/src/platform.rs"]
mod platform;

fuzz_target!(|data: &[u8]| {
    if let Ok(fdt) = Fdt::new(data) {
        let platform = platform::read(&fdt);
        assert!(platform.cpu_count >= 1 && platform.cpu_count <= platform.cpus.len());
    }
});
