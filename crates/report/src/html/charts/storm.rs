//! Picture of a storm: the longest stall against the number of racing vCPUs.

use maud::html;
use units::text::time;

use crate::html::chart::Chart;
use crate::html::charts::series::{by_x, legend};
use crate::html::source::Source;
use crate::html::svg::{Axis, Plot, mark};

/// Draws the longest stall against the number of racing vCPUs, if a run raced several numbers of them for one block.
pub fn draw(sources: &[Source<'_>]) -> Option<Chart> {
    let stalls = |source: &Source<'_>| -> Vec<(f64, f64)> {
        by_x(source.view.stalls.iter().map(|stall| (stall.racers as f64, stall.ns as f64)))
    };
    let series: Vec<_> = sources.iter().map(stalls).collect();
    if !series.iter().any(|points| points.len() > 1) {
        return None;
    }
    let largest = |pick: fn(&(f64, f64)) -> f64| series.iter().flatten().map(pick).fold(0.0, f64::max);
    let described: Vec<_> = sources
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
        description: described.join("; "),
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
    Some(Chart { plot, marks, caption, legend: legend(sources, &series) })
}
