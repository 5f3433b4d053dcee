// SPDX-License-Identifier: GPL-2.0-or-later
//! Tests of the model against the oracle, on the simulated machine of `faultline-programs`. Its random programs make the
//! events, and the oracle says which looks may see only the newest store.

use std::collections::HashSet;

use guest::event::Event;
use programs::compile::{Options, compile};
use programs::fake::{Defect, FakeMachine, LINE_BYTES, MAX_VCPUS, PAGE_LINES, Seen};
use programs::generate::{Space, random_program};
use programs::judge::judge;
use programs::legal::Limits;
use programs::oracle::{CacheFeatures, Expectations, Expected, expect};
use programs::outcomes::Outcomes;
use programs::program::Program;
use programs::slots::Slots;

use super::entry::{Context, HCR_FWB};
use super::features::Features;
use super::page::{LINE, PAGE};
use super::report::{Kind, Owed};
use super::rig::{EXECUTE, FRAME, GUEST, HCR, HOST, MMFR0, READ, Rig, VTCR};

const BASE: u64 = 0x1_0000_0000;
const LIMITS: Limits = Limits { region_bytes: 1 << 20, line_bytes: LINE_BYTES };
const SPACE: Space<'_> = Space { limits: LIMITS, vcpus: MAX_VCPUS, ops: 20, events: &Event::ALL };
/// FEAT_S2FWB implies IDC, and so does DIC on real machines.
const MACHINES: [CacheFeatures; 5] = [
    CacheFeatures { idc: false, dic: false, fwb: false },
    CacheFeatures { idc: true, dic: false, fwb: false },
    CacheFeatures { idc: true, dic: true, fwb: false },
    CacheFeatures { idc: true, dic: false, fwb: true },
    CacheFeatures { idc: true, dic: true, fwb: true },
];
/// The shadow of a simulated machine.
struct Follower {
    rig: Rig,
    fwb: bool,
    /// Number of lines.
    lines: usize,
    /// Frame of each page.
    frames: Vec<u64>,
    next_frame: u64,
    /// Makes each store another word.
    words: u32,
}

impl Follower {
    fn new(features: CacheFeatures, lines: usize) -> Self {
        let CacheFeatures { idc, dic, fwb } = features;
        let rig = Rig::with(Features { idc, dic, fwb, imin_line: LINE, dmin_line: LINE, mmfr0: MMFR0 });
        let pages = lines.div_ceil(PAGE_LINES) as u64;
        let frames = (0..pages).map(|page| FRAME + page * PAGE).collect();
        for pe in 0..=MAX_VCPUS {
            rig.enter(pe, 0);
            let hcr = HCR | if fwb { HCR_FWB } else { 0 };
            rig.shadow.enter_guest(pe, Context { hcr, vtcr: VTCR }, &HOST);
        }
        Self { rig, fwb, lines, frames, next_frame: FRAME + pages * PAGE, words: 0 }
    }

    fn pa(&self, line: usize) -> u64 {
        self.frames[line / PAGE_LINES] + (line % PAGE_LINES) as u64 * LINE
    }

    fn host_store(&self, line: usize) {
        self.rig.host_store(0, self.pa(line));
    }

    /// Returns the number of reports that the host owes.
    fn owed(&self) -> u64 {
        self.count(|_, owed| owed == Owed::Host)
    }

    /// Returns the number of reports on looks.
    fn looks(&self) -> u64 {
        self.count(|kind, _| matches!(kind, Kind::Fetch | Kind::Load))
    }

    fn count(&self, is_counted: impl Fn(Kind, Owed) -> bool) -> u64 {
        let sections = self.rig.shadow.written();
        let reports = sections.iter().flat_map(|section| &section.reports);
        reports.filter(|report| is_counted(report.kind, report.owed)).map(|report| report.count).sum()
    }

    /// Follows one event.
    fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Store { pe, line } => self.rig.guest_store(pe, self.pa(line)),
            Seen::HostStore { line } => self.host_store(line),
            Seen::Clean { pe, line, poc, host } => self.rig.shadow.clean(pe, !host, self.pa(line), poc, false),
            Seen::Invalidate { pe, line, host } => self.rig.shadow.invalidate(pe, !host, self.pa(line)),
            Seen::InvalidateAll { pe } => self.rig.shadow.invalidate_all(pe, true, true),
            Seen::Dsb { pe } => self.rig.shadow.barrier(pe, true),
            Seen::Map { pe, page, execute } => {
                let attributes = if execute { EXECUTE } else { READ };
                // With FWB, attribute 6 is Normal Write-Back.
                let attributes = if self.fwb { attributes & !0x3c | 6 << 2 } else { attributes };
                self.rig.map(pe, page as u64, self.frames[page], attributes);
            }
            Seen::Unmap { page } => self.rig.unmap(0, page as u64),
            Seen::Copy { page } => {
                self.rig.unmap(0, page as u64);
                self.frames[page] = self.next_frame;
                self.next_frame += PAGE;
                let lines = page * PAGE_LINES..((page + 1) * PAGE_LINES).min(self.lines);
                lines.for_each(|line| self.host_store(line));
            }
            Seen::Fetch { pe, line, .. } => {
                self.words += 1;
                if let Some(suspect) = self.rig.shadow.translate(GUEST, self.pa(line), self.words) {
                    self.rig.shadow.execute(pe, &suspect);
                }
            }
            Seen::Load { pe, line, cached, .. } => self.rig.shadow.load(pe, &GUEST, self.pa(line), || cached),
        }
    }
}

/// Runs a program on a simulated machine. Returns its events, the expectations and the outcomes.
fn run(
    program: &Program,
    features: CacheFeatures,
    defect: Option<Defect>,
    seed: u64,
) -> (Vec<Seen>, Expectations, Outcomes) {
    let expectations = expect(program, &features);
    let compiled = compile(program, &Options::new(BASE));
    let (records, seen) = FakeMachine { features, defect, seed }.run_observed(program, &compiled);
    let outcomes = judge(program, &expectations, &compiled, &records).unwrap_or_else(|error| panic!("{error}"));
    (seen, expectations, outcomes)
}

/// Returns the op and the line of a look.
fn look(seen: Seen) -> Option<(usize, usize)> {
    match seen {
        Seen::Fetch { op, line, .. } | Seen::Load { op, line, .. } => Some((op, line)),
        _ => None,
    }
}

/// Number of programs of a quick run; `FAULTLINE_PROPERTY_PROGRAMS` sets another.
const PROGRAMS: u64 = 3000;

fn programs() -> u64 {
    std::env::var("FAULTLINE_PROPERTY_PROGRAMS").map_or(PROGRAMS, |number| number.parse().expect("a number"))
}

#[test]
fn a_right_machine_is_right_and_what_the_oracle_requires_is_never_reported() {
    let (mut required, mut weak) = (0, 0);
    for seed in 0..programs() {
        let program = random_program(seed, &SPACE);
        let features = MACHINES[(seed % MACHINES.len() as u64) as usize];
        let (events, expectations, _) = run(&program, features, None, seed ^ 0x5eed);
        let offsets: Vec<_> = Slots::of(&program).offsets().collect();
        let mut follower = Follower::new(features, offsets.len());
        let mut before = 0;
        for event in &events {
            follower.see(*event);
            let Some((op, line)) = look(*event) else { continue };
            let reports = follower.looks();
            if matches!(expectations.at(op, offsets[line]), Some(Expected::Required(_))) {
                required += 1;
                assert_eq!(reports, before, "seed {seed}, {features:?}: op {op} at line {line} in {program:#?}");
            } else {
                weak += reports - before;
            }
            before = reports;
        }
        assert_eq!(
            follower.owed(),
            0,
            "seed {seed}, {features:?}: {:#?} in {program:#?}",
            follower.rig.shadow.written()[0].reports
        );
    }
    assert!(required > programs() * 4 && weak * 5 > programs(), "{required} required, {weak} weak");
    println!("{required} looks had to see the newest store, {weak} others were reported as weak");
}

#[test]
fn a_host_that_leaves_maintenance_out_is_reported_before_a_guest_can_tell() {
    let mut told = 0;
    for defect in [Defect::HostNoClean, Defect::HostNoInvalidate, Defect::HostInvalidateEverySecond] {
        for seed in 0..programs() {
            let program = random_program(seed, &SPACE);
            let features = MACHINES[(seed % MACHINES.len() as u64) as usize];
            let (events, _, outcomes) = run(&program, features, Some(defect), seed);
            let offsets: Vec<_> = Slots::of(&program).offsets().collect();
            let line = |offset| offsets.iter().position(|known| *known == offset).expect("a slot of the program");
            let forbidden: HashSet<_> = outcomes.forbidden().map(|found| (found.op, line(found.offset))).collect();
            if forbidden.is_empty() {
                continue;
            }
            let mut follower = Follower::new(features, offsets.len());
            let last = events.iter().position(|event| look(*event).is_some_and(|look| forbidden.contains(&look)));
            let last = last.expect("every forbidden look is an event");
            events[..=last].iter().for_each(|event| follower.see(*event));
            assert!(follower.owed() > 0, "{defect:?}, seed {seed}, {features:?}: {program:#?}");
            told += 1;
        }
    }
    assert!(told > programs() / 20, "only {told} guests could tell");
    println!("{told} guests saw a forbidden value, each after a report");
}
