//! Prints a comparison as text for the terminal and as Markdown for a mail.

use std::fmt::Write;

use klog::quiet::{quiet, quiet_lines};
use record::measure::Phase;
use units::text::{counted, thousands, time};

use crate::table::{Align, aligned, folded};

use crate::compare::comparison::{Change, Comparison, Difference, Fact, Metric, Side};

/// Maximum length of a line of Markdown, as mailing lists ask for.
const MAIL_COLUMNS: usize = 72;

/// Columns that the text of a mail leaves for a quotation mark or an indentation.
const INDENT: usize = 4;

/// Returns a relative change as text: in percent, or as a factor if the percentage is large.
pub fn relative(change: f64) -> String {
    match change {
        c if c.is_infinite() => "new".into(),
        0.0 => "0".into(),
        c if c >= 9.0 => format!("x{}", two_digits(c + 1.0)),
        -1.0 => "-100 %".into(),
        c if c <= -0.999 => format!("/{}", two_digits(1.0 / (c + 1.0))),
        c => format!("{:+.1} %", c * 100.0),
    }
}

/// Returns a factor with two digits that mean something: more would look exact.
fn two_digits(factor: f64) -> String {
    let unit = 10f64.powi((factor.log10().floor() as i32 - 1).max(0));
    thousands(((factor / unit).round() * unit) as u64)
}

fn interval(metric: &Metric) -> String {
    metric.interval.map_or_else(String::new, |(low, high)| format!("{}..{}", short(low), short(high)))
}

fn short(change: f64) -> String {
    relative(change).replace(" %", "")
}

/// Returns the name of a measurement in tables.
fn metric_name(metric: &Metric) -> String {
    let phase = match metric.measure.phase {
        Phase::Touch => "touch",
        Phase::Exec => "exec",
        Phase::Resident => "resident",
        Phase::HostIcache => "I inval.",
        Phase::HostDcache => "D clean",
    };
    format!("{phase} {}", metric.measure.stat.name())
}

/// Returns the name of a side, its kernels and its number of runs.
fn side(role: &str, side: &Side) -> [String; 4] {
    let release = if side.names == side.kernels { String::new() } else { side.kernels.join(", ") };
    [role.into(), side.names.join(", "), release, counted(side.runs as u64, "run")]
}

fn sides(comparison: &Comparison) -> Vec<String> {
    aligned(&[side("before", &comparison.before), side("after", &comparison.after)], Align::Left)
}

fn method(comparison: &Comparison) -> String {
    let (percent, least) = (comparison.threshold * 100.0, time(comparison.min_difference_ns as u64));
    let threshold = format!("changes up to {percent:.0} % or {least} count as none");
    if comparison.exact {
        let exact = "exact only for one build, one kernel name and one set of options";
        return format!("EMULATED, instructions counted: times are a model, {exact}; {threshold}");
    }
    let model = if comparison.emulated { "EMULATED, times are a model; " } else { "" };
    let test = "p by Mann-Whitney, of counted runs by Fisher, corrected after Holm";
    format!("{model}medians; 95 % interval by bootstrap; {test}; {threshold}")
}

/// Returns the verdict on a fact, with its p value if there is one.
fn judged(fact: &Fact) -> String {
    let p = fact.p.map(|p| format!(", p {}", probability(p))).unwrap_or_default();
    format!("{}{p}", fact.change.name())
}

fn probability(p: f64) -> String {
    if p < 0.001 { "<0.001".into() } else { format!("{p:.3}") }
}

/// Returns the cells of a measurement's row.
fn cells(metric: &Metric) -> [String; 6] {
    [
        metric_name(metric),
        time(metric.before_ns as u64),
        time(metric.after_ns as u64),
        relative(metric.relative),
        interval(metric),
        metric.change.name().into(),
    ]
}

/// Returns the facts that changed, and those that are more than a verdict.
fn facts(comparison: &Comparison) -> Vec<String> {
    let tells = |fact: &&Fact| fact.change != Change::Same || fact.what != "verdict";
    let line =
        |fact: &Fact| format!("- {} {}: {} -> {} ({})", fact.case, fact.what, fact.before, fact.after, judged(fact));
    comparison.facts.iter().filter(tells).map(line).collect()
}

/// Returns a table of the times that differ, and the number of the others.
fn times(comparison: &Comparison) -> Vec<String> {
    let differs = |metric: &&Metric| metric.change != Change::Same;
    let mut blocks: Vec<&str> = comparison.metrics.iter().filter(differs).map(|metric| metric.case.as_str()).collect();
    blocks.dedup();
    let exact = comparison.metrics.iter().all(|metric| metric.interval.is_none());
    let row = |cells: [&str; 6]| {
        let [metric, before, after, change, interval, verdict] = cells;
        let interval = if exact { String::new() } else { format!(" {interval:>18}") };
        format!("{metric:<12} {before:>8} {after:>8} {change:>8}{interval}  {verdict}").trim_end().to_owned()
    };
    let mut lines = Vec::new();
    for block in blocks {
        lines.push(format!("{block}:"));
        lines.push(row(["metric", "before", "after", "change", "95 % interval", "verdict"]));
        for metric in comparison.metrics.iter().filter(differs).filter(|metric| metric.case == block) {
            let cells = cells(metric);
            lines.push(row(std::array::from_fn(|n| cells[n].as_str())));
        }
    }
    let same = comparison.metrics.iter().filter(|metric| metric.change == Change::Same).count();
    if same > 0 {
        lines.push(format!("{same} of {} times differ by nothing that matters", comparison.metrics.len()));
    }
    lines
}

/// Returns the comparison as text. Words on which log scanners fail, which labels and command lines may contain, are
/// replaced.
pub fn text(comparison: &Comparison) -> String {
    let verdict = format!("{}: {}", comparison.headline.name(), comparison.reason);
    let mut lines = vec![verdict.clone(), String::new()];
    lines.extend(sides(comparison));
    lines.push(method(comparison));
    lines.extend([String::new(), "What differs besides the times:".into()]);
    let difference = |d: &Difference| format!("  {}: {} -> {}", d.what, d.before, d.after);
    lines.extend(comparison.differences.iter().map(difference));
    if comparison.differences.is_empty() {
        lines.push("  nothing".into());
    }
    lines.push(String::new());
    lines.extend(facts(comparison));
    lines.extend(times(comparison));
    lines.extend(comparison.unmatched.iter().map(|unmatched| format!("not compared: {unmatched}")));
    lines.extend([String::new(), verdict]);
    lines
        .iter()
        .flat_map(|line| if line.is_empty() { vec![String::new()] } else { folded(line) })
        .fold(String::new(), |out, line| out + line.trim_end() + "\n")
}

/// Returns the comparison as Markdown for a mail, in lines of at most 72 columns. A reader who does not know faultline
/// learns what was tested, what the kernel said, and what differs.
pub fn markdown(comparison: &Comparison) -> String {
    let mut out = wrap(&format!("**{}**: {}", comparison.headline.name(), comparison.reason), "");
    out += "\n";
    out += &wrap(&comparison.subject, "");
    out += "\n";
    for line in sides(comparison) {
        out += &wrap(&format!("- {line}"), "  ");
    }
    for (role, side) in [("Before", &comparison.before), ("After", &comparison.after)] {
        if !side.said.is_empty() {
            let _ = writeln!(out, "\n{role}, the kernel said:\n");
            side.said.iter().for_each(|line| out += &quoted(line));
        }
    }
    out += "\nWhat differs:\n\n";
    let facts = facts(comparison);
    facts.iter().for_each(|line| out += &wrap(line, "  "));
    let times = times(comparison);
    if !times.is_empty() {
        let _ = writeln!(out, "\n```\n{}\n```", quiet_lines(&times.join("\n")));
    }
    out += "\n";
    out += &wrap(&format!("Method: {}.", method(comparison)), "");
    if !comparison.differences.is_empty() {
        out += "\nWhat differs in the set-up:\n\n";
        for difference in &comparison.differences {
            out += &wrap(&format!("- {}: {} -> {}", difference.what, difference.before, difference.after), "  ");
        }
    }
    for unmatched in &comparison.unmatched {
        out += &wrap(&format!("- not compared: {unmatched}"), "  ");
    }
    let mut tools = comparison.before.tools.clone();
    tools.extend(comparison.after.tools.iter().filter(|tool| !comparison.before.tools.contains(tool)).cloned());
    out += "\n";
    out += &wrap(&format!("To repeat it with faultline {}:", tools.join(", ")), "");
    out += "\n";
    out + &indented(&comparison.before.repeat) + &indented(&comparison.after.repeat)
}

/// Returns a command as an indented block. A shell reads its lines as one.
pub(crate) fn indented(command: &str) -> String {
    const CONTINUED: &str = " \\\n";
    let lines = wrap_at(command, "", MAIL_COLUMNS - INDENT - CONTINUED.len());
    lines.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join(CONTINUED) + "\n"
}

/// Quotes a line of the kernel, and breaks it at [`MAIL_COLUMNS`].
pub(crate) fn quoted(line: &str) -> String {
    wrap_at(line, "  ", MAIL_COLUMNS - INDENT).lines().map(|line| format!("> {line}\n")).collect()
}

/// Replaces the words in `text` on which log scanners fail, and breaks it into lines of at most [`MAIL_COLUMNS`]. A longer
/// word is broken, too. Every line but the first begins with `indent`.
pub(crate) fn wrap(text: &str, indent: &str) -> String {
    wrap_at(text, indent, MAIL_COLUMNS)
}

fn wrap_at(text: &str, indent: &str, columns: usize) -> String {
    let text = quiet(text).split_whitespace().collect::<Vec<_>>().join(" ");
    let options =
        textwrap::Options::new(columns).subsequent_indent(indent).word_splitter(textwrap::WordSplitter::NoHyphenation);
    textwrap::fill(&text, options) + "\n"
}
