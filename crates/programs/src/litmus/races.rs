//! A test as programs for the guest.

use abi::race::{self, Setup};
use abi::{Op, OpCode};

use crate::litmus::compile::Ring;
use crate::litmus::event::Across;
use crate::litmus::layout::{Alignment, DATA_BYTES, PAGE_BYTES, Placed, Rings, Room, place};
use crate::litmus::test::Test;
use guest::event::RoundEvent;
use guest::region::REGION_IPA;
use guest::spec::{Backing, GuestSpec, InitialBytes, RegionSpec};

/// Tag of the races that are counted and timed.
pub const RACE: u32 = 1;
/// Tag of the race that is traced as well.
pub const TRACED: u32 = 2;

/// How the code of a plain race lies, and the mask of its skew: each pair races for the same number of iterations.
const VARIED: [(Alignment, u64); 4] =
    [(Alignment::Lines, 63), (Alignment::LineEnds, 255), (Alignment::Packed, 15), (Alignment::Pages, 1023)];
/// The same across events: the changed instruction has to stand in a page of its own.
const ACROSS: [(Alignment, u64); 1] = [(Alignment::Pages, 255)];

/// Iterations of the race that is traced.
pub const TRACED_ITERATIONS: u64 = 16;
/// The two regions, one for code, one for data, begin at multiples of this: what KVM maps at once where it can.
const BLOCK_BYTES: u64 = 2 << 20;
/// Memory of one race: what its threads share in the guest, and behind that the test's locations.
const RACE_BYTES: u64 = 2 * race::BYTES;
const _: () = assert!(DATA_BYTES <= race::BYTES);

/// One test, across one event.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The test.
    pub test: &'a Test,
    /// What happens at stage 2.
    pub across: Across,
    /// vCPUs to use; no fewer than the test's threads.
    pub vcpus: u64,
    /// Iterations of each copy.
    pub iterations: u64,
    /// No iteration of the timed races begins after this many ticks; 0 for no limit.
    pub limit_ticks: u64,
    /// Seeds the skew.
    pub seed: u64,
    /// Whether a short race more is to be traced.
    pub traced: bool,
    /// Cache line in bytes.
    pub line_bytes: u64,
    /// What stands behind the code.
    pub backing: Backing,
    /// Address of the doorbell page.
    pub doorbell: u64,
}

impl Case<'_> {
    /// Returns how many copies of the test race at the same time. Events act on all of the code, so that there is one then.
    pub fn copies(&self) -> u64 {
        match self.across {
            Across::Plain => self.vcpus / self.test.threads.len() as u64,
            _ => 1,
        }
    }

    /// Returns the vCPUs that race.
    pub fn racing_vcpus(&self) -> u64 {
        self.copies() * self.test.threads.len() as u64
    }

    /// Returns how code lies in each race, and its skew.
    fn variants(&self) -> &'static [(Alignment, u64)] {
        if self.across == Across::Plain { &VARIED } else { &ACROSS }
    }

    /// Returns the iterations of each variant.
    fn iterations_each(&self) -> u64 {
        self.iterations.div_ceil(self.variants().len() as u64)
    }

    /// Returns how many host events the races take, the traced one included.
    pub fn events(&self, iterations: u64) -> u64 {
        self.across.events() * iterations
    }

    /// Returns the host events of one iteration as ops, in the order of their rings.
    fn event_ops(&self) -> Vec<Op> {
        let all = self.across.before().iter().chain(self.across.after()).copied().chain(self.across.during());
        all.map(|event| Op::plain(OpCode::Event, [event as u64, 0, 0, 0])).collect()
    }

    /// Returns the rings that ask for these ops, which stand at `first` in the program of vCPU 0.
    fn rings(&self, first: usize) -> Rings {
        let mut ops = (first as u64..).map(|value| Ring { doorbell: self.doorbell, value });
        let mut take = |count: usize| ops.by_ref().take(count).collect::<Vec<_>>();
        let (before, after) = (take(self.across.before().len()), take(self.across.after().len()));
        Rings { before, after, during: self.across.during().and_then(|_| ops.next()) }
    }

    /// Returns the program of each vCPU, without the host events behind it.
    fn programs(&self, data: u64) -> Vec<Vec<Op>> {
        let threads = self.test.threads.len() as u64;
        let round = RoundEvent::Begin.op();
        let race = |copy: u64, variant: u64, thread: u64, iterations: u64, tag: u32| {
            let start = data + (copy * self.variants().len() as u64 + variant) * RACE_BYTES;
            let args = [iterations, threads, thread, self.seed ^ copy << 32 ^ variant << 48];
            Op { args, ..Op::range(OpCode::Race, start, race::BYTES, 0, 0) }.with_tag(tag)
        };
        let program = |vcpu: u64| {
            let (copy, thread) = (vcpu / threads, vcpu % threads);
            let mut ops = vec![round];
            let variants = 0..self.variants().len() as u64;
            ops.extend(variants.map(|variant| race(copy, variant, thread, self.iterations_each(), RACE)));
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
        // Where data is depends on how much code there is, and code on where data is, but not its length.
        let code_bytes = self.place_all(REGION_IPA, REGION_IPA, &self.rings(0)).1.next_multiple_of(BLOCK_BYTES);
        let data = REGION_IPA + code_bytes;
        let mut programs = self.programs(data);
        let rings = self.rings(programs[0].len());
        programs[0].extend(self.event_ops());
        let (placed, _) = self.place_all(REGION_IPA, data, &rings);
        let mut contents = Vec::new();
        for (n, (placed, skew_mask)) in placed.into_iter().enumerate() {
            let each = self.limit_ticks.div_ceil(self.variants().len() as u64);
            let setup = Setup { skew_mask, limit_ticks: each, ..placed.setup };
            let words = setup.to_words().map(u64::to_le_bytes).concat();
            contents.push(InitialBytes { ipa: data + n as u64 * RACE_BYTES, bytes: words });
            let bytes = |words: Vec<u32>| words.into_iter().flat_map(u32::to_le_bytes).collect();
            contents.extend(placed.code.into_iter().map(|(ipa, words)| InitialBytes { ipa, bytes: bytes(words) }));
        }
        let races = self.copies() * self.variants().len() as u64;
        let regions = vec![
            RegionSpec { ipa: REGION_IPA, bytes: code_bytes, backing: self.backing },
            RegionSpec { ipa: data, bytes: (races * RACE_BYTES).next_multiple_of(PAGE_BYTES), backing: Backing::Pages },
        ];
        // An element for each outcome of each race, mismatches up to their cap, and summaries.
        let of_race = race::OUTCOMES + 1 + abi::op::MISMATCH_CAP + 1;
        let records = (self.variants().len() as u64 + 1) * of_race + 4;
        GuestSpec { regions, programs, records, contents, ..GuestSpec::default() }
    }

    /// Puts every copy of every variant into memory; returns them with their skew, and the size of the code in bytes.
    fn place_all(&self, code: u64, data: u64, rings: &Rings) -> (Vec<(Placed, u64)>, u64) {
        let (mut all, mut end) = (Vec::new(), code);
        for copy in 0..self.copies() {
            for (variant, (alignment, skew_mask)) in self.variants().iter().enumerate() {
                let race = copy * self.variants().len() as u64 + variant as u64;
                let room = Room {
                    code: end,
                    data: data + race * RACE_BYTES + race::BYTES,
                    alignment: *alignment,
                    line_bytes: self.line_bytes,
                };
                let placed = place(self.test, room, rings);
                end = placed.end.next_multiple_of(PAGE_BYTES);
                all.push((placed, *skew_mask));
            }
        }
        (all, end - code)
    }

    /// Returns the size in bytes of the code's region.
    pub fn code_bytes(&self) -> u64 {
        self.place_all(REGION_IPA, REGION_IPA, &self.rings(0)).1.next_multiple_of(BLOCK_BYTES)
    }
}
