//! Prints a comparison as text for the terminal and as Markdown for a mail.

use std::fmt::Write;

use klog::quiet::{quiet, quiet_lines};
use record::measure::Phase;
use units::text::time;

use crate::compare::comparison::{Change, Comparison, Fact, Metric, Side};

/// Maximum length of a line of Markdown, as mailing lists ask for.
const MAIL_COLUMNS: usize = 72;

/// Returns a relative change as text: in percent, or as a factor if the percentage is large.
pub fn relative(change: f64) -> String {
    match change {
        c if c.is_infinite() => "new".into(),
        0.0 => "0".into(),
        c if c >= 9.0 => format!("x{:.0}", c + 1.0),
        -1.0 => "-100 %".into(),
        c if c <= -0.999 => format!("/{:.0}", 1.0 / (c + 1.0)),
        c => format!("{:+.1} %", c * 100.0),
    }
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

fn side(name: &str, side: &Side) -> String {
    let plural = if side.runs == 1 { "" } else { "s" };
    format!("{name}: {} run{plural}, {}", side.runs, side.kernels.join(", "))
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

/// Returns the comparison as text. Words on which log scanners fail, which labels and command lines may contain, are
/// replaced.
pub fn text(comparison: &Comparison) -> String {
    let verdict = format!("{}: {}", comparison.headline.name(), comparison.reason);
    let mut out = String::new();
    let mut line = |text: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}", text.trim_end());
    };
    line(verdict.clone());
    line(String::new());
    line(side("before", &comparison.before));
    line(side("after", &comparison.after));
    line(method(comparison));
    line(String::new());
    line("What differs besides the times:".into());
    for difference in &comparison.differences {
        line(format!("  {}: {} -> {}", difference.what, difference.before, difference.after));
    }
    if comparison.differences.is_empty() {
        line("  nothing".into());
    }
    line(String::new());
    for fact in &comparison.facts {
        let what = format!("{} {}", fact.case, fact.what);
        line(format!("{what:<32}  {} -> {}: {}", fact.before, fact.after, judged(fact)));
    }
    line(String::new());
    let head = ["block", "metric", "before", "after", "change", "95 % interval", "p", "verdict"];
    let row = |cells: [&str; 8]| {
        let [block, metric, before, after, change, interval, p, verdict] = cells;
        format!("{block:<20}  {metric:<12}  {before:>8}  {after:>8}  {change:>9}  {interval:>16}  {p:>7}  {verdict}")
    };
    line(row(head));
    for metric in &comparison.metrics {
        let [name, before, after, change, interval, verdict] = cells(metric);
        let p = metric.p.map_or_else(String::new, probability);
        line(row([&metric.case, &name, &before, &after, &change, &interval, &p, &verdict]));
    }
    for unmatched in &comparison.unmatched {
        line(format!("not compared: {unmatched}"));
    }
    line(String::new());
    line(verdict);
    quiet_lines(&out).into_owned()
}

/// Returns the comparison as Markdown for a mail: paragraphs, lists and fixed-width tables, in lines of at most 72
/// columns.
pub fn markdown(comparison: &Comparison) -> String {
    let mut out = String::new();
    out.push_str(&wrap(&format!("**{}**: {}", comparison.headline.name(), comparison.reason), ""));
    out.push('\n');
    out.push_str(&wrap(&side("- before", &comparison.before), "  "));
    out.push_str(&wrap(&side("- after", &comparison.after), "  "));
    out.push('\n');
    out.push_str(&wrap(&format!("Method: {}.", method(comparison)), ""));
    out.push('\n');
    for fact in comparison.facts.iter().filter(|fact| fact.change != Change::Same || fact.what != "verdict") {
        let text = format!("- {} {}: {} -> {} ({})", fact.case, fact.what, fact.before, fact.after, judged(fact));
        out.push_str(&wrap(&text, "  "));
    }
    let mut blocks: Vec<&str> = comparison.metrics.iter().map(|metric| metric.case.as_str()).collect();
    blocks.dedup();
    for block in blocks {
        let _ = writeln!(out, "\n{}:\n\n```", quiet(block));
        let row = |cells: [&str; 6]| {
            let [metric, before, after, change, interval, verdict] = cells;
            let row = format!("{metric:<12} {before:>8} {after:>8} {change:>8} {interval:>18}  {verdict}");
            row.trim_end().to_owned() + "\n"
        };
        out.push_str(&row(["metric", "before", "after", "change", "95 % interval", "verdict"]));
        for metric in comparison.metrics.iter().filter(|metric| metric.case == block) {
            let cells = cells(metric);
            out.push_str(&row(std::array::from_fn(|n| cells[n].as_str())));
        }
        out.push_str("```\n");
    }
    if !comparison.differences.is_empty() {
        out.push_str("\nWhat differs besides the times:\n\n");
        for difference in &comparison.differences {
            let text = format!("- {}: {} -> {}", difference.what, difference.before, difference.after);
            out.push_str(&wrap(&text, "  "));
        }
    }
    for unmatched in &comparison.unmatched {
        out.push_str(&wrap(&format!("- not compared: {unmatched}"), "  "));
    }
    out
}

/// Replaces the words in `text` on which log scanners fail, and breaks it into lines of at most [`MAIL_COLUMNS`]. A longer
/// word is broken, too. Every line but the first begins with `indent`.
fn wrap(text: &str, indent: &str) -> String {
    let text = quiet(text).split_whitespace().collect::<Vec<_>>().join(" ");
    let options = textwrap::Options::new(MAIL_COLUMNS)
        .subsequent_indent(indent)
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    textwrap::fill(&text, options) + "\n"
}
