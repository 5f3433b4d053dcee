//! `faultline reproduce-patch`: runs the same scenario on kernels that differ by the patch alone.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use lab::{Options, QemuChoice};
use record::result::RunResult;
use record::verdict::relax_lockup;
use report::table::{self, Align, columns, conditions, prose};
use units::text::time;

use crate::failure::{CommandResult, Failure};
use crate::lab_runs::{self, LabRun, failure};
use crate::lab_settings::cpu;
use crate::output::{emit, emit_json, note_stored};
use crate::patch_verdict::{Kernels, judge, races};

/// Arguments of `faultline reproduce-patch`.
#[derive(clap::Args)]
pub struct Args {
    /// Kernel that always invalidates by line, as for `lab --kernel`
    #[arg(long, default_value = "policy:by-line", value_name = "KERNEL")]
    by_line: String,
    /// Kernels with a fix
    #[arg(long, default_value = "policy:upton,policy:shan", value_delimiter = ',', value_name = "KERNEL,…")]
    fixed: Vec<String>,
    /// Kernel without maintenance, for the plan shared-block
    #[arg(long, default_value = "policy:none", value_name = "KERNEL")]
    none: String,
    /// Runs on each kernel
    #[arg(long, default_value = "shared-block", value_enum)]
    plan: Plan,
    /// Directory that receives the run directories
    #[arg(long, default_value = "results", value_name = "DIR")]
    results: PathBuf,
    /// CPU model that QEMU emulates; the default has no DIC and, with a QEMU before version 8, has FWB, which removes the
    /// maintenance of the D side
    #[arg(long, value_name = "MODEL")]
    cpu: Option<String>,
    /// QEMU to use, as for `lab`
    #[arg(long, default_value = lab::OWN_QEMU, value_name = "PROGRAM|VERSION")]
    qemu: QemuChoice,
    /// Only print QEMU's command lines
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "dry_run")]
    json: bool,
    #[command(flatten)]
    verbosity: lab::Verbosity,
}

/// Runs on each kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Plan {
    /// 1, 2 and 4 vCPUs race for one block of 1 GiB
    SharedBlock,
    /// 16 vCPUs execute 512 blocks of 2 MiB, each its own
    SmallBlocks,
}

impl Plan {
    /// Returns the number of CPUs of the emulated host.
    fn cpus(self) -> u32 {
        match self {
            Self::SharedBlock => 4,
            Self::SmallBlocks => 16,
        }
    }

    /// Returns the smallest N with which the bug reaches the lockup threshold, if every instruction takes 2^N ns.
    fn time_scale(self) -> u8 {
        match self {
            Self::SharedBlock => 4,
            Self::SmallBlocks => 7,
        }
    }

    fn argv(self) -> Vec<OsString> {
        let plan = match self {
            Self::SharedBlock => "storm --blocks 1G --racers 1,2,4",
            Self::SmallBlocks => "relax --blocks 2M --region 1G --vcpus 16 --sharing distinct --rounds 6",
        };
        format!("run {plan} --quiet --watchdog-thresh 1 --hugepages").split(' ').map(OsString::from).collect()
    }

    fn append(self) -> &'static str {
        match self {
            Self::SharedBlock => "hugepagesz=1G hugepages=1",
            Self::SmallBlocks => "hugepagesz=2M hugepages=512",
        }
    }
}

/// Boots all kernels, runs the same scenario on each, and compares the results.
///
/// # Errors
///
/// If one of the runs has no result.
pub fn run(args: &Args) -> CommandResult {
    let mut kernel = vec![args.by_line.clone()];
    kernel.extend(args.fixed.iter().cloned());
    // One plan is enough to show that this kernel does no maintenance.
    let with_none = args.plan == Plan::SharedBlock;
    kernel.extend(with_none.then(|| args.none.clone()));
    let options = Options {
        kernel,
        results: args.results.clone(),
        cpu: Some(cpu(args.cpu.as_deref(), &args.qemu, args.verbosity)?),
        qemu: args.qemu.clone(),
        smp: args.plan.cpus(),
        time_scale: Some(args.plan.time_scale()),
        append: args.plan.append().into(),
        dry_run: args.dry_run,
        verbosity: args.verbosity,
        ..Options::for_kernel(&args.by_line)
    };
    if args.dry_run {
        lab_runs::boot(&options, &args.plan.argv()).map_err(failure)?;
        return Ok(0);
    }
    let runs = lab_runs::run(&options, &args.plan.argv())?;
    let results: Vec<RunResult> = runs.iter().map(named).collect::<Result<_, _>>()?;
    let (compared, none) = results.split_at(args.fixed.len() + 1);
    let [by_line, fixed @ ..] = compared else { return Err(Failure::harness("NOT REPRODUCED: nothing was run")) };
    let findings = judge(&Kernels { by_line, fixed, none: none.first() });
    let code = u8::from(!findings.iter().all(|finding| finding.holds));
    for path in runs.iter().filter_map(|run| run.path.as_ref()).filter(|_| !args.verbosity.is_quiet()) {
        note_stored(path);
    }
    if args.json {
        emit_json(&serde_json::json!({ "findings": findings, "runs": runs }))?;
        return Ok(code);
    }
    let mut out = Vec::new();
    let mut printed = print(&mut out, &results, args.plan);
    for finding in &findings {
        let failed = if finding.holds { "" } else { "FAILED: " };
        printed = printed.and_then(|()| prose(&mut out, &format!("{failed}{}", finding.text)));
    }
    printed.map_err(Failure::harness)?;
    emit(&String::from_utf8_lossy(&out))?;
    Ok(code)
}

/// Returns a result whose kernel has the name that the user gave, because all kernels have the same release.
fn named(run: &LabRun) -> Result<RunResult, Failure> {
    let mut result = run.required()?.clone();
    result.machine.kernel_release.clone_from(&run.kernel);
    Ok(result)
}

fn print(out: &mut Vec<u8>, results: &[RunResult], plan: Plan) -> io::Result<()> {
    if plan == Plan::SmallBlocks {
        return table::print(out, &results.iter().map(scenarios::viewed).collect::<Vec<_>>());
    }
    for line in results.first().map(conditions).unwrap_or_default() {
        prose(out, &line)?;
    }
    writeln!(out)?;
    print_races(out, results)
}

/// Prints a row for each kernel and number of racers.
fn print_races(out: &mut impl Write, results: &[RunResult]) -> io::Result<()> {
    let head = ["kernel", "block", "racers", "stall", "growth", "inval.", "model", "lockup"];
    let mut rows = vec![head.map(str::to_owned)];
    let dash = || "-".to_owned();
    for (run, (case, storm)) in results.iter().flat_map(|run| races(run).map(move |race| (run, race))) {
        let most = storm.traced.iter().filter_map(|race| race.invalidations).max();
        let lockup = relax_lockup(case).and_then(|(lockup, _)| lockup.complaint.seconds);
        rows.push([
            run.machine.kernel_release.clone(),
            case.name.clone(),
            case.vcpus.to_string(),
            time(storm.worst_ns),
            storm.growth.map_or_else(dash, |growth| format!("{growth:.2}")),
            most.map_or_else(dash, |n| n.to_string()),
            storm.model.as_ref().map_or_else(dash, |model| format!("{:.2}", model.ratio)),
            lockup.map_or_else(dash, |s| format!("{s} s")),
        ]);
    }
    columns(out, &rows, Align::RightAfter(2))?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use report::html::{Source, pictures};

    use super::*;

    /// Checks that the committed table and pictures of `make reference` are those of the committed results.
    #[test]
    fn the_reference_matches_its_results() {
        let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../results/reference");
        let text = |name: &str| std::fs::read_to_string(reference.join(name)).expect("it is committed");
        let mut results = ["by-line", "upton", "shan", "none"].map(|name| {
            let path = reference.join(format!("reproduce-patch/{name}.json"));
            record::runs::load(&path.to_string_lossy()).expect("a result").remove(0).result
        });
        for (name, picture) in
            pictures(&results.each_ref().map(|result| Source::new(scenarios::viewed(result), "", "")))
        {
            if std::env::var_os("UPDATE_EXPECTED").is_some() {
                std::fs::write(reference.join(format!("reproduce-patch/{name}")), &picture).expect("writable");
            }
            assert!(picture == text(&format!("reproduce-patch/{name}")), "{name} is stale: make reference");
        }
        for result in &mut results {
            let kernel = result.lab_kernel().or(result.under_test.label.as_deref()).expect("the lab named it");
            result.machine.kernel_release = kernel.to_owned();
        }
        let mut table = Vec::new();
        print_races(&mut table, &results).expect("memory");
        let committed = text("reproduce-patch.txt");
        assert!(committed.contains(&String::from_utf8_lossy(&table).into_owned()), "stale: make reference");
        let [by_line, upton, shan, none] = &results;
        let findings = judge(&Kernels { by_line, fixed: &[upton.clone(), shan.clone()], none: Some(none) });
        for finding in findings {
            assert!(finding.holds && committed.contains(&finding.text), "{}", finding.text);
        }
    }
}
