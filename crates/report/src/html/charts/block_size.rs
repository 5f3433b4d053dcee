//! Pictures against block size: the cost of an exec fault, and the operations that were counted in it.

use std::collections::BTreeSet;

use maud::html;
use record::case::CaseResult;
use units::size::Size;
use units::stats::Timing;
use units::text::{thousands, time};

use crate::html::chart::Chart;
use crate::html::charts::series::{all_x, by_x, legend};
use crate::html::source::Source;
use crate::html::svg::{Axis, Plot, Scale, mark};

/// Returns the axis of block sizes, with a tick for each.
fn size_axis(sizes: &[f64], smallest: f64, largest: f64) -> Axis {
    Axis {
        label: "size of the block that KVM maps at once".into(),
        scale: Scale::Log,
        min: smallest / 3.0,
        max: largest * 3.0,
        ticks: sizes.iter().map(|bytes| (*bytes, Size(*bytes as u64).to_string())).collect(),
    }
}

/// Returns sizes from `low` to `high`, close enough for a smooth curve.
fn steps(low: f64, high: f64) -> impl Iterator<Item = f64> {
    const STEPS: u32 = 48;
    (0..=STEPS).map(move |n| low * (high / low).powf(f64::from(n) / f64::from(STEPS)))
}

/// Returns block sizes in bytes with the times of the first execution.
fn costs(source: &Source<'_>) -> Vec<(f64, Timing)> {
    by_x(source.view.costs.iter().map(|cost| (cost.block_bytes as f64, cost.exec)))
}

/// Prediction of the cost of larger blocks, if the kernel invalidates by line: a straight line through the medians of the
/// two smallest blocks.
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
        // A kernel with a cap takes no longer for more lines, so there is nothing to extrapolate.
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

/// Draws the cost of an exec fault against the block size. Both axes are logarithmic.
pub fn cost(sources: &[Source<'_>]) -> Option<Chart> {
    let series: Vec<_> = sources.iter().map(costs).collect();
    let sizes = all_x(&series);
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
    let worst = |n: usize| series[n].iter().map(|(_, t)| t.ns.max).max().unwrap_or(0);
    let described: Vec<_> =
        sources.iter().enumerate().map(|(n, s)| format!("{}: at most {}", s.name, time(worst(n)))).collect();
    let plot = Plot {
        id: "cost".into(),
        title: "Cost of one exec fault against block size".into(),
        description: format!("Logarithmic on both axes. {}.", described.join("; ")),
        height: 420.0,
        margin: 0.0,
        x: size_axis(&sizes, smallest, largest),
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
    let explained = prediction.map(|p| format!(
        " Dotted: what {} has to take for larger blocks if it invalidates line by line, from its two smallest alone ({:.1} ns a line).",
        sources[0].name, p.ns_per_line
    ));
    let caption = format!(
        "Time that the guest waits for its first execution in a block: median, and a line up to the largest.{}",
        explained.unwrap_or_default()
    );
    Some(Chart { plot, marks, caption, legend: legend(sources, &series) })
}

/// Returns block sizes in bytes with the I-cache operations that the plugin counted in one exec fault.
fn counts(source: &Source<'_>) -> Vec<(f64, f64)> {
    let per_fault = |case: &CaseResult| {
        let counted = case.counted.as_ref().filter(|counted| counted.faults > 0)?;
        Some((case.block_bytes() as f64, (counted.ic_ivau + counted.ic_ialluis) as f64 / counted.faults as f64))
    };
    let cases = source.result.cases.iter().filter(|case| case.block_bytes() > 0);
    by_x(cases.filter_map(per_fault))
}

/// Draws the counted invalidations against the block size, with a curve of one invalidation for every line.
pub fn operations(sources: &[Source<'_>]) -> Option<Chart> {
    let series: Vec<_> = sources.iter().map(counts).collect();
    let sizes = all_x(&series);
    let (smallest, largest) = (*sizes.first()?, *sizes.last()?);
    let line_bytes = sources.iter().find_map(|source| source.result.vcpus.first())?.imin_line_bytes.max(4) as f64;
    let most = |n: usize| series[n].iter().map(|(_, count)| *count).fold(0.0, f64::max);
    let described: Vec<_> = sources
        .iter()
        .enumerate()
        .map(|(n, source)| format!("{}: at most {}", source.name, thousands(most(n) as u64)))
        .collect();
    let values = series.iter().flatten().map(|(_, count)| *count).chain([1.0, largest / line_bytes]);
    let plot = Plot {
        id: "operations".into(),
        title: "Invalidations counted in one exec fault against block size".into(),
        description: format!("Logarithmic on both axes. {}.", described.join("; ")),
        height: 420.0,
        margin: 24.0,
        x: size_axis(&sizes, smallest, largest),
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
    Some(Chart { plot, marks, caption, legend: legend(sources, &series) })
}
