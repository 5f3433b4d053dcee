//! Rules of the budget, with their sources.

/// Rule that limits what KVM may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// B1: a mapping stays.
    MappingKept,
    /// B2: execute permission stays.
    ExecuteKept,
    /// B3: write permission stays.
    WriteKept,
    /// B4: a block stays whole.
    BlockKept,
    /// B5: the access flag stays.
    AccessFlagKept,
    /// B6: only a grant of execute permission needs an I-cache invalidation.
    InvalidatedOnce,
    /// B7: only a new mapping needs a D-cache clean.
    CleanedOnce,
}

impl Rule {
    /// All rules.
    #[cfg(test)]
    pub const ALL: [Self; 7] = [
        Self::MappingKept,
        Self::ExecuteKept,
        Self::WriteKept,
        Self::BlockKept,
        Self::AccessFlagKept,
        Self::InvalidatedOnce,
        Self::CleanedOnce,
    ];

    /// Returns the short name in results and in `docs/budgets.md`.
    pub const fn id(self) -> &'static str {
        match self {
            Self::MappingKept => "B1",
            Self::ExecuteKept => "B2",
            Self::WriteKept => "B3",
            Self::BlockKept => "B4",
            Self::AccessFlagKept => "B5",
            Self::InvalidatedOnce => "B6",
            Self::CleanedOnce => "B7",
        }
    }

    /// Returns what went wrong if the rule is broken.
    pub const fn broken(self) -> &'static str {
        match self {
            Self::MappingKept => "the mapping was lost",
            Self::ExecuteKept => "X was lost",
            Self::WriteKept => "W was lost",
            Self::BlockKept => "the block was split",
            Self::AccessFlagKept => "the access flag was lost",
            Self::InvalidatedOnce => "no execute permission was granted",
            Self::CleanedOnce => "nothing was mapped",
        }
    }

    /// Returns the rule in one line, as `docs/budgets.md` has it.
    #[cfg(test)]
    pub const fn text(self) -> &'static str {
        match self {
            Self::MappingKept => "what a vCPU has reached needs no further translation fault until its mapping goes",
            Self::ExecuteKept => "what a vCPU has executed stays executable until its mapping goes",
            Self::WriteKept => "what a vCPU has written stays writable until it is write-protected or its mapping goes",
            Self::BlockKept => {
                "a block is split only by a fault under dirty logging, by eager splitting, or by a notifier"
            }
            Self::AccessFlagKept => "the access flag of a mapping is cleared only by ageing",
            Self::InvalidatedOnce => {
                "a fetch fault causes at most one I-cache invalidation, and other faults cause none"
            }
            Self::CleanedOnce => {
                "a fault that maps something causes at most one D-cache clean, and other faults cause none"
            }
        }
    }

    /// Returns the source of the rule: functions of KVM.
    #[cfg(test)]
    pub const fn source(self) -> &'static str {
        match self {
            Self::MappingKept => "user_mem_abort, kvm_pgtable_stage2_unmap, kvm_unmap_gfn_range",
            Self::ExecuteKept => "kvm_pgtable_stage2_relax_perms adds permissions and removes none",
            Self::WriteKept => "kvm_pgtable_stage2_wrprotect, called for dirty logging alone",
            Self::BlockKept => "user_mem_abort (force_pte), kvm_pgtable_stage2_split, stage2_unmap_walker",
            Self::AccessFlagKept => "kvm_age_gfn, kvm_pgtable_stage2_test_clear_young",
            Self::InvalidatedOnce => "stage2_attr_walker and stage2_map_walker_try_leaf, if the new entry has X",
            Self::CleanedOnce => "stage2_map_walker_try_leaf, if a leaf is installed",
        }
    }
}
