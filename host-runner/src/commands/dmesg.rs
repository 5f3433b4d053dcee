//! `faultline dmesg FILE|-`: finds the complaints in a saved kernel log and attributes them.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;

use klog::attribution::{Attribution, attribute};
use klog::complaint::Complaint;
use klog::quiet::{quiet, quiet_json};
use klog::saved;
use report::table::{Align, aligned, prose};
use serde::Serialize;

use crate::failure::{CommandResult, Failure};

/// Arguments of `faultline dmesg`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Saved kernel log (from dmesg, journalctl -k, a serial console, pstore or /dev/kmsg); - reads standard input
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    /// Print JSON in place of a table; it also has the first line of each event
    #[arg(long)]
    json: bool,
    /// Print the first line of each event below it, unchanged
    #[arg(long, conflicts_with = "json")]
    raw: bool,
}

/// An event with its attribution.
#[derive(Debug, Serialize)]
struct AttributedEvent {
    #[serde(flatten)]
    event: Complaint,
    /// Attribution of the longest report.
    attribution: Attribution,
    /// Attributions of the other places of the event, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    elsewhere_attribution: Vec<Attribution>,
}

impl AttributedEvent {
    fn new(event: Complaint) -> Self {
        let mut all = attribute(&event);
        let elsewhere_attribution = all.split_off(1);
        Self { attribution: all.remove(0), elsewhere_attribution, event }
    }
}

/// The output in JSON.
#[derive(Debug, Serialize)]
struct Answer {
    events: Vec<AttributedEvent>,
}

/// Runs the command. The exit code is 0 if the log was read, with or without events.
///
/// # Errors
///
/// If the log cannot be read or the output cannot be written.
pub fn run(args: &Args) -> CommandResult {
    let events = read(args).map_err(|error| {
        let file = args.file.display();
        Failure::usage(format!("cannot read {file}: {error}: name a saved kernel log, or - for standard input"))
    })?;
    let events = events.into_iter().map(AttributedEvent::new).collect();
    match print(args, &Answer { events }, &mut io::stdout().lock()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::harness(format!("cannot write the result: {error}")))
        }
        // A closed pipe, as in `faultline dmesg … | head`, is no failure.
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
    let rows: Vec<Vec<Row>> = answer.events.iter().map(rows).collect();
    let header = ["EVENT", "CPU", "TASK", "LONGEST", "REPEATS", "SIDE"].map(str::to_owned);
    let all: Vec<[String; 6]> = std::iter::once(header).chain(rows.iter().flatten().map(|row| row.0.clone())).collect();
    let mut lines = aligned(&all, Align::Left).into_iter();
    lines.by_ref().take(1).try_for_each(|line| writeln!(out, "{line}"))?;
    for (rows, attributed) in rows.iter().zip(&answer.events) {
        for (line, Row(_, place)) in lines.by_ref().take(rows.len()).zip(rows) {
            writeln!(out, "{line}")?;
            if !place.is_empty() {
                prose(out, &format!("    {place}"))?;
            }
        }
        if args.raw {
            writeln!(out, "    {}", attributed.event.first_line)?;
        }
    }
    Ok(())
}

/// A row of the table, and the place below it: the frame that decided, and the pc if that is another one.
struct Row([String; 6], String);

fn place(frame: &str, pc: Option<&str>) -> String {
    let pc = pc.filter(|pc| *pc != frame).map(|pc| format!("pc {pc}"));
    let decided = (!frame.is_empty()).then(|| format!("decided by {frame}"));
    printable(&decided.into_iter().chain(pc).collect::<Vec<_>>().join(", "))
}

/// Returns the rows of an event: one for the longest report, and one for each other place.
fn rows(attributed: &AttributedEvent) -> Vec<Row> {
    let others =
        attributed.event.elsewhere.iter().zip(&attributed.elsewhere_attribution).map(|(other, attribution)| {
            let longest = other.seconds.map_or_else(String::new, |seconds| format!("{seconds} s"));
            let also = "  also".to_owned();
            let side = attribution.side.name().to_owned();
            let cells = [also, String::new(), String::new(), longest, other.repeats.to_string(), side];
            Row(cells, place(&attribution.frame, other.pc.as_deref()))
        });
    let printable_row = |Row(cells, place)| Row(cells.map(|cell| printable(&cell)), place);
    std::iter::once(row(attributed)).chain(others).map(printable_row).collect()
}

/// Returns the first row of an event.
fn row(attributed: &AttributedEvent) -> Row {
    let AttributedEvent { event, attribution, .. } = attributed;
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
    let cpu = or_dash(event.cpu.map(|cpu| cpu.to_string()));
    let cells = [format!("event={}", event.kind), cpu, task, longest, event.repeats.to_string(), side];
    Row(cells, place(&attribution.frame, event.pc.as_deref()))
}

/// Replaces control characters and the words on which log scanners fail. The name of a task may contain both.
fn printable(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    quiet(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(PartialEq, Eq)]
    enum Format {
        Table,
        Json,
    }

    fn printed(log: &str, format: Format) -> String {
        let events = saved::complaints(log.as_bytes()).unwrap();
        let events = events.into_iter().map(AttributedEvent::new).collect();
        let mut out = Vec::new();
        let args = Args { file: "-".into(), json: format == Format::Json, raw: false };
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
    fn the_table_names_the_side_without_words_of_log_scanners() {
        let table = printed(LOG, Format::Table);
        assert!(table.contains("event=soft_lockup") && table.contains("i_side"), "{table}");
        for word in ["BUG:", "WARNING:", "Oops", "Kernel panic"] {
            assert!(!table.contains(word), "{word} in {table}");
        }
    }

    #[test]
    fn empty_and_json() {
        assert_eq!(printed("all is well\n", Format::Table), "no kernel complaints found\n");
        let json: serde_json::Value = serde_json::from_str(&printed("", Format::Json)).unwrap();
        assert_eq!(json, serde_json::json!({"events": []}));
        let json: serde_json::Value = serde_json::from_str(&printed(LOG, Format::Json)).unwrap();
        assert_eq!(json["events"][0]["kind"], "soft_lockup");
        assert_eq!(json["events"][0]["repeats"], 1);
        assert_eq!(json["events"][0]["attribution"]["side"], "i_side");
        assert_eq!(json["events"].as_array().unwrap().len(), 4);
        assert!(json["events"][0]["first_line"].as_str().unwrap().contains("BUG:"));
        assert!(!printed(LOG, Format::Json).contains("BUG:"));
    }
}
