//! The kernel's routines of cache maintenance for guests, by all names that they have had.

/// KVM's functions that invalidate the I-cache for a guest, in the order in which a probe takes them. Each has a size in
/// bytes in x1. Before 5.14 they are inlined, and the loops below them cannot be probed.
pub const ICACHE: [&str; 2] = ["invalidate_icache_guest_page", "__invalidate_icache_guest_page"];
/// KVM's functions that clean the D-cache for a guest, likewise.
pub const DCACHE: [&str; 2] = ["clean_dcache_guest_page", "__clean_dcache_guest_page"];

/// Names of the loop of `IC IVAU`: since 5.14, and before.
pub const ICACHE_LOOPS: [&str; 2] = ["icache_inval_pou", "invalidate_icache_range"];
/// Names of the loop of `DC CIVAC`: since 5.14, and before.
pub const DCACHE_LOOPS: [&str; 2] = ["dcache_clean_inval_poc", "__flush_dcache_area"];

/// Routine of protected KVM that changes a guest's stage 2 at EL2, since 6.16. If the kernel has it, the host's functions
/// do nothing for guests in that mode.
pub const STAGE2_AT_EL2: &str = "pkvm_pgtable_stage2_map";

/// Returns whether a function of this name works on the I side for a guest.
pub fn is_i_side(name: &str) -> bool {
    name.starts_with("icache_inval_") || name.contains("invalidate_icache")
}

/// Returns whether a function of this name works on the D side.
pub fn is_d_side(name: &str) -> bool {
    name.starts_with("dcache_")
        || name.contains("clean_dcache")
        || name.contains("kvm_flush_dcache")
        || name.starts_with("stage2_flush_")
        || name == "__inval_dcache_area"
        || DCACHE_LOOPS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_side() {
        assert!(ICACHE.iter().chain(&ICACHE_LOOPS).all(|name| is_i_side(name) && !is_d_side(name)));
        assert!(DCACHE.iter().chain(&DCACHE_LOOPS).all(|name| is_d_side(name) && !is_i_side(name)));
    }
}
