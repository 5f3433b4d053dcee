//! Attribution of a complaint: the work that kept the CPU busy, such as the I side or the D side of cache maintenance.
//!
//! The pc decides first, because it is the place where the CPU was. If the pc decides nothing, the innermost four frames
//! decide, innermost first: `lr`, and the call trace after it. A loop without a frame of its own has its caller in `lr`
//! alone. The pc decides nothing in three cases:
//!
//! - the interrupt of the watchdog landed in the `dsb` after a loop,
//! - it landed in a function into which the routine was inlined,
//! - the log has no pc.
//!
//! Deeper frames never decide. A lockup is attributed to the code that ran, and not to code that may have run.
//!
//! | side | functions | reason |
//! |---|---|---|
//! | I | `icache_inval_*`, `*invalidate_icache*` | the loop of IC IVAU (named `invalidate_icache_range` before v5.14), IC IALLUIS, and the C functions around them |
//! | I | `stage2_attr_walker` below `kvm_pgtable_stage2_relax_perms` | the only maintenance of this walker is on the I side |
//! | D | `dcache_*`, `*clean_dcache*`, `__flush_dcache_area`, `__inval_dcache_area`, `*kvm_flush_dcache*`, `stage2_flush_*` | the loops of DC CIVAC, CVAC, CVAU and IVAC |
//! | lock wait | `*queued_{spin,read,write}_lock_slowpath`, `_raw_{spin,read,write}_lock*`, below a function of KVM that takes `mmu_lock` | these wait for `mmu_lock` |
//! | other | the same lock functions, anywhere else | these wait for a lock that is not KVM's |
//! | TLB | `*tlb_flush*`, `*flush_tlb*`, `*tlbi*` | invalidation by VMID, IPA or range, and TLB invalidation of the host |
//! | allocator | `alloc_contig_*`, `compact_*`, `clear_page*`, `prep_compound_*`, … | the kernel looks for huge pages and zeroes them |
//!
//! `caches_clean_inval_pou` and `__flush_icache_range` work on both sides and do not belong to stage 2, so they are
//! `other`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::complaint::Complaint;
use crate::routines::{is_d_side, is_i_side};

/// The work that kept the CPU busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Invalidation of the I-cache.
    ISide,
    /// Clean or invalidation of the D-cache.
    DSide,
    /// Wait for KVM's `mmu_lock`.
    LockWait,
    /// Invalidation of TLB entries.
    Tlb,
    /// Search for memory, or zeroing of memory.
    Allocator,
    /// Other work, or the log does not tell.
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

/// The path into stage 2 that the call trace shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage2Path {
    /// `kvm_pgtable_stage2_relax_perms`: a permission fault.
    RelaxPerms,
    /// `kvm_pgtable_stage2_map`: a translation fault, or a change of block size.
    Map,
    /// A fault, outside of any change of the tables. Up to v5.13, `user_mem_abort` itself did the maintenance of the I
    /// side.
    Fault,
    /// An unmap: by an MMU notifier, a change of memslots, or the end of the VM.
    Unmap,
    /// None of these is in the call trace.
    Unknown,
}

/// The attribution of one place of a complaint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attribution {
    /// The work that kept the CPU busy.
    pub side: Side,
    /// The frame that decided, as printed. For `other`, it is the innermost known frame that did not only print the
    /// report; it is empty if there is none.
    pub frame: String,
    /// The path into stage 2 that the call trace shows.
    pub path: Stage2Path,
}

/// The number of frames below the pc that may decide if the pc does not.
const CONTEXT_FRAMES: usize = 4;

/// Attributes every place of a complaint. The first attribution is that of the longest report, and the others are those
/// of [`Complaint::elsewhere`].
///
/// One vCPU can stall on the D side first and on the I side later, so a verdict has to look at all of them.
pub fn attribute(complaint: &Complaint) -> Vec<Attribution> {
    let longest = decide(complaint.pc.as_ref(), complaint.lr.as_ref(), &complaint.call_trace);
    let others =
        complaint.elsewhere.iter().map(|place| decide(place.pc.as_ref(), place.lr.as_ref(), &place.call_trace));
    std::iter::once(longest).chain(others).collect()
}

fn decide(pc: Option<&String>, lr: Option<&String>, call_trace: &[String]) -> Attribution {
    // The same frame may stand in both.
    let lr = lr.filter(|lr| call_trace.first() != Some(lr));
    let names: Vec<&str> = lr.into_iter().chain(call_trace).map(|frame| function(frame)).collect();
    let path = path(&names);
    let reports = call_trace.iter().take_while(|frame| only_reports(function(frame))).count();
    let call_trace = &call_trace[reports..];
    for frame in pc.into_iter().chain(lr.into_iter().chain(call_trace).take(CONTEXT_FRAMES)) {
        if let Some(side) = side(function(frame), path, &names) {
            return Attribution { side, frame: frame.clone(), path };
        }
    }
    let frame = pc.or(call_trace.first()).cloned().unwrap_or_default();
    Attribution { side: Side::Other, frame, path }
}

/// Returns the name of the function of a frame. It removes the offset, a suffix of the compiler (`.isra.0`), and the
/// prefix of a second copy of the function.
fn function(frame: &str) -> &str {
    let name = frame.split('+').next().unwrap_or(frame);
    let name = name.split('.').next().unwrap_or(name);
    let name = name.strip_prefix("__kvm_nvhe_").unwrap_or(name);
    name.strip_prefix("__pi_").unwrap_or(name)
}

/// Returns whether the function prints the call trace, panics, or put the task aside. Such a function did not keep the
/// CPU busy.
fn only_reports(name: &str) -> bool {
    const PRINTS: [&str; 5] = ["dump_backtrace", "show_stack", "dump_stack", "dump_stack_lvl", "panic"];
    const PUTS_ASIDE: [&str; 3] = ["__switch_to", "__schedule", "schedule"];
    PRINTS.contains(&name) || PUTS_ASIDE.contains(&name)
}

fn path(names: &[&str]) -> Stage2Path {
    let has = |prefix: &str| names.iter().any(|name| name.starts_with(prefix));
    if has("kvm_pgtable_stage2_relax_perms") {
        Stage2Path::RelaxPerms
    } else if has("kvm_pgtable_stage2_map") {
        Stage2Path::Map
    } else if has("kvm_pgtable_stage2_unmap") || has("kvm_unmap_gfn_range") || has("kvm_pgtable_stage2_destroy") {
        Stage2Path::Unmap
    } else if has("user_mem_abort") || has("kvm_handle_guest_abort") {
        Stage2Path::Fault
    } else {
        Stage2Path::Unknown
    }
}

/// Applies the table of rules to one function. `None` means that this frame decides nothing.
fn side(name: &str, path: Stage2Path, trace: &[&str]) -> Option<Side> {
    if is_i_side(name) || (name == "stage2_attr_walker" && path == Stage2Path::RelaxPerms) {
        return Some(Side::ISide);
    }
    if is_d_side(name) {
        return Some(Side::DSide);
    }
    if is_lock_slow_path(name) {
        // A lock that is not KVM's decides, too: the CPU then waits for none of the sides.
        return Some(if trace.iter().any(|frame| takes_mmu_lock(frame)) { Side::LockWait } else { Side::Other });
    }
    if name.contains("tlb_flush") || name.contains("flush_tlb") || name.contains("tlbi") {
        return Some(Side::Tlb);
    }
    is_allocator(name).then_some(Side::Allocator)
}

fn is_lock_slow_path(name: &str) -> bool {
    let queued = name.strip_prefix("native_").unwrap_or(name);
    let slow = queued.starts_with("queued_") && queued.ends_with("_lock_slowpath");
    // A lock without a queue, and a queued lock whose slow path is inlined, spin in the locking function itself.
    slow || ["_raw_spin_lock", "_raw_read_lock", "_raw_write_lock"].iter().any(|lock| name.starts_with(lock))
}

/// Returns whether this function takes `mmu_lock`, or is called by one that does.
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

    fn attributed(pc: &str, trace: &[&str]) -> (Side, String, Stage2Path) {
        let mut lines = vec!["watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [vcpu-0:7]".to_owned()];
        if !pc.is_empty() {
            lines.push(format!("pc : {pc}+0x10/0x30"));
        }
        lines.push("Call trace:".to_owned());
        lines.extend(trace.iter().map(|frame| format!(" {frame}+0x4/0x80")));
        let complaints = crate::saved::complaints(lines.join("\n").as_bytes()).expect("memory can be read");
        let Attribution { side, frame, path } = attribute(&complaints[0]).remove(0);
        (side, frame, path)
    }

    const RELAX: [&str; 5] =
        ["kvm_pgtable_stage2_relax_perms", "user_mem_abort", "kvm_handle_guest_abort", "handle_exit", "kvm_vcpu_ioctl"];

    fn below_relax<'a>(inner: &[&'a str]) -> Vec<&'a str> {
        inner.iter().copied().chain(RELAX).collect()
    }

    #[test]
    fn the_reported_lockup() {
        let trace = below_relax(&["icache_inval_pou", "invalidate_icache_guest_page", "stage2_attr_walker"]);
        let (side, frame, path) = attributed("icache_inval_pou", &trace);
        assert_eq!((side, path), (Side::ISide, Stage2Path::RelaxPerms));
        assert_eq!(frame, "icache_inval_pou+0x10/0x30");
    }

    #[test]
    fn the_pc_beats_the_trace() {
        // The D-clean of a translation fault stays on the D side, even with frames of the I side around it, and the
        // other way round.
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
    fn lr_is_a_frame_between_the_pc_and_the_trace() {
        let at = |pc: &str, lr: &str, trace: &[&str]| {
            let trace: Vec<_> = trace.iter().map(|frame| (*frame).to_owned()).collect();
            let Attribution { side, frame, path } = decide(Some(&pc.to_owned()), Some(&lr.to_owned()), &trace);
            (side, frame, path)
        };
        // Linux 5.10: the loop has no frame of its own, so its caller is nowhere else.
        let trace = ["invalidate_icache_range+0x34/0x50", "handle_exit+0x74/0x200"];
        let found = at("invalidate_icache_range+0x34/0x50", "kvm_handle_guest_abort+0x9c0/0xab0", &trace);
        assert_eq!(found, (Side::ISide, "invalidate_icache_range+0x34/0x50".into(), Stage2Path::Fault));
        let found = at("x+0x0/0x4", "icache_inval_pou+0x0/0x4", &["clean_dcache_guest_page+0x0/0x4"]);
        assert_eq!((found.0, found.1.as_str()), (Side::ISide, "icache_inval_pou+0x0/0x4"));
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
            Stage2Path::Unmap
        );
    }
}
