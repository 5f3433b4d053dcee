//! The reports of the TCG plugin (cmo-plugin) in its mode `sanitize`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use record::sanitizer::{Missing, Owed, Report, ReportKind, Sanitizer, Words};
use serde::Deserialize;

use crate::cmo::{Error, Symbols};

/// Name of the plugin's output file in a run directory.
pub const REPORTS: &str = "sanitizer.json";

/// First address at which no static program runs.
const LOW: u64 = 1 << 38;

/// The plugin's file.
#[derive(Deserialize)]
struct Written {
    ended: bool,
    sections: Vec<Section>,
}

#[derive(Deserialize)]
struct Section {
    case: u64,
    checked: Checked,
    more: u64,
    more_owed: u64,
    reports: Vec<WrittenReport>,
}

#[derive(Deserialize)]
struct Checked {
    published: u64,
    lines: u64,
    fetches: u64,
    entries: u64,
    unseen_stores: u64,
}

#[derive(Deserialize)]
struct WrittenReport {
    kind: ReportKind,
    missing: Missing,
    late: bool,
    owed: Owed,
    count: u64,
    lines: u64,
    pc: String,
    writer_pc: Option<String>,
    first: First,
}

#[derive(Deserialize)]
struct First {
    lines: u64,
    of: u64,
    offset: u64,
    size: u64,
    pa: u64,
    ipa: Option<u64>,
    vmid: u16,
    pe: u64,
    el: u8,
    writer_pe: u32,
    word: Option<u32>,
    old_word: Option<u32>,
}

/// Reads the plugin's file at `path`. Returns what it checked and found by the number of the case, from 1; 0 is
/// everything outside of cases. Addresses become names of functions, and reports of the same functions one report.
///
/// # Errors
///
/// [`Error::Read`], [`Error::Format`] or [`Error::Pc`]. A run that was cut short is no error.
pub fn read(path: &Path, symbols: &Symbols) -> Result<BTreeMap<u64, Sanitizer>, Error> {
    let text = fs::read(path).map_err(|error| Error::Read { path: path.to_owned(), error })?;
    let written: Written =
        serde_json::from_slice(&text).map_err(|error| Error::Format { path: path.to_owned(), error })?;
    let name = |pc: &str| {
        // A guest's addresses have nothing to do with the symbols of the host's kernel.
        if let Some(pc) = pc.strip_prefix("guest ") {
            return Ok(format!("the guest at {pc}"));
        }
        let address = pc.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let address = address.ok_or_else(|| Error::Pc { path: path.to_owned(), pc: pc.to_owned() })?;
        // The hypervisor's addresses may lack bit 63, so only low ones are surely those of programs and guests.
        let unknown = || if address < LOW { format!("the program at {pc}") } else { pc.to_owned() };
        Ok(symbols.function(address).map_or_else(unknown, str::to_owned))
    };
    let mut cases = BTreeMap::new();
    for section in written.sections {
        let mut reports = Vec::new();
        for report in section.reports {
            let writer = report.writer_pc.as_deref().map(name).transpose()?;
            let function = name(&report.pc)?;
            merge(&mut reports, report.named(function, writer));
        }
        let count = |is_owed: bool| -> u64 {
            let counted = reports.iter().filter(|report| (report.owed == Owed::Host) == is_owed);
            counted.map(|report| report.count).sum()
        };
        let Checked { published, lines, fetches, entries, unseen_stores } = section.checked;
        let sanitizer = Sanitizer {
            owed: count(true) + section.more_owed,
            weak: count(false) + (section.more - section.more_owed),
            published,
            checked_lines: lines,
            fetches,
            entries,
            unseen_stores,
            cut: !written.ended,
            more: section.more,
            reports,
        };
        cases.insert(section.case, sanitizer);
    }
    Ok(cases)
}

/// Adds a report to those of the same cause, or as one of its own.
fn merge(reports: &mut Vec<Report>, report: Report) {
    let cause = |report: &Report| {
        let Report { kind, missing, owed, function, writer, .. } = report;
        (*kind, *missing, *owed, function.clone(), writer.clone())
    };
    match reports.iter_mut().find(|known| cause(known) == cause(&report)) {
        Some(known) => {
            known.count += report.count;
            known.all_lines += report.all_lines;
            known.late |= report.late;
        }
        None => reports.push(report),
    }
}

impl WrittenReport {
    fn named(self, function: String, writer: Option<String>) -> Report {
        let Self { kind, missing, late, owed, count, lines, first, .. } = self;
        let hex = |word: u32| format!("{word:#010x}");
        Report {
            kind,
            missing,
            late,
            owed,
            count,
            all_lines: lines,
            lines: first.lines,
            of: first.of,
            offset: first.offset,
            size: first.size,
            function,
            writer,
            pa: format!("{:#x}", first.pa),
            ipa: first.ipa.map(|ipa| format!("{ipa:#x}")),
            vmid: first.vmid,
            cpu: first.pe,
            writer_cpu: first.writer_pe,
            el: first.el,
            words: first.word.map(|word| Words { old: first.old_word.map(hex), new: hex(word) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_functions_and_equal_causes_one_report() {
        let first = r#""first":{"lines":32,"of":64,"offset":2048,"size":4096,"pa":1073743872,"ipa":4096,"vmid":1,"pe":0,"el":2,"writer_pe":1}"#;
        let report = |pc: &str, late: bool| {
            format!(
                r#"{{"kind":"P-I","missing":"i_invalidation","late":{late},"owed":"host","count":2,"lines":64,"pc":"{pc}","writer_pc":"guest 0xffff800080000010",{first}}}"#
            )
        };
        let text = format!(
            r#"{{"ended":false,"sections":[{{"case":1,"checked":{{"published":3,"lines":9,"fetches":0,"entries":5,"unseen_stores":0}},"more":0,"more_owed":0,"reports":[{},{}]}}]}}"#,
            report("0xffff800080000010", false),
            report("0xffff800080000014", true)
        );
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        fs::write(file.path(), text).expect("written");
        let symbols = Symbols::parse("ffff800080000000 T stage2_attr_walker\nffff800080001000 T other\n");
        let cases = read(file.path(), &symbols).expect("the plugin's format");
        let case = &cases[&1];
        assert_eq!((case.owed, case.weak, case.published, case.checked_lines, case.cut), (4, 0, 3, 9, true));
        let [only] = &case.reports[..] else { panic!("one report: {:?}", case.reports) };
        assert_eq!(
            (only.function.as_str(), only.writer.as_deref()),
            ("stage2_attr_walker", Some("the guest at 0xffff800080000010"))
        );
        assert_eq!((only.count, only.lines, only.of, only.offset, only.late), (4, 32, 64, 0x800, true));
    }
}
