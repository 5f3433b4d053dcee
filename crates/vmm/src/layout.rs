//! The guest's IPA map.
//!
//! ```text
//! 0x0900_0000      16550 UART, one page
//! 0x0a00_0000      doorbell, one page
//! 0x4000_0000      RAM, 4 MiB: image (with its zeroed memory), then from 2 MiB on the device tree
//! 0x5000_0000      channel, at most 256 MiB
//! 0x1_0000_0000    regions under test, where the plan puts them
//! ```

/// UART registers.
pub const UART: u64 = 0x0900_0000;
/// Size of the UART's page in bytes.
pub const UART_BYTES: u64 = 0x1000;
/// Doorbell page.
pub const DOORBELL: u64 = 0x0a00_0000;
/// RAM, where the image is loaded.
pub const RAM: u64 = 0x4000_0000;
/// Size of RAM in bytes.
pub const RAM_BYTES: u64 = 4 << 20;
/// The most bytes of the image, its zeroed memory included.
pub const IMAGE_BYTES: u64 = 2 << 20;
/// Device tree.
pub const FDT: u64 = RAM + IMAGE_BYTES;
/// Channel.
pub const CHANNEL: u64 = 0x5000_0000;
/// The most bytes of the channel.
pub const CHANNEL_BYTES_MAX: u64 = 256 << 20;
