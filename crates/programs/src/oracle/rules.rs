//! Rules that the oracle relies on, with their sources, and the features of a machine that the rules depend on.

use serde::Serialize;

/// Rule that makes old code impossible.
///
/// To find the rule behind a failure, the oracle runs again without each rule: an outcome that is then allowed is
/// explained by that rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// K1: the host cleans its own writes.
    HostClean,
    /// K2: the host invalidates the I-cache for its own writes.
    HostInvalidate,
    /// K3: events keep contents.
    ContentsKept,
    /// K4: old frames are out of reach.
    OldFramesGone,
    /// C1: cacheable loads are coherent.
    Coherent,
    /// G1: DC cleans.
    Clean,
    /// G2: IC IVAU invalidates.
    Invalidate,
    /// G3: IC IALLUIS invalidates.
    InvalidateAll,
    /// G4: invalidations of the I-cache are broadcast.
    Broadcast,
    /// A1: IDC replaces the clean.
    Idc,
    /// A2: DIC replaces the invalidation.
    Dic,
    /// G5: ISB synchronises.
    Synchronise,
}

impl Rule {
    /// All rules. If several rules explain a failure, the first of them in this list is named first.
    pub const ALL: [Self; 12] = [
        Self::ContentsKept,
        Self::OldFramesGone,
        Self::Coherent,
        Self::HostClean,
        Self::HostInvalidate,
        Self::Broadcast,
        Self::InvalidateAll,
        Self::Clean,
        Self::Invalidate,
        Self::Idc,
        Self::Dic,
        Self::Synchronise,
    ];

    /// Returns whether the host's events rely on the rule: it is a promise of the host, or it spares the host
    /// maintenance.
    pub(crate) const fn concerns_the_host(self) -> bool {
        use Rule::{ContentsKept, Dic, HostClean, HostInvalidate, Idc, OldFramesGone};
        matches!(self, HostClean | HostInvalidate | ContentsKept | OldFramesGone | Idc | Dic)
    }

    /// Returns the short name in results and in `docs/oracle.md`.
    pub const fn id(self) -> &'static str {
        match self {
            Self::HostClean => "K1",
            Self::HostInvalidate => "K2",
            Self::ContentsKept => "K3",
            Self::OldFramesGone => "K4",
            Self::Coherent => "C1",
            Self::Clean => "G1",
            Self::Invalidate => "G2",
            Self::InvalidateAll => "G3",
            Self::Broadcast => "G4",
            Self::Idc => "A1",
            Self::Dic => "A2",
            Self::Synchronise => "G5",
        }
    }

    /// Returns the rule in one line.
    pub const fn text(self) -> &'static str {
        match self {
            Self::HostClean => {
                "the host cleans its own writes before the guest can reach the memory again: loads and fetches see them"
            }
            Self::HostInvalidate => {
                "the host removes old code from every I-cache before the guest can execute memory that the host wrote"
            }
            Self::ContentsKept => "an event changes no contents but those that it names",
            Self::OldFramesGone => "after an unmap no vCPU reaches the old frames",
            Self::Coherent => "a load through the caches returns the newest store that is ordered before it",
            Self::Clean => "after DC, then DSB on the same PE, the line is clean to the PoU or PoC",
            Self::Invalidate => "after IC IVAU, then DSB on the same PE, no I-cache holds the old contents of the line",
            Self::InvalidateAll => "after IC IALLUIS, then DSB on the same PE, no I-cache holds old contents",
            Self::Broadcast => "an invalidation of I-caches reaches every PE of the Inner Shareable domain",
            Self::Idc => "with IDC a completed store is at the PoU without a clean",
            Self::Dic => "with DIC an instruction fetch sees the contents of the PoU without an invalidation",
            Self::Synchronise => {
                "after a context synchronization event, no instruction that was fetched before it is executed"
            }
        }
    }

    /// Returns the source of the rule: a section of the Arm ARM (DDI 0487), or a function of KVM.
    pub const fn source(self) -> &'static str {
        match self {
            Self::HostClean => {
                "KVM: user_mem_abort, stage2_map_walker_try_leaf, dcache_clean_inval_poc; Upton 2023-09-05: host-initiated \
                 writes are visible on both sides between the two faults"
            }
            Self::HostInvalidate => {
                "KVM: invalidate_icache_guest_page when execute permission is granted; Upton 2023-09-05, as K1"
            }
            Self::ContentsKept => "Linux: migration, swap and copy-on-write copy pages; KVM: memslots keep host memory",
            Self::OldFramesGone => "KVM: kvm_unmap_gfn_range and TLB invalidation before an MMU notifier returns",
            Self::Coherent => "Arm ARM B2 \"Ordering of memory effects\", \"Coherence order\"",
            Self::Clean => "Arm ARM B2/D7 \"Ordering and completion of data and instruction cache instructions\"",
            Self::Invalidate => "Arm ARM B2/D7 \"Ordering and completion of data and instruction cache instructions\"",
            Self::InvalidateAll => "Arm ARM D7 \"A64 Cache maintenance instructions\", IC IALLUIS",
            Self::Broadcast => "Arm ARM D7 \"Effects of cache maintenance instructions\", Inner Shareable",
            Self::Idc => "Arm ARM \"CTR_EL0\", IDC; \"CLIDR_EL1\", LoUU and LoUIS; D8 \"Stage 2 forced Write-Back\"",
            Self::Dic => "Arm ARM \"CTR_EL0\", DIC",
            Self::Synchronise => {
                "Arm ARM B2 \"Concurrent modification and execution of instructions\"; glossary, \"Context \
                 synchronization event\""
            }
        }
    }
}

/// Features of a machine that decide about cache maintenance, with the values that the guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheFeatures {
    /// IDC: a store needs no clean to reach the PoU. CTR_EL0 says so, or CLIDR_EL1 implies it.
    pub idc: bool,
    /// DIC: a fetch needs no invalidation of the I-cache. CTR_EL0 says so.
    pub dic: bool,
    /// FWB: stage 2 makes every access of the guest cacheable, so a load past the caches proves nothing.
    pub fwb: bool,
}

impl CacheFeatures {
    /// Returns the features from a guest's CTR_EL0 and CLIDR_EL1, on a host with or without FWB.
    pub const fn new(ctr: abi::Ctr, clidr_el1: u64, fwb: bool) -> Self {
        Self { idc: ctr.idc() || abi::ctr::clidr_implies_idc(clidr_el1), dic: ctr.dic(), fwb }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_rule_has_a_name_of_its_own() {
        let ids: BTreeSet<_> = Rule::ALL.iter().map(|rule| rule.id()).collect();
        assert_eq!(ids.len(), 12);
        assert!(Rule::ALL.iter().all(|rule| !rule.text().is_empty() && !rule.source().is_empty()));
    }

    #[test]
    fn clidr_counts_as_idc() {
        let n1 = abi::Ctr(0x8444_c004);
        assert_eq!(CacheFeatures::new(n1, 0xa20_0023, false), CacheFeatures { idc: false, dic: false, fwb: false });
        assert!(CacheFeatures::new(n1, 0, true).idc);
    }
}
