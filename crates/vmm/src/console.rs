//! The guest's console: a 16550 UART that keeps its output.

use std::convert::Infallible;

use vm_superio::{Serial, Trigger, serial::NoEvents};

/// Maximum number of bytes that the console keeps. It drops later output.
const OUTPUT_BYTES_MAX: usize = 64 << 10;

/// An interrupt line without effect, because the guest has no interrupt controller.
struct NoInterrupt;

impl Trigger for NoInterrupt {
    type E = Infallible;
    fn trigger(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// The first [`OUTPUT_BYTES_MAX`] bytes of the output.
struct Output(Vec<u8>);

impl std::io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let room = OUTPUT_BYTES_MAX - self.0.len();
        self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The UART.
pub struct Console(Serial<NoInterrupt, NoEvents, Output>);

impl Console {
    /// Returns an idle UART.
    pub fn new() -> Self {
        Self(Serial::new(NoInterrupt, Output(Vec::new())))
    }

    /// Reads a register.
    pub fn read(&mut self, register: u8) -> u8 {
        self.0.read(register)
    }

    /// Writes a register.
    pub fn write(&mut self, register: u8, value: u8) {
        // The interrupt line and the output cannot fail. A full loopback FIFO can; the byte is then lost as on
        // hardware.
        let _ = self.0.write(register, value);
    }

    /// Returns the output so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.writer().0).into_owned()
    }
}
