//! Statistics of a comparison: rank test, exact test, intervals and corrections.
//!
//! The same numbers always give the same result: the bootstrap has a fixed seed.

use units::random::Random;

/// Probability of reporting a difference where there is none, over everything that is compared together.
pub const ALPHA: f64 = 0.05;

/// Largest number of values for which the rank test counts all arrangements. It approximates beyond.
const EXACT_LIMIT: usize = 60;
/// Number of resamples of the bootstrap.
const RESAMPLES: usize = 1_000;
/// Seed of the bootstrap. Any value does, as long as it never changes.
const SEED: u64 = 0x5eed_fa17;

/// Returns the median, which is the mean of the middle two values if their number is even. `None` without values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let high = *sorted.get(middle)?;
    Some(if sorted.len() % 2 == 1 { high } else { f64::midpoint(sorted[middle - 1], high) })
}

/// Returns the two-sided p value of the Mann–Whitney test: the probability that chance alone separates the ranks this far.
///
/// Equal values share their mean rank. The p value of small samples is exact, even with equal values.
pub fn rank_test(a: &[f64], b: &[f64]) -> f64 {
    if a.is_empty() || b.is_empty() {
        return 1.0;
    }
    let ranks = doubled_ranks(a, b);
    let observed: u64 = ranks[..a.len()].iter().sum();
    if ranks.len() <= EXACT_LIMIT { exact(&ranks, a.len(), observed) } else { normal(&ranks, a.len(), observed) }
}

/// Returns twice the mean rank of each value of `a`, then of `b`. The factor keeps the ranks of equal values whole.
fn doubled_ranks(a: &[f64], b: &[f64]) -> Vec<u64> {
    let all: Vec<f64> = a.iter().chain(b).copied().collect();
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by(|&x, &y| all[x].total_cmp(&all[y]));
    let mut ranks = vec![0; all.len()];
    let mut first = 0;
    while first < order.len() {
        let tied = order[first..].iter().take_while(|&&n| all[n] == all[order[first]]).count();
        // These values have the ranks first + 1 to first + tied. Twice their mean is the sum of the first and the last.
        for &n in &order[first..first + tied] {
            ranks[n] = (2 * first + tied + 1) as u64;
        }
        first += tied;
    }
    ranks
}

/// Returns the share of all ways to choose `n` of the ranks whose sum is at least as far from the mean as `observed`.
fn exact(ranks: &[u64], n: usize, observed: u64) -> f64 {
    let total: u64 = ranks.iter().sum();
    let most = total as usize;
    // ways[k][s] is the number of ways to choose k of the ranks seen so far so that their sum is s.
    let mut ways = vec![vec![0.0f64; most + 1]; n + 1];
    ways[0][0] = 1.0;
    for (seen, &rank) in ranks.iter().enumerate() {
        let rank = rank as usize;
        for k in (1..=n.min(seen + 1)).rev() {
            let (smaller, this) = ways.split_at_mut(k);
            let (from, to) = (&smaller[k - 1], &mut this[0]);
            for sum in rank..=most {
                to[sum] += from[sum - rank];
            }
        }
    }
    let all: f64 = ways[n].iter().sum();
    // Distance from the mean, n * total / len, multiplied by the number of ranks to stay in whole numbers.
    let distance = |sum: u64| (sum * ranks.len() as u64).abs_diff(total * n as u64);
    let far: f64 =
        ways[n].iter().enumerate().filter(|(sum, _)| distance(*sum as u64) >= distance(observed)).map(|(_, w)| w).sum();
    (far / all).min(1.0)
}

/// Returns the p value by the normal approximation, with a continuity correction. The variance is that of the given ranks,
/// so it is exact for equal values, too.
fn normal(ranks: &[u64], n: usize, observed: u64) -> f64 {
    let (len, n) = (ranks.len() as f64, n as f64);
    let mean = ranks.iter().sum::<u64>() as f64 / len;
    let variance = ranks.iter().map(|r| (*r as f64 - mean).powi(2)).sum::<f64>() / (len - 1.0);
    let deviation = (variance * n * (len - n) / len).sqrt();
    if deviation == 0.0 {
        return 1.0;
    }
    let distance = ((observed as f64 - n * mean).abs() - 1.0).max(0.0);
    libm::erfc(distance / deviation / std::f64::consts::SQRT_2).min(1.0)
}

/// Returns the two-sided p value of Fisher's exact test. Each side is given as the number of runs that have a property and
/// the number of all runs.
pub fn fisher(a: (usize, usize), b: (usize, usize)) -> f64 {
    let with = a.0 + b.0;
    let ways = |k: usize| choose(a.1, k) * choose(b.1, with - k);
    let possible = with.saturating_sub(b.1)..=with.min(a.1);
    let observed = ways(a.0) * (1.0 + 1e-9);
    let (all, far) = possible
        .map(ways)
        .fold((0.0, 0.0), |(all, far), ways| (all + ways, if ways <= observed { far + ways } else { far }));
    far / all
}

/// Returns the number of ways to choose `k` of `n`.
fn choose(n: usize, k: usize) -> f64 {
    (0..k).map(|i| (n - i) as f64 / (i + 1) as f64).product()
}

/// Corrects the p values of several tests for their number, by Holm's method. Comparing the corrected values with a limit
/// keeps the probability of any false alarm below this limit.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![1.0; p.len()];
    let mut largest = 0.0f64;
    for (n, &index) in order.iter().enumerate() {
        largest = largest.max(p[index] * (p.len() - n) as f64).min(1.0);
        adjusted[index] = largest;
    }
    adjusted
}

/// Interval between two values.
pub type Interval = (f64, f64);

/// Returns the 95 % intervals of the relative change and of the difference of the median from `before` to `after`, by
/// bootstrap. `None` if a side has fewer than two values, as there is nothing to resample.
pub fn change_intervals(before: &[f64], after: &[f64]) -> Option<(Interval, Interval)> {
    if before.len() < 2 || after.len() < 2 {
        return None;
    }
    let mut random = Random::new(SEED);
    let mut resample = |values: &[f64]| {
        let drawn: Vec<f64> = values.iter().map(|_| random.pick(values)).collect();
        median(&drawn).unwrap_or(0.0)
    };
    let drawn: Vec<(f64, f64)> = (0..RESAMPLES).map(|_| (resample(before), resample(after))).collect();
    let interval = |of: fn(f64, f64) -> f64| {
        let mut all: Vec<f64> = drawn.iter().map(|&(before, after)| of(before, after)).collect();
        all.sort_by(f64::total_cmp);
        let at = |share: f64| all[(all.len() as f64 * share) as usize];
        (at(0.025), at(0.975))
    };
    Some((interval(change), interval(|before, after| after - before)))
}

/// Returns the relative change: 0.1 is ten percent more. A change from 0 is infinite.
pub fn change(before: f64, after: f64) -> f64 {
    if before == after { 0.0 } else { after / before - 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6
    }

    /// Expected values: the small ones are computed by hand, those with equal values by counting all arrangements of the
    /// mean ranks in another language.
    #[test]
    fn rank_test_is_exact() {
        assert!(near(rank_test(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 0.1));
        let ten = |from: f64| (0..10).map(|n| from + f64::from(n)).collect::<Vec<_>>();
        assert!(near(rank_test(&ten(0.0), &ten(100.0)), 2.0 / 184_756.0));
        assert!(near(rank_test(&[1.0, 4.0, 5.0], &[2.0, 3.0, 6.0]), 1.0));
        assert!(near(rank_test(&[7.0; 5], &[7.0; 5]), 1.0), "all tied");
        // Of the 6 ways to split {1,1,2,2} into two pairs, one is this and one is its mirror image.
        assert!(near(rank_test(&[1.0, 1.0], &[2.0, 2.0]), 2.0 / 6.0));
        assert!(near(rank_test(&[1.0, 1.0, 2.0, 5.0], &[2.0, 2.0, 3.0, 3.0, 3.0]), 45.0 / 126.0));
        assert!(near(rank_test(&[1.0, 5.0, 5.0, 5.0], &[2.0, 3.0, 4.0, 5.0, 6.0]), 120.0 / 126.0));
    }

    /// Expected values: computed by hand; the first is Fisher's lady tasting tea, with 3 of 4 cups right.
    #[test]
    fn fisher_is_exact() {
        assert!(near(fisher((3, 4), (1, 4)), 34.0 / 70.0));
        assert!(near(fisher((0, 10), (10, 10)), 2.0 / 184_756.0));
        assert!(near(fisher((0, 10), (1, 10)), 1.0));
        assert!(near(fisher((0, 3), (2, 2)), 1.0 / 10.0));
        assert!(near(fisher((0, 0), (1, 1)), 1.0) && near(fisher((0, 5), (0, 5)), 1.0));
    }

    #[test]
    fn approximation_agrees_with_counting() {
        let a: Vec<f64> = (0..30).map(|n| f64::from(n * 7 % 31)).collect();
        let b: Vec<f64> = (0..30).map(|n| f64::from(n * 11 % 37) + 4.0).collect();
        let ranks = doubled_ranks(&a, &b);
        let observed = ranks[..30].iter().sum();
        let (counted, approximated) = (exact(&ranks, 30, observed), normal(&ranks, 30, observed));
        assert!((counted - approximated).abs() < 0.01, "{counted} {approximated}");
        assert!(counted > 0.01 && counted < 0.5);
    }

    #[test]
    fn holm_steps_down() {
        let adjusted = holm(&[0.01, 0.04, 0.03]);
        assert!(near(adjusted[0], 0.03) && near(adjusted[1], 0.06) && near(adjusted[2], 0.06), "{adjusted:?}");
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }

    #[test]
    fn interval_holds_the_change_and_repeats() {
        let before: Vec<f64> = (0..10).map(|n| 100.0 + f64::from(n)).collect();
        let after: Vec<f64> = before.iter().map(|v| v * 1.5).collect();
        let ((low, high), (least, most)) = change_intervals(&before, &after).expect("enough runs");
        assert!(low < 0.5 && 0.5 < high && low > 0.4 && high < 0.6, "{low} {high}");
        assert!(least > 40.0 && most < 65.0 && least < most, "{least} {most}");
        assert_eq!(change_intervals(&before, &after), Some(((low, high), (least, most))));
        assert_eq!(change_intervals(&[1.0], &[2.0]), None);
        let from_nothing = change_intervals(&[0.0; 5], &[100.0; 5]);
        assert_eq!(from_nothing, Some(((f64::INFINITY, f64::INFINITY), (100.0, 100.0))));
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
