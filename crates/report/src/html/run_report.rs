//! The report of one or more runs.

use maud::{Markup, html};
use record::case::CaseResult;
use record::measure::lockups;
use record::reproduction::reproduction;
use record::result::RunResult;
use record::verdict::{describe, relax_faults};
use units::stats::Timing;
use units::text::{thousands, time};

use crate::compare::{self, Change, Options};
use crate::html::charts;
use crate::html::page::{NO_VALUE, badge, page};
use crate::html::source::{Source, emulation_notice, pair};

/// Maximum number of lines of the kernel log in a report.
const LOG_LINES: usize = 80;

/// Returns the report of these runs as a page. If there are two, the first is the one before and the second the one after.
pub fn report(sources: &[Source<'_>]) -> String {
    let names: Vec<_> = sources.iter().map(|source| source.name.as_str()).collect();
    // A name may contain commas.
    let names = names.join(if names.len() > 2 { "; " } else { " and " });
    let title = format!("faultline: {names}");
    let body = html! {
        header { h1 { "faultline report" } }
        (banner(sources))
        p class="soft" { "First execution in guest memory under KVM/arm64: " (names) }
        (emulated(sources))
        @for source in sources { (findings(source)) (sanitized(source)) }
        @for (heading, chart) in charts::all(sources) { section { h2 { (heading) } (chart.figure()) } }
        section { h2 { "All cases" } (cases(sources)) }
        @if let Some((before, after)) = pair(sources) { (what_changed(before.result, after.result)) }
        section {
            h2 { "What the kernel log says" }
            @for (n, source) in sources.iter().enumerate() { (log(n, source)) }
        }
        section {
            h2 { "Machines" }
            @for source in sources { (machine(source)) }
        }
        section {
            h2 { "How to repeat it" }
            @for (n, source) in sources.iter().enumerate() { (repeat(n, source)) }
        }
    };
    page(&title, &body)
}

/// Returns every picture of these runs, each as the name and the text of an SVG file.
pub fn pictures(sources: &[Source<'_>]) -> Vec<(String, String)> {
    let remark = emulation_notice(sources).map(|text| format!("Emulated {text}")).unwrap_or_default();
    charts::all(sources).map(|(_, chart)| (format!("{}.svg", chart.plot.id), chart.file(&remark))).collect()
}

/// Shows the verdicts, or that a pair of runs reproduces the lockup.
fn banner(sources: &[Source<'_>]) -> Markup {
    if let Some((before, after)) = pair(sources) {
        let reproduced = reproduction(before.result, after.result);
        if reproduced.reproduced {
            return html! {
                div class="banner is-pass" { p { strong { "REPRODUCED" } } p { (reproduced.reason) } }
            };
        }
    }
    html! {
        @for source in sources {
            @let verdict = &source.result.verdict;
            @let word = source.result.answer().map_or_else(|| verdict.status.name().to_uppercase(), |a| a.words().into());
            @let reason = verdict.reason.strip_prefix(&format!("{word}: ")).unwrap_or(&verdict.reason);
            div class=(format!("banner is-{}", verdict.status.name())) {
                p { strong { (word) } " \u{2002}" (source.name) }
                p { (reason) }
            }
        }
    }
}

fn emulated(sources: &[Source<'_>]) -> Markup {
    html! {
        @if let Some(text) = emulation_notice(sources) { p class="emulated" { strong { "Emulated" } " " (text) } }
    }
}

/// Shows the findings of the scenario over all cases.
fn findings(source: &Source<'_>) -> Markup {
    html! {
        @if !source.view.findings.is_empty() {
            p { strong { (source.name) } }
            ul {
                @for line in &source.view.findings { li { (line.trim()) } }
                @for line in &source.view.also { li { "also: " (line) } }
            }
        }
    }
}

/// Shows the checks and reports of the sanitizer in each case.
fn sanitized(source: &Source<'_>) -> Markup {
    let cases = source.result.cases.iter().filter_map(|case| Some((&case.id, case.sanitizer.as_ref()?)));
    let cases: Vec<_> = cases.collect();
    html! {
        @if !cases.is_empty() {
            p { strong { (source.name) ", sanitizer" } }
            ul { @for (id, sanitizer) in cases { @for line in sanitizer.lines() { li { (id) ": " (line) } } } }
        }
    }
}

fn worst(timing: Option<&Timing>) -> String {
    timing.map_or_else(|| NO_VALUE.into(), |timing| time(timing.ns.max))
}

/// Shows the table of all cases, which also serves readers who cannot use the pictures.
fn cases(sources: &[Source<'_>]) -> Markup {
    let counted = sources.iter().flat_map(|source| &source.result.cases).any(|case| case.counted.is_some());
    html! {
        div class="scroll" tabindex="0" role="region" aria-label="All cases" {
            table {
                thead { tr {
                    th scope="col" { "block" } th scope="col" class="left" { "kernel" } th scope="col" { "verdict" }
                    th scope="col" { "first touch" } th scope="col" { "first execution" } th scope="col" { "in the host" }
                    th scope="col" { "lines" } @if counted { th scope="col" { "IC IVAU counted" } th scope="col" { "IC IALLUIS counted" } } th scope="col" { "faults" } th scope="col" { "lockups I / D / other" }
                } }
                tbody {
                    @for source in sources { @for case in &source.result.cases { (case_row(source, case, counted)) } }
                }
            }
        }
    }
}

fn case_row(source: &Source<'_>, case: &CaseResult, counted: bool) -> Markup {
    let found = lockups(case);
    let host = case.host.as_ref().and_then(|host| host.icache);
    let known = |count| if case.was_tried() { thousands(count) } else { NO_VALUE.into() };
    html! {
        tr {
            th scope="row" { (case.id) }
            td class="left" { (source.name) }
            td { (badge(case.verdict.status)) }
            td { (worst(case.times().touch.as_ref())) }
            td { (worst(case.times().exec.as_ref())) }
            td { (host.map_or_else(|| NO_VALUE.into(), |m| time(m.max_ns))) }
            td { (known(case.predicted.map_or(0, |p| p.by_line))) }
            @if counted {
                @let counts = case.counted.as_ref();
                td { (counts.map_or_else(|| NO_VALUE.into(), |c| thousands(c.ic_ivau))) }
                td { (counts.map_or_else(|| NO_VALUE.into(), |c| thousands(c.ic_ialluis))) }
            }
            td { (known(relax_faults(case, source.result.machine.page_bytes))) }
            td { (found.i_side) " / " (found.d_side) " / " (found.other) }
        }
    }
}

fn what_changed(before: &RunResult, after: &RunResult) -> Markup {
    let compared = compare::compare(std::slice::from_ref(before), std::slice::from_ref(after), Options::default());
    let Ok(comparison) = compared else { return html! {} };
    let status = |change| match change {
        Change::Better => "pass",
        Change::Worse => "fail",
        Change::Same | Change::Inconclusive => "skip",
    };
    html! {
        section {
            h2 { "What changed" }
            div class="scroll" tabindex="0" role="region" aria-label="What changed" {
                table {
                    thead { tr { th scope="col" { "block" } th scope="col" class="left" { "what" } th scope="col" { "before" } th scope="col" { "after" } th scope="col" { "change" } th scope="col" { "verdict" } } }
                    tbody {
                        @for fact in &comparison.facts {
                            tr { th scope="row" { (fact.case) } td class="left" { (fact.what) } td class="wrap" { (fact.before) } td class="wrap" { (fact.after) } td {} td { span class=(format!("badge is-{}", status(fact.change))) { (fact.change.name()) } } }
                        }
                        @for metric in comparison.metrics.iter().filter(|metric| metric.change != Change::Same) {
                            tr {
                                th scope="row" { (metric.case) } td class="left" { (metric.measure) }
                                td { (time(metric.before_ns as u64)) } td { (time(metric.after_ns as u64)) }
                                td { (compare::print::relative(metric.relative)) }
                                td { span class=(format!("badge is-{}", status(metric.change))) { (metric.change.name()) } }
                            }
                        }
                    }
                }
            }
            p class="soft" { "Times that changed by no more than 20 % or 1 ms are left out. " (if comparison.exact { "Emulated times are exact." } else { "One run a side cannot tell noise from change: faultline compare takes several." }) }
            @if !comparison.differences.is_empty() {
                details {
                    summary { "What else differs" }
                    dl { @for difference in &comparison.differences { dt { (difference.what) } dd { (difference.before) " \u{2192} " (difference.after) } } }
                }
            }
        }
    }
}

fn log(number: usize, source: &Source<'_>) -> Markup {
    let complaints: Vec<_> = source.result.cases.iter().flat_map(|case| &case.complaints).collect();
    let excerpt: Vec<_> =
        source.kmsg.lines().take(LOG_LINES).map(|line| line.split_once(';').map_or(line, |(_, text)| text)).collect();
    let more = source.kmsg.lines().count().saturating_sub(LOG_LINES);
    html! {
        h3 { (source.name) }
        @if complaints.is_empty() { p { "No complaint while the run lasted." } }
        @else { ul { @for complaint in &complaints { li { (describe(complaint)) } } } }
        @if !excerpt.is_empty() {
            details open[number == 0] {
                summary { "The log itself" }
                pre tabindex="0" role="region" aria-label=(format!("kernel log of {}, run {}", source.name, number + 1)) {
                    (excerpt.join("\n"))
                    @if more > 0 { "\n\u{2026} " (more) " more lines in kmsg.raw" }
                }
            }
        }
        @for absent in &source.result.evidence.absent { p class="soft" { "Without " (absent) "." } }
    }
}

fn machine(source: &Source<'_>) -> Markup {
    let machine = &source.result.machine;
    let vcpu = source.result.vcpus.first();
    let flag = u8::from;
    html! {
        details {
            summary { (source.name) }
            dl {
                dt { "run" } dd { (source.result.run.id) ", " (source.result.run.started) }
                dt { "kernel" } dd { (machine.kernel_release) " " (machine.kernel_version) }
                dt { "machine" } dd { (machine.model.as_deref().unwrap_or("unknown")) ", " (machine.platform.name()) }
                dt { "CPUs online" } dd { (machine.cpus_online.len()) }
                dt { "page size" } dd { (machine.page_bytes >> 10) "K" }
                @if let Some(mode) = &machine.kvm_mode { dt { "KVM mode" } dd { (mode.name()) } }
                @if let Some(model) = &machine.preemption { dt { "preemption" } dd { (model) } }
                @if let Some(note) = machine.mode_not_taken() { dt { "requested KVM mode" } dd { (note) } }
                @if let Some(vcpu) = vcpu {
                    dt { "guest’s caches" }
                    dd { "CTR_EL0 " (format!("{:#x}", vcpu.ctr_el0)) ": I line " (vcpu.imin_line_bytes) " B " (vcpu.l1ip.name()) ", D line " (vcpu.dmin_line_bytes) " B, IDC " (flag(vcpu.idc)) ", DIC " (flag(vcpu.dic)) }
                    dt { "counter" } dd { (thousands(vcpu.cntfrq_hz)) " Hz, resolution " (vcpu.resolution_ticks) " ticks" }
                }
                @if let Some(seconds) = source.result.detector.soft_threshold_s() { dt { "soft lockup after" } dd { (seconds) " s" } }
                @if let Some(line) = &machine.command_line { dt { "command line" } dd { (line) } }
                dt { "faultline" } dd { (source.result.tool.version) " (" (source.result.tool.commit) ")" }
            }
        }
    }
}

fn repeat(number: usize, source: &Source<'_>) -> Markup {
    let label = format!("command of run {}", number + 1);
    html! { pre class="command" tabindex="0" role="region" aria-label=(label) { (source.result.repeat_line()) } }
}

#[cfg(test)]
mod tests {
    use record::view::{Cost, View, Viewed};

    use super::*;

    fn stored(name: &str) -> (RunResult, String, String) {
        let read = |file: &str| {
            let path = format!("{}/../record/tests/runs/{name}/{file}", env!("CARGO_MANIFEST_DIR"));
            std::fs::read_to_string(path).expect("a stored run")
        };
        (serde_json::from_str(&read("result.json")).expect("a result"), read("samples.csv"), read("kmsg.raw"))
    }

    /// Returns a run with a view that has the costs alone.
    fn viewed(run: &RunResult) -> Viewed<'_> {
        let cost = |case: &CaseResult| Some(Cost { block_bytes: case.block_bytes(), exec: case.times().exec? });
        Viewed { run, view: View { costs: run.cases.iter().filter_map(cost).collect(), ..View::default() } }
    }

    fn report_of_a_pair() -> String {
        let (before, after) = (stored("debian-6.1"), stored("debian-6.12"));
        report(&[
            Source::new(viewed(&before.0), &before.1, &before.2),
            Source::new(viewed(&after.0), &after.1, &after.2),
        ])
    }

    #[test]
    fn a_pair_has_all_pictures_with_their_text() {
        let page = report_of_a_pair();
        for id in ["cost", "timeline", "histogram"] {
            assert!(page.contains(&format!("<title id=\"{id}-title\">")), "{id}");
            assert!(page.contains(&format!("<desc id=\"{id}-desc\">")), "{id}");
        }
        assert!(page.contains("REPRODUCED") && page.contains("icache_inval_pou") && page.contains("16,777,216"));
        assert!(page.contains("Emulated"));
        assert_eq!(page, report_of_a_pair(), "the same runs, the same bytes");
    }

    #[test]
    fn pictures_stand_alone() {
        let stored = [stored("debian-6.1"), stored("debian-6.12")];
        let sources: Vec<_> =
            stored.iter().map(|(run, samples, kmsg)| Source::new(viewed(run), samples, kmsg)).collect();
        let pictures = pictures(&sources);
        let names: Vec<_> = pictures.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["cost.svg", "timeline.svg", "histogram.svg"]);
        for (name, text) in &pictures {
            let root = text.strip_prefix("<svg xmlns=\"http://www.w3.org/2000/svg\"").expect("an SVG file");
            assert!(text.ends_with("</svg>\n"), "{name}");
            for part in ["prefers-color-scheme: dark", "role=\"img\"", "<title id=", "<desc id=", ">Emulated by qemu"] {
                assert!(root.contains(part), "{part} is not in {name}");
            }
            for word in ["<script", "http", "url(", "@import", "NaN", "<div", "<ul"] {
                assert!(!root.contains(word), "{word} is in {name}");
            }
        }
        assert!(pictures[0].1.contains(&sources[0].name) && pictures[0].1.contains(&sources[1].name), "the legend");
    }

    #[test]
    fn a_page_loads_nothing_from_elsewhere() {
        let page = report_of_a_pair();
        for word in ["<script", "http://", "https://", "@import", "url(", "NaN", "inf"] {
            let found = page.match_indices(word).find(|(at, _)| word != "inf" || page[at + 3..].starts_with('"'));
            assert!(found.is_none(), "{word}: {:?}", found.map(|(at, _)| &page[at.saturating_sub(80)..at + 40]));
        }
    }

    #[test]
    fn markup_from_guests_and_kernels_is_escaped() {
        let mut run = stored("debian-6.1").0;
        run.verdict.reason = "<script>alert(1)</script>".into();
        run.machine.kernel_release = "\"><img src=x>".into();
        let page = report(&[Source::new(viewed(&run), "", "0,1,2,-;<b>bold</b>")]);
        assert!(!page.contains("<script") && !page.contains("<img") && !page.contains("<b>"));
    }

    #[test]
    fn a_run_without_cases_has_a_page() {
        let mut run = stored("debian-6.1").0;
        run.cases.clear();
        run.vcpus.clear();
        run.machine.lab = None;
        let page = report(&[Source::new(viewed(&run), "", "")]);
        assert!(page.ends_with("</html>") && !page.contains("<figure"));
    }
}
