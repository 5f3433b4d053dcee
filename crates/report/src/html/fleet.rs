//! One page over many runs: machines, their kernels, their scenarios, and trends of times.

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};

use record::machine::Platform;
use record::measure::lockups;
use record::result::RunResult;
use record::status::Status;
use units::text::time;

use crate::html::page::{NO_VALUE, badge, page};
use crate::html::svg::round;

/// Maximum number of points in a trend, the newest. More could not be seen.
const TREND_POINTS: usize = 60;
/// Maximum number of runs in the list of a machine, the newest.
const LISTED: usize = 100;

/// A run of the fleet.
pub struct FleetRun<'a> {
    /// Directory of the run, relative to the page.
    pub link: String,
    /// Result of the run.
    pub result: &'a RunResult,
}

fn machine_name(run: &RunResult) -> String {
    let machine = &run.machine;
    let lab = machine.lab.as_ref().map(|lab| lab.cpu.as_str());
    let model = machine.model.as_deref().unwrap_or("unknown machine");
    match machine.platform {
        Platform::Emulated => format!("{} ({})", lab.unwrap_or(model), machine.platform.name()),
        platform => format!("{model} ({})", platform.name()),
    }
}

/// Returns the sort key of a run: its time. A run that died before it noted the time comes first, because it must not stay
/// the latest for ever.
fn age<'a>(run: &'a FleetRun<'_>) -> (Option<jiff::Timestamp>, &'a str) {
    (run.result.run.started.parse().ok(), &run.link)
}

/// Returns the page. `unreadable` names runs that could not be read.
pub fn fleet(entries: &[FleetRun<'_>], unreadable: &[String]) -> String {
    let mut sorted: Vec<&FleetRun<'_>> = entries.iter().collect();
    sorted.sort_by_cached_key(|entry| age(entry));
    let mut machines: BTreeMap<String, Vec<&FleetRun<'_>>> = BTreeMap::new();
    for entry in sorted {
        machines.entry(machine_name(entry.result)).or_default().push(entry);
    }
    let count = |status| entries.iter().filter(|entry| entry.result.verdict.status == status).count();
    let body = html! {
        header {
            h1 { "faultline fleet" }
            p class="soft" { (entries.len()) " runs on " (machines.len()) " machines: " (count(Status::Pass)) " pass, " (count(Status::Fail)) " fail, " (count(Status::Skip)) " skipped, " (count(Status::Error) + count(Status::Timeout)) " without an answer." }
        }
        @if machines.len() > 1 { (overview(&machines)) }
        @for (n, (name, runs)) in machines.iter().enumerate() { (machine(n, name, runs)) }
        @if !unreadable.is_empty() {
            section { h2 { "Not readable" } ul { @for what in unreadable { li { (what) } } } }
        }
    };
    page("faultline fleet", &body)
}

/// Sort key and name of a kernel. The key orders versions: 6.2 before 6.12.
type Kernel<'a> = (Vec<u64>, &'a str);

fn kernel<'a>(entry: &FleetRun<'a>) -> Kernel<'a> {
    let release = entry.result.machine.kernel_release.as_str();
    let numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok());
    (numbers.collect(), release)
}

/// Shows the worst status among the latest runs of all scenarios, machines down and kernels across.
fn overview(machines: &BTreeMap<String, Vec<&FleetRun<'_>>>) -> Markup {
    let kernels: BTreeSet<Kernel<'_>> = machines.values().flatten().map(|entry| kernel(entry)).collect();
    let latest = |runs: &[&FleetRun<'_>], wanted: &Kernel<'_>| {
        let of_kernel = runs.iter().filter(|entry| kernel(entry) == *wanted);
        let scenarios: BTreeMap<_, _> =
            of_kernel.map(|entry| (entry.result.title(), entry.result.verdict.status)).collect();
        scenarios.into_values().max()
    };
    let answer = |runs: &[&FleetRun<'_>], wanted: &Kernel<'_>| {
        runs.iter().rev().filter(|entry| kernel(entry) == *wanted).find_map(|entry| entry.result.answer())
    };
    html! {
        section {
            h2 { "At a glance" }
            div class="scroll" tabindex="0" role="region" aria-label="latest verdict of each machine and kernel" {
                table {
                    thead { tr { th scope="col" { "machine" } @for (_, release) in &kernels { th scope="col" { (release) } } } }
                    tbody {
                        @for (n, (name, runs)) in machines.iter().enumerate() {
                            tr {
                                th scope="row" { a href=(format!("#machine-{}", n + 1)) { (name) } }
                                @for kernel in &kernels { td {
                                    @if let Some(answer) = answer(runs, kernel) { strong { (answer.words()) } " " }
                                    @match latest(runs, kernel) { Some(status) => (badge(status)), None => (NO_VALUE) }
                                } }
                            }
                        }
                    }
                }
            }
            p class="soft" { "The latest answer of faultline check, then the latest run of each scenario; where there are several, the worst." }
        }
    }
}

fn machine(number: usize, name: &str, runs: &[&FleetRun<'_>]) -> Markup {
    let mut groups: BTreeMap<(Kernel<'_>, &str), Vec<&FleetRun<'_>>> = BTreeMap::new();
    for entry in runs {
        groups.entry((kernel(entry), entry.result.title())).or_default().push(entry);
    }
    let newest: Vec<_> = runs.iter().rev().take(LISTED).collect();
    html! {
        section {
            h2 id=(format!("machine-{}", number + 1)) { (name) }
            div class="scroll" tabindex="0" role="region" aria-label=(format!("kernels and scenarios of machine {}, {name}", number + 1)) {
                table {
                    thead { tr {
                        th scope="col" { "kernel" } th scope="col" class="left" { "scenario" } th scope="col" { "latest" } th scope="col" { "pass / fail / other" }
                        th scope="col" { "lockups" } th scope="col" { "longest execution" } th scope="col" { "trend" } th scope="col" { "last run" }
                    } }
                    tbody { @for (((_, release), scenario), group) in &groups { (row(release, scenario, group)) } }
                }
            }
            details {
                summary { "Newest runs (" (newest.len()) " of " (runs.len()) ")" }
                div class="scroll" tabindex="0" role="region" aria-label=(format!("newest runs of machine {}, {name}", number + 1)) {
                    table {
                        thead { tr { th scope="col" { "run" } th scope="col" { "verdict" } th scope="col" class="left" { "reason" } } }
                        tbody {
                            @for entry in newest {
                                tr {
                                    th scope="row" { a href=(entry.link) { (entry.result.run.id) } }
                                    td { (badge(entry.result.verdict.status)) }
                                    td class="wrap" { (entry.result.verdict.reason) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn row(kernel: &str, scenario: &str, group: &[&FleetRun<'_>]) -> Markup {
    let count = |status| group.iter().filter(|entry| entry.result.verdict.status == status).count();
    let (pass, fail) = (count(Status::Pass), count(Status::Fail));
    let found: u64 = group.iter().flat_map(|entry| &entry.result.cases).map(|case| lockups(case).total()).sum();
    let trend =
        |pick: fn(&RunResult) -> Option<u64>| -> Vec<u64> { group.iter().filter_map(|e| pick(e.result)).collect() };
    let exec = trend(|run| run.cases.iter().filter_map(|case| Some(case.times().exec?.ns.max)).max());
    let latest = |values: &[u64]| values.last().map_or_else(|| NO_VALUE.into(), |ns| time(*ns));
    html! {
        tr {
            th scope="row" { (kernel) }
            td class="left" { (scenario) }
            td { @if let Some(entry) = group.last() {
                @if let Some(answer) = entry.result.answer() { strong { (answer.words()) } " " }
                (badge(entry.result.verdict.status))
            } }
            td { (pass) " / " (fail) " / " (group.len() - pass - fail) }
            td { (found) }
            td { (latest(&exec)) } td { (sparkline(&exec, "exec fault")) }
            td { (group.last().map(|entry| entry.result.run.started.chars().take(10).collect::<String>()).unwrap_or_default()) }
        }
    }
}

/// Draws the trend of a time over the runs. The height spans the smallest to the largest value.
fn sparkline(values: &[u64], what: &str) -> Markup {
    const WIDE: f64 = 120.0;
    const HIGH: f64 = 26.0;
    let values = &values[values.len().saturating_sub(TREND_POINTS)..];
    let (Some(low), Some(high)) = (values.iter().min(), values.iter().max()) else { return html! { (NO_VALUE) } };
    let step = WIDE / (values.len().max(2) - 1) as f64;
    let y = |value: u64| {
        let share = if high == low { 0.5 } else { (value - low) as f64 / (high - low) as f64 };
        round(HIGH - 3.0 - share * (HIGH - 6.0))
    };
    let points: Vec<_> =
        values.iter().enumerate().map(|(n, v)| (round(3.0 + (n as f64 * step) * 0.95), y(*v))).collect();
    let mut path = String::new();
    for (n, (x, y)) in points.iter().enumerate() {
        path += &format!("{}{x} {y}", if n == 0 { "M" } else { "L" });
    }
    let label = format!("{what} over {} runs: {} to {}", values.len(), time(*low), time(*high));
    html! {
        svg class="spark" viewBox="0 0 120 26" role="img" aria-label=(label) {
            title { (label) }
            path d=(path) {}
            @if let Some((x, y)) = points.last() { circle cx=(x) cy=(y) r="2.5" {} }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(count: usize) -> Vec<RunResult> {
        let text = include_str!("../../../record/tests/runs/debian-6.1/result.json");
        let base: RunResult = serde_json::from_str(text).expect("a result");
        (0..count)
            .map(|n| {
                let mut run = base.clone();
                run.run.id = format!("20261124T{n:06}Z-6.1.0-56-arm64-{n:06x}");
                run.machine.model = Some(format!("board {}", n % 20));
                run.machine.lab.as_mut().expect("it has one").cpu = format!("cpu-{}", n % 20);
                run.machine.kernel_release = format!("6.{}.0", n % 7);
                run
            })
            .collect()
    }

    #[test]
    fn a_thousand_runs_stay_small() {
        let runs = runs(1000);
        let entries: Vec<_> = runs.iter().map(|run| FleetRun { link: run.run.id.clone(), result: run }).collect();
        let page = fleet(&entries, &["x: broken".into()]);
        assert!(page.len() < 5 << 20, "{} bytes", page.len());
        assert!(page.contains("1000 runs on 20 machines") && page.contains("x: broken"));
    }

    #[test]
    fn a_run_without_a_time_is_not_the_latest() {
        let mut runs = runs(1);
        runs.push(runs[0].clone());
        runs[1].run.started = "unknown".into();
        let entries = [("a-dated/", &runs[0]), ("b-unknown/", &runs[1])];
        let entries = entries.map(|(link, result)| FleetRun { link: link.into(), result });
        let page = fleet(&entries, &[]);
        assert!(page.find("a-dated/") < page.find("b-unknown/"), "the newest is listed first");
    }

    #[test]
    fn a_fleet_without_runs_has_a_page() {
        assert!(fleet(&[], &[]).contains("0 runs on 0 machines"));
    }
}
