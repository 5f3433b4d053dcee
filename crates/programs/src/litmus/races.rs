//! Case of a litmus test: the guest that runs one test across one event, with its programs and the contents of its
//! memory.

use abi::race::{self, Setup};
use abi::{Op, OpCode};

use crate::litmus::compile::{DoorbellWrite, DoorbellWrites};
use crate::litmus::event::RaceEvent;
use crate::litmus::layout::{Alignment, DATA_BYTES, PAGE_BYTES, Placed, Placement, place};
use crate::litmus::test::Test;
use guest::event::RoundEvent;
use guest::region::REGION_IPA;
use guest::spec::{Backing, GuestSpec, InitialBytes, RegionSpec};

/// Tag of the races that are counted and timed.
pub const RACE: u32 = 1;
/// Tag of the race that is traced, too.
pub const TRACED: u32 = 2;

/// Layout of the code in one race.
#[derive(Clone, Copy, Debug)]
struct CodeLayout {
    alignment: Alignment,
    /// Mask of the skew, which is the random delay of a thread in each iteration.
    skew_mask: u64,
}

/// Layouts of plain races. Each runs for the same number of iterations.
const PLAIN_LAYOUTS: [CodeLayout; 4] = [
    CodeLayout { alignment: Alignment::Lines, skew_mask: 63 },
    CodeLayout { alignment: Alignment::LineEnds, skew_mask: 255 },
    CodeLayout { alignment: Alignment::Packed, skew_mask: 15 },
    CodeLayout { alignment: Alignment::Pages, skew_mask: 1023 },
];
/// Layout of races across an event, in which each modified instruction must have its own page.
const EVENT_LAYOUTS: [CodeLayout; 1] = [CodeLayout { alignment: Alignment::Pages, skew_mask: 255 }];

/// Number of iterations of the race that is traced.
const TRACED_ITERATIONS: u64 = 16;
/// Alignment of the two regions, one for code and one for data. KVM maps this much at once if it can.
const BLOCK_BYTES: u64 = 2 << 20;
/// Size of the memory of one race: the memory that its threads share in the guest, and then the locations of the test.
const RACE_BYTES: u64 = 2 * race::BYTES;
const _: () = assert!(DATA_BYTES <= race::BYTES);

/// One test across one event.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// Test to run.
    pub test: &'a Test,
    /// Event in each iteration.
    pub event: RaceEvent,
    /// Number of vCPUs to use; at least the number of the test's threads.
    pub vcpus: u64,
    /// Number of iterations of each copy.
    pub iterations: u64,
    /// Time limit of the timed races in ticks: no iteration begins later. 0 means no limit.
    pub limit_ticks: u64,
    /// Seed of the skew.
    pub seed: u64,
    /// True to add a short race that is traced.
    pub traced: bool,
    /// Size of a cache line in bytes.
    pub line_bytes: u64,
    /// Host memory of the code.
    pub backing: Backing,
    /// Address of the doorbell page.
    pub doorbell: u64,
}

/// Races in memory.
struct PlacedRaces {
    /// Each race with the mask of its skew.
    races: Vec<(Placed, u64)>,
    /// Size of the code in bytes.
    code_bytes: u64,
}

impl Case<'_> {
    /// Returns the number of copies of the test that race at the same time. It is 1 across an event, because an event
    /// acts on all of the code.
    pub fn copies(&self) -> u64 {
        match self.event {
            RaceEvent::Plain => self.vcpus / self.test.threads.len() as u64,
            _ => 1,
        }
    }

    /// Returns the number of vCPUs that race.
    pub fn racing_vcpus(&self) -> u64 {
        self.copies() * self.test.threads.len() as u64
    }

    /// Returns the number of host events in this many iterations, including those of the traced race.
    pub fn host_events(&self, iterations: u64) -> u64 {
        self.event.host_events() * iterations
    }

    /// Returns the size of the code's region in bytes.
    pub fn code_bytes(&self) -> u64 {
        self.place_all(REGION_IPA, REGION_IPA, &self.doorbell_writes(0)).code_bytes.next_multiple_of(BLOCK_BYTES)
    }

    fn layouts(&self) -> &'static [CodeLayout] {
        if self.event == RaceEvent::Plain { &PLAIN_LAYOUTS } else { &EVENT_LAYOUTS }
    }

    /// Returns the number of iterations of each layout.
    fn iterations_each(&self) -> u64 {
        self.iterations.div_ceil(self.layouts().len() as u64)
    }

    /// Returns the host events of one iteration as ops, in the order of their doorbell writes.
    fn event_ops(&self) -> Vec<Op> {
        let before = self.event.before_init().iter().chain(self.event.before_race()).copied();
        let all = before.chain(self.event.during_race());
        all.map(|event| Op::plain(OpCode::Event, [event as u64, 0, 0, 0])).collect()
    }

    /// Returns the doorbell writes for these ops, of which the first has the index `first` in the program of vCPU 0.
    fn doorbell_writes(&self, first: usize) -> DoorbellWrites {
        let mut writes = (first as u64..).map(|value| DoorbellWrite { address: self.doorbell, value });
        let mut take = |count: usize| writes.by_ref().take(count).collect::<Vec<_>>();
        let before_init = take(self.event.before_init().len());
        let before_race = take(self.event.before_race().len());
        DoorbellWrites { before_init, before_race, during_race: self.event.during_race().and_then(|_| writes.next()) }
    }

    /// Returns the program of each vCPU, without the event ops that follow it.
    fn programs(&self, data: u64) -> Vec<Vec<Op>> {
        let threads = self.test.threads.len() as u64;
        let round = RoundEvent::Begin.op();
        let race = |copy: u64, layout: u64, thread: u64, iterations: u64, tag: u32| {
            let start = data + (copy * self.layouts().len() as u64 + layout) * RACE_BYTES;
            let args = [iterations, threads, thread, self.seed ^ copy << 32 ^ layout << 48];
            Op { args, ..Op::range(OpCode::Race, start, race::BYTES, 0, 0) }.with_tag(tag)
        };
        let program = |vcpu: u64| {
            let (copy, thread) = (vcpu / threads, vcpu % threads);
            let mut ops = vec![round];
            let layouts = 0..self.layouts().len() as u64;
            ops.extend(layouts.map(|layout| race(copy, layout, thread, self.iterations_each(), RACE)));
            if self.traced {
                ops.extend([round, race(copy, 0, thread, TRACED_ITERATIONS, TRACED)]);
            }
            if vcpu > 0 {
                ops.retain(|op| op.code != OpCode::Event as u16);
            }
            ops.push(Op::end());
            ops
        };
        (0..self.racing_vcpus()).map(program).collect()
    }

    /// Returns the guest that runs this case.
    pub fn guest(&self) -> GuestSpec {
        // The data comes after the code. The address of the data does not change the length of the code.
        let code_bytes = self.code_bytes();
        let data = REGION_IPA + code_bytes;
        let mut programs = self.programs(data);
        let doorbell = self.doorbell_writes(programs[0].len());
        programs[0].extend(self.event_ops());
        let mut contents = Vec::new();
        for (n, (placed, skew_mask)) in self.place_all(REGION_IPA, data, &doorbell).races.into_iter().enumerate() {
            let each = self.limit_ticks.div_ceil(self.layouts().len() as u64);
            let setup = Setup { skew_mask, limit_ticks: each, ..placed.setup };
            let words = setup.to_words().map(u64::to_le_bytes).concat();
            contents.push(InitialBytes { ipa: data + n as u64 * RACE_BYTES, bytes: words });
            let bytes = |words: Vec<u32>| words.into_iter().flat_map(u32::to_le_bytes).collect();
            contents.extend(placed.code.into_iter().map(|(ipa, words)| InitialBytes { ipa, bytes: bytes(words) }));
        }
        let races = self.copies() * self.layouts().len() as u64;
        let regions = vec![
            RegionSpec { ipa: REGION_IPA, bytes: code_bytes, backing: self.backing },
            RegionSpec { ipa: data, bytes: (races * RACE_BYTES).next_multiple_of(PAGE_BYTES), backing: Backing::Pages },
        ];
        // Each race leaves a count for each outcome and for exceptions, mismatches up to their cap, and a summary.
        let of_race = race::OUTCOMES + 1 + abi::op::MISMATCH_CAP + 1;
        let records = (self.layouts().len() as u64 + 1) * of_race + 4;
        GuestSpec { regions, programs, records, contents, ..GuestSpec::default() }
    }

    /// Compiles every copy in every layout for these addresses of code and data.
    fn place_all(&self, code: u64, data: u64, doorbell: &DoorbellWrites) -> PlacedRaces {
        let (mut races, mut end) = (Vec::new(), code);
        for copy in 0..self.copies() {
            for (layout, CodeLayout { alignment, skew_mask }) in self.layouts().iter().enumerate() {
                let race = copy * self.layouts().len() as u64 + layout as u64;
                let placement = Placement {
                    code: end,
                    data: data + race * RACE_BYTES + race::BYTES,
                    alignment: *alignment,
                    line_bytes: self.line_bytes,
                };
                let placed = place(self.test, placement, doorbell);
                end = placed.end.next_multiple_of(PAGE_BYTES);
                races.push((placed, *skew_mask));
            }
        }
        PlacedRaces { races, code_bytes: end - code }
    }
}
