//! The guest's IPA map.
//!
//! ```text
//! 0x0900_0000      16550 UART, one page
//! 0x0a00_0000      doorbell, one page
//! 0x4000_0000      RAM, 4 MiB: the image with its zeroed memory; the device tree at an offset of 2 MiB
//! 0x5000_0000      channel, at most 256 MiB
//! 0x1_0000_0000    regions under test, at the IPAs in the specification
//! ```

/// First IPA of the UART's registers.
pub const UART: u64 = 0x0900_0000;
/// Size of the UART's page in bytes.
pub(crate) const UART_BYTES: u64 = 0x1000;
/// IPA of the doorbell page.
pub const DOORBELL: u64 = 0x0a00_0000;
/// First IPA of RAM, where the image is loaded.
pub(crate) const RAM: u64 = 0x4000_0000;
/// Size of RAM in bytes.
pub(crate) const RAM_BYTES: u64 = 4 << 20;
/// Maximum size of the image in bytes, with its zeroed memory.
pub(crate) const IMAGE_BYTES: u64 = 2 << 20;
/// First IPA of the device tree.
pub(crate) const FDT: u64 = RAM + IMAGE_BYTES;
/// First IPA of the channel.
pub const CHANNEL: u64 = 0x5000_0000;
/// Maximum size of the channel in bytes.
pub(crate) const CHANNEL_BYTES_MAX: u64 = 256 << 20;
