//! The screen of `faultline reproduce`: at most 25 lines of at most 80 characters, the verdict first and last.

use std::path::Path;

use record::case::CaseResult;
use record::result::RunResult;
use record::runs::{PLACES, by_id};
use record::status::Status;
use record::verdict::{fatal_complaint, relax_faults, relax_lockup};
use report::table::{Align, aligned, conditions, folded};
use units::size::Size;
use units::text::{thousands, time};

/// A kernel on the screen.
pub struct Subject<'a> {
    /// The user's word for it: `before`, `after` or `kernel`.
    pub role: &'a str,
    /// Its result.
    pub result: &'a RunResult,
    /// Its run directory.
    pub path: &'a Path,
    /// The name by which `show` finds the run.
    pub name: String,
}

/// The parts of the screen.
pub struct Screen<'a> {
    /// True if the lockup was reproduced.
    pub reproduced: bool,
    /// The reason, which the screen shows if it was not.
    pub reason: String,
    /// The kernels, in the order of the rows.
    pub subjects: Vec<Subject<'a>>,
}

impl Screen<'_> {
    /// Returns the text.
    pub fn text(&self) -> String {
        let verdict = vec![self.verdict()];
        let paragraphs = [verdict.clone(), self.setup(), self.table(), self.evidence(), verdict];
        let fold = |lines: Vec<String>| lines.iter().flat_map(|line| folded(line)).collect::<Vec<_>>().join("\n");
        paragraphs.map(fold).join("\n\n") + "\n"
    }

    fn verdict(&self) -> String {
        match (self.reproduced, self.subjects.len()) {
            (true, 1) => "REPRODUCED: the kernel locks up while KVM invalidates the I-cache.".into(),
            (true, _) => "REPRODUCED: \"before\" locks up while KVM invalidates the I-cache, \"after\" not.".into(),
            (false, _) => format!("NOT REPRODUCED: {}", self.reason),
        }
    }

    fn setup(&self) -> Vec<String> {
        let rows = self.subjects.iter().map(|subject| {
            [subject.role, subject.result.kernel_name(), &subject.result.machine.kernel_release].map(str::to_owned)
        });
        let mut lines = aligned(&rows.collect::<Vec<_>>(), Align::Left);
        if let Some(first) = self.subjects.first() {
            lines.extend(conditions(first.result));
        }
        lines
    }

    fn table(&self) -> Vec<String> {
        let head = ["kernel", "block", "lockup", "longest wait for the first execution"].map(str::to_owned);
        let cases =
            self.subjects.iter().flat_map(|subject| subject.result.cases.iter().map(move |case| (subject, case)));
        let rows = cases.map(|(subject, case)| {
            let wait = case.times().exec.map_or_else(|| "-".into(), |exec| time(exec.ns.max));
            [subject.role.to_owned(), block(case, &subject.result.cases), lockup(case), wait]
        });
        aligned(&std::iter::once(head).chain(rows).collect::<Vec<_>>(), Align::RightAfter(3))
    }

    fn evidence(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let locked = self.subjects.iter().find_map(|subject| {
            let found = |case| Some((subject, case, relax_lockup(case)?));
            subject.result.cases.iter().find_map(found)
        });
        if let Some((_, case, (complaint, shown))) = locked {
            let caller = complaint.complaint.call_trace.iter().find(|frame| frame.contains("relax_perms"));
            let called = caller.map(|frame| format!(", called by {}", symbol(frame))).unwrap_or_default();
            lines.push(format!("The stall was in {}{called}.", symbol(&shown.frame)));
            if let Some(predicted) = case.predicted {
                let (size, lines_of) = (Size(case.block_bytes()).iec(), thousands(predicted.by_line));
                lines.push(format!("Line by line, one {size} fault takes {lines_of} IC IVAU instructions."));
            }
        }
        lines.push(self.completeness());
        if let Some((subject, ..)) = locked {
            lines.push(format!("kernel log  {}", from_here(subject.path).join("console.log").display()));
        }
        let runs: Vec<_> = self.subjects.iter().map(|subject| subject.name.clone()).collect();
        lines.push(format!("report      faultline report {}", runs.join(" ")));
        if let [_, _] = runs.as_slice() {
            lines.push(format!("mail        faultline compare --format markdown {}", runs.join(" ")));
        }
        lines
    }

    /// Says whether the evidence is whole.
    fn completeness(&self) -> String {
        let missing = |subject: &Subject<'_>| {
            let page_bytes = subject.result.machine.page_bytes;
            let short = |case: &&CaseResult| {
                let blocks = case.region_bytes() / case.block_bytes().max(1);
                case.was_tried() && relax_faults(case, page_bytes) < blocks
            };
            subject
                .result
                .cases
                .iter()
                .filter(short)
                .map(|case| format!("{} {}", subject.role, case.name))
                .collect::<Vec<_>>()
        };
        let missing: Vec<_> = self.subjects.iter().flat_map(missing).collect();
        let lost: u64 = self.subjects.iter().map(|subject| subject.result.evidence.kmsg_lost).sum();
        let faults = match missing.as_slice() {
            [] => "Every expected permission fault was seen".to_owned(),
            missing => format!("Permission faults were not seen in {}", missing.join(", ")),
        };
        let messages = match lost {
            0 => "no kernel messages were lost".to_owned(),
            lost => format!("{} kernel messages were lost", thousands(lost)),
        };
        format!("{faults}; {messages}.")
    }
}

/// Returns the name by which `show` finds a run: the end of its id, if it is in a directory that `show` looks in.
pub fn name(path: &Path) -> String {
    let id = path.file_name().unwrap_or_default().to_string_lossy();
    let end = id.rsplit('-').next().unwrap_or_default();
    let found = by_id(end, PLACES).and_then(|path| path.canonicalize().ok());
    let is_known = found.is_some() && found == path.canonicalize().ok();
    if is_known { end.to_owned() } else { from_here(path).display().to_string() }
}

/// Returns a path relative to the current directory, if it is below that.
fn from_here(path: &Path) -> &Path {
    std::env::current_dir().ok().and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path)
}

fn block(case: &CaseResult, all: &[CaseResult]) -> String {
    let size = Size(case.block_bytes()).iec();
    let alike = all.iter().filter(|other| other.block_bytes() == case.block_bytes()).count();
    match case.block_bytes() {
        0 => case.name.clone(),
        _ if alike > 1 => format!("{size} ({})", case.name),
        _ => size,
    }
}

/// Returns whether a case locked up. A case that could not have shown it says so.
fn lockup(case: &CaseResult) -> String {
    let vcpu = |comm: &Option<String>| comm.as_deref().unwrap_or("a vCPU").replace("vcpu-", "vCPU ");
    if let Some((lockup, _)) = relax_lockup(case) {
        return format!("YES, {} stuck", vcpu(&lockup.complaint.comm));
    }
    if let Some(other) = fatal_complaint(case) {
        let side = other.attributions.first().map(|shown| format!(", {}", shown.side.name())).unwrap_or_default();
        return format!("other: {}{side}", other.complaint.kind);
    }
    match case.verdict.status {
        Status::Pass => "no".into(),
        Status::Skip => "not shown".into(),
        status => status.name().into(),
    }
}

/// Returns a frame without its offset.
fn symbol(frame: &str) -> &str {
    frame.split('+').next().unwrap_or(frame)
}
