//! All pictures of a report. A picture is left out if no run has anything to show in it.

mod block_size;
mod histogram;
mod series;
mod storm;
mod timeline;

use crate::html::chart::Chart;
use crate::html::source::Source;
use crate::html::svg::COLOURS;

/// Maximum number of series in one chart. More could not be told apart.
const MAX_SERIES: usize = COLOURS;

/// Returns every picture in which the runs have something to show, under the heading of its section.
pub fn all<'a>(sources: &'a [Source<'_>]) -> impl Iterator<Item = (&'static str, Chart)> + use<'a> {
    let shown = &sources[..sources.len().min(MAX_SERIES)];
    ALL.into_iter().filter_map(|(heading, draw)| Some((heading, draw(shown)?)))
}

/// Pictures, each with the heading of its section.
const ALL: [(&str, Draw); 5] = [
    ("What an exec fault costs", block_size::cost),
    ("What the kernel did in it, counted", block_size::operations),
    ("The storm", storm::draw),
    ("The longest fault, and what the kernel said", timeline::draw),
    ("How the faults spread", histogram::draw),
];

/// Function that draws a picture, or returns none if the runs have nothing to show in it.
type Draw = fn(&[Source<'_>]) -> Option<Chart>;
