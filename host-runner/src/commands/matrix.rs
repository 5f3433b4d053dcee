//! `faultline matrix`: counts the maintenance of each kernel on each kind of emulated host, and compares it with the
//! predictions in one table.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use hostfacts::interrupt::Interrupt;
use lab::{Emulator, HostEnd, Options, QemuChoice};
use record::result::{L1Ip, RunResult};
use record::status::Status;
use record::store;
use report::html::{Source, pictures};
use report::table::paragraphs;
use scenarios::policy::findings::{Class, Conclusion};

use crate::failure::{CommandResult, Failure};
use crate::lab_runs::{self, failure};
use crate::output::{emit, emit_json};

/// Arguments of `faultline matrix`.
#[derive(clap::Args)]
pub struct Args {
    /// Directory that receives the run directories, the table (matrix.md) and pictures of the first CPU (matrix/*.svg)
    #[arg(long, default_value = "results", value_name = "DIR")]
    results: PathBuf,
    /// CPU models to run on [default: all]
    #[arg(long, value_delimiter = ',', value_name = "MODEL,…")]
    cpus: Vec<String>,
    /// QEMU to use, as for `lab`; CPU models with DIC need version 10, which is used for them
    #[arg(long, default_value = lab::OWN_QEMU, value_name = "PROGRAM|VERSION")]
    qemu: QemuChoice,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    verbosity: lab::Verbosity,
}

/// Major version of the QEMU that has CPU models with DIC.
const WITH_DIC: u32 = 10;

/// CPU models, and the oldest major version of QEMU for those with DIC. `max` has DIC in newer versions.
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
/// CPU models that run with every page size and every mode of KVM. The others run with [`SETUP`] alone.
const THOROUGH: [&str; 2] = ["neoverse-n1", "max"];
/// Policy kernels, and the policy that the run has to infer.
const KERNELS: [(&str, Class); 2] = [("by-line", Class::ByLine), ("upton", Class::Capped)];

/// A page size of the host.
#[derive(Clone, Copy)]
struct Pages {
    name: &'static str,
    /// Suffix of the policy kernel.
    suffix: &'static str,
    /// Kinds of memory to run on.
    blocks: &'static str,
    /// Arguments of the kernel for the hugetlb pools that these need.
    pools: &'static str,
}

const PAGES_4K: Pages = Pages { name: "4K", suffix: "", blocks: "page,thp,1G", pools: "hugepagesz=1G hugepages=1" };
const PAGES_16K: Pages = Pages { name: "16K", suffix: "+16k", blocks: "page,32M", pools: "hugepagesz=32M hugepages=1" };
const PAGES_64K: Pages =
    Pages { name: "64K", suffix: "+64k", blocks: "page,512M", pools: "hugepagesz=512M hugepages=1" };

/// A mode of KVM.
#[derive(Clone, Copy)]
struct KvmMode {
    name: &'static str,
    /// Argument of the kernel.
    argument: &'static str,
}

const DEFAULT_MODE: KvmMode = KvmMode { name: "as it starts", argument: "" };
const NVHE: KvmMode = KvmMode { name: "nvhe", argument: "kvm-arm.mode=nvhe" };
const PROTECTED: KvmMode = KvmMode { name: "protected", argument: "kvm-arm.mode=protected" };

/// Page size and mode that every CPU model runs with.
const SETUP: (Pages, KvmMode) = (PAGES_4K, DEFAULT_MODE);
/// Page sizes and modes that the [`THOROUGH`] CPU models run with, too. Other combinations would show nothing more.
const FURTHER_SETUPS: [(Pages, KvmMode); 4] =
    [(PAGES_16K, DEFAULT_MODE), (PAGES_64K, DEFAULT_MODE), (PAGES_4K, NVHE), (PAGES_4K, PROTECTED)];

/// CPU models whose guests are shown another CTR_EL0, with the argument of `run --guest-ctr`.
const SHOWN: [(&str, &str); 2] = [("cortex-a57", "imin=32,dmin=16"), ("neoverse-n1", "idc=0")];

/// A row of the table: an emulated host with a kernel.
struct Cell {
    cpu: &'static str,
    /// Oldest major version of QEMU in which the CPU model has DIC. `None` for CPU models without DIC.
    qemu: Option<u32>,
    guest_ctr: Option<&'static str>,
    pages: Pages,
    mode: KvmMode,
    kernel: &'static str,
    /// Policy of the kernel.
    policy: Class,
}

impl Cell {
    /// Returns the cells of these CPU models, or of all if none is named.
    fn all(cpus: &[String]) -> Vec<Self> {
        let mut cells = Vec::new();
        let is_wanted = |cpu: &str| cpus.is_empty() || cpus.iter().any(|wanted| wanted == cpu);
        for (cpu, qemu) in CPUS.into_iter().filter(|(cpu, _)| is_wanted(cpu)) {
            let mut add = |(pages, mode): (Pages, KvmMode), guest_ctr| {
                let cell = |(kernel, policy)| Self { cpu, qemu, guest_ctr, pages, mode, kernel, policy };
                cells.extend(KERNELS.map(cell));
            };
            add(SETUP, None);
            if qemu.is_none() && THOROUGH.contains(&cpu) {
                FURTHER_SETUPS.into_iter().for_each(|setup| add(setup, None));
            }
            for (_, fields) in SHOWN.into_iter().filter(|(of, _)| *of == cpu) {
                add(SETUP, Some(fields));
            }
        }
        cells
    }

    /// Returns the QEMU for this cell.
    fn choice(&self, args: &Args) -> QemuChoice {
        self.qemu.map_or_else(|| args.qemu.clone(), QemuChoice::AtLeast)
    }

    fn options(&self, args: &Args) -> Options {
        let Pages { suffix, pools, .. } = self.pages;
        let kernel = format!("policy:{}{suffix}", self.kernel);
        Options {
            results: args.results.clone(),
            cpu: Some(self.cpu.into()),
            time_scale: Some(4),
            append: format!("{pools} {}", self.mode.argument),
            count: true,
            qemu: self.choice(args),
            verbosity: args.verbosity,
            // A run takes ten seconds on an idle machine. A busy one must not make it fail.
            qemu_timeout: 600,
            ..Options::for_kernel(&kernel)
        }
    }
}

/// The result of a cell.
struct Row {
    status: Status,
    geometry: String,
    policy: String,
    reason: String,
    /// Result of the run, if there is one.
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
/// If the lab itself does not work.
pub fn run(args: &Args) -> CommandResult {
    // Makes the directory for the table, because it is possible that no cell has a run.
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
        // Ctrl-C also ends the QEMU that lists its CPU models.
        interrupt.check().map_err(failure)?;
        rows.push((cell, version, row));
    }
    let mut table = Vec::new();
    // Writing to memory cannot fail.
    let _ = print(&mut table, &rows);
    write(args.results.join("matrix.md"), &table)?;
    draw(&args.results.join("matrix"), &rows)?;
    if args.json {
        emit_json(&serde_json::json!({ "cells": rows.iter().map(in_json).collect::<Vec<_>>() }))?;
    } else {
        emit(&for_people(&rows))?;
    }
    Ok(rows.iter().map(|(.., row)| row.status).max().unwrap_or(Status::Skip).exit_code())
}

fn write(path: PathBuf, bytes: &[u8]) -> Result<(), Failure> {
    store::replace(&path, bytes).map_err(|error| Failure::harness(store::Error::Write(path, error)))
}

/// Draws the cells of one CPU that differ only in kernel and page size. The counts of the other cells are the same.
fn draw(directory: &Path, rows: &[(Cell, String, Row)]) -> Result<(), Failure> {
    let shown = |cell: &Cell| {
        (cell.cpu, cell.mode.name, cell.guest_ctr, cell.qemu) == (THOROUGH[0], DEFAULT_MODE.name, None, None)
    };
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

/// QEMUs that were looked for, so that a missing one is not looked for in every cell.
#[derive(Default)]
struct Emulators(Vec<(QemuChoice, Result<Emulator, String>)>);

impl Emulators {
    /// Returns the QEMU of a choice, or the reason why there is none.
    ///
    /// # Errors
    ///
    /// If the user interrupts, or if the QEMU of this machine is missing.
    fn get(&mut self, choice: QemuChoice, verbosity: lab::Verbosity) -> Result<Result<&Emulator, String>, Failure> {
        let known = self.0.iter().position(|(known, _)| *known == choice);
        let index = match known {
            Some(index) => index,
            None => {
                let found = match lab::emulator(&choice, verbosity) {
                    // Without the QEMU of this machine the lab does not work at all.
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
    let mut argv = vec!["run", "policy", "--quiet", "--hugepages", "--blocks", cell.pages.blocks];
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

/// Judges a cell. It passes if the inferred policy is that of the kernel and every count equals the prediction.
fn judge(cell: &Cell, result: &RunResult) -> Row {
    let Some(vcpu) = result.vcpus.first() else {
        let why = result.cases.first().map_or(&result.verdict, |case| &case.verdict);
        return Row::without(if why.status == Status::Skip { Status::Skip } else { Status::Error }, why.reason.clone());
    };
    let geometry = format!("{} B {}", vcpu.imin_line_bytes, vcpu.l1ip.name());
    let class = result.conclusion.get::<Conclusion>().map(|Conclusion(policy)| policy.class);
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
    let expected = if aliasing { Class::AlwaysAll } else { cell.policy };
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
        "pages": cell.pages.name,
        "kvm_mode": cell.mode.name,
        "kernel": cell.kernel,
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
            cell.pages.name,
            cell.mode.name,
            cell.kernel,
            row.geometry,
            row.policy,
            row.status.name(),
            row.reason.replace('|', "/")
        )?;
    }
    Ok(())
}

/// Returns a line for each cell, folded, with the verdict first. The table is in matrix.md.
fn for_people(rows: &[(Cell, String, Row)]) -> String {
    let line = |(cell, version, row): &(Cell, String, Row)| {
        let guest_ctr = cell.guest_ctr.map(|fields| format!(", guests read {fields}")).unwrap_or_default();
        let host = format!("{} ({version}), {} pages, KVM {}{guest_ctr}", cell.cpu, cell.pages.name, cell.mode.name);
        format!("{}: {host}, {}: {}: {}", row.status.name(), cell.kernel, row.policy, row.reason)
    };
    let note = "All cells are emulated: operations are counted exactly, times are not compared.".to_owned();
    paragraphs(std::iter::once(note).chain(rows.iter().map(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells() {
        let all = Cell::all(&[]);
        assert_eq!(all.len(), 2 * (2 * 5 + 7 + SHOWN.len()));
        let one = Cell::all(&["a64fx".into()]);
        let setup = |cell: &Cell| (cell.cpu, cell.pages.name, cell.mode.name);
        assert!(one.iter().all(|cell| setup(cell) == ("a64fx", PAGES_4K.name, DEFAULT_MODE.name)) && one.len() == 2);
    }
}
