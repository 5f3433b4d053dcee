//! Picture of the distribution of exec faults by duration.

use maud::html;
use units::text::time;

use crate::html::chart::Chart;
use crate::html::charts::series::legend;
use crate::html::source::Source;
use crate::html::svg::{Axis, Plot, round};

/// Smallest number of faults that makes a distribution.
const MIN_FAULTS: usize = 8;
/// Bins in a decade of durations.
const BINS_PER_DECADE: f64 = 4.0;

/// Draws the distribution of exec faults, for the largest block with enough of them, with a bar for each run and bin.
pub fn draw(sources: &[Source<'_>]) -> Option<Chart> {
    let first = sources.first()?;
    let case = first
        .result
        .cases
        .iter()
        .filter(|case| first.samples_of(&case.name, "exec").count() >= MIN_FAULTS)
        .max_by_key(|case| case.block_bytes())?;
    let block = case.name.clone();
    let bin = |ns: f64| (ns.max(1.0).log10() * BINS_PER_DECADE).floor() as i32;
    let bins: Vec<Vec<i32>> = sources
        .iter()
        .map(|source| {
            let hz = source.result.vcpus.first().map_or(1, |vcpu| vcpu.cntfrq_hz.max(1)) as f64;
            source.samples_of(&block, "exec").map(|sample| bin(sample.ticks as f64 * 1e9 / hz)).collect()
        })
        .collect();
    let (first, last) = (*bins.iter().flatten().min()?, *bins.iter().flatten().max()?);
    let value = |bin: i32| 10f64.powf(f64::from(bin) / BINS_PER_DECADE);
    let faults = |series: usize, wanted: i32| bins[series].iter().filter(|bin| **bin == wanted).count() as f64;
    let most = (first..=last)
        .flat_map(|bin| (0..bins.len()).map(move |n| (n, bin)))
        .map(|(n, bin)| faults(n, bin))
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
                @if faults(n, bin) > 0.0 {
                    @let wide = (to - from) * share;
                    @let y = plot.y(faults(n, bin));
                    rect class=(format!("fill c{n}")) x=(round(from + wide * n as f64 + 1.0)) y=(y) width=(round((wide - 2.0).max(1.0))) height=(round(plot.y(0.0) - y)) {
                        title { (sources[n].name) ": " (faults(n, bin)) " faults of " (time(value(bin) as u64)) " to " (time(value(bin + 1) as u64)) }
                    }
                }
            }
        }
    };
    let caption = format!("Number of exec faults of block {block} by duration, the traced round included.");
    Some(Chart { plot, marks, caption, legend: legend(sources, &bins) })
}
