//! What became of a guest, in the result's words.

use std::io::IsTerminal;

use indicatif::ProgressBar;

use crate::guest::{End, GuestRun, VcpuReport, trouble};
use crate::result::{Status, VcpuFacts, Verdict};

/// Returns a spinner on a terminal, and a line elsewhere.
pub fn progress(text: &str) -> ProgressBar {
    if std::io::stderr().is_terminal() {
        return ProgressBar::new_spinner().with_message(text.to_owned());
    }
    eprintln!("{text}");
    ProgressBar::hidden()
}

/// Returns the verdict of a guest that did not end well.
pub fn guest_verdict(run: &GuestRun) -> Option<Verdict> {
    match (&run.end, trouble(run)) {
        (End::TimedOut, what) => {
            let at: Vec<_> = run.vcpus.iter().map(|vcpu| vcpu.current_op.to_string()).collect();
            let what = what.unwrap_or_else(|| format!("vCPUs at ops {}", at.join(", ")));
            Some(Verdict::new(Status::Timeout, format!("the guest was still running at the time limit: {what}")))
        }
        (End::Interrupted, _) => Some(Verdict::new(Status::Error, "interrupted")),
        (_, Some(what)) => Some(Verdict::new(Status::Error, what)),
        (_, None) => None,
    }
}

/// Describes each vCPU of a guest that did not end well: state, registers, last records.
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

/// Returns what the guest read of a vCPU's identification registers.
pub fn facts(vcpu: &VcpuReport) -> VcpuFacts {
    let ctr = vcpu.ctr();
    VcpuFacts {
        midr_el1: format!("{:#x}", vcpu.midr_el1),
        ctr_el0: format!("{:#x}", vcpu.ctr_el0),
        clidr_el1: format!("{:#x}", vcpu.clidr_el1),
        imin_line_bytes: ctr.imin_line_bytes(),
        dmin_line_bytes: ctr.dmin_line_bytes(),
        idc: ctr.idc() || abi::ctr::clidr_implies_idc(vcpu.clidr_el1),
        dic: ctr.dic(),
        l1ip: ctr.l1ip().name().into(),
        cntfrq_hz: vcpu.cntfrq_el0,
        resolution_ticks: vcpu.resolution_ticks,
    }
}
