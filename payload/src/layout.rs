//! Addresses that the linker script defines.

use core::ptr::addr_of;

mod symbols {
    unsafe extern "C" {
        pub(super) safe static image_start: u8;
        pub(super) safe static image_end: u8;
    }
}

/// Returns the VA of the first byte of the image.
pub(crate) fn image_start() -> usize {
    addr_of!(symbols::image_start) as usize
}

/// Returns the VA after the last byte of the image, including the memory that is not in the file.
pub(crate) fn image_end() -> usize {
    addr_of!(symbols::image_end) as usize
}
