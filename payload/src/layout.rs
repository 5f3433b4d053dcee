//! The linker's symbols, as addresses.

use core::ptr::addr_of;

mod symbols {
    unsafe extern "C" {
        pub safe static image_start: u8;
        pub safe static image_end: u8;
    }
}

/// Returns the VA of the image's first byte.
pub fn image_start() -> usize {
    addr_of!(symbols::image_start) as usize
}

/// Returns the VA just past the image and its zeroed memory.
pub fn image_end() -> usize {
    addr_of!(symbols::image_end) as usize
}
