//! Conversions from the end of a guest to the types of a stored result.

use std::io::IsTerminal;

use abi::Ctr;
use guest::report::{End, GuestRun, VcpuReport, trouble};
use indicatif::ProgressBar;
use record::result::{L1Ip, ReadCtr, VcpuFacts};
use record::status::{Status, Verdict};

/// Shows `text` as a spinner on a terminal, or prints it as a line elsewhere.
pub fn progress(text: &str) -> ProgressBar {
    if std::io::stderr().is_terminal() {
        return ProgressBar::new_spinner().with_message(text.to_owned());
    }
    units::note!("{text}");
    ProgressBar::hidden()
}

/// Returns the verdict of a guest that did not end well; none for a guest that did.
pub fn bad_end(run: &GuestRun) -> Option<Verdict> {
    match (&run.end, trouble(run)) {
        (End::TimedOut, what) => {
            let at: Vec<_> = run.vcpus.iter().map(|vcpu| vcpu.current_op.to_string()).collect();
            let what = what.unwrap_or_else(|| format!("vCPUs at ops {}", at.join(", ")));
            Some(Verdict::new(Status::Timeout, format!("the guest was still running at the time limit: {what}")))
        }
        (End::Interrupted, _) => Some(Verdict::new(Status::Error, "interrupted")),
        (_, Some(what)) => Some(Verdict::new(Status::Error, what)),
        (_, None) => wrong_ctr(run).map(|reason| Verdict::new(Status::Fail, reason)),
    }
}

/// Describes a vCPU that read another CTR_EL0 than the one that KVM accepted for it.
fn wrong_ctr(run: &GuestRun) -> Option<String> {
    // A vCPU that was set to the machine's own value is not checked. Before Linux 6.11, KVM accepted that value, too,
    // and reported an IDC that guests did not read.
    let changed = |vcpu: &VcpuReport| vcpu.shown_ctr.filter(|shown| shown.set != shown.machine).map(|shown| shown.set);
    let mut shown = run.vcpus.iter().enumerate().filter_map(|(n, vcpu)| Some((n, vcpu.ctr_el0, changed(vcpu)?)));
    let (n, read, set) = shown.find(|(_, read, set)| read != set)?;
    Some(format!("vcpu-{n} reads CTR_EL0 {read:#x}, although KVM took {set:#x} for it"))
}

/// Describes each vCPU of a guest that did not end well, by its state, its registers and its last records.
pub fn autopsy(run: &GuestRun) -> Vec<String> {
    const LAST: usize = 4;
    let mut lines = Vec::new();
    for (n, vcpu) in run.vcpus.iter().enumerate() {
        lines.push(format!("vcpu-{n}: {:?} at op {}, {} records", vcpu.state, vcpu.current_op, vcpu.records.len()));
        if !vcpu.registers.is_empty() {
            lines.push(format!("vcpu-{n}: {}", vcpu.registers.join(" ")));
        }
        for record in vcpu.records.iter().rev().take(LAST).rev() {
            lines.push(format!("vcpu-{n}: {record:x?}"));
        }
    }
    lines
}

/// Returns the identification registers that the guest read on a vCPU.
pub fn facts(vcpu: &VcpuReport) -> VcpuFacts {
    let ctr = vcpu.machine_ctr();
    let shown = vcpu.shown_ctr.map(|_| {
        let read = Ctr(vcpu.ctr_el0);
        ReadCtr {
            ctr_el0: read.0,
            imin_line_bytes: read.imin_line_bytes(),
            dmin_line_bytes: read.dmin_line_bytes(),
            idc: read.idc(),
            dic: read.dic(),
        }
    });
    VcpuFacts {
        midr_el1: vcpu.midr_el1,
        ctr_el0: ctr.0,
        clidr_el1: vcpu.clidr_el1,
        imin_line_bytes: ctr.imin_line_bytes(),
        dmin_line_bytes: ctr.dmin_line_bytes(),
        idc: ctr.idc() || abi::ctr::clidr_implies_idc(vcpu.clidr_el1),
        dic: ctr.dic(),
        l1ip: l1ip(ctr),
        cntfrq_hz: vcpu.cntfrq_el0,
        resolution_ticks: vcpu.resolution_ticks,
        shown,
    }
}

fn l1ip(ctr: Ctr) -> L1Ip {
    match ctr.l1ip() {
        abi::ctr::L1Ip::Vpipt => L1Ip::Vpipt,
        abi::ctr::L1Ip::Reserved => L1Ip::Reserved,
        abi::ctr::L1Ip::Vipt => L1Ip::Vipt,
        abi::ctr::L1Ip::Pipt => L1Ip::Pipt,
    }
}
