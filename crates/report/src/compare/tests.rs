use std::slice::from_ref;

use record::status::Status;
use units::random::Random;
use units::stats::Timing;

use crate::compare::*;

fn stored(name: &str) -> RunResult {
    let path = format!("{}/../record/tests/runs/{name}/result.json", env!("CARGO_MANIFEST_DIR"));
    record::store::read(path.as_ref()).expect("the stored run is a result")
}

fn compared(before: &[RunResult], after: &[RunResult]) -> Comparison {
    // The times of the stored runs are short, so the tests look at short differences.
    let options = Options { threshold: 0.05, min_difference_ns: 0.0, ..Options::default() };
    compare(before, after, options).expect("both sides have one platform and the same cases")
}

/// Noise of a host, the same in every test run.
struct Noise {
    random: Random,
    /// Width of the noise, as a logarithm of the factor.
    width: f64,
}

/// Noise that hides five percent in a single run.
const QUIET_HOST: f64 = 0.08;
/// Noise that makes the medians of ten runs differ by far more than five percent.
const BUSY_HOST: f64 = 1.5;

impl Noise {
    fn new(seed: u64, width: f64) -> Self {
        Self { random: Random::new(seed), width }
    }

    /// Returns a factor around 1.
    fn factor(&mut self) -> f64 {
        let share = (self.random.bits() >> 33) as f64 / f64::from(1u32 << 31);
        (self.width * (share - 0.5)).exp()
    }

    fn shuffle(&mut self, runs: &mut [RunResult]) {
        for n in (1..runs.len()).rev() {
            runs.swap(n, self.random.below(n as u64 + 1) as usize);
        }
    }
}

/// Returns copies of a run as if they came from hardware, each with its own noise on every time.
fn noisy(base: &RunResult, count: usize, noise: &mut Noise) -> Vec<RunResult> {
    let disturb = |timing: &mut Option<Timing>, noise: &mut Noise| {
        if let Some(t) = timing {
            for value in [&mut t.ns.p50, &mut t.ns.p99, &mut t.ns.max] {
                *value = (*value as f64 * noise.factor()) as u64;
            }
        }
    };
    (0..count)
        .map(|_| {
            let mut run = base.clone();
            run.machine.platform = Platform::Hardware;
            run.machine.lab = None;
            for case in &mut run.cases {
                let times = case.times.get_or_insert_default();
                disturb(&mut times.touch, noise);
                disturb(&mut times.exec, noise);
                disturb(&mut times.resident, noise);
                if let Some(host) = &mut case.host {
                    for side in [&mut host.icache, &mut host.dcache].into_iter().flatten() {
                        side.max_ns = (side.max_ns as f64 * noise.factor()) as u64;
                    }
                }
            }
            run
        })
        .collect()
}

#[test]
fn a_fixed_kernel_is_better_and_a_broken_one_worse() {
    let (old, new) = (stored("debian-6.1"), stored("debian-6.12"));
    let fixed = compared(from_ref(&old), from_ref(&new));
    assert!(fixed.exact);
    assert_eq!((fixed.headline, fixed.headline.status()), (Headline::Fixed, Status::Pass), "{}", fixed.reason);
    let lockups = fixed.facts.iter().find(|fact| fact.what == "I-side lockups").expect("the old kernel has one");
    assert_eq!((lockups.case.as_str(), lockups.change), ("1G", Change::Better));
    let broken = compared(&[new], &[old]);
    assert_eq!((broken.headline, broken.headline.status()), (Headline::Regressed, Status::Fail));
    assert!(broken.reason.contains("1G I-side lockups: none -> in 1 of 1 runs"), "{}", broken.reason);
}

#[test]
fn a_run_equals_itself() {
    let run = stored("debian-6.1");
    let same = compared(from_ref(&run), from_ref(&run));
    assert_eq!((same.headline, same.differences.len()), (Headline::Same, 0), "{}", same.reason);
}

#[test]
fn one_noisy_run_a_side_is_inconclusive() {
    let mut noise = Noise::new(1, QUIET_HOST);
    let run = noisy(&stored("debian-6.12"), 2, &mut noise);
    let comparison = compared(&run[..1], &run[1..]);
    assert_eq!(comparison.headline, Headline::Inconclusive, "{}", comparison.reason);
    assert!(comparison.metrics.iter().all(|metric| metric.change == Change::Inconclusive));
}

#[test]
fn every_kind_of_cpu_is_compared() {
    let mut before = stored("debian-6.12");
    before.machine.midr = [(0, 0x410f_d050), (1, 0x410f_d050), (2, 0x410f_d0b0)].into();
    let mut after = before.clone();
    after.machine.midr.insert(2, 0x410f_d0c0);
    let comparison = compared(&[before], &[after]);
    let [Difference { what: "CPUs", before, after }] = &comparison.differences[..] else {
        panic!("{:?}", comparison.differences)
    };
    assert_eq!((before.as_str(), after.as_str()), ("0x410fd050, 0x410fd0b0", "0x410fd050, 0x410fd0c0"));
}

#[test]
fn emulated_and_real_runs_do_not_compare() {
    let emulated = stored("debian-6.1");
    let real = noisy(&emulated, 1, &mut Noise::new(2, QUIET_HOST));
    let refused = compare(from_ref(&emulated), &real, Options::default());
    assert_eq!(refused, Err(Error::Platforms("emulated", "hardware")));
    assert!(compare(&[emulated], &real, Options { platforms: Platforms::Any, ..Options::default() }).is_ok());
}

#[test]
fn splits_of_one_kernel_raise_no_false_alarm() {
    let mut noise = Noise::new(3, QUIET_HOST);
    let mut runs = noisy(&stored("debian-6.12"), 20, &mut noise);
    // This kernel locks up in one run of twenty.
    runs[7].cases[2].complaints = stored("debian-6.1").cases[2].complaints.clone();
    runs[7].cases[2].verdict.status = Status::Fail;
    let mut false_alarms = 0;
    for _ in 0..20 {
        noise.shuffle(&mut runs);
        let comparison = compared(&runs[..10], &runs[10..]);
        false_alarms += usize::from(comparison.headline.status() == Status::Fail);
    }
    assert!(false_alarms <= 1, "{false_alarms} false alarms in 20 splits");
}

/// With noise far above the threshold, only the statistical test prevents false alarms. At most 2.5 % of the comparisons of
/// a kernel with itself may say worse, which is 1.5 of 60. Without Holm's correction a quarter of them did.
#[test]
fn many_measurements_do_not_add_up_to_false_alarms() {
    let mut noise = Noise::new(6, BUSY_HOST);
    let base = stored("debian-6.12");
    let mut false_alarms = 0;
    for _ in 0..60 {
        let (before, after) = (noisy(&base, 10, &mut noise), noisy(&base, 10, &mut noise));
        let comparison = compared(&before, &after);
        false_alarms += usize::from(comparison.headline.status() == Status::Fail);
    }
    assert!(false_alarms <= 4, "{false_alarms} false alarms in 60 comparisons");
}

/// Returns ten runs, of which `count` lock up.
fn with_lockups(count: usize) -> Vec<RunResult> {
    let (clean, stuck) = (stored("debian-6.12"), stored("debian-6.1"));
    let mut runs = noisy(&clean, 10, &mut Noise::new(7, QUIET_HOST));
    for case in runs.iter_mut().take(count).map(|run| &mut run.cases[2]) {
        case.complaints = stuck.cases[2].complaints.clone();
        case.verdict = stuck.cases[2].verdict.clone();
    }
    runs
}

#[test]
fn lockups_in_some_of_many_runs_are_weighed() {
    let with = |before, after| {
        let comparison = compared(&with_lockups(before), &with_lockups(after));
        let fact = comparison.facts.iter().find(|fact| fact.what == "I-side lockups").cloned();
        (fact.expect("there are some"), comparison)
    };
    let (once, comparison) = with(0, 1);
    assert_eq!((once.change, comparison.headline), (Change::Inconclusive, Headline::Inconclusive));
    assert!(comparison.reason.contains("I-side lockups: none -> in 1 of 10 runs"), "{}", comparison.reason);
    assert_eq!(with(0, 10).0.change, Change::Worse);
    let (more, comparison) = with(1, 10);
    assert_eq!((more.change, comparison.headline), (Change::Worse, Headline::Regressed), "{}", comparison.reason);
    assert_eq!(with(10, 1).0.change, Change::Better);
    assert_eq!(with(10, 10).0.change, Change::Same);
}

/// Corrected for dozens of measurements, Fisher's p value of four or five runs is never small enough.
#[test]
fn lockups_in_all_runs_after_and_none_before_are_worse_however_many_runs() {
    for runs in 1..=6 {
        let (clean, stuck) = (&with_lockups(0)[..runs], &with_lockups(10)[..runs]);
        let worse = compared(clean, stuck);
        assert_eq!(worse.headline, Headline::Regressed, "{runs} runs: {}", worse.reason);
        let better = compared(stuck, clean);
        assert_eq!(better.headline, Headline::Fixed, "{runs} runs: {}", better.reason);
    }
}

#[test]
fn a_single_stale_fetch_is_worse() {
    let before = with_lockups(0);
    let mut after = before.clone();
    after[3].cases[0].mismatches = 1;
    let comparison = compared(&before, &after);
    assert_eq!(comparison.headline, Headline::Regressed, "{}", comparison.reason);
}

#[test]
fn only_what_got_slower_is_worse() {
    let mut noise = Noise::new(4, QUIET_HOST);
    let base = stored("debian-6.12");
    let before = noisy(&base, 10, &mut noise);
    let mut after = noisy(&base, 10, &mut noise);
    for run in &mut after {
        let exec = run.cases[1].times.as_mut().and_then(|times| times.exec.as_mut()).expect("it was timed");
        exec.ns.p50 = exec.ns.p50 * 3 / 2;
    }
    let comparison = compared(&before, &after);
    let worse: Vec<_> = comparison.metrics.iter().filter(|metric| metric.change == Change::Worse).collect();
    assert_eq!(worse.len(), 1, "{worse:?}");
    assert_eq!((worse[0].case.as_str(), worse[0].measure.to_string().as_str()), ("thp", "exec_p50"));
    let (low, high) = worse[0].interval.expect("ten runs a side");
    assert!(low > 0.4 && high < 0.6, "{low} {high}");
    assert!(comparison.metrics.iter().filter(|m| m.change == Change::Better).count() == 0);
}

/// A counter that is too coarse for a fault measures 0. The relative change from 0 is infinite, but the difference is not.
#[test]
fn a_median_of_0_is_compared_by_its_difference() {
    let measured = |ns: u64| {
        let mut runs = noisy(&stored("debian-6.12"), 10, &mut Noise::new(8, QUIET_HOST));
        for run in &mut runs {
            run.cases[1].times.as_mut().and_then(|times| times.exec.as_mut()).expect("it was timed").ns.p50 = ns;
        }
        runs
    };
    let resolution_ns = resolution_ns(&measured(0)) as u64;
    assert!(resolution_ns > 0);
    let exec_p50 = |before, after| {
        let comparison = compared(&measured(before), &measured(after));
        let is_it =
            |metric: &&Metric| (metric.case.as_str(), metric.measure.to_string().as_str()) == ("thp", "exec_p50");
        comparison.metrics.iter().find(is_it).cloned().expect("it was measured")
    };
    let small = exec_p50(0, resolution_ns);
    assert_eq!((small.change, small.difference_ns), (Change::Same, resolution_ns as f64));
    let large = exec_p50(0, 100 * resolution_ns);
    let both = large.difference_ns;
    assert_eq!((large.change, large.difference_interval_ns), (Change::Worse, Some((both, both))));
    let gone = exec_p50(100 * resolution_ns, 0);
    assert_eq!((gone.change, print::relative(gone.relative).as_str()), (Change::Better, "-100 %"));
    let json = serde_json::to_value(&gone).expect("plain data");
    assert_eq!((&json["relative"], &json["interval"][0]), (&(-1.0).into(), &(-1.0).into()));
    assert_eq!(exec_p50(0, 0).change, Change::Same);
}

#[test]
fn a_mail_has_72_columns() {
    let mut noise = Noise::new(5, QUIET_HOST);
    let old = noisy(&stored("debian-6.1"), 5, &mut noise);
    let new = noisy(&stored("debian-6.12"), 5, &mut noise);
    for comparison in [compared(&old, &new), compared(&new, &old)] {
        let mail = print::markdown(&comparison);
        for line in mail.lines() {
            assert!(line.chars().count() <= 72, "{line}");
        }
        assert!(mail.contains("1G I-side lockups"), "{mail}");
    }
}

#[test]
fn words_that_log_scanners_look_for_are_replaced() {
    let before = stored("debian-6.1");
    let mut after = before.clone();
    after.under_test.label = Some("BUG: WARNING: of the Oops before the Kernel panic".into());
    after.machine.command_line = Some("panic=WARNING: oops=Oops".into());
    let comparison = compared(&[before], &[after]);
    let mail = print::markdown(&comparison);
    assert!(mail.lines().all(|line| line.chars().count() <= 72), "{mail}");
    for text in [print::text(&comparison), mail] {
        for word in ["BUG:", "WARNING:", "Oops", "Kernel panic"] {
            assert!(!text.contains(word), "{word} in {text}");
        }
    }
}

#[test]
fn runs_without_a_common_case_do_not_compare() {
    let run = stored("debian-6.1");
    let mut other = run.clone();
    other.cases.clear();
    let error = compare(&[run], &[other], Options::default()).expect_err("nothing to compare");
    assert!(error.to_string().contains("relax.1G") && error.to_string().ends_with("none"), "{error}");
}

#[test]
fn one_slow_fault_among_many_is_no_regression_of_an_emulated_kernel() {
    let before = stored("debian-6.12");
    let mut after = before.clone();
    let exec = after.cases[0].times.as_mut().and_then(|times| times.exec.as_mut()).expect("it was timed");
    exec.ns.max *= 2;
    let comparison = compared(from_ref(&before), from_ref(&after));
    assert_eq!(comparison.headline, Headline::Same, "{}", comparison.reason);
    let exec = after.cases[0].times.as_mut().and_then(|times| times.exec.as_mut()).expect("it was timed");
    exec.ns.p50 *= 2;
    let comparison = compared(from_ref(&before), from_ref(&after));
    assert_eq!(comparison.headline, Headline::Worse, "{}", comparison.reason);
    let exec = after.cases[2].times.as_mut().and_then(|times| times.exec.as_mut()).expect("it was timed");
    assert_eq!(exec.ns.count, 1, "a single fault is its own median");
    after = before.clone();
    after.cases[2].times.as_mut().and_then(|times| times.exec.as_mut()).expect("it was timed").ns.max *= 2;
    let comparison = compared(from_ref(&before), from_ref(&after));
    assert_eq!(comparison.headline, Headline::Worse, "{}", comparison.reason);
}

#[test]
fn a_kernel_that_stops_invalidating_is_worse() {
    use record::maintenance::{Counted, Policy};
    let mut before = stored("debian-6.12");
    let mut after = before.clone();
    let counted = |policy| Some(Counted { agrees_with: vec![policy], ..Counted::default() });
    before.cases[2].counted = counted(Policy::Capped);
    after.cases[2].counted = counted(Policy::None);
    let comparison = compared(&[before], &[after]);
    assert_eq!(comparison.headline, Headline::Regressed);
    assert!(comparison.reason.contains("counted maintenance: capped -> none"), "{}", comparison.reason);
}

/// The fixed kernel takes microseconds longer for a page, which is no reason to warn of the fix.
#[test]
fn short_differences_do_not_matter_by_default() {
    let (old, new) = (stored("debian-6.1"), stored("debian-6.12"));
    let mut slower = new.clone();
    let exec = slower.cases[0].times.as_mut().and_then(|times| times.exec.as_mut()).expect("it was timed");
    (exec.ns.p50, exec.ns.max) = (exec.ns.p50 * 2, exec.ns.max * 2);
    let headline = |before: &RunResult, after: &RunResult| {
        compare(from_ref(before), from_ref(after), Options::default()).expect("the same cases").headline
    };
    assert_eq!((headline(&old, &new), headline(&new, &old)), (Headline::Fixed, Headline::Regressed));
    assert_eq!(headline(&new, &slower), Headline::Same);
    let exec = slower.cases[2].times.as_mut().and_then(|times| times.exec.as_mut()).expect("it was timed");
    exec.ns.max += 50_000_000;
    assert_eq!(headline(&new, &slower), Headline::Worse);
}

/// The longest traced call of the host includes the cost of tracing.
#[test]
fn times_of_the_traced_round_decide_nothing() {
    let before = stored("debian-6.12");
    let mut after = before.clone();
    let icache = after.cases[2].host.as_mut().and_then(|host| host.icache.as_mut()).expect("it was traced");
    icache.max_ns += 50_000_000;
    let comparison = compared(from_ref(&before), from_ref(&after));
    assert_eq!(comparison.headline, Headline::Same, "{}", comparison.reason);
    assert!(comparison.metrics.iter().any(|metric| metric.change == Change::Worse));
}

#[test]
fn runs_that_were_skipped_are_not_the_same() {
    let mut run = stored("debian-6.12");
    for case in &mut run.cases {
        *case = CaseResult {
            verdict: record::status::Verdict::new(Status::Skip, "why"),
            ..CaseResult::not_run(&*case.name, 1)
        };
    }
    let comparison = compared(from_ref(&run), from_ref(&run));
    assert_eq!((comparison.headline, comparison.headline.status()), (Headline::Inconclusive, Status::Skip));
}

/// A case that lost its evidence does not excuse another one that got slower.
#[test]
fn an_unclear_fact_does_not_hide_a_longer_time() {
    let before = stored("debian-6.12");
    let mut after = before.clone();
    after.cases[0].verdict.status = Status::Skip;
    assert_eq!(compared(from_ref(&before), from_ref(&after)).headline, Headline::Inconclusive);
    after.cases[2].times.as_mut().and_then(|times| times.exec.as_mut()).expect("it was timed").ns.max *= 2;
    assert_eq!(compared(from_ref(&before), from_ref(&after)).headline, Headline::Worse);
}
