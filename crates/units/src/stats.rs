//! Distributions from samples.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A distribution, in one unit. Percentiles by nearest rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Distribution {
    /// Samples.
    pub count: u64,
    /// Smallest.
    pub min: u64,
    /// Half are at most this.
    pub p50: u64,
    /// 99 of 100 are at most this.
    pub p99: u64,
    /// Largest.
    pub max: u64,
    /// Sum.
    pub sum: u64,
}

/// Times that the guest saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Timing {
    /// In ticks of CNTVCT_EL0.
    pub ticks: Distribution,
    /// The same in nanoseconds.
    pub ns: Distribution,
}

/// Returns the distribution of `samples`, `None` if there are none.
pub fn distribution(mut samples: Vec<u64>) -> Option<Distribution> {
    samples.sort_unstable();
    let (min, max) = (*samples.first()?, *samples.last()?);
    Some(Distribution {
        count: samples.len() as u64,
        min,
        p50: nearest_rank(&samples, 50),
        p99: nearest_rank(&samples, 99),
        max,
        // A guest may write any number.
        sum: samples.iter().fold(0, |sum, sample| sum.saturating_add(*sample)),
    })
}

/// Returns the smallest of the sorted `samples` that at least `percent` of 100 do not exceed.
fn nearest_rank(samples: &[u64], percent: usize) -> u64 {
    let rank = (samples.len() * percent).div_ceil(100).max(1);
    samples.get(rank - 1).copied().unwrap_or(0)
}

/// Returns `ticks` of a counter of `hz` in nanoseconds, rounded down.
pub fn ns(ticks: u64, hz: u64) -> u64 {
    let ns = u128::from(ticks) * 1_000_000_000 / u128::from(hz.max(1));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// Returns the distribution of `ticks` of a counter of `hz`.
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
