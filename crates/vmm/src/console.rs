//! The guest's console: a 16550 that keeps what is written.

use std::convert::Infallible;

use vm_superio::{Serial, Trigger, serial::NoEvents};

/// The most bytes kept; a guest that writes more is cut off there.
const KEPT_BYTES: usize = 64 << 10;

/// No interrupt controller, so no interrupt.
struct NoInterrupt;

impl Trigger for NoInterrupt {
    type E = Infallible;
    fn trigger(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Keeps the first [`KEPT_BYTES`] bytes.
struct Kept(Vec<u8>);

impl std::io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let room = KEPT_BYTES - self.0.len();
        self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The UART.
pub struct Console(Serial<NoInterrupt, NoEvents, Kept>);

impl Console {
    /// Returns an idle UART.
    pub fn new() -> Self {
        Self(Serial::new(NoInterrupt, Kept(Vec::new())))
    }

    /// Reads a register.
    pub fn read(&mut self, register: u8) -> u8 {
        self.0.read(register)
    }

    /// Writes a register.
    pub fn write(&mut self, register: u8, value: u8) {
        // Its errors are those of the trigger and the writer, which have none, or a full loopback FIFO.
        let _ = self.0.write(register, value);
    }

    /// Returns what was written so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.writer().0).into_owned()
    }
}
