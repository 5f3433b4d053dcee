//! Picture of faults over time, with the lockups that the kernel reported.

use maud::{Markup, html};
use record::case::AttributedComplaint;
use units::text::time;

use crate::html::chart::Chart;
use crate::html::source::Source;
use crate::html::svg::{Axis, Plot, Scale, WIDTH, round};

/// A fault on the timeline.
struct FaultBar {
    /// Start in ns since the first fault of the run.
    begin_ns: f64,
    length_ns: f64,
    access: Access,
}

#[derive(PartialEq, Eq)]
enum Access {
    FirstTouch,
    FirstExecution,
}

/// Faults and lockups of one vCPU.
struct Row {
    /// Number of the run, which gives the colour.
    series: usize,
    label: String,
    bars: Vec<FaultBar>,
    /// Lockups, described.
    lockups: Vec<String>,
}

impl Row {
    fn longest_ns(&self) -> f64 {
        self.bars.iter().map(|bar| bar.length_ns).fold(0.0, f64::max)
    }
}

/// Maximum number of bars in a row. The shortest are left out.
const MAX_BARS: usize = 1_500;

/// Draws the faults of every vCPU over time, for the case with the longest fault, with all runs on one axis.
pub fn draw(sources: &[Source<'_>]) -> Option<Chart> {
    let worst = sources
        .iter()
        .flat_map(|source| &source.result.cases)
        .max_by_key(|case| case.times().exec.map(|t| t.ns.max))?;
    let block = worst.name.clone();
    let rows: Vec<Row> = sources.iter().enumerate().flat_map(|(n, source)| rows(n, source, &block)).collect();
    let end_ns = rows.iter().flat_map(|row| &row.bars).map(|bar| bar.begin_ns + bar.length_ns).fold(0.0, f64::max);
    if rows.is_empty() || end_ns <= 0.0 {
        return None;
    }
    let count = rows.len() as f64;
    let described: Vec<_> = rows
        .iter()
        .map(|row| format!("{}: longest {}, {} lockups", row.label, time(row.longest_ns() as u64), row.lockups.len()))
        .collect();
    let plot = Plot {
        id: "timeline".into(),
        title: format!("Faults over time, {block}"),
        description: described.join("; "),
        height: 64.0 + 46.0 * count,
        margin: 120.0,
        x: Axis::from_zero("guest time since its first fault", end_ns, |v| time(v as u64)),
        y: Axis { label: String::new(), scale: Scale::Linear, min: 0.0, max: count, ticks: Vec::new() },
    };
    let marks = html! {
        @for (n, row) in rows.iter().enumerate() { (draw_row(&plot, plot.y(count - n as f64 - 0.5), row)) }
    };
    let caption = "Full colour: first execution; faint: first touch as data. A triangle is a lockup that the kernel \
                   reported for that vCPU; the two clocks are not aligned, so it stands on the vCPU’s longest fault."
        .into();
    Some(Chart { plot, marks, caption, legend: Vec::new() })
}

/// Draws one row around the height `middle`.
fn draw_row(plot: &Plot, middle: f64, row: &Row) -> Markup {
    html! {
        text class=(format!("name c{}", row.series)) x=(plot.x(0.0) - 10.0) y=(middle + 4.0) text-anchor="end" { (row.label) }
        rect class="lane" x=(plot.x(0.0)) y=(middle - 9.0) width=(round(plot.x(plot.x.max) - plot.x(0.0))) height="18" {}
        @for bar in &row.bars {
            @let (from, to) = (plot.x(bar.begin_ns), plot.x(bar.begin_ns + bar.length_ns));
            @let (fill, access) = match bar.access { Access::FirstExecution => ("fill", "first execution"), Access::FirstTouch => ("faint", "first touch") };
            rect class=(format!("{fill} c{}", row.series)) x=(from) y=(middle - 9.0) width=(round((to - from).max(1.0))) height="18" {
                title { (access) ", " (time(bar.length_ns as u64)) }
            }
        }
        @if let Some(longest) = row.bars.iter().max_by(|a, b| a.length_ns.total_cmp(&b.length_ns)) {
            @for (n, lockup) in row.lockups.iter().enumerate() {
                @let x = plot.x(longest.begin_ns + longest.length_ns * (n as f64 + 1.0) / (row.lockups.len() as f64 + 1.0));
                path class="alarm" d=(format!("M{x} {}L{} {}L{} {}Z", middle - 10.0, round(x - 7.0), middle - 22.0, round(x + 7.0), middle - 22.0)) { title { (lockup) } }
                @if row.lockups.len() == 1 {
                    @let (side, anchor) = if x > WIDTH / 2.0 { (-12.0, "end") } else { (12.0, "start") };
                    text class="alarm-text" x=(round(x + side)) y=(middle - 12.0) text-anchor=(anchor) { (lockup) }
                }
            }
        }
    }
}

/// Returns a row for each vCPU that faulted in `block`.
fn rows(series: usize, source: &Source<'_>, block: &str) -> Vec<Row> {
    let Some(hz) = source.result.vcpus.first().map(|vcpu| vcpu.cntfrq_hz.max(1)) else { return Vec::new() };
    let of_block: Vec<_> = source.samples.iter().filter(|s| s.block == block && s.op != "resident").collect();
    let Some(first) = of_block.iter().map(|sample| sample.began).min() else { return Vec::new() };
    let mut vcpus: Vec<u64> = of_block.iter().map(|sample| sample.vcpu).collect();
    vcpus.sort_unstable();
    vcpus.dedup();
    let ns = |ticks: u64| ticks as f64 * 1e9 / hz as f64;
    let cases = || source.result.cases.iter().filter(|case| case.name == block);
    let row = |vcpu: u64| {
        let mut bars: Vec<_> = of_block
            .iter()
            .filter(|sample| sample.vcpu == vcpu)
            .map(|sample| FaultBar {
                begin_ns: ns(sample.began - first),
                length_ns: ns(sample.ticks),
                access: if sample.op == "exec" { Access::FirstExecution } else { Access::FirstTouch },
            })
            .collect();
        bars.sort_by(|a, b| b.length_ns.total_cmp(&a.length_ns));
        bars.truncate(MAX_BARS);
        let thread = format!("vcpu-{vcpu}");
        let complaints =
            cases().flat_map(|case| &case.complaints).filter(|c| c.complaint.comm.as_deref() == Some(&thread));
        Row { series, label: format!("{} {thread}", source.short), lockups: complaints.map(describe).collect(), bars }
    };
    vcpus.into_iter().map(row).collect()
}

fn describe(attributed: &AttributedComplaint) -> String {
    let complaint = &attributed.complaint;
    let times = if complaint.repeats > 1 { format!(", {} times", complaint.repeats) } else { String::new() };
    let side = attributed.attributions.first().map_or("other", |a| a.side.name()).replace('_', " ");
    format!("{} {} s{times}, {side}", complaint.kind.name().replace('_', " "), complaint.seconds.unwrap_or(0))
}
