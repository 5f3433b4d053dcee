//! Swap of the emulated host, on a zram device: compressed memory, which needs no disk.

use std::ffi::CStr;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::param::page_size;
use rustix::system::init_module;

use crate::init::protocol::SwapOrder;

const DEVICE: &CStr = c"/dev/zram0";
const SIZE: &str = "/sys/block/zram0/disksize";

/// Fields of `union swap_header` (Linux, include/linux/swap.h): two offsets, the version, and the magic at the end.
const VERSION_OFFSET: usize = 1024;
const LAST_PAGE_OFFSET: usize = 1028;
const VERSION: u32 = 1;
const MAGIC: &[u8] = b"SWAPSPACE2";

/// Reasons why there is no swap.
#[derive(Debug, thiserror::Error)]
pub enum NoSwap {
    /// The kernel has no built-in zram, and the lab has no module.
    #[error("this kernel has no zram built in{}", .0.as_ref().map(|why| format!(", and {why}")).unwrap_or_default())]
    NoZram(Option<String>),
    /// The kernel refused a module.
    #[error("the module {module} does not load: {error}")]
    Module {
        /// The module's file.
        module: String,
        /// The system's error.
        error: io::Error,
    },
    /// The kernel refused the size, because it is too large or a compressor is missing.
    #[error("zram refuses a size of {bytes} bytes: {error}")]
    Size {
        /// The size.
        bytes: u64,
        /// The system's error.
        error: io::Error,
    },
    /// The header could not be written.
    #[error("no swap header on zram: {0}")]
    Header(io::Error),
    /// swapon(2) failed.
    #[error("swapon on zram: {0}")]
    On(io::Error),
}

/// Sets up swap.
///
/// # Errors
///
/// The step that failed, see [`NoSwap`].
pub fn set_up(order: &SwapOrder) -> Result<(), NoSwap> {
    for module in &order.modules {
        load(module).map_err(|error| NoSwap::Module { module: module.clone(), error })?;
    }
    if !Path::new(SIZE).exists() {
        return Err(NoSwap::NoZram(order.no_modules.clone()));
    }
    fs::write(SIZE, order.bytes.to_string()).map_err(|error| NoSwap::Size { bytes: order.bytes, error })?;
    write_header(order.bytes).map_err(NoSwap::Header)?;
    swap_on().map_err(NoSwap::On)
}

/// Loads a module, unless the kernel has it already.
fn load(path: &str) -> io::Result<()> {
    match init_module(&fs::read(path)?, c"") {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn write_header(bytes: u64) -> io::Result<()> {
    let page_bytes = page_size();
    let last_page = u32::try_from(bytes / page_bytes as u64 - 1).map_err(io::Error::other)?;
    let mut page = vec![0; page_bytes];
    page[VERSION_OFFSET..][..4].copy_from_slice(&VERSION.to_le_bytes());
    page[LAST_PAGE_OFFSET..][..4].copy_from_slice(&last_page.to_le_bytes());
    page[page_bytes - MAGIC.len()..].copy_from_slice(MAGIC);
    let device = OpenOptions::new().write(true).open(Path::new(&*DEVICE.to_string_lossy()))?;
    device.write_all_at(&page, 0)?;
    device.sync_all()
}

fn swap_on() -> io::Result<()> {
    // SAFETY: `DEVICE` is a NUL-terminated path that the call only reads.
    match unsafe { libc::swapon(DEVICE.as_ptr(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
