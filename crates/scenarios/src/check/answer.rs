//! The answer that follows from the cases of a run.

use std::collections::BTreeMap;

use klog::attribution::Side;
use record::answer::{Answer, FACT};
use record::case::{AttributedComplaint, CaseResult};
use record::detector::{Detector, State};
use record::findings::StoredFindings;
use record::machine::{KvmMode, Machine};
use record::maintenance::{Access, FaultKind};
use record::memory::{MemoryKind, mapped_bytes};
use record::result::{RunResult, VcpuFacts};
use record::status::{Status, Verdict};
use record::verdict::{describe, describe_as, relax_lockup};
use units::size::Size;
use units::text::{counted, thousands, time};

use crate::check::findings::{Conclusion, Findings};
use crate::cost::CostModel;
use crate::icache::classify::{CAP_LINES_MAX, classify};
use crate::icache::measurement::{Class, Classification, Measurement};
use crate::projection::{Headroom, LineCost};

/// The default of the soft lockup threshold: twice the default of `kernel.watchdog_thresh`, in ns.
const DEFAULT_THRESHOLD_NS: u64 = 20_000_000_000;

/// The evidence for an answer.
pub struct Evidence<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// Registers of the first vCPU; none if no guest has run.
    pub vcpu: Option<&'a VcpuFacts>,
    /// The kernel's lockup detectors.
    pub detector: Detector,
    /// Number of kernel log records that were lost.
    pub kmsg_lost: u64,
    /// The cases.
    pub cases: &'a [CaseResult],
}

impl Evidence<'_> {
    fn measurements(&self) -> Vec<Measurement> {
        self.cases.iter().filter_map(|case| Some(case.findings.get::<Findings>()?.0)).collect()
    }

    fn cost(&self) -> CostModel {
        let cost = CostModel::new(self.machine, self.vcpu, self.machine.page_bytes);
        // A kernel with a workaround, or with unequal CPUs, can invalidate although a CPU has DIC. Then, its faults show
        // that it does.
        CostModel { dic: cost.dic && !self.cases.iter().any(has_permission_fault), ..cost }
    }

    fn threshold_ns(&self) -> Option<u64> {
        let seconds = self.detector.soft_threshold_s().filter(|s| self.detector.soft == State::On && *s > 0)?;
        Some(u64::from(seconds) * 1_000_000_000)
    }
}

/// Returns whether the trace shows that a fetch lacked the permission to execute.
fn has_permission_fault(case: &CaseResult) -> bool {
    let mut faults = case.host.iter().flat_map(|host| &host.faults);
    faults.any(|f| f.access == Access::Fetch && f.kind == FaultKind::Permission && f.count > 0)
}

/// Returns whether the cases so far answer the question, so that larger blocks need not be run. A page alone does not: a
/// block that no cap allows to be invalidated by line must have been measured.
pub fn is_settled(evidence: &Evidence<'_>) -> bool {
    let cost = evidence.cost();
    let beyond_caps = |size: &Measurement| cost.lines(size.mapped_bytes) > CAP_LINES_MAX;
    evidence.measurements().iter().any(beyond_caps) && conclude(evidence).answer != Answer::CannotTell
}

/// Returns the conclusion for a machine on which a stall would be a panic, by these sysctls.
pub fn refused(panics: &[String]) -> Conclusion {
    let names: Vec<_> = panics.iter().map(|name| format!("kernel.{name}")).collect();
    Conclusion {
        answer: Answer::CannotTell,
        reason: format!("{} would turn a stall into a panic, so nothing was run", names.join(" and ")),
        remedy: Some("faultline check --may-panic".into()),
        class: None,
        cap: None,
        evidence: Vec::new(),
        longest_ns: None,
        threshold_ns: None,
        passed_from: Vec::new(),
        also: Vec::new(),
    }
}

/// Draws the conclusion from the evidence.
pub fn conclude(evidence: &Evidence<'_>) -> Conclusion {
    let cost = evidence.cost();
    let sizes = evidence.measurements();
    let found = classify(&sizes, &cost);
    let (answer, reason, remedy) = answer(evidence, &cost, &found);
    // An answer without a class leaves something open.
    let open = (answer == Answer::NotAffected && found.class == Class::CannotTell && !cost.dic)
        .then(|| format!("not told: {}", found.cannot.last().map_or("", String::as_str)));
    let threshold_ns = evidence.threshold_ns();
    let line_cost = || {
        let largest = sizes.iter().max_by_key(|size| size.mapped_bytes)?;
        let fault_ns = largest.permission_ns.saturating_sub(largest.resident_ns);
        Some(LineCost::measured(fault_ns, largest.mapped_bytes, cost.line_bytes))
    };
    let affected = (answer == Answer::Affected).then(line_cost).flatten();
    let longest_ns = evidence.cases.iter().filter_map(|case| Some(case.times().exec?.ns.max)).max();
    let headroom = Headroom::new(
        threshold_ns.unwrap_or(DEFAULT_THRESHOLD_NS),
        longest_ns.unwrap_or(0),
        affected,
        &block_sizes(evidence.machine),
    );
    Conclusion {
        answer,
        reason,
        remedy,
        class: (!cost.dic && !sizes.is_empty()).then_some(found.class),
        cap: found.cap,
        evidence: if cost.dic { dic_evidence(evidence) } else { found.evidence.into_iter().chain(open).collect() },
        longest_ns,
        threshold_ns,
        passed_from: headroom.locks_up_from,
        also: also(evidence, &cost),
    }
}

/// Returns the answer, its reason, and the command that supplies what is missing.
fn answer(evidence: &Evidence<'_>, cost: &CostModel, found: &Classification) -> (Answer, String, Option<String>) {
    const COUNT: &str = "faultline lab --count --kernel KERNEL -- check";
    let stale: u64 = evidence.cases.iter().map(|case| case.mismatches).sum();
    let has_counts = evidence.cases.iter().any(|case| case.counted.is_some());
    let done = |answer, reason: String| (answer, reason, None);
    if stale > 0 {
        return done(Answer::Broken, format!("the guest executed old code ({})", counted(stale, "wrong token")));
    }
    if let Some((lockup, shown)) = evidence.cases.iter().find_map(relax_lockup) {
        let what = describe_as(lockup, shown);
        return done(Answer::Affected, format!("a vCPU locked up while KVM invalidated the I-cache ({what})"));
    }
    let cannot = |reason: String, remedy: Option<String>| (Answer::CannotTell, reason, remedy);
    if cost.dic && evidence.cases.iter().any(|case| case.findings.get::<Findings>().is_some()) {
        return done(Answer::NotAffected, "the CPU keeps its I-cache coherent (CTR_EL0.DIC)".into());
    }
    match found.class {
        Class::ByLine => done(Answer::Affected, "KVM invalidates the I-cache line by line".into()),
        Class::Capped => done(Answer::NotAffected, "KVM invalidates large blocks with the whole I-cache".into()),
        Class::AlwaysAll => done(Answer::NotAffected, "KVM always invalidates the whole I-cache".into()),
        // In protected mode, stage 2 and its maintenance are at EL2, where no probe of the host sees them.
        Class::None if evidence.machine.kvm_mode == Some(KvmMode::Protected) && !has_counts => cannot(
            "KVM is in protected mode: its maintenance is done at EL2, where the host cannot see it".into(),
            Some(COUNT.into()),
        ),
        Class::None => done(Answer::Broken, "KVM grants execution without I-cache maintenance".into()),
        Class::CannotTell if is_at_once(evidence, cost) => {
            done(Answer::NotAffected, "KVM invalidates the I-cache for a large block at once".into())
        }
        Class::CannotTell => {
            let (reason, remedy) = missing(evidence, cost, found);
            cannot(reason, remedy.or_else(|| (cost.aliasing || cost.protected).then(|| COUNT.to_owned())))
        }
    }
}

/// Returns whether the largest block was invalidated, and in less time than line by line. That answers the question, even
/// if the time of a page is too short to tell what the kernel does for small sizes.
fn is_at_once(evidence: &Evidence<'_>, cost: &CostModel) -> bool {
    let sizes = evidence.measurements();
    let Some(largest) = sizes.iter().max_by_key(|size| size.mapped_bytes) else { return false };
    let fault_ns = largest.permission_ns.saturating_sub(largest.resident_ns);
    // A fetch without a fault is fast, too.
    let faulted = largest.permission_ns >= 4 * largest.resident_ns && largest.grants > 0;
    !cost.aliasing
        && cost.lines(largest.mapped_bytes) > CAP_LINES_MAX
        && cost.is_by_line(fault_ns, largest.mapped_bytes) == Some(false)
        && faulted
        && largest.probe_calls.is_some_and(|calls| calls > 0)
        && largest.probe_max_bytes == Some(largest.mapped_bytes)
}

/// Returns what is missing for an answer, and the command that supplies it.
fn missing(evidence: &Evidence<'_>, cost: &CostModel, found: &Classification) -> (String, Option<String>) {
    let broke_off = |case: &&CaseResult| case.verdict.status > Status::Fail;
    if let Some(case) = evidence.cases.iter().find(broke_off) {
        return (format!("{}: {}", case.name, case.verdict.reason), None);
    }
    let sizes = evidence.measurements();
    if sizes.iter().any(|size| cost.lines(size.mapped_bytes) > CAP_LINES_MAX) {
        return (found.cannot.last().cloned().unwrap_or_else(|| "the times fit no rule".into()), None);
    }
    // Without a large block, the reason for which each of them was not run tells what to do.
    let large = |case: &&CaseResult| match case.memory.map(|memory| memory.kind) {
        Some(MemoryKind::Thp) => true,
        Some(MemoryKind::Hugetlb(Size(bytes))) => {
            cost.lines(mapped_bytes(bytes, evidence.machine.page_bytes)) > CAP_LINES_MAX
        }
        _ => false,
    };
    let commands = || {
        let skipped = evidence.cases.iter().filter(large).filter(|case| !case.was_tried());
        skipped.filter_map(|case| Some((case, case.verdict.reason.split_once(": ")?.1.to_owned())))
    };
    // A larger pool needs more memory than a smaller one. A boot is more than a command.
    let remedy = commands().map(|(_, command)| command).min_by_key(|command| command.starts_with("boot "));
    let reason = "no huge page could be had, and small pages do not tell";
    (reason.into(), remedy)
}

/// Returns the sizes of block that KVM can map on this machine, smallest first.
fn block_sizes(machine: &Machine) -> Vec<u64> {
    let thp = machine.transparent_hugepages.iter().filter(|thp| thp.enabled != "never").filter_map(|thp| thp.pmd_bytes);
    let pools = machine.hugepages.iter().map(|pool| pool.page_bytes);
    let mapped = |bytes| mapped_bytes(bytes, machine.page_bytes.max(4096));
    let mut sizes: Vec<_> = thp.chain(pools).map(mapped).filter(|bytes| *bytes > machine.page_bytes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

fn dic_evidence(evidence: &Evidence<'_>) -> Vec<String> {
    let Some(vcpu) = evidence.vcpu else { return Vec::new() };
    let register = format!("CTR_EL0 of a vCPU is {:#x}, in which DIC is set", vcpu.ctr_el0);
    let traced = evidence.cases.iter().filter(|case| case.host.is_some()).count();
    let faults = (traced > 0)
        .then(|| format!("trace: no fetch lacked the permission to execute, in {}", counted(traced as u64, "case")));
    std::iter::once(register).chain(faults).collect()
}

/// Lists what was seen beside the answer: complaints that are no I-side lockup, guests that did not end, and stalls of
/// the D side.
fn also(evidence: &Evidence<'_>, cost: &CostModel) -> Vec<String> {
    let mut lines = Vec::new();
    for case in evidence.cases {
        let lockup = relax_lockup(case).map(|(lockup, _)| lockup);
        let others = case.complaints.iter().filter(|complaint| Some(*complaint) != lockup);
        lines.extend(others.map(|complaint| format!("{}: {}", case.name, with_side(complaint))));
        if case.verdict.status == Status::Timeout {
            lines.push(format!("{}: {}", case.name, case.verdict.reason));
        }
    }
    let by_line = |size: &&Measurement| cost.is_by_line(size.by_load_ns, size.mapped_bytes) == Some(true);
    if let Some(size) = evidence.measurements().iter().filter(by_line).max_by_key(|size| size.mapped_bytes) {
        lines.push(format!(
            "the D side is cleaned line by line: a load that maps {} takes {}",
            Size(size.mapped_bytes),
            time(size.by_load_ns)
        ));
    }
    if evidence.kmsg_lost > 0 {
        lines.push(format!("{} kernel log records were lost", thousands(evidence.kmsg_lost)));
    }
    lines
}

fn with_side(complaint: &AttributedComplaint) -> String {
    let d_side = !complaint.attributions.is_empty() && complaint.attributions.iter().all(|a| a.side == Side::DSide);
    if d_side { format!("a stall of the D side ({})", describe(complaint)) } else { describe(complaint) }
}

/// Returns the verdict on a run with this conclusion.
pub fn judge(conclusion: &Conclusion) -> Verdict {
    let status = match conclusion.answer {
        Answer::NotAffected => Status::Pass,
        Answer::Affected | Answer::Broken => Status::Fail,
        Answer::CannotTell => Status::Skip,
    };
    Verdict::new(status, format!("{}: {}", conclusion.answer.words(), conclusion.reason))
}

/// Returns the facts about the kernel, for reports and comparisons.
pub fn facts(conclusion: &Conclusion) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::from([(FACT.to_owned(), conclusion.answer.name().to_owned())]);
    facts.extend(conclusion.class.map(|class| ("policy".to_owned(), class.name().to_owned())));
    facts
}

/// Adds the counted operations of each case of a stored run to its findings, and draws the conclusion again.
pub fn conclude_with_counts(run: &mut RunResult) {
    for case in &mut run.cases {
        if let Some(Findings(measured)) = case.findings.get() {
            case.findings = StoredFindings::of(&Findings(measured.with_counts_of(case)));
        }
    }
    if run.cases.is_empty() {
        return;
    }
    let conclusion = conclude(&Evidence {
        machine: &run.machine,
        vcpu: run.vcpus.first(),
        detector: run.detector.clone(),
        kmsg_lost: run.evidence.kmsg_lost,
        cases: &run.cases,
    });
    run.verdict = judge(&conclusion);
    run.facts = facts(&conclusion);
    run.conclusion = StoredFindings::of(&conclusion);
}

#[cfg(test)]
mod tests;
