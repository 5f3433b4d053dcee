//! The console that the device tree's `stdout-path` names: PL011 or 16550.

use core::fmt::{self, Write};
use core::ptr::NonNull;

use arm_pl011_uart::{PL011Registers, Uart};
use safe_mmio::UniqueMmioPointer;
use spin::mutex::SpinMutex;

/// Kind of UART and how far apart its registers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// Arm PL011.
    Pl011,
    /// 16550 with registers `1 << shift` bytes apart.
    Ns16550 {
        /// `reg-shift`.
        shift: u32,
    },
}

enum Device {
    Pl011(Uart<'static>),
    Ns16550 { base: usize, shift: u32 },
}

static CONSOLE: SpinMutex<Option<Device>> = SpinMutex::new(None);

/// Starts using the UART at `base`.
///
/// # Safety
///
/// `base` must be such a device's registers, mapped as device memory for good, and used by nothing else.
pub unsafe fn init(model: Model, base: usize) {
    let device = match model {
        Model::Pl011 => {
            let Some(registers) = NonNull::new(base as *mut PL011Registers) else { return };
            // SAFETY: the caller hands over the device's mapped registers.
            Device::Pl011(Uart::new(unsafe { UniqueMmioPointer::new(registers) }))
        }
        Model::Ns16550 { shift } => Device::Ns16550 { base, shift },
    };
    *CONSOLE.lock() = Some(device);
    // Cannot fail: this is the only logger.
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

/// Waits for LSR.THRE and writes THR.
fn ns16550_put(base: usize, shift: u32, byte: u8) {
    const LSR: usize = 5;
    const LSR_THRE: u8 = 1 << 5;
    let lsr = (base + (LSR << shift)) as *const u8;
    // SAFETY: `init`'s caller gave these registers for good; both are one byte wide.
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
pub fn line(arguments: fmt::Arguments<'_>) {
    if let Some(device) = CONSOLE.lock().as_mut() {
        // The device's writer never fails.
        let _ = writeln!(device, "{arguments}");
    }
}

/// Writes one line even where the console's lock is held by code that will not go on.
pub fn last_line(arguments: fmt::Arguments<'_>) {
    if CONSOLE.is_locked() {
        // SAFETY: only a panicking CPU comes here; at worst two lines mix.
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
