//! Distributions of samples.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A distribution of samples in one unit. The percentiles are those by nearest rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Distribution {
    /// Number of samples.
    pub count: u64,
    /// The smallest sample.
    pub min: u64,
    /// The median: half of the samples are at most this.
    pub p50: u64,
    /// The 99th percentile: 99 of 100 samples are at most this.
    pub p99: u64,
    /// The largest sample.
    pub max: u64,
    /// The sum of all samples.
    pub sum: u64,
}

/// A distribution of times that the guest measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Timing {
    /// In ticks of CNTVCT_EL0.
    pub ticks: Distribution,
    /// In nanoseconds.
    pub ns: Distribution,
}

/// Returns the distribution of `samples`, or `None` if there are no samples.
pub fn distribution(mut samples: Vec<u64>) -> Option<Distribution> {
    samples.sort_unstable();
    let (min, max) = (*samples.first()?, *samples.last()?);
    Some(Distribution {
        count: samples.len() as u64,
        min,
        p50: nearest_rank(&samples, 50),
        p99: nearest_rank(&samples, 99),
        max,
        // The sum saturates, because a guest can report any number as a sample.
        sum: samples.iter().fold(0, |sum, sample| sum.saturating_add(*sample)),
    })
}

/// Returns the percentile by nearest rank: the smallest of the sorted `samples` that `percent` of 100 do not exceed.
fn nearest_rank(samples: &[u64], percent: usize) -> u64 {
    let rank = (samples.len() * percent).div_ceil(100).max(1);
    samples.get(rank - 1).copied().unwrap_or(0)
}

/// Converts `ticks` of a counter with the frequency `hz` to nanoseconds, rounded down.
pub fn ns(ticks: u64, hz: u64) -> u64 {
    let ns = u128::from(ticks) * 1_000_000_000 / u128::from(hz.max(1));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// Returns the distribution of times in `ticks` of a counter with the frequency `hz`, or `None` if there are no times.
pub fn timing(ticks: Vec<u64>, hz: u64) -> Option<Timing> {
    let ns_of_each = ticks.iter().map(|t| ns(*t, hz)).collect();
    Some(Timing { ticks: distribution(ticks)?, ns: distribution(ns_of_each)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let d = distribution((1..=200).rev().collect()).expect("there are samples");
        assert_eq!((d.count, d.min, d.p50, d.p99, d.max, d.sum), (200, 1, 100, 198, 200, 20_100));
        let one = distribution(vec![7]).expect("there is one");
        assert_eq!((one.p50, one.p99), (7, 7));
        assert_eq!(distribution(Vec::new()), None);
    }

    #[test]
    fn ticks_to_ns() {
        assert_eq!(ns(1, 25_000_000), 40);
        assert_eq!(ns(138_277_424, 62_500_000), 2_212_438_784);
        assert_eq!(ns(u64::MAX, 1), u64::MAX);
    }
}
