//! Series of points, one for each run.

use crate::html::source::Source;

/// Returns the numbers and names of the runs whose series is not empty.
pub fn legend<T>(sources: &[Source<'_>], series: &[Vec<T>]) -> Vec<(usize, String)> {
    let named = sources.iter().map(|source| source.name.clone()).enumerate();
    named.filter(|(n, _)| !series[*n].is_empty()).collect()
}

/// Returns the points in the order of x, the first one of each x.
pub fn by_x<T>(points: impl Iterator<Item = (f64, T)>) -> Vec<(f64, T)> {
    let mut points: Vec<_> = points.collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points.dedup_by(|a, b| a.0 == b.0);
    points
}

/// Returns every x of all series, in order.
pub fn all_x<T>(series: &[Vec<(f64, T)>]) -> Vec<f64> {
    let mut all: Vec<f64> = series.iter().flatten().map(|(x, _)| *x).collect();
    all.sort_by(f64::total_cmp);
    all.dedup();
    all
}
