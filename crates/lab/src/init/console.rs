//! Messages of init on the serial console.

use std::fs::OpenOptions;
use std::io::Write;

/// Writes one line to the serial console. Before /dev is mounted, /dev/console is the node from the initramfs.
pub fn print(text: &str) {
    if let Ok(mut console) = OpenOptions::new().write(true).open("/dev/console") {
        // There is no other place for an error message.
        let _ = writeln!(console, "faultline-lab: {text}");
    }
}
