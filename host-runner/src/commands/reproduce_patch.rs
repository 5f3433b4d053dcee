//! `faultline reproduce-patch`: the same plan on kernels that differ by the patch alone.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use lab::{Options, QemuChoice};
use record::result::RunResult;
use record::verdict::relax_lockup;
use report::table::{self, columns, headline};
use units::text::time;

use crate::answer::{Failure, Outcome, emit_json};
use crate::lab_runs::{self, LabRun, cpu, failure};
use crate::patch::{Kernels, judge, races};

/// Which kernels, and on what.
#[derive(clap::Args)]
pub struct Args {
    /// Kernel that invalidates by line always: as for `lab --kernel`
    #[arg(long, default_value = "policy:by-line", value_name = "KERNEL")]
    by_line: String,
    /// Kernels with a fix
    #[arg(long, default_value = "policy:upton,policy:shan", value_delimiter = ',', value_name = "KERNEL,…")]
    fixed: Vec<String>,
    /// Kernel without any maintenance, for the shared block
    #[arg(long, default_value = "policy:none", value_name = "KERNEL")]
    none: String,
    /// What runs
    #[arg(long, default_value = "shared-block", value_enum)]
    plan: Plan,
    /// Directory that receives the run directories
    #[arg(long, default_value = "results", value_name = "DIR")]
    results: PathBuf,
    /// CPU model that QEMU emulates; the default has no DIC and, with a QEMU before 8, FWB, so that the D side stays out of
    /// the picture
    #[arg(long, value_name = "MODEL")]
    cpu: Option<String>,
    /// The QEMU to use, as for `lab`
    #[arg(long, default_value = lab::OWN_QEMU, value_name = "PROGRAM|VERSION")]
    qemu: QemuChoice,
    /// Print QEMU's command lines and do nothing else
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "dry_run")]
    json: bool,
    #[command(flatten)]
    verbosity: lab::Verbosity,
}

/// What runs in each kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Plan {
    /// 1, 2 and 4 vCPUs race into one 1 GiB block
    SharedBlock,
    /// 16 vCPUs execute 512 blocks of 2 MiB, each its own
    SmallBlocks,
}

impl Plan {
    /// Returns the CPUs of the emulated machine.
    fn cpus(self) -> u32 {
        match self {
            Self::SharedBlock => 4,
            Self::SmallBlocks => 16,
        }
    }

    /// Returns N where every instruction takes 2^N ns: the first at which the bug reaches the threshold.
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

/// Boots all kernels, runs the same plan in each, compares.
///
/// # Errors
///
/// If one of the runs came to no result.
pub fn run(args: &Args) -> Outcome {
    let mut kernel = vec![args.by_line.clone()];
    kernel.extend(args.fixed.iter().cloned());
    // That it does nothing shows in one plan as well as in another.
    let with_none = args.plan == Plan::SharedBlock;
    kernel.extend(with_none.then(|| args.none.clone()));
    let options = Options {
        kernel,
        results: args.results.clone(),
        cpu: cpu(args.cpu.as_deref(), &args.qemu, args.verbosity)?,
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
    if args.json {
        emit_json(&serde_json::json!({ "findings": findings, "runs": runs }))?;
        return Ok(code);
    }
    // A closed pipe is the reader's choice; the results are on disk.
    let _ = print(&results, args.plan);
    for path in runs.iter().filter_map(|run| run.path.as_deref()) {
        println!("{}", path.display());
    }
    println!();
    for finding in &findings {
        println!("{}{}", if finding.holds { "" } else { "FAILED: " }, finding.text);
    }
    Ok(code)
}

/// Returns a kernel's result, named as the user named the kernel: all of them have the same release.
fn named(run: &LabRun) -> Result<RunResult, Failure> {
    let mut result = run.required()?.clone();
    result.machine.kernel_release.clone_from(&run.kernel);
    Ok(result)
}

fn print(results: &[RunResult], plan: Plan) -> io::Result<()> {
    let out = &mut io::stdout().lock();
    if plan == Plan::SmallBlocks {
        return table::print(out, &results.iter().map(scenarios::viewed).collect::<Vec<_>>());
    }
    if let Some(line) = results.first().map(headline) {
        // The kernel is in the table.
        writeln!(out, "{}\n", line.split_once("; ").map_or(line.as_str(), |(_, rest)| rest))?;
    }
    print_races(out, results)
}

/// Prints one line for each kernel and number of racers.
fn print_races(out: &mut impl Write, results: &[RunResult]) -> io::Result<()> {
    let head = ["kernel", "block", "racers", "worst stall", "growth", "invalidations", "of the model", "I-side lockup"];
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
    columns(out, &rows)?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use report::html::{Source, pictures};

    /// What `make reference` committed is what its results make: table, pictures, and what they show.
    #[test]
    fn the_reference_is_made_of_its_results() {
        let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../results/reference");
        let text = |name: &str| std::fs::read_to_string(reference.join(name)).expect("it is committed");
        let mut results = ["by-line", "upton", "shan", "none"].map(|name| {
            let path = reference.join(format!("reproduce-patch/{name}.json"));
            record::runs::load_one(&path.to_string_lossy()).expect("a result").result
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
        let said = text("reproduce-patch.txt");
        assert!(said.contains(&String::from_utf8_lossy(&table).into_owned()), "stale: make reference");
        let [by_line, upton, shan, none] = &results;
        let findings = judge(&Kernels { by_line, fixed: &[upton.clone(), shan.clone()], none: Some(none) });
        for finding in findings {
            assert!(finding.holds && said.contains(&finding.text), "{}", finding.text);
        }
    }
}
