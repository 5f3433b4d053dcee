use std::slice::from_ref;

use super::*;
use crate::result::Timing;

fn stored(name: &str) -> RunResult {
    let path = format!("{}/tests/runs/{name}/result.json", env!("CARGO_MANIFEST_DIR"));
    crate::store::read(path.as_ref()).expect("the stored run is a result")
}

const DEFAULTS: Options = Options { threshold: 0.05, platforms: Platforms::Same };

/// A small generator, so that tests repeat.
struct Noise(u64);

impl Noise {
    /// Returns a factor around 1, wide enough to hide five percent in a single run.
    fn factor(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        1.0 + 0.08 * ((self.0 >> 33) as f64 / f64::from(1u32 << 31) - 0.5)
    }
}

/// Returns runs of one kernel on hardware, with noise on every time and none of the lockups of a single run.
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
                disturb(&mut case.touch, noise);
                disturb(&mut case.exec, noise);
                disturb(&mut case.resident, noise);
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
    let there = compare(from_ref(&old), from_ref(&new), DEFAULTS).expect("both are emulated");
    assert!(there.exact);
    let lockups = there.facts.iter().find(|fact| fact.what == "I-side lockups").expect("the old kernel has one");
    assert_eq!((lockups.case.as_str(), lockups.change), ("1G", Change::Better));
    let back = compare(&[new], &[old], DEFAULTS).expect("both are emulated");
    assert_eq!(back.change, Change::Worse);
    assert!(back.reason.contains("1G I-side lockups: none -> in 1 of 1 runs"), "{}", back.reason);
}

#[test]
fn a_run_equals_itself() {
    let run = stored("debian-6.1");
    let same = compare(from_ref(&run), from_ref(&run), DEFAULTS).expect("both are emulated");
    assert_eq!((same.change, same.differences.len()), (Change::Same, 0), "{}", same.reason);
}

#[test]
fn one_noisy_run_a_side_tells_nothing_about_times() {
    let mut noise = Noise(1);
    let run = noisy(&stored("debian-6.12"), 2, &mut noise);
    let told = compare(&run[..1], &run[1..], DEFAULTS).expect("both are hardware");
    assert_eq!(told.change, Change::Inconclusive, "{}", told.reason);
    assert!(told.metrics.iter().all(|metric| metric.change == Change::Inconclusive));
}

#[test]
fn emulated_and_real_do_not_mix() {
    let emulated = stored("debian-6.1");
    let real = noisy(&emulated, 1, &mut Noise(2));
    let refused = compare(from_ref(&emulated), &real, DEFAULTS);
    assert_eq!(refused, Err(Error::Platforms("emulated", "hardware")));
    assert!(compare(&[emulated], &real, Options { platforms: Platforms::Any, ..DEFAULTS }).is_ok());
}

#[test]
fn splits_of_one_kernel_raise_no_false_alarm() {
    let mut noise = Noise(3);
    let base = stored("debian-6.12");
    let mut runs = noisy(&base, 20, &mut noise);
    let mut false_alarms = 0;
    for _ in 0..20 {
        for n in (1..runs.len()).rev() {
            let other = ((noise.factor() - 0.96) / 0.08 * n as f64) as usize;
            runs.swap(n, other.min(n));
        }
        let told = compare(&runs[..10], &runs[10..], DEFAULTS).expect("both are hardware");
        false_alarms += usize::from(told.change == Change::Worse);
    }
    assert!(false_alarms <= 1, "{false_alarms} false alarms in 20 splits");
}

#[test]
fn only_what_got_slower_is_worse() {
    let mut noise = Noise(4);
    let base = stored("debian-6.12");
    let before = noisy(&base, 10, &mut noise);
    let mut after = noisy(&base, 10, &mut noise);
    for run in &mut after {
        let exec = run.cases[1].exec.as_mut().expect("it was timed");
        exec.ns.p50 = exec.ns.p50 * 3 / 2;
    }
    let told = compare(&before, &after, DEFAULTS).expect("both are hardware");
    let worse: Vec<_> = told.metrics.iter().filter(|metric| metric.change == Change::Worse).collect();
    assert_eq!(worse.len(), 1, "{worse:?}");
    assert_eq!((worse[0].case.as_str(), worse[0].measure.to_string().as_str()), ("thp", "exec_p50"));
    let (low, high) = worse[0].interval.expect("ten runs a side");
    assert!(low > 0.4 && high < 0.6, "{low} {high}");
    assert!(told.metrics.iter().filter(|m| m.change == Change::Better).count() == 0);
}

#[test]
fn a_mail_has_72_columns() {
    let mut noise = Noise(5);
    let old = noisy(&stored("debian-6.1"), 5, &mut noise);
    let new = noisy(&stored("debian-6.12"), 5, &mut noise);
    for told in [compare(&old, &new, DEFAULTS), compare(&new, &old, DEFAULTS)] {
        let mail = print::markdown(&told.expect("both are hardware"));
        for line in mail.lines() {
            assert!(line.chars().count() <= 72, "{line}");
        }
        assert!(mail.contains("1G I-side lockups"), "{mail}");
    }
}

#[test]
fn nothing_shared_is_said() {
    let run = stored("debian-6.1");
    let mut other = run.clone();
    other.cases.clear();
    let error = compare(&[run], &[other], DEFAULTS).expect_err("nothing to compare");
    assert!(error.to_string().contains("relax.1G") && error.to_string().ends_with("none"), "{error}");
}

#[test]
fn one_slow_fault_among_many_is_no_regression_of_an_emulated_kernel() {
    let before = stored("debian-6.12");
    let mut after = before.clone();
    let exec = after.cases[0].exec.as_mut().expect("it was timed");
    exec.ns.max *= 2;
    let told = compare(from_ref(&before), from_ref(&after), DEFAULTS).expect("both are emulated");
    assert_eq!(told.change, Change::Inconclusive, "{}", told.reason);
    let exec = after.cases[0].exec.as_mut().expect("it was timed");
    exec.ns.p50 *= 2;
    let told = compare(from_ref(&before), from_ref(&after), DEFAULTS).expect("both are emulated");
    assert_eq!(told.change, Change::Worse, "{}", told.reason);
    let exec = after.cases[2].exec.as_mut().expect("it was timed");
    assert_eq!(exec.ns.count, 1, "a single fault is its own median");
    after = before.clone();
    after.cases[2].exec.as_mut().expect("it was timed").ns.max *= 2;
    let told = compare(from_ref(&before), from_ref(&after), DEFAULTS).expect("both are emulated");
    assert_eq!(told.change, Change::Worse, "{}", told.reason);
}

#[test]
fn a_kernel_that_stops_invalidating_is_worse() {
    use crate::result::Counted;
    let mut before = stored("debian-6.12");
    let mut after = before.clone();
    let counted = |policy: &str| Some(Counted { agrees_with: vec![policy.into()], ..Counted::default() });
    before.cases[2].counted = counted("capped");
    after.cases[2].counted = counted("none");
    let told = compare(&[before], &[after], DEFAULTS).expect("both are emulated");
    assert_eq!(told.change, Change::Worse);
    assert!(told.reason.contains("counted maintenance: capped -> none"), "{}", told.reason);
}
