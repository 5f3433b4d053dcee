//! Console on the UART that `stdout-path` of the device tree names: a PL011 or a 16550.

use core::fmt::{self, Write};
use core::ptr::NonNull;

use arm_pl011_uart::{PL011Registers, Uart};
use safe_mmio::UniqueMmioPointer;
use spin::mutex::SpinMutex;

use crate::platform::UartModel;

enum Device {
    Pl011(Uart<'static>),
    Ns16550 { base: usize, shift: u32 },
}

static CONSOLE: SpinMutex<Option<Device>> = SpinMutex::new(None);

/// Makes the UART at `base` the console and the output of `log`.
///
/// # Safety
///
/// `base` must be the address of the registers of a UART of this model. They must stay mapped as device memory, and no
/// other code may use them.
pub(crate) unsafe fn init(model: UartModel, base: usize) {
    let device = match model {
        UartModel::Pl011 => {
            let Some(registers) = NonNull::new(base as *mut PL011Registers) else { return };
            // SAFETY: the caller gives this function the mapped registers of the device, for its use alone.
            Device::Pl011(Uart::new(unsafe { UniqueMmioPointer::new(registers) }))
        }
        UartModel::Ns16550 { shift } => Device::Ns16550 { base, shift },
    };
    *CONSOLE.lock() = Some(device);
    // This is the only logger, so the call succeeds.
    let _ = log::set_logger(&Logger);
    log::set_max_level(log::LevelFilter::Info);
}

impl Device {
    fn put(&mut self, byte: u8) {
        match self {
            Self::Pl011(uart) => {
                while uart.is_tx_fifo_full() {}
                uart.write_word(byte);
            }
            Self::Ns16550 { base, shift } => ns16550_put(*base, *shift, byte),
        }
    }
}

/// Waits until LSR.THRE is set, then writes the byte to THR.
fn ns16550_put(base: usize, shift: u32, byte: u8) {
    const LSR: usize = 5;
    const LSR_THRE: u8 = 1 << 5;
    let lsr = (base + (LSR << shift)) as *const u8;
    // SAFETY: the caller of `init` gave the console these registers, which are one byte wide and stay mapped.
    unsafe {
        while lsr.read_volatile() & LSR_THRE == 0 {}
        (base as *mut u8).write_volatile(byte);
    }
}

impl Write for Device {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.put(b'\r');
            }
            self.put(byte);
        }
        Ok(())
    }
}

/// Writes one line.
pub(crate) fn line(arguments: fmt::Arguments<'_>) {
    if let Some(device) = CONSOLE.lock().as_mut() {
        // The writer of the device never returns an error.
        let _ = writeln!(device, "{arguments}");
    }
}

/// Writes one line, even if code that will not continue holds the lock of the console.
pub(crate) fn last_line(arguments: fmt::Arguments<'_>) {
    if CONSOLE.is_locked() {
        // SAFETY: only a panicking CPU gets here. If another CPU holds the lock, the bytes of two lines mix.
        unsafe { CONSOLE.force_unlock() };
    }
    line(arguments);
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        line(format_args!("{}: {}", record.level(), record.args()));
    }
    fn flush(&self) {}
}
