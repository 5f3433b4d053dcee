//! Addresses of the kernel's maintenance functions, for counts that the lab's plugin takes by address.

use klog::routines::is_i_side;

/// Name of the file with these addresses in a run directory, in the format of `/proc/kallsyms`.
pub const FILE: &str = "symbols";

/// Reads the addresses of this kernel's maintenance functions; empty if they are not readable.
pub fn read() -> String {
    excerpt(&std::fs::read_to_string("/proc/kallsyms").unwrap_or_default())
}

/// Reads the addresses of all of this kernel's functions; empty if they are not readable.
pub fn read_all() -> String {
    let all = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let is_function = |line: &&str| matches!(line.split(' ').nth(1), Some("t" | "T" | "w" | "W"));
    all.lines().filter(is_function).flat_map(|line| [line, "\n"]).collect()
}

/// Returns the lines of kallsyms at which maintenance functions begin and end.
///
/// The whole table has several megabytes, and each run would have to copy it out of the emulated host.
fn excerpt(kallsyms: &str) -> String {
    const WANTED: [&str; 3] = ["dcache_", "caches_clean_", "flush_dcache_"];
    let mut lines: Vec<(u64, &str)> = kallsyms
        .lines()
        .filter_map(|line| Some((u64::from_str_radix(line.split(' ').next()?, 16).ok()?, line)))
        .collect();
    lines.sort_unstable();
    let wanted = |line: &str| {
        let name = line.split(' ').nth(2).unwrap_or_default();
        // The hypervisor at EL2 has functions of its own, with a prefix.
        let name = name.trim_start_matches("__kvm_nvhe_").trim_start_matches("__pi_").trim_start_matches('_');
        is_i_side(name) || WANTED.iter().any(|prefix| name.starts_with(prefix))
    };
    // The line after a maintenance function is kept, too: the function ends there.
    let kept = |n: usize| wanted(lines[n].1) || (n > 0 && wanted(lines[n - 1].1));
    (0..lines.len()).filter(|n| kept(*n)).map(|n| format!("{}\n", lines[n].1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_keeps_the_ends_of_functions() {
        let all = "ffff800080000040 t icache_inval_pou\nffff800080000000 T a\nffff800080000040 t __pi_icache_inval_pou\n\
                   ffff800080000084 t b\nffff800080000100 t c\n";
        let nvhe = excerpt("ffff800081000000 t __kvm_nvhe_icache_inval_pou\nffff800081000040 t __kvm_nvhe_b\n");
        assert_eq!(nvhe.lines().count(), 2);
        let kept = excerpt(all);
        let names: Vec<_> = kept.lines().filter_map(|line| line.split(' ').nth(2)).collect();
        assert_eq!(names, ["__pi_icache_inval_pou", "icache_inval_pou", "b"]);
    }
}
