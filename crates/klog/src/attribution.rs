//! Says which side of the cache maintenance a complaint comes from.
//!
//! The pc decides first: it is where the CPU was. Only when the pc says nothing (the watchdog's interrupt landed in the
//! `dsb` after a loop, in a caller the routine was inlined into, or the log has no pc) do the innermost
//! [`CONTEXT_FRAMES`] frames of the trace decide, innermost first. Deeper frames never do: a lockup is attributed
//! to what ran, not to what might have run.
//!
//! | side | functions | why |
//! |---|---|---|
//! | I | `icache_inval_pou`, `invalidate_icache*`, `*invalidate_icache_guest_page`, `icache_inval_all_pou` | the loop of IC IVAU (named `invalidate_icache_range` before v5.14) and the C function around it |
//! | I | `stage2_attr_walker` below `kvm_pgtable_stage2_relax_perms` | that walker's only maintenance is on the I side |
//! | D | `dcache_*`, `*clean_dcache*`, `__flush_dcache_area`, `__inval_dcache_area`, `kvm_flush_dcache*`, `stage2_flush_*` | clean or invalidate loops of DC CIVAC, CVAC, CVAU, IVAC |
//! | lock wait | `*queued_{spin,read,write}_lock_slowpath`, `_raw_{spin,read,write}_lock*` below KVM's stage-2 functions | those wait for `mmu_lock` |
//! | TLB | `*tlb_flush*`, `*flush_tlb*`, `*tlbi*` | invalidation by VMID, IPA or range, and host TLB shoot-downs |
//! | allocator | `alloc_contig_*`, `compact_*`, `clear_*page*`, … | finding and zeroing huge pages |
//!
//! `caches_clean_inval_pou` and `__flush_icache_range` do both sides and are not stage 2: they are `other`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::message::Event;

/// What kept the CPU busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Invalidating the I-cache.
    ISide,
    /// Cleaning or invalidating the D-cache.
    DSide,
    /// Waiting for KVM's `mmu_lock`.
    LockWait,
    /// Invalidating TLB entries.
    Tlb,
    /// Finding or zeroing memory.
    Allocator,
    /// Something else, or the log does not tell.
    Other,
}

impl Side {
    /// Returns the name used in results and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::ISide => "i_side",
            Self::DSide => "d_side",
            Self::LockWait => "lock_wait",
            Self::Tlb => "tlb",
            Self::Allocator => "allocator",
            Self::Other => "other",
        }
    }
}

/// Which stage-2 path the trace shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// `kvm_pgtable_stage2_relax_perms`: a permission fault, the path of the report.
    RelaxPerms,
    /// `kvm_pgtable_stage2_map`: a translation fault, or a change of block size.
    Map,
    /// A fault, outside any change of the tables: up to v5.13 `user_mem_abort` itself did the I side.
    Fault,
    /// Unmapping: MMU notifier, memslot change, end of the VM.
    Unmap,
    /// None of these is in the trace.
    Unknown,
}

/// What a complaint is attributed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attribution {
    /// What kept the CPU busy.
    pub side: Side,
    /// The frame that decided, as printed; for `other` the innermost frame known that is not of the report itself, empty
    /// if there is none.
    pub frame: String,
    /// The stage-2 path in the trace.
    pub path: Path,
}

/// Frames below the pc that may decide when the pc does not.
const CONTEXT_FRAMES: usize = 4;

/// Attributes a complaint by the pc and call trace of its longest report.
pub fn attribute(event: &Event) -> Attribution {
    decide(event.pc.as_ref(), &event.call_trace)
}

/// Attributes every place of a complaint: the longest report's first, then those of [`Event::elsewhere`].
///
/// One vCPU can stall on the D side first and on the I side later; a verdict has to look at all of them.
pub fn attribute_all(event: &Event) -> Vec<Attribution> {
    let others = event.elsewhere.iter().map(|place| decide(place.pc.as_ref(), &place.call_trace));
    std::iter::once(attribute(event)).chain(others).collect()
}

fn decide(pc: Option<&String>, call_trace: &[String]) -> Attribution {
    let names: Vec<&str> = call_trace.iter().map(|frame| function(frame)).collect();
    let path = path(&names);
    let call_trace = &call_trace[names.iter().take_while(|name| is_of_the_report(name)).count()..];
    for frame in pc.into_iter().chain(call_trace.iter().take(CONTEXT_FRAMES)) {
        if let Some(side) = side(function(frame), path, &names) {
            return Attribution { side, frame: frame.clone(), path };
        }
    }
    let frame = pc.or(call_trace.first()).cloned().unwrap_or_default();
    Attribution { side: Side::Other, frame, path }
}

/// Returns the function's name: no offset, no suffix of the compiler (`.isra.0`), no prefix of a second copy.
fn function(frame: &str) -> &str {
    let name = frame.split('+').next().unwrap_or(frame);
    let name = name.split('.').next().unwrap_or(name);
    let name = name.strip_prefix("__kvm_nvhe_").unwrap_or(name);
    name.strip_prefix("__pi_").unwrap_or(name)
}

/// Says whether the function only prints the trace, panics, or has put the task aside: what it happened to is further out.
fn is_of_the_report(name: &str) -> bool {
    const PRINTS: [&str; 5] = ["dump_backtrace", "show_stack", "dump_stack", "dump_stack_lvl", "panic"];
    const PUTS_ASIDE: [&str; 3] = ["__switch_to", "__schedule", "schedule"];
    PRINTS.contains(&name) || PUTS_ASIDE.contains(&name)
}

fn path(names: &[&str]) -> Path {
    let has = |prefix: &str| names.iter().any(|name| name.starts_with(prefix));
    if has("kvm_pgtable_stage2_relax_perms") {
        Path::RelaxPerms
    } else if has("kvm_pgtable_stage2_map") {
        Path::Map
    } else if has("kvm_pgtable_stage2_unmap") || has("kvm_unmap_gfn_range") || has("kvm_pgtable_stage2_destroy") {
        Path::Unmap
    } else if has("user_mem_abort") || has("kvm_handle_guest_abort") {
        Path::Fault
    } else {
        Path::Unknown
    }
}

/// Applies the rule table to one function; `None` means that this frame decides nothing.
fn side(name: &str, path: Path, trace: &[&str]) -> Option<Side> {
    if is_i_side(name) || (name == "stage2_attr_walker" && path == Path::RelaxPerms) {
        return Some(Side::ISide);
    }
    if is_d_side(name) {
        return Some(Side::DSide);
    }
    if is_lock_slow_path(name) {
        // A lock that is not KVM's decides too: what the CPU waits for is then none of our sides.
        return Some(if trace.iter().any(|frame| takes_mmu_lock(frame)) { Side::LockWait } else { Side::Other });
    }
    if name.contains("tlb_flush") || name.contains("flush_tlb") || name.contains("tlbi") {
        return Some(Side::Tlb);
    }
    is_allocator(name).then_some(Side::Allocator)
}

fn is_i_side(name: &str) -> bool {
    name.starts_with("icache_inval_") || name.contains("invalidate_icache")
}

fn is_d_side(name: &str) -> bool {
    const EXACT: [&str; 2] = ["__flush_dcache_area", "__inval_dcache_area"];
    name.starts_with("dcache_")
        || name.contains("clean_dcache")
        || name.contains("kvm_flush_dcache")
        || name.starts_with("stage2_flush_")
        || EXACT.contains(&name)
}

fn is_lock_slow_path(name: &str) -> bool {
    let queued = name.strip_prefix("native_").unwrap_or(name);
    let slow = queued.starts_with("queued_") && queued.ends_with("_lock_slowpath");
    // Locks without a queue, and queued ones whose slow path is inlined, spin in the locking function itself.
    slow || ["_raw_spin_lock", "_raw_read_lock", "_raw_write_lock"].iter().any(|lock| name.starts_with(lock))
}

/// Says whether this function takes `mmu_lock`, or runs below one that does.
fn takes_mmu_lock(name: &str) -> bool {
    const PREFIXES: [&str; 12] = [
        "user_mem_abort",
        "kvm_handle_guest_abort",
        "handle_access_fault",
        "kvm_unmap_gfn_range",
        "kvm_handle_hva_range",
        "kvm_mmu_notifier_",
        "kvm_mmu_wp_memory_region",
        "kvm_mmu_split_",
        "kvm_arch_flush_shadow",
        "kvm_arch_commit_memory_region",
        "kvm_free_stage2_pgd",
        "stage2_unmap_vm",
    ];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn is_allocator(name: &str) -> bool {
    const PREFIXES: [&str; 17] = [
        "alloc_contig_",
        "__alloc_contig_",
        "free_contig_range",
        "compact_",
        "compaction_",
        "isolate_",
        "migrate_pages",
        "clear_page",
        "clear_huge_page",
        "clear_gigantic_page",
        "clear_subpage",
        "folio_zero_user",
        "prep_compound_",
        "get_page_from_freelist",
        "__alloc_pages",
        "gather_bootmem_prealloc",
        "__prep_compound_gigantic",
    ];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::parse;
    use crate::record::Record;

    fn attributed(pc: &str, trace: &[&str]) -> (Side, String, Path) {
        let mut lines = vec!["watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [vcpu-0:7]".to_owned()];
        if !pc.is_empty() {
            lines.push(format!("pc : {pc}+0x10/0x30"));
        }
        lines.push("Call trace:".to_owned());
        lines.extend(trace.iter().map(|frame| format!(" {frame}+0x4/0x80")));
        let event = parse(lines.iter().map(|line| Record::plain(line))).remove(0);
        let Attribution { side, frame, path } = attribute(&event);
        (side, frame, path)
    }

    const RELAX: [&str; 5] =
        ["kvm_pgtable_stage2_relax_perms", "user_mem_abort", "kvm_handle_guest_abort", "handle_exit", "kvm_vcpu_ioctl"];

    fn below_relax<'a>(inner: &[&'a str]) -> Vec<&'a str> {
        inner.iter().copied().chain(RELAX).collect()
    }

    #[test]
    fn the_report() {
        let trace = below_relax(&["icache_inval_pou", "invalidate_icache_guest_page", "stage2_attr_walker"]);
        let (side, frame, path) = attributed("icache_inval_pou", &trace);
        assert_eq!((side, path), (Side::ISide, Path::RelaxPerms));
        assert_eq!(frame, "icache_inval_pou+0x10/0x30");
    }

    #[test]
    fn the_pc_beats_the_trace() {
        // The D-clean of a mapping fault with I-side frames around it must stay on the D side, and the other way round.
        assert_eq!(attributed("dcache_clean_inval_poc", &["invalidate_icache_guest_page"]).0, Side::DSide);
        assert_eq!(attributed("icache_inval_pou", &["clean_dcache_guest_page"]).0, Side::ISide);
        assert_eq!(attributed("__pi_dcache_clean_inval_poc", &["icache_inval_pou"]).0, Side::DSide);
    }

    #[test]
    fn context_decides_when_the_pc_does_not() {
        assert_eq!(attributed("", &below_relax(&["stage2_attr_walker"])).0, Side::ISide);
        assert_eq!(attributed("_raw_other", &["invalidate_icache_guest_page", "stage2_attr_walker"]).0, Side::ISide);
        assert_eq!(attributed("stage2_attr_walker", &["kvm_pgtable_stage2_wrprotect"]).0, Side::Other);
        let deep = ["a", "b", "c", "d", "icache_inval_pou"];
        assert_eq!(attributed("x", &deep).0, Side::Other);
    }

    #[test]
    fn lock_wait_only_for_mmu_lock() {
        assert_eq!(attributed("queued_write_lock_slowpath", &["user_mem_abort"]).0, Side::LockWait);
        assert_eq!(
            attributed("native_queued_spin_lock_slowpath", &["kvm_mmu_notifier_invalidate_range_start"]).0,
            Side::LockWait
        );
        assert_eq!(attributed("queued_write_lock_slowpath", &["copy_counters_to_user"]).0, Side::Other);
    }

    #[test]
    fn old_names_and_the_other_sides() {
        assert_eq!(attributed("invalidate_icache_range", &[]).0, Side::ISide);
        assert_eq!(attributed("__flush_dcache_area", &["kvm_pgtable_stage2_map"]).0, Side::DSide);
        assert_eq!(attributed("__kvm_tlb_flush_vmid_ipa", &[]).0, Side::Tlb);
        assert_eq!(attributed("clear_page", &["clear_huge_page"]).0, Side::Allocator);
        assert_eq!(attributed("alloc_contig_pages", &[]).0, Side::Allocator);
        assert_eq!(attributed("caches_clean_inval_pou", &[]).0, Side::Other);
        assert_eq!(
            attributed("dcache_clean_inval_poc", &["stage2_unmap_walker", "kvm_unmap_gfn_range"]).2,
            Path::Unmap
        );
    }
}
