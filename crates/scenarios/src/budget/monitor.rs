//! The monitor: compares the steps of a trace with the budget.

use std::collections::HashMap;
use std::ops::Range;

use guest::event::{Event, Mappings};
use hostfacts::trace::{GuestFault, Maintenance, Step};
use record::budget::{Budget, Surplus};
use record::maintenance::{Access, FaultKind};
use record::memory::stage2_level;

use crate::budget::grants::{Grants, Rights};
use crate::budget::marks::{Edge, HostMark, Marked};
use crate::budget::rules::Rule;

/// Facts about the guest and its machine that the budget depends on.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Size of a host page in bytes, which is also the granule of stage 2.
    pub page_bytes: u64,
    /// Size in bytes of the largest block that KVM may map for this memory.
    pub block_bytes: u64,
    /// True if the host's pages have that size for sure, as those of hugetlb.
    pub is_hugetlb: bool,
    /// IPAs of the region under test.
    pub region: Range<u64>,
    /// Host virtual address of the region. Without it, nothing can be judged.
    pub host_va: Option<u64>,
    /// Number of the vCPU that each thread runs, by thread id.
    pub threads: HashMap<u32, u64>,
    /// True if KVM splits blocks when dirty logging begins.
    pub eager_split: bool,
    /// The machine's CTR_EL0.DIC.
    pub dic: bool,
}

/// The last fault of a vCPU.
#[derive(Clone, Debug)]
struct LastFault {
    /// Number of the step of the vCPU's last fault that differs from this one.
    chain_began: u64,
    /// Number of the step of this fault.
    at: u64,
    ipa: u64,
    needed: Rights,
    level: u8,
    /// Maintenance that the fault may still cause.
    may_invalidate: bool,
    may_clean: bool,
}

/// Compares the steps of a trace with the budget.
#[derive(Debug)]
pub struct Monitor {
    surroundings: Surroundings,
    grants: Grants,
    is_logging: bool,
    step: u64,
    faults: HashMap<u64, LastFault>,
    /// Step of the last MMU notifier outside of the host's own events.
    notified: u64,
    /// Step of the last MMU notifier.
    unmapped: u64,
    /// Last begin or end of a host event, with its step.
    marked: Option<(HostMark, u64)>,
    /// Ranges that were aged, until an access-flag fault in them.
    aged: Vec<Range<u64>>,
    budget: Budget,
}

impl Monitor {
    /// Returns a monitor of a guest. It takes nothing as mapped.
    pub fn new(surroundings: Surroundings) -> Self {
        Self {
            surroundings,
            grants: Grants::default(),
            is_logging: false,
            step: 0,
            faults: HashMap::new(),
            notified: 0,
            unmapped: 0,
            marked: None,
            aged: Vec::new(),
            budget: Budget::default(),
        }
    }

    /// Compares further steps.
    pub fn push(&mut self, steps: &[Step]) {
        for step in steps {
            self.step += 1;
            match step {
                Step::Fault(fault) => self.fault(fault),
                Step::Icache(call) => self.invalidated(call),
                Step::Dcache(call) => self.cleaned(call),
                Step::Unmap(range) => self.unmapped(range),
                Step::Age(range) => self.aged.extend(self.ipas(range)),
                Step::Mark(text) => HostMark::parse(text).into_iter().for_each(|mark| self.mark(mark)),
            }
        }
    }

    /// Returns the comparison of all steps. `lost` trace records, or the reason `gap`, leave it unjudged: what is missing
    /// from the trace could explain every surplus.
    pub fn finish(self, lost: u64, gap: Option<&str>) -> Budget {
        let unjudged = match gap {
            Some(gap) => Some(gap.to_owned()),
            None if lost > 0 => Some(format!("{lost} trace records were lost")),
            None if self.surroundings.host_va.is_none() => Some("the region's host VA is not known".into()),
            None if self.surroundings.threads.is_empty() => Some("the vCPUs' threads are not known".into()),
            None => return self.budget,
        };
        Budget { unjudged, ..Budget::default() }
    }

    /// Returns the IPAs of the region behind these host virtual addresses. They are extended to whole entries of level
    /// 2, because KVM removes a block as a whole.
    fn ipas(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let Surroundings { host_va, region, .. } = &self.surroundings;
        let (host_va, bytes) = ((*host_va)?, region.end - region.start);
        let start = range.start.saturating_sub(host_va);
        let end = range.end.saturating_sub(host_va).min(bytes);
        let entry = self.surroundings.block_bytes.max(self.entry_bytes(2));
        let ipa = region.start + start;
        (start < end).then(|| ipa / entry * entry..(region.start + end).next_multiple_of(entry))
    }

    /// Returns the size in bytes of the memory that one entry of a level maps.
    fn entry_bytes(&self, level: u8) -> u64 {
        let page_shift = self.surroundings.page_bytes.max(4096).trailing_zeros();
        1 << (page_shift + (3 - u32::from(level.min(3))) * (page_shift - 3))
    }

    /// Returns the entry of a level that an IPA belongs to.
    fn entry(&self, ipa: u64, level: u8) -> Range<u64> {
        let bytes = self.entry_bytes(level);
        let start = ipa / bytes * bytes;
        start..start + bytes
    }

    fn unmapped(&mut self, range: &Range<u64>) {
        if let Some(gone) = self.ipas(range) {
            self.grants.remove(gone);
        }
        self.unmapped = self.step;
        // The retry of a fault may be due to a notifier for other memory of the VM.
        if !self.in_event() {
            self.notified = self.step;
        }
    }

    /// Returns whether the host is doing an event of its own.
    fn in_event(&self) -> bool {
        self.marked.is_some_and(|(mark, _)| mark.edge == Edge::Begin)
    }

    fn mark(&mut self, mark: HostMark) {
        match mark.event {
            Marked::Event(Event::DirtyLogOn) => {
                self.is_logging = true;
                self.grants.write_protect();
                if self.surroundings.eager_split {
                    self.grants.forget_levels();
                }
            }
            Marked::Event(Event::DirtyLogOff) => self.is_logging = false,
            Marked::Event(event) if event.mappings() == Mappings::Kept => (),
            _ => self.grants.clear(),
        }
        self.marked = Some((mark, self.step));
    }

    fn fault(&mut self, fault: &GuestFault) {
        let Some(vcpu) = self.surroundings.threads.get(&fault.pid).copied() else { return };
        let needed = match fault.access {
            Access::Fetch => Rights::EXECUTE,
            Access::Data if fault.write => Rights::WRITE,
            Access::Data => Rights::READ,
        };
        let began = self.chain_began(vcpu, fault, needed);
        let is_judged = self.surroundings.region.contains(&fault.ipa) && fault.kind != FaultKind::Other;
        self.budget.faults += u64::from(is_judged);
        if let Some(rule) = self.broken(vcpu, fault, needed).filter(|_| is_judged) {
            if self.is_raced(vcpu, fault, began) {
                self.budget.raced += 1;
            } else {
                self.surplus(rule, fault_name(fault, needed), fault.level, fault.ipa);
            }
        }
        // Outside of the region nothing is known about the mappings, so every maintenance may be needed.
        let may_invalidate = needed == Rights::EXECUTE || !is_judged;
        let may_clean = self.maps(fault) || !is_judged;
        let GuestFault { ipa, kind, level, .. } = *fault;
        let last = LastFault { chain_began: began, at: self.step, ipa, needed, level, may_invalidate, may_clean };
        self.faults.insert(vcpu, last);
        if kind == FaultKind::AccessFlag {
            self.aged.retain(|range| !range.contains(&ipa));
        } else if is_judged {
            self.grant(vcpu, fault, needed);
        }
    }

    /// Returns the step before the vCPU's current chain of faults for one access.
    fn chain_began(&self, vcpu: u64, fault: &GuestFault, needed: Rights) -> u64 {
        let Some(last) = self.faults.get(&vcpu) else { return 0 };
        // A vCPU that loses a race against a store finds a mapping without X at its second attempt, so the kinds differ.
        let is_repeated = (last.ipa, last.needed) == (fault.ipa, needed);
        if is_repeated { last.chain_began } else { last.at }
    }

    /// Returns the rule that a fault breaks, unless a race explains it.
    fn broken(&self, vcpu: u64, fault: &GuestFault, needed: Rights) -> Option<Rule> {
        if fault.kind == FaultKind::AccessFlag {
            let is_aged = self.aged.iter().any(|range| range.contains(&fault.ipa));
            return (!is_aged && self.grants.at(fault.ipa).is_some()).then_some(Rule::AccessFlagKept);
        }
        let grant = self.grants.at(fault.ipa)?;
        if grant.level.is_some_and(|level| fault.level > level) {
            return Some(Rule::BlockKept);
        }
        let rights = grant.of(vcpu);
        if fault.kind == FaultKind::Translation {
            return (rights != Rights::default()).then_some(Rule::MappingKept);
        }
        rights.has(needed).then_some(match needed {
            Rights::EXECUTE => Rule::ExecuteKept,
            Rights::WRITE => Rule::WriteKept,
            _ => Rule::MappingKept,
        })
    }

    /// Returns whether a race explains that a vCPU faults again. `began` is the step before its chain of faults for one access.
    ///
    /// Another vCPU that has faulted since then may have locked or replaced the entry. If the fault repeats the one before
    /// it, the other vCPU may have faulted on the same entry even earlier. A notifier, or a host event for another vCPU,
    /// makes KVM try again.
    fn is_raced(&self, vcpu: u64, fault: &GuestFault, began: u64) -> bool {
        let repeated = self.faults.get(&vcpu).filter(|last| last.chain_began == began);
        let entry = self.entry(fault.ipa, fault.level);
        let is_entry_in_use = |other: &LastFault| repeated.is_some() && entry.contains(&other.ipa);
        let mut others = self.faults.iter().filter(|(other, _)| **other != vcpu).map(|(_, last)| last);
        let by_event = self.marked.is_some_and(|(mark, at)| {
            mark.vcpu != vcpu && (mark.edge == Edge::Begin || repeated.is_some_and(|before| before.at < at))
        });
        by_event || self.notified > began || others.any(|other| other.at > began || is_entry_in_use(other))
    }

    /// Returns whether KVM maps something at a fault, rather than to relax the permissions of the entry that is there.
    fn maps(&self, fault: &GuestFault) -> bool {
        let is_last = fault.level >= 3;
        match fault.kind {
            FaultKind::Translation => true,
            FaultKind::Permission => {
                if is_last {
                    self.may_collapse()
                } else {
                    self.is_logging
                }
            }
            _ => false,
        }
    }

    /// Returns whether a fault on a page may make KVM map a whole block.
    fn may_collapse(&self) -> bool {
        !self.is_logging && self.surroundings.block_bytes > self.surroundings.page_bytes
    }

    /// Records what a fault obtains, and removes what its handling may take from others.
    fn grant(&mut self, vcpu: u64, fault: &GuestFault, needed: Rights) {
        let Surroundings { page_bytes, block_bytes, is_hugetlb, .. } = self.surroundings;
        let page = self.entry(fault.ipa, 3);
        let is_last = fault.level >= 3;
        if fault.kind == FaultKind::Permission && !is_last {
            let block = self.entry(fault.ipa, fault.level);
            if self.is_logging {
                // KVM maps one page in place of the block.
                self.grants.remove(block);
                self.grants.add(page, Some(3), vcpu, needed);
            } else {
                self.grants.add(block, Some(fault.level), vcpu, needed);
            }
            return;
        }
        if is_last && self.may_collapse() {
            let block = fault.ipa / block_bytes * block_bytes;
            self.grants.remove(block..block + block_bytes);
        }
        let level = stage2_level(block_bytes, page_bytes);
        let maps_block = fault.kind == FaultKind::Translation && is_hugetlb && !self.is_logging && fault.level <= level;
        if maps_block {
            self.grants.add(self.entry(fault.ipa, level), Some(level), vcpu, needed);
        } else {
            self.grants.add(page, None, vcpu, needed);
        }
    }

    fn invalidated(&mut self, call: &Maintenance) {
        let beyond = self.caused_by(call, |last| &mut last.may_invalidate);
        if let Some((level, ipa)) = beyond.filter(|_| !self.surroundings.dic) {
            self.surplus(Rule::InvalidatedOnce, "I-cache invalidation".into(), level, ipa);
        }
    }

    fn cleaned(&mut self, call: &Maintenance) {
        // A fault that breaks copy-on-write runs the notifier in its own thread. That cleans the old page, too.
        let last = self.surroundings.threads.get(&call.pid).and_then(|vcpu| self.faults.get(vcpu));
        if last.is_some_and(|last| last.at < self.unmapped) {
            return;
        }
        if let Some((level, ipa)) = self.caused_by(call, |last| &mut last.may_clean) {
            self.surplus(Rule::CleanedOnce, "D-cache clean".into(), level, ipa);
        }
    }

    /// Uses up the maintenance that the last fault of the calling thread may cause. Returns level and IPA of that fault if
    /// it may cause no more.
    fn caused_by(&mut self, call: &Maintenance, may: impl Fn(&mut LastFault) -> &mut bool) -> Option<(u8, u64)> {
        let vcpu = self.surroundings.threads.get(&call.pid)?;
        let last = self.faults.get_mut(vcpu)?;
        let (level, ipa) = (last.level, last.ipa);
        (!std::mem::replace(may(last), false)).then_some((level, ipa))
    }

    fn surplus(&mut self, rule: Rule, what: String, level: u8, ipa: u64) {
        self.budget.add_surplus(Surplus {
            rule: rule.id().into(),
            what,
            why: rule.broken().into(),
            after: self.marked.map(|(mark, _)| mark.name().to_owned()),
            level,
            ipa,
            count: 1,
        });
    }
}

/// Returns the name of a fault, in the singular.
fn fault_name(fault: &GuestFault, needed: Rights) -> String {
    let access = match needed {
        Rights::EXECUTE => "fetch",
        Rights::WRITE => "write",
        _ => "read",
    };
    let kind = match fault.kind {
        FaultKind::Translation => "translation",
        FaultKind::AccessFlag => "access flag",
        _ => "permission",
    };
    format!("{access} {kind} fault")
}
