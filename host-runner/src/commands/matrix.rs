//! `faultline matrix`: which maintenance each kernel does on each kind of machine, counted and predicted, in one table.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::answer::{Failure, Outcome, emit, emit_json};
use crate::lab_runs::{self, failure};
use hostfacts::interrupt::Interrupt;
use lab::{Emulator, HostEnd, Options, QemuChoice};
use record::result::{L1Ip, RunResult};
use record::status::Status;
use record::store;
use report::html::{Source, pictures};
use scenarios::policy::findings::{Class, Conclusion};

/// Where the table goes.
#[derive(clap::Args)]
pub struct Args {
    /// Directory that receives the run directories, the table, matrix.md, and pictures of the first CPU, matrix/*.svg
    #[arg(long, default_value = "results", value_name = "DIR")]
    results: PathBuf,
    /// Cells of these CPU models only
    #[arg(long, value_delimiter = ',', value_name = "MODEL,…")]
    cpus: Vec<String>,
    /// The QEMU to use, as for `lab`; CPUs with DIC get one of version 10
    #[arg(long, default_value = lab::OWN_QEMU, value_name = "PROGRAM|VERSION")]
    qemu: QemuChoice,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    verbosity: lab::Verbosity,
}

/// Major version of the QEMU that has the CPUs with DIC.
const WITH_DIC: u32 = 10;

/// CPU models, and the least QEMU for those with DIC. `max` has it in newer versions.
const CPUS: [(&str, Option<u32>); 9] = [
    ("neoverse-n1", None),
    ("cortex-a57", None),
    ("cortex-a72", None),
    ("cortex-a76", None),
    ("max", None),
    ("a64fx", None),
    ("neoverse-v1", Some(WITH_DIC)),
    ("neoverse-n2", Some(WITH_DIC)),
    ("max", Some(WITH_DIC)),
];
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

/// Guests that are shown another CTR_EL0, on a CPU whose own it is not: `run --guest-ctr`.
const SHOWN: [(&str, &str); 2] = [("cortex-a57", "imin=32,dmin=16"), ("neoverse-n1", "idc=0")];

struct Cell {
    cpu: &'static str,
    qemu: Option<u32>,
    guest_ctr: Option<&'static str>,
    pages: usize,
    mode: usize,
    kernel: usize,
}

impl Cell {
    fn all(cpus: &[String]) -> Vec<Self> {
        let mut cells = Vec::new();
        for (cpu, qemu) in
            CPUS.into_iter().filter(|(cpu, _)| cpus.is_empty() || cpus.iter().any(|wanted| wanted == cpu))
        {
            let thorough = qemu.is_none() && THOROUGH.contains(&cpu);
            // Other modes with 4K pages, other pages in the first mode: their product would show nothing more.
            let machines = [(0, 0), (1, 0), (2, 0), (0, 1), (0, 2)];
            let kernels = 0..KERNELS.len();
            for (pages, mode) in machines.into_iter().filter(|machine| thorough || *machine == (0, 0)) {
                cells.extend(kernels.clone().map(|kernel| Self { cpu, qemu, guest_ctr: None, pages, mode, kernel }));
            }
            let shown = SHOWN.into_iter().filter(|(of, _)| *of == cpu).map(|(_, fields)| Some(fields));
            for guest_ctr in shown {
                cells.extend(kernels.clone().map(|kernel| Self { cpu, qemu, guest_ctr, pages: 0, mode: 0, kernel }));
            }
        }
        cells
    }

    /// Returns the QEMU that it runs on.
    fn choice(&self, args: &Args) -> QemuChoice {
        self.qemu.map_or_else(|| args.qemu.clone(), QemuChoice::AtLeast)
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
            qemu: self.choice(args),
            verbosity: args.verbosity,
            // Ten seconds where nothing else runs; a busy machine is no reason to fail.
            qemu_timeout: 600,
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
    /// What it was read from, where the cell came to a result.
    result: Option<RunResult>,
}

impl Row {
    fn without(status: Status, reason: impl Into<String>) -> Self {
        Self { status, geometry: "-".into(), policy: "-".into(), reason: reason.into(), result: None }
    }
}

/// Runs every cell and prints the table.
///
/// # Errors
///
/// What keeps the lab itself from working.
pub fn run(args: &Args) -> Outcome {
    // No cell may have a run: then nobody else makes it.
    fs::create_dir_all(&args.results)
        .map_err(|error| Failure::harness(store::Error::Write(args.results.clone(), error)))?;
    let mut emulators = Emulators::default();
    let mut rows = Vec::new();
    let interrupt = Interrupt::catch().map_err(Failure::harness)?;
    for cell in Cell::all(&args.cpus) {
        let (version, row) = match emulators.get(cell.choice(args), args.verbosity)? {
            Err(reason) => ("-".into(), Row::without(Status::Skip, reason)),
            Ok(emulator) if !emulator.has_cpu(cell.cpu) => {
                (emulator.version().to_owned(), Row::without(Status::Skip, "this QEMU does not have the model"))
            }
            Ok(emulator) => (emulator.version().to_owned(), try_cell(&cell, args)?),
        };
        // Ctrl-C also ends the QEMU that is asked for its models.
        interrupt.check().map_err(failure)?;
        rows.push((cell, version, row));
    }
    let mut table = Vec::new();
    // Writing to memory does not fail.
    let _ = print(&mut table, &rows);
    write(args.results.join("matrix.md"), &table)?;
    draw(&args.results.join("matrix"), &rows)?;
    if args.json {
        emit_json(&serde_json::json!({ "cells": rows.iter().map(in_json).collect::<Vec<_>>() }))?;
    } else {
        emit(&String::from_utf8_lossy(&table))?;
    }
    Ok(rows.iter().map(|(.., row)| row.status).max().unwrap_or(Status::Skip).exit_code())
}

fn write(path: PathBuf, bytes: &[u8]) -> Result<(), Failure> {
    store::replace(&path, bytes).map_err(|error| Failure::harness(store::Error::Write(path, error)))
}

/// Draws the cells of one CPU that differ in kernel and page size alone; the others' counts are the same.
fn draw(directory: &Path, rows: &[(Cell, String, Row)]) -> Result<(), Failure> {
    let shown = |cell: &Cell| (cell.cpu, cell.mode, cell.guest_ctr, cell.qemu) == (THOROUGH[0], 0, None, None);
    let results: Vec<_> =
        rows.iter().filter(|(cell, ..)| shown(cell)).filter_map(|(.., row)| row.result.as_ref()).collect();
    let sources: Vec<_> = results.iter().map(|result| Source::new(scenarios::viewed(result), "", "")).collect();
    let pictures = pictures(&sources);
    if !pictures.is_empty() {
        fs::create_dir_all(directory)
            .map_err(|error| Failure::harness(store::Error::Write(directory.to_owned(), error)))?;
    }
    pictures.iter().try_for_each(|(name, text)| write(directory.join(name), text.as_bytes()))
}

/// Those that were looked for already: what cannot be had is not fetched for every cell.
#[derive(Default)]
struct Emulators(Vec<(QemuChoice, Result<Emulator, String>)>);

impl Emulators {
    /// Returns the QEMU of a choice, or why there is none.
    fn get(&mut self, choice: QemuChoice, verbosity: lab::Verbosity) -> Result<Result<&Emulator, String>, Failure> {
        let known = self.0.iter().position(|(known, _)| *known == choice);
        let index = match known {
            Some(index) => index,
            None => {
                let found = match lab::emulator(&choice, verbosity) {
                    // Without the machine's own there is no lab at all.
                    Err(error) if choice == QemuChoice::default() || matches!(error, lab::Error::Interrupted) => {
                        return Err(failure(error));
                    }
                    found => found.map_err(|error| error.to_string()),
                };
                self.0.push((choice, found));
                self.0.len() - 1
            }
        };
        Ok(self.0[index].1.as_ref().map_err(Clone::clone))
    }
}

fn try_cell(cell: &Cell, args: &Args) -> Result<Row, Failure> {
    let mut argv = vec!["run", "policy", "--quiet", "--hugepages", "--blocks", PAGES[cell.pages].2];
    argv.extend(cell.guest_ctr.into_iter().flat_map(|fields| ["--guest-ctr", fields]));
    let argv: Vec<_> = argv.into_iter().map(OsString::from).collect();
    let runs = lab_runs::run(&cell.options(args), &argv)?;
    let Some(run) = runs.into_iter().next() else { return Ok(Row::without(Status::Error, "nothing was run")) };
    if let Some(end @ HostEnd::DidNotBoot(_)) = &run.end {
        return Ok(Row::without(Status::Skip, end.to_string()));
    }
    match run.result {
        Some(result) if !result.recovered => Ok(Row { result: Some(result.clone()), ..judge(cell, &result) }),
        _ => Ok(Row::without(Status::Fail, run.ended.unwrap_or_else(|| "no result".into()))),
    }
}

/// Passes a cell in which the policy is the kernel's, and every count is what that policy predicts.
fn judge(cell: &Cell, result: &RunResult) -> Row {
    let Some(vcpu) = result.vcpus.first() else {
        let why = result.cases.first().map_or(&result.verdict, |case| &case.verdict);
        return Row::without(if why.status == Status::Skip { Status::Skip } else { Status::Error }, why.reason.clone());
    };
    let geometry = format!("{} B {}", vcpu.imin_line_bytes, vcpu.l1ip.name());
    let class = result.conclusion.get::<Conclusion>().map(|policy| policy.class);
    let name = class.map_or("none inferred", Class::name);
    let row = |status, reason: String| Row {
        geometry: geometry.clone(),
        policy: name.into(),
        ..Row::without(status, reason)
    };
    if vcpu.dic {
        return row(Status::Skip, "DIC: there is no maintenance to see".into());
    }
    let aliasing = vcpu.l1ip != L1Ip::Pipt;
    let expected = if aliasing { Class::AlwaysAll } else { KERNELS[cell.kernel].1 };
    let run: Vec<_> =
        result.cases.iter().filter(|case| case.verdict.status != Status::Skip || case.counted.is_some()).collect();
    let counted = |case: &&&record::case::CaseResult| {
        case.counted.as_ref().is_some_and(|counted| counted.faults > 0 && !counted.agrees_with.is_empty())
    };
    let exact = run.iter().filter(counted).count();
    let reason = format!("{exact} of {} block sizes counted as predicted", result.cases.len());
    if class == Some(expected) && exact == result.cases.len() {
        let note = match &vcpu.shown {
            Some(shown) => format!("; the guest reads CTR_EL0 {:#x} in place of {:#x}", shown.ctr_el0, vcpu.ctr_el0),
            None if aliasing => "; virtually indexed: by line is never exercised".into(),
            None => String::new(),
        };
        row(Status::Pass, format!("{reason}{note}"))
    } else {
        row(Status::Fail, format!("{reason}: {}", result.verdict.reason))
    }
}

fn in_json((cell, version, row): &(Cell, String, Row)) -> serde_json::Value {
    serde_json::json!({
        "cpu": cell.cpu,
        "qemu": version,
        "guest_ctr": cell.guest_ctr,
        "pages": PAGES[cell.pages].0,
        "kvm_mode": MODES[cell.mode].0,
        "kernel": KERNELS[cell.kernel].0,
        "line": row.geometry,
        "policy": row.policy,
        "status": row.status.name(),
        "reason": row.reason,
    })
}

fn print(out: &mut impl Write, rows: &[(Cell, String, Row)]) -> io::Result<()> {
    writeln!(out, "All cells are emulated; operations are counted exactly, times are not compared.\n")?;
    writeln!(out, "| CPU | QEMU | guest's CTR_EL0 | pages | KVM mode | kernel | I line | policy found | status | |")?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|---|")?;
    for (cell, version, row) in rows {
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            cell.cpu,
            version,
            cell.guest_ctr.unwrap_or("the CPU's"),
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
        assert_eq!(all.len(), 2 * (2 * 5 + 7 + SHOWN.len()));
        let one = Cell::all(&["a64fx".into()]);
        assert!(one.iter().all(|cell| (cell.cpu, cell.pages, cell.mode) == ("a64fx", 0, 0)) && one.len() == 2);
    }
}
