//! The pictures of a report. Pure; each is left out where a run has nothing to show in it.

use std::collections::BTreeSet;

use maud::html;

use crate::html::Source;
use crate::html::chart::Chart;
use crate::html::svg::{Axis, COLOURS, Plot, Scale, WIDTH, mark, round};
use record::case::CaseResult;
use units::size::Size;
use units::stats::Timing;
use units::text::{thousands, time};

/// Series that one chart can show and still be read.
const MAX_SERIES: usize = COLOURS;

/// Returns every picture that the runs have something to show in, under its section's heading.
pub fn all<'a>(sources: &'a [Source<'_>]) -> impl Iterator<Item = (&'static str, Chart)> + use<'a> {
    let shown = &sources[..sources.len().min(MAX_SERIES)];
    ALL.into_iter().filter_map(|(heading, draw)| Some((heading, draw(shown)?)))
}

/// Every picture there is: what its section of the page is called, and how it is made.
const ALL: [(&str, Draw); 5] = [
    ("What an exec fault costs", cost),
    ("What the kernel did in it, counted", operations),
    ("The storm", storm),
    ("The longest fault, and what the kernel said", timeline),
    ("How the faults spread", histogram),
];

/// How to draw a picture; none where the runs have nothing to show in it.
type Draw = fn(&[Source<'_>]) -> Option<Chart>;

/// Returns the series that have anything to show, with their names.
fn names<T>(sources: &[Source<'_>], series: &[Vec<T>]) -> Vec<(usize, String)> {
    let named = sources.iter().map(|source| source.name.clone()).enumerate();
    named.filter(|(n, _)| !series[*n].is_empty()).collect()
}

/// Block bytes with the times of the first execution, one for each size.
fn costs(source: &Source<'_>) -> Vec<(f64, Timing)> {
    let mut points: Vec<_> = source.view.costs.iter().map(|cost| (cost.block_bytes as f64, cost.exec)).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points.dedup_by(|a, b| a.0 == b.0);
    points
}

/// A straight line through the median cost of the two smallest blocks: what every line more must cost.
struct Prediction {
    base_ns: f64,
    ns_per_line: f64,
    line_bytes: f64,
}

impl Prediction {
    fn new(source: &Source<'_>) -> Option<Self> {
        let line_bytes = source.result.vcpus.first()?.imin_line_bytes.max(4) as f64;
        let points = costs(source);
        let [(small, first), (large, second), ..] = points.as_slice() else { return None };
        let lines = (large - small) / line_bytes;
        let ns_per_line = (second.ns.p50 as f64 - first.ns.p50 as f64) / lines;
        // A capped kernel takes no longer for more lines: nothing to extrapolate.
        (ns_per_line > 0.05 && points.len() > 2).then(|| Self {
            base_ns: (first.ns.p50 as f64 - ns_per_line * small / line_bytes).max(1.0),
            ns_per_line,
            line_bytes,
        })
    }

    fn at(&self, bytes: f64) -> f64 {
        self.base_ns + self.ns_per_line * bytes / self.line_bytes
    }
}

/// Draws the cost of an exec fault against the block's size, both by magnitude.
fn cost(sources: &[Source<'_>]) -> Option<Chart> {
    let series: Vec<_> = sources.iter().map(costs).collect();
    let mut sizes: Vec<f64> = series.iter().flatten().map(|(bytes, _)| *bytes).collect();
    sizes.sort_by(f64::total_cmp);
    sizes.dedup();
    let (smallest, largest) = (*sizes.first()?, *sizes.last()?);
    let timed = sources.iter().zip(&series).filter(|(_, points)| !points.is_empty());
    let limits: BTreeSet<u32> = timed.filter_map(|(source, _)| source.result.detector.soft_threshold_s()).collect();
    let limits_ns: Vec<f64> = limits.into_iter().map(|seconds| f64::from(seconds) * 1e9).collect();
    let prediction = Prediction::new(sources.first()?);
    let predicted = prediction.as_ref().map(|p| p.at(largest));
    let times: Vec<f64> = series
        .iter()
        .flatten()
        .flat_map(|(_, t)| [t.ns.p50 as f64, t.ns.max as f64])
        .chain(limits_ns.iter().copied())
        .chain(predicted)
        .collect();
    let x = Axis {
        label: "size of the block that KVM maps at once".into(),
        scale: Scale::Log,
        min: smallest / 3.0,
        max: largest * 3.0,
        ticks: sizes.iter().map(|bytes| (*bytes, Size(*bytes as u64).to_string())).collect(),
    };
    let worst = |n: usize| series[n].iter().map(|(_, t)| t.ns.max).max().unwrap_or(0);
    let told: Vec<_> =
        sources.iter().enumerate().map(|(n, s)| format!("{}: at most {}", s.name, time(worst(n)))).collect();
    let plot = Plot {
        id: "cost".into(),
        title: "Cost of one exec fault against block size".into(),
        description: format!("Logarithmic on both axes. {}.", told.join("; ")),
        height: 420.0,
        margin: 0.0,
        x,
        y: Axis::decades_of_ns("", times.iter().copied()),
    };
    let marks = html! {
        @for limit in &limits_ns {
            line class="limit" x1=(plot.x(plot.x.min)) x2=(plot.x(plot.x.max)) y1=(plot.y(*limit)) y2=(plot.y(*limit)) {}
            text class="alarm-text" x=(plot.x(plot.x.min) + 10.0) y=(plot.y(*limit) - 7.0) { "soft lockup reported from " (time(*limit as u64)) " on" }
        }
        @if let Some(p) = &prediction {
            path class="predicted" d=(plot.path(&steps(smallest, largest).map(|bytes| (bytes, p.at(bytes))).collect::<Vec<_>>())) {}
        }
        @for (n, points) in series.iter().enumerate() {
            path class=(format!("series stroke c{n}")) d=(plot.path(&points.iter().map(|(b, t)| (*b, t.ns.p50 as f64)).collect::<Vec<_>>())) {}
            @for (bytes, t) in points {
                @let (x, y, high) = (plot.x(*bytes), plot.y(t.ns.p50 as f64), plot.y(t.ns.max as f64));
                line class=(format!("stroke c{n}")) x1=(x) x2=(x) y1=(y) y2=(high) stroke-width="1.5" {}
                line class=(format!("stroke c{n}")) x1=(x - 5.0) x2=(x + 5.0) y1=(high) y2=(high) stroke-width="1.5" {}
                (mark(n, x, y, &format!("{}, {}: median {}, largest {}", sources[n].name, Size(*bytes as u64), time(t.ns.p50), time(t.ns.max))))
            }
        }
    };
    let said = prediction.map(|p| format!(
        " Dotted: what {} has to take for larger blocks if it invalidates line by line, from its two smallest alone ({:.1} ns a line).",
        sources[0].name, p.ns_per_line
    ));
    let caption = format!(
        "Time that the guest waits for its first execution in a block: median, and a line up to the largest.{}",
        said.unwrap_or_default()
    );
    Some(Chart { plot, marks, caption, legend: names(sources, &series) })
}

/// Returns sizes from `low` to `high`, close enough for a smooth curve.
fn steps(low: f64, high: f64) -> impl Iterator<Item = f64> {
    const STEPS: u32 = 48;
    (0..=STEPS).map(move |n| low * (high / low).powf(f64::from(n) / f64::from(STEPS)))
}

/// What the plugin counted, for each exec fault: block bytes, and the operations of both kinds.
fn counts(source: &Source<'_>) -> Vec<(f64, f64)> {
    let per_fault = |case: &CaseResult| {
        let counted = case.counted.as_ref().filter(|counted| counted.faults > 0)?;
        Some((case.block_bytes() as f64, (counted.ic_ivau + counted.ic_ialluis) as f64 / counted.faults as f64))
    };
    let cases = source.result.cases.iter().filter(|case| case.block_bytes() > 0);
    let mut points: Vec<_> = cases.filter_map(per_fault).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points.dedup_by(|a, b| a.0 == b.0);
    points
}

/// Draws the invalidations that were counted against the block's size, with those that going by line would take.
fn operations(sources: &[Source<'_>]) -> Option<Chart> {
    let series: Vec<_> = sources.iter().map(counts).collect();
    let mut sizes: Vec<f64> = series.iter().flatten().map(|(bytes, _)| *bytes).collect();
    sizes.sort_by(f64::total_cmp);
    sizes.dedup();
    let (smallest, largest) = (*sizes.first()?, *sizes.last()?);
    let line_bytes = sources.iter().find_map(|source| source.result.vcpus.first())?.imin_line_bytes.max(4) as f64;
    let most = |n: usize| series[n].iter().map(|(_, count)| *count).fold(0.0, f64::max);
    let told: Vec<_> = sources
        .iter()
        .enumerate()
        .map(|(n, source)| format!("{}: at most {}", source.name, thousands(most(n) as u64)))
        .collect();
    let values = series.iter().flatten().map(|(_, count)| *count).chain([1.0, largest / line_bytes]);
    let plot = Plot {
        id: "operations".into(),
        title: "Invalidations counted in one exec fault against block size".into(),
        description: format!("Logarithmic on both axes. {}.", told.join("; ")),
        height: 420.0,
        margin: 24.0,
        x: Axis {
            label: "size of the block that KVM maps at once".into(),
            scale: Scale::Log,
            min: smallest / 3.0,
            max: largest * 3.0,
            ticks: sizes.iter().map(|bytes| (*bytes, Size(*bytes as u64).to_string())).collect(),
        },
        y: Axis::decades("", values, |n| thousands(10u64.saturating_pow(n.max(0) as u32))),
    };
    let by_line: Vec<_> = steps(smallest, largest).map(|bytes| (bytes, bytes / line_bytes)).collect();
    let marks = html! {
        path class="predicted" d=(plot.path(&by_line)) {}
        @for (n, points) in series.iter().enumerate() {
            path class=(format!("series stroke c{n}")) d=(plot.path(points)) {}
            @for (bytes, count) in points {
                (mark(n, plot.x(*bytes), plot.y(*count), &format!("{}, {}: {}", sources[n].name, Size(*bytes as u64), thousands(*count as u64))))
            }
        }
    };
    let caption = format!(
        "IC IVAU and IC IALLUIS of the host's kernel for each exec fault, counted by a plugin of the emulator. Dotted: \
         one for every line of {line_bytes} bytes."
    );
    Some(Chart { plot, marks, caption, legend: names(sources, &series) })
}

/// Draws the longest exec fault against the number of racing vCPUs, where a run raced several numbers for one block.
fn storm(sources: &[Source<'_>]) -> Option<Chart> {
    let raced = |source: &Source<'_>| -> Vec<(f64, f64)> {
        let stalls = source.view.stalls.iter();
        let mut points: Vec<_> = stalls.map(|stall| (stall.racers as f64, stall.ns as f64)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points.dedup_by(|a, b| a.0 == b.0);
        points
    };
    let series: Vec<_> = sources.iter().map(raced).collect();
    if !series.iter().any(|points| points.len() > 1) {
        return None;
    }
    let largest = |pick: fn(&(f64, f64)) -> f64| series.iter().flatten().map(pick).fold(0.0, f64::max);
    let told: Vec<_> = sources
        .iter()
        .zip(&series)
        .filter_map(|(source, points)| {
            let ((low, first), (high, last)) = (points.first()?, points.last()?);
            Some(format!("{}: {} with {low}, {} with {high}", source.name, time(*first as u64), time(*last as u64)))
        })
        .collect();
    let plot = Plot {
        id: "storm".into(),
        title: "Longest stall against racing vCPUs".into(),
        description: told.join("; "),
        height: 320.0,
        margin: 0.0,
        x: Axis::whole_from_zero("vCPUs that execute the same block at once", largest(|p| p.0)),
        y: Axis::from_zero("", largest(|p| p.1), |v| time(v as u64)),
    };
    let marks = html! {
        @for (n, points) in series.iter().enumerate() {
            @if let (Some((racers, ns)), Some((most, _))) = (points.first(), points.last()) {
                path class="predicted" d=(plot.path(&[(*racers, *ns), (*most, ns * most / racers)])) {}
            }
            path class=(format!("series stroke c{n}")) d=(plot.path(points)) {}
            @for (racers, ns) in points {
                (mark(n, plot.x(*racers), plot.y(*ns), &format!("{}, {racers} racers: {}", sources[n].name, time(*ns as u64))))
            }
        }
    };
    let caption = "Dotted: every racer invalidates the whole block, one after the other.".into();
    Some(Chart { plot, marks, caption, legend: names(sources, &series) })
}

/// One fault on the timeline, in ns since the first.
struct Bar {
    begin: f64,
    length: f64,
    exec: bool,
}

struct TimelineRow {
    series: usize,
    label: String,
    bars: Vec<Bar>,
    lockups: Vec<String>,
}

/// Bars of one lane beyond which the shortest are left out.
const MAX_BARS: usize = 1_500;

/// Draws who faulted when, for the case with the longest fault, all runs on one axis, with the lockups reported.
fn timeline(sources: &[Source<'_>]) -> Option<Chart> {
    let worst = sources
        .iter()
        .flat_map(|source| &source.result.cases)
        .max_by_key(|case| case.times().exec.map(|t| t.ns.max))?;
    let block = worst.name.clone();
    let timeline_rows: Vec<TimelineRow> =
        sources.iter().enumerate().flat_map(|(n, source)| timeline_rows(n, source, &block)).collect();
    let longest =
        timeline_rows.iter().flat_map(|lane| &lane.bars).map(|bar| bar.begin + bar.length).fold(0.0, f64::max);
    if timeline_rows.is_empty() || longest <= 0.0 {
        return None;
    }
    let rows = timeline_rows.len() as f64;
    let told: Vec<_> = timeline_rows
        .iter()
        .map(|lane| {
            let longest = lane.bars.iter().map(|bar| bar.length).fold(0.0, f64::max);
            format!("{}: longest {}, {} lockups", lane.label, time(longest as u64), lane.lockups.len())
        })
        .collect();
    let plot = Plot {
        id: "timeline".into(),
        title: format!("Faults over time, {block}"),
        description: told.join("; "),
        height: 64.0 + 46.0 * rows,
        margin: 120.0,
        x: Axis::from_zero("guest time since its first fault", longest, |v| time(v as u64)),
        y: Axis { label: String::new(), scale: Scale::Linear, min: 0.0, max: rows, ticks: Vec::new() },
    };
    let marks = html! {
        @for (row, lane) in timeline_rows.iter().enumerate() {
            @let middle = plot.y(rows - row as f64 - 0.5);
            text class=(format!("name c{}", lane.series)) x=(plot.x(0.0) - 10.0) y=(middle + 4.0) text-anchor="end" { (lane.label) }
            rect class="lane" x=(plot.x(0.0)) y=(middle - 9.0) width=(round(plot.x(plot.x.max) - plot.x(0.0))) height="18" {}
            @for bar in &lane.bars {
                @let (from, to) = (plot.x(bar.begin), plot.x(bar.begin + bar.length));
                rect class=(format!("{} c{}", if bar.exec { "fill" } else { "faint" }, lane.series)) x=(from) y=(middle - 9.0) width=(round((to - from).max(1.0))) height="18" {
                    title { (if bar.exec { "first execution" } else { "first touch" }) ", " (time(bar.length as u64)) }
                }
            }
            @if let Some(at) = lane.bars.iter().max_by(|a, b| a.length.total_cmp(&b.length)) {
                @for (n, lockup) in lane.lockups.iter().enumerate() {
                    @let x = plot.x(at.begin + at.length * (n as f64 + 1.0) / (lane.lockups.len() as f64 + 1.0));
                    path class="alarm" d=(format!("M{x} {}L{} {}L{} {}Z", middle - 10.0, round(x - 7.0), middle - 22.0, round(x + 7.0), middle - 22.0)) { title { (lockup) } }
                    @if lane.lockups.len() == 1 {
                        @let (side, anchor) = if x > WIDTH / 2.0 { (-12.0, "end") } else { (12.0, "start") };
                        text class="alarm-text" x=(round(x + side)) y=(middle - 12.0) text-anchor=(anchor) { (lockup) }
                    }
                }
            }
        }
    };
    let caption = "Full colour: first execution; faint: first touch as data. A triangle is a lockup that the kernel \
                   reported for that vCPU; the two clocks are not aligned, so it stands on the vCPU’s longest fault."
        .into();
    Some(Chart { plot, marks, caption, legend: Vec::new() })
}

fn timeline_rows(series: usize, source: &Source<'_>, block: &str) -> Vec<TimelineRow> {
    let Some(hz) = source.result.vcpus.first().map(|vcpu| vcpu.cntfrq_hz.max(1)) else { return Vec::new() };
    let of_block: Vec<_> = source.samples.iter().filter(|s| s.block == block && s.op != "resident").collect();
    let Some(first) = of_block.iter().map(|sample| sample.began).min() else { return Vec::new() };
    let mut vcpus: Vec<u64> = of_block.iter().map(|sample| sample.vcpu).collect();
    vcpus.sort_unstable();
    vcpus.dedup();
    let ns = |ticks: u64| ticks as f64 * 1e9 / hz as f64;
    let cases = || source.result.cases.iter().filter(|case| case.name == block);
    let lane = |vcpu: u64| {
        let mut bars: Vec<_> = of_block
            .iter()
            .filter(|sample| sample.vcpu == vcpu)
            .map(|s| Bar { begin: ns(s.began - first), length: ns(s.ticks), exec: s.op == "exec" })
            .collect();
        bars.sort_by(|a, b| b.length.total_cmp(&a.length));
        bars.truncate(MAX_BARS);
        let thread = format!("vcpu-{vcpu}");
        let complaints =
            cases().flat_map(|case| &case.complaints).filter(|c| c.complaint.comm.as_deref() == Some(&thread));
        let lockups = complaints.map(|c| {
            let times =
                if c.complaint.repeats > 1 { format!(", {} times", c.complaint.repeats) } else { String::new() };
            let side = c.attributions.first().map_or("other", |a| a.side.name()).replace('_', " ");
            format!(
                "{} {} s{times}, {side}",
                c.complaint.kind.name().replace('_', " "),
                c.complaint.seconds.unwrap_or(0)
            )
        });
        TimelineRow { series, label: format!("{} {thread}", source.short), lockups: lockups.collect(), bars }
    };
    vcpus.into_iter().map(lane).collect()
}

/// Draws how exec faults of the largest block with enough of them spread, a bar for each run and quarter decade.
fn histogram(sources: &[Source<'_>]) -> Option<Chart> {
    const ENOUGH: usize = 8;
    const PER_DECADE: f64 = 4.0;
    let count =
        |source: &Source<'_>, block: &str| source.samples.iter().filter(|s| s.block == block && s.op == "exec").count();
    let case = sources
        .first()?
        .result
        .cases
        .iter()
        .filter(|case| count(&sources[0], &case.name) >= ENOUGH)
        .max_by_key(|case| case.block_bytes())?;
    let block = case.name.clone();
    let bin = |ns: f64| (ns.max(1.0).log10() * PER_DECADE).floor() as i32;
    let bins: Vec<Vec<i32>> = sources
        .iter()
        .map(|source| {
            let hz = source.result.vcpus.first().map_or(1, |vcpu| vcpu.cntfrq_hz.max(1)) as f64;
            let exec = source.samples.iter().filter(|s| s.block == block && s.op == "exec");
            exec.map(|s| bin(s.ticks as f64 * 1e9 / hz)).collect()
        })
        .collect();
    let (first, last) = (*bins.iter().flatten().min()?, *bins.iter().flatten().max()?);
    let value = |bin: i32| 10f64.powf(f64::from(bin) / PER_DECADE);
    let of = |series: usize, wanted: i32| bins[series].iter().filter(|bin| **bin == wanted).count() as f64;
    let most = (first..=last)
        .flat_map(|bin| (0..bins.len()).map(move |n| (n, bin)))
        .map(|(n, bin)| of(n, bin))
        .fold(0.0, f64::max);
    let plot = Plot {
        id: "histogram".into(),
        title: format!("How exec faults spread, {}", case.id),
        description: format!(
            "Faults by duration, from {} to {}.",
            time(value(first) as u64),
            time(value(last + 1) as u64)
        ),
        height: 260.0,
        margin: 0.0,
        x: Axis::decades_of_ns("duration of one exec fault", [value(first), value(last + 1)].into_iter()),
        y: Axis::whole_from_zero("", most),
    };
    let share = 1.0 / bins.len() as f64;
    let marks = html! {
        @for bin in first..=last {
            @let (from, to) = (plot.x(value(bin)), plot.x(value(bin + 1)));
            @for n in 0..bins.len() {
                @if of(n, bin) > 0.0 {
                    @let wide = (to - from) * share;
                    @let y = plot.y(of(n, bin));
                    rect class=(format!("fill c{n}")) x=(round(from + wide * n as f64 + 1.0)) y=(y) width=(round((wide - 2.0).max(1.0))) height=(round(plot.y(0.0) - y)) {
                        title { (sources[n].name) ": " (of(n, bin)) " faults of " (time(value(bin) as u64)) " to " (time(value(bin + 1) as u64)) }
                    }
                }
            }
        }
    };
    let caption = format!("Number of exec faults of block {block} by duration, the traced round included.");
    Some(Chart { plot, marks, caption, legend: names(sources, &bins) })
}
