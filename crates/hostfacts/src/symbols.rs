//! Addresses of the kernel's maintenance functions.

/// File of these addresses in a run directory, in the form of /proc/kallsyms.
pub const FILE: &str = "symbols";

/// Returns the lines of kallsyms that tell where maintenance functions begin and end, where they are readable.
///
/// All else in kallsyms, several megabytes, would have to leave the emulated machine with every run.
pub fn excerpt(kallsyms: &str) -> String {
    const WANTED: [&str; 4] = ["icache_inval_", "dcache_", "caches_clean_", "invalidate_icache_"];
    let mut lines: Vec<(u64, &str)> = kallsyms
        .lines()
        .filter_map(|line| Some((u64::from_str_radix(line.split(' ').next()?, 16).ok()?, line)))
        .collect();
    lines.sort_unstable();
    let wanted = |line: &str| {
        let name = line.split(' ').nth(2).unwrap_or_default().trim_start_matches("__pi_").trim_start_matches('_');
        WANTED.iter().any(|prefix| name.starts_with(prefix))
    };
    // The line after a wanted one is kept as well: it is where the function ends.
    let kept = |n: usize| wanted(lines[n].1) || (n > 0 && wanted(lines[n - 1].1));
    (0..lines.len()).filter(|n| kept(*n)).map(|n| format!("{}\n", lines[n].1)).collect()
}

/// Reads the excerpt of this kernel's symbols; empty where they are not readable.
pub fn read() -> String {
    excerpt(&std::fs::read_to_string("/proc/kallsyms").unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_keeps_where_functions_end() {
        let all = "ffff800080000040 t icache_inval_pou\nffff800080000000 T a\nffff800080000040 t __pi_icache_inval_pou\n\
                   ffff800080000084 t b\nffff800080000100 t c\n";
        let kept = excerpt(all);
        let names: Vec<_> = kept.lines().filter_map(|line| line.split(' ').nth(2)).collect();
        assert_eq!(names, ["__pi_icache_inval_pou", "icache_inval_pou", "b"]);
    }
}
