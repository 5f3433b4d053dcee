//! `faultline matrix`: which maintenance each kernel does on each kind of machine, counted and predicted, in one table.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Command;

use super::lab::{complete, failure};
use super::{Failure, Outcome};
use crate::lab::{self, GuestExit, Options};
use crate::result::{RunResult, Status};
use crate::store;
use crate::verdict::policy::Class;

/// Where the table goes.
#[derive(clap::Args)]
pub struct Args {
    /// Directory that receives the run directories and the table, matrix.md
    #[arg(long, default_value = "results", value_name = "DIR")]
    results: PathBuf,
    /// Cells of these CPU models only
    #[arg(long, value_delimiter = ',', value_name = "MODEL,…")]
    cpus: Vec<String>,
    /// The QEMU to use
    #[arg(long, hide = true, default_value = "qemu-system-aarch64", value_name = "PROGRAM")]
    qemu: PathBuf,
}

/// CPU models: those without DIC in Debian 12's QEMU, and those that only newer versions have.
const CPUS: [&str; 8] =
    ["neoverse-n1", "cortex-a57", "cortex-a72", "cortex-a76", "max", "a64fx", "neoverse-v1", "neoverse-n2"];
/// CPU models on which every page size and mode of KVM is tried; the others get 4K pages and their own mode.
const THOROUGH: [&str; 2] = ["neoverse-n1", "max"];
const KERNELS: [(&str, Class); 2] = [("by-line", Class::ByLine), ("upton", Class::Capped)];

/// A page size: the suffix of the policy kernel, the blocks it can have, the pools these need.
const PAGES: [(&str, &str, &str, &str); 3] = [
    ("4K", "", "page,thp,1G", "hugepagesz=1G hugepages=1"),
    ("16K", "+16k", "page,32M", "hugepagesz=32M hugepages=1"),
    ("64K", "+64k", "page,512M", "hugepagesz=512M hugepages=1"),
];

/// How KVM is started: what the table calls it, and the kernel's argument.
const MODES: [(&str, &str); 3] =
    [("as it starts", ""), ("nvhe", "kvm-arm.mode=nvhe"), ("protected", "kvm-arm.mode=protected")];

struct Cell {
    cpu: &'static str,
    pages: usize,
    mode: usize,
    kernel: usize,
}

impl Cell {
    fn all(cpus: &[String]) -> Vec<Self> {
        let mut cells = Vec::new();
        for cpu in CPUS.into_iter().filter(|cpu| cpus.is_empty() || cpus.iter().any(|wanted| wanted == cpu)) {
            let thorough = THOROUGH.contains(&cpu);
            // Other modes with 4K pages, other pages in the first mode: their product would show nothing more.
            let machines = [(0, 0), (1, 0), (2, 0), (0, 1), (0, 2)];
            for (pages, mode) in machines.into_iter().filter(|machine| thorough || *machine == (0, 0)) {
                cells.extend((0..KERNELS.len()).map(|kernel| Self { cpu, pages, mode, kernel }));
            }
        }
        cells
    }

    fn options(&self, args: &Args) -> Options {
        let (_, suffix, _, pools) = PAGES[self.pages];
        let kernel = format!("policy:{}{suffix}", KERNELS[self.kernel].0);
        Options {
            results: args.results.clone(),
            cpu: self.cpu.into(),
            time_scale: Some(4),
            append: format!("{pools} {}", MODES[self.mode].1),
            count: true,
            qemu: args.qemu.clone(),
            qemu_timeout: 120,
            ..Options::for_kernel(&kernel)
        }
    }
}

/// What a line of the table says besides the cell.
struct Row {
    status: Status,
    geometry: String,
    policy: String,
    reason: String,
}

impl Row {
    fn without(status: Status, reason: impl Into<String>) -> Self {
        Self { status, geometry: "-".into(), policy: "-".into(), reason: reason.into() }
    }
}

/// Runs every cell and prints the table.
///
/// # Errors
///
/// What keeps the lab itself from working.
pub fn run(args: &Args) -> Outcome {
    let known = Command::new(&args.qemu).args(["-machine", "virt", "-cpu", "help"]).output();
    let known = known.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let mut rows = Vec::new();
    for cell in Cell::all(&args.cpus) {
        let row = if known.split_whitespace().any(|name| name == cell.cpu) {
            try_cell(&cell, args)?
        } else {
            Row::without(Status::Skip, "this QEMU does not have the model")
        };
        rows.push((cell, row));
    }
    let mut table = Vec::new();
    // Writing to memory does not fail.
    let _ = print(&mut table, &rows);
    let path = args.results.join("matrix.md");
    store::replace(&path, &table).map_err(|error| Failure::harness(store::Error::Write(path, error)))?;
    // A closed pipe is the reader's choice; the table is on disk.
    let _ = io::stdout().write_all(&table);
    Ok(rows.iter().map(|(_, row)| row.status).max().unwrap_or(Status::Skip).exit_code())
}

fn try_cell(cell: &Cell, args: &Args) -> Result<Row, Failure> {
    let argv = ["run", "policy", "--quiet", "--hugepages", "--blocks", PAGES[cell.pages].2].map(OsString::from);
    let outcomes = lab::run(&cell.options(args), &argv).map_err(failure)?;
    complete(&outcomes)?;
    let Some(outcome) = outcomes.first() else { return Ok(Row::without(Status::Error, "nothing was run")) };
    if let Some(exit @ GuestExit::DidNotBoot(_)) = &outcome.exit {
        return Ok(Row::without(Status::Skip, exit.to_string()));
    }
    match outcome.run_dir.as_deref().map(store::read) {
        Some(Ok(result)) if !result.recovered => Ok(judge(cell, &result)),
        _ => {
            let how = outcome.exit.as_ref().map_or_else(|| "no result".into(), ToString::to_string);
            Ok(Row::without(Status::Fail, how))
        }
    }
}

/// Passes a cell in which the policy is the kernel's, and every count is what that policy predicts.
fn judge(cell: &Cell, result: &RunResult) -> Row {
    let Some(vcpu) = result.vcpus.first() else { return Row::without(Status::Error, result.verdict.reason.clone()) };
    let geometry = format!("{} B {}", vcpu.imin_line_bytes, vcpu.l1ip);
    let policy = result.policy.as_ref();
    let name = policy.map_or("none inferred", |policy| policy.class.name());
    let row = |status, reason: String| Row { status, geometry: geometry.clone(), policy: name.into(), reason };
    if vcpu.dic {
        return row(Status::Skip, "DIC: there is no maintenance to see".into());
    }
    let aliasing = vcpu.l1ip != abi::ctr::L1Ip::Pipt.name();
    let expected = if aliasing { Class::AlwaysAll } else { KERNELS[cell.kernel].1 };
    let run: Vec<_> =
        result.cases.iter().filter(|case| case.verdict.status != Status::Skip || case.counted.is_some()).collect();
    let counted = |case: &&&crate::result::CaseResult| {
        case.counted.as_ref().is_some_and(|counted| counted.faults > 0 && !counted.agrees_with.is_empty())
    };
    let exact = run.iter().filter(counted).count();
    let reason = format!("{exact} of {} block sizes counted as predicted", result.cases.len());
    if policy.is_some_and(|policy| policy.class == expected) && exact == result.cases.len() {
        let note = if aliasing { "; virtually indexed: by line is never exercised" } else { "" };
        row(Status::Pass, format!("{reason}{note}"))
    } else {
        row(Status::Fail, format!("{reason}: {}", result.verdict.reason))
    }
}

fn print(out: &mut impl Write, rows: &[(Cell, Row)]) -> io::Result<()> {
    writeln!(out, "All cells are emulated; operations are counted exactly, times are not compared.\n")?;
    writeln!(out, "| CPU | pages | KVM mode | kernel | I line | policy found | status | |")?;
    writeln!(out, "|---|---|---|---|---|---|---|---|")?;
    for (cell, row) in rows {
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            cell.cpu,
            PAGES[cell.pages].0,
            MODES[cell.mode].0,
            KERNELS[cell.kernel].0,
            row.geometry,
            row.policy,
            row.status.name(),
            row.reason.replace('|', "/")
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells() {
        let all = Cell::all(&[]);
        assert_eq!(all.len(), 2 * (2 * 5 + 6));
        let one = Cell::all(&["a64fx".into()]);
        assert!(one.iter().all(|cell| (cell.cpu, cell.pages, cell.mode) == ("a64fx", 0, 0)) && one.len() == 2);
    }
}
