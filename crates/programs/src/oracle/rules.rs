//! The rules that the oracle relies on, one line each, with where they are written.

use serde::Serialize;

/// What makes old code impossible. Taking one away shows what it alone forbids ([`crate::oracle::windows`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// K1.
    HostClean,
    /// K2.
    HostInvalidate,
    /// K3.
    ContentsKept,
    /// K4.
    OldFramesGone,
    /// C1.
    Coherent,
    /// G1.
    Clean,
    /// G2.
    Invalidate,
    /// G3.
    InvalidateAll,
    /// G4.
    Broadcast,
    /// A1.
    Idc,
    /// A2.
    Dic,
    /// G5.
    Synchronise,
}

impl Rule {
    /// Every rule; what is listed first is named first where several could be broken.
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

    /// Says whether the host's events rely on it: its promises, and what spares it maintenance.
    pub const fn concerns_the_host(self) -> bool {
        use Rule::{ContentsKept, Dic, HostClean, HostInvalidate, Idc, OldFramesGone};
        matches!(self, HostClean | HostInvalidate | ContentsKept | OldFramesGone | Idc | Dic)
    }

    /// Returns the short name used in results and docs/oracle.md.
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
                "what the host wrote before the guest can reach it again is clean: data and fetches find it"
            }
            Self::HostInvalidate => {
                "what the host wrote before the guest can execute it again is in no I-cache as it was"
            }
            Self::ContentsKept => "an event changes no contents but those it says",
            Self::OldFramesGone => "after an unmap no vCPU reaches the frames that were there before",
            Self::Coherent => "a load through the caches returns the newest store that is ordered before it",
            Self::Clean => "DC and then DSB on the same PE: the line is clean to the PoU or PoC",
            Self::Invalidate => "IC IVAU and then DSB on the same PE: what was in I-caches before is gone",
            Self::InvalidateAll => "IC IALLUIS and then DSB on the same PE: what was in I-caches before is gone",
            Self::Broadcast => "invalidation of I-caches reaches every PE of the Inner Shareable domain",
            Self::Idc => "with IDC a completed store is at the PoU without a clean",
            Self::Dic => "with DIC an instruction fetch finds what is at the PoU without an invalidation",
            Self::Synchronise => "after a context synchronization event nothing fetched before it is executed",
        }
    }

    /// Returns where it is written: a section of the Arm ARM (DDI 0487), or a function of KVM.
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

/// What machine the program runs on, as far as it matters here: effective values, as the guest sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Whether a store needs no clean for the I side: CTR_EL0.IDC, or as CLIDR_EL1 says.
    pub idc: bool,
    /// Whether the I side needs no invalidation: CTR_EL0.DIC.
    pub dic: bool,
    /// Whether stage 2 forces Write-Back: looking past the caches proves nothing then.
    pub fwb: bool,
}

impl Geometry {
    /// Returns what a guest's CTR_EL0 and CLIDR_EL1 say, on a host with or without FWB.
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
        assert_eq!(Geometry::new(n1, 0xa20_0023, false), Geometry { idc: false, dic: false, fwb: false });
        assert!(Geometry::new(n1, 0, true).idc);
    }
}
