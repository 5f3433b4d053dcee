//! Programs of `coherence`: the vCPUs execute old code, the code is changed, the host does an event, and a vCPU looks.

use abi::op::Barrier;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use guest::event::{Contents, Event, Mappings};
use programs::program::{Action, Clean, LoadMode, Program, ProgramOp, Span};
use units::random::Random;

/// Writer that changes the code before the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Writer {
    /// The host, without the guest's knowledge. If the event itself writes, it is the change.
    Host,
    /// vCPU 0, which also asks for the event. It does all its maintenance.
    Same,
    /// vCPU 1. It does all its maintenance.
    Other,
    /// vCPU 0 without its I-cache invalidation. The guest may then see old code.
    Careless,
}

/// Kind of the look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LookKind {
    /// Call of the code.
    Fetch,
    /// Load of the code.
    Load,
    /// Load past the caches, through a Non-cacheable mapping.
    LoadNonCacheable,
    /// Load with the vCPU's caches off.
    LoadCachesOff,
}

/// vCPU that looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reader {
    /// vCPU 0.
    Same,
    /// vCPU 1.
    Other,
    /// vCPU 0 after a move to another CPU.
    Moved,
}

/// One choice of event, writer, look and reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Combination {
    /// Event that the host does.
    pub event: Event,
    /// Writer of the code.
    pub writer: Writer,
    /// Kind of the look.
    pub look: LookKind,
    /// vCPU that looks.
    pub reader: Reader,
}

/// All writers.
const WRITERS: [Writer; 4] = [Writer::Host, Writer::Same, Writer::Other, Writer::Careless];
/// All readers.
const READERS: [Reader; 3] = [Reader::Same, Reader::Other, Reader::Moved];

/// Combinations to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Coverage {
    /// Each pair of event, memory, writer, look and reader at least once.
    Pairs,
    /// All combinations.
    Full,
}

/// Returns the kinds of looks that prove something. With FWB, stage 2 makes every load cacheable.
pub fn look_kinds(fwb: bool) -> &'static [LookKind] {
    const ALL: [LookKind; 4] = [LookKind::Fetch, LookKind::Load, LookKind::LoadNonCacheable, LookKind::LoadCachesOff];
    if fwb { &ALL[..2] } else { &ALL }
}

/// Returns the combinations to run on each of `memories` kinds of memory, in the order of the events.
pub fn combinations(
    coverage: Coverage,
    events: &[Event],
    looks: &[LookKind],
    memories: usize,
) -> Vec<Vec<Combination>> {
    let product = |event: Event| {
        let choices = WRITERS.into_iter().flat_map(|writer| looks.iter().map(move |look| (writer, *look)));
        choices.flat_map(move |(writer, look)| READERS.map(|reader| Combination { event, writer, look, reader }))
    };
    if coverage == Coverage::Full {
        return vec![events.iter().flat_map(|event| product(*event)).collect(); memories];
    }
    let mut pairs = Pairs::default();
    let mut chosen = vec![Vec::new(); memories];
    for (memory, chosen) in chosen.iter_mut().enumerate() {
        for event in events {
            let rank = |choice: &Combination| (pairs.fresh(memory, choice), *choice == Combination::plain(*event));
            let best = product(*event).max_by_key(rank);
            chosen.extend(best.inspect(|choice| pairs.cover(memory, choice)));
        }
    }
    // If there are few kinds of memory, some pairs are left. They go to the kind with the fewest combinations.
    for choice in events.iter().flat_map(|event| product(*event)) {
        let Some(memory) = (0..memories).min_by_key(|memory| chosen[*memory].len()) else { break };
        if pairs.fresh(memory, &choice) > 0 {
            pairs.cover(memory, &choice);
            chosen[memory].push(choice);
        }
    }
    for combinations in &mut chosen {
        combinations.sort_by_key(|choice| events.iter().position(|event| *event == choice.event));
    }
    chosen
}

/// Pairs of choices that some combination contains.
#[derive(Default)]
struct Pairs(std::collections::HashSet<[(u8, u8); 2]>);

impl Pairs {
    /// Returns the pairs of choices in a combination on one kind of memory.
    fn of(memory: usize, combination: &Combination) -> impl Iterator<Item = [(u8, u8); 2]> {
        let choices = [
            (0, combination.event as u64 as u8),
            (1, combination.writer as u8),
            (2, combination.look as u8),
            (3, combination.reader as u8),
            (4, memory as u8),
        ];
        let pairs = (0..choices.len()).flat_map(move |a| (a + 1..choices.len()).map(move |b| (a, b)));
        pairs.map(move |(a, b)| [choices[a], choices[b]])
    }

    /// Returns the number of pairs in a combination that are not covered yet.
    fn fresh(&self, memory: usize, combination: &Combination) -> usize {
        Self::of(memory, combination).filter(|pair| !self.0.contains(pair)).count()
    }

    fn cover(&mut self, memory: usize, combination: &Combination) {
        self.0.extend(Self::of(memory, combination));
    }
}

impl Combination {
    /// Returns the simplest combination that shows an event's effect: the host writes, and the same vCPU fetches.
    fn plain(event: Event) -> Self {
        Self { event, writer: Writer::Host, look: LookKind::Fetch, reader: Reader::Same }
    }

    /// Returns the ops by which a vCPU looks.
    fn look(&self, vcpu: usize, spans: &[Span]) -> Vec<ProgramOp> {
        let action = |span: &Span| match self.look {
            LookKind::Fetch => Action::Fetch { span: *span },
            LookKind::Load => Action::Load { span: *span, mode: LoadMode::Cacheable },
            LookKind::LoadNonCacheable => Action::Load { span: *span, mode: LoadMode::NonCacheable },
            LookKind::LoadCachesOff => Action::Load { span: *span, mode: LoadMode::CachesOff },
        };
        spans.iter().map(|span| ProgramOp::new(vcpu, action(span))).collect()
    }

    /// Returns the ops by which the guest changes code. A fetch needs a clean to the PoU, and a load past the caches
    /// needs one to the PoC.
    fn change(&self, spans: &[Span], generation: u16) -> Vec<ProgramOp> {
        let vcpu = usize::from(self.writer == Writer::Other);
        let to = if matches!(self.look, LookKind::Fetch | LookKind::Load) { Clean::Pou } else { Clean::Poc };
        let barrier = |barrier| Action::Barrier { barrier };
        let mut actions: Vec<_> = spans.iter().map(|span| Action::Write { span: *span, generation }).collect();
        actions.extend(spans.iter().map(|span| Action::CleanD { span: *span, to }));
        actions.push(barrier(Barrier::DsbIsh));
        if self.writer != Writer::Careless {
            actions.extend(spans.iter().map(|span| Action::InvalI { span: *span }));
            actions.push(barrier(Barrier::DsbIsh));
        }
        actions.push(barrier(Barrier::Isb));
        actions.into_iter().map(|action| ProgramOp::new(vcpu, action)).collect()
    }

    /// Returns the program of this combination on these slots, for two vCPUs.
    ///
    /// Every slot begins with generation 0, and the generations that are written rise from 1.
    pub fn program(&self, spans: &[Span]) -> Program {
        let host = |event, generation| {
            let over = if event_writes(event) { spans } else { &spans[..spans.len().min(1)] };
            let op = move |span: &Span| ProgramOp::new(0, Action::Event { event, span: *span, generation });
            over.iter().map(op).collect::<Vec<_>>()
        };
        let reader = usize::from(self.reader == Reader::Other);
        let fetch = |vcpu| move |span: &Span| ProgramOp::new(vcpu, Action::Fetch { span: *span });
        // Both vCPUs execute the old code, so that the caches of both can hold it.
        let mut ops: Vec<_> = (0..2).flat_map(|vcpu| spans.iter().map(fetch(vcpu))).collect();
        ops.push(ProgramOp::MEET);
        if self.event == Event::DirtyLogOff {
            // Blocks have to be split before they can be collapsed.
            ops.extend(host(Event::DirtyLogOn, 0));
            ops.extend(Self { writer: Writer::Same, ..*self }.change(spans, 1));
            ops.push(ProgramOp::MEET);
        }
        match self.writer {
            Writer::Host if !event_writes(self.event) => ops.extend(host(Event::Rewrite, 2)),
            Writer::Host => (),
            _ => {
                ops.extend(self.change(spans, 2));
                ops.push(ProgramOp::MEET);
            }
        }
        ops.extend(host(self.event, 3));
        if self.reader == Reader::Moved {
            ops.extend(host(Event::MoveVcpu, 0));
        }
        ops.push(ProgramOp::MEET);
        ops.extend(self.look(reader, spans));
        ops.push(ProgramOp::MEET);
        // The guest goes on after the event. For example, its first write splits a block or breaks copy-on-write.
        if self.writer != Writer::Host {
            ops.extend(self.change(spans, 4));
            ops.push(ProgramOp::MEET);
            ops.extend(self.look(reader, spans));
        }
        Program { vcpus: 2, ops }
    }
}

fn event_writes(event: Event) -> bool {
    event.contents() == Contents::Written
}

/// Returns whether the guest has to take a fault after the event before it can look.
pub fn unmaps(event: Event) -> bool {
    event.mappings() != Mappings::Kept
}

/// Size of the largest region in which every line is looked at by default.
const EVERY_LINE_BYTES: u64 = 4 << 20;
/// Maximum number of slots in a larger region.
const MAX_SLOTS: u64 = 64 << 10;
/// Number of slots in seeded places of a larger region.
const SEEDED_SLOTS: u64 = 2048;
/// Size of the memory that one table of page descriptors maps with 4 KiB pages.
const TABLE_BYTES: u64 = 2 << 20;

/// Lines of a large region that are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineSelection {
    /// All lines.
    All,
    /// The first and the last line of each block, and lines in places that this seed selects.
    Seeded(u64),
}

/// Region that a program runs on.
#[derive(Clone, Copy, Debug)]
pub struct RegionLines {
    /// Size of the region in bytes.
    pub region_bytes: u64,
    /// Size of a block in bytes.
    pub block_bytes: u64,
    /// Lines to look at if the region is large.
    pub selection: LineSelection,
}

impl RegionLines {
    /// Returns the slots to use, on a machine with cache lines of this size.
    pub fn spans(&self, line_bytes: u64) -> Vec<Span> {
        let Self { region_bytes, block_bytes, selection } = *self;
        let seed = match selection {
            LineSelection::Seeded(seed) if region_bytes > EVERY_LINE_BYTES => seed,
            _ => return vec![Span { start: 0, stride: line_bytes, count: region_bytes / line_bytes }],
        };
        // The boundaries between tables count as boundaries, too: a block of 1 GiB can be split into 512 tables of 2
        // MiB.
        let stride = block_bytes.min(TABLE_BYTES);
        let blocks = (region_bytes / stride).min(MAX_SLOTS / 4);
        let first = Span { start: 0, stride, count: blocks };
        let last = Span { start: stride - line_bytes, stride, count: blocks };
        // An odd number of lines between two slots makes every place in a block equally likely. The first slot is not
        // the first line.
        let mut random = Random::new(seed);
        let lines = (region_bytes / SEEDED_SLOTS / line_bytes - 1) | 1;
        let start = (1 + random.below(lines)) * line_bytes;
        let mut seeded = Span { start, stride: lines * line_bytes, count: SEEDED_SLOTS - 2 };
        seeded.count = seeded.count.min((region_bytes - start) / seeded.stride);
        vec![first, last, seeded]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_leave_none_out() {
        for (memories, fwb) in [(1, false), (3, true), (8, false)] {
            let all = combinations(Coverage::Full, &Event::ALL, look_kinds(fwb), memories);
            let chosen = combinations(Coverage::Pairs, &Event::ALL, look_kinds(fwb), memories);
            let pairs = |all: &[Vec<Combination>]| {
                let mut pairs = Pairs::default();
                for (memory, combinations) in all.iter().enumerate() {
                    combinations.iter().for_each(|combination| pairs.cover(memory, combination));
                }
                pairs.0
            };
            assert_eq!(pairs(&chosen), pairs(&all));
            assert!(chosen.iter().map(Vec::len).sum::<usize>() < all[0].len());
            let has = |on_one: &Vec<Combination>, event| on_one.iter().any(|combination| combination.event == event);
            assert!(chosen.iter().all(|on_one| Event::ALL.iter().all(|event| has(on_one, *event))));
        }
    }

    #[test]
    fn small_regions_are_covered_line_by_line() {
        let small = RegionLines { region_bytes: 1 << 20, block_bytes: 4096, selection: LineSelection::Seeded(1) };
        assert_eq!(small.spans(64), [Span { start: 0, stride: 64, count: 16384 }]);
    }

    #[test]
    fn large_regions_have_their_edges_and_some_lines_between() {
        let large = RegionLines { region_bytes: 1 << 30, block_bytes: 1 << 30, selection: LineSelection::Seeded(7) };
        let spans = large.spans(64);
        let offsets: std::collections::BTreeSet<_> = spans.iter().flat_map(|span| span.offsets()).collect();
        for edge in [0, (2 << 20) - 64, 2 << 20, (1 << 30) - 64] {
            assert!(offsets.contains(&edge), "{edge:#x}");
        }
        assert!(offsets.len() as u64 > 2000 && offsets.len() as u64 <= MAX_SLOTS);
        assert!(offsets.iter().all(|offset| *offset < 1 << 30 && offset % 64 == 0));
    }

    #[test]
    fn every_program_looks_after_its_event() {
        let span = [Span { start: 0, stride: 64, count: 4 }];
        for combination in combinations(Coverage::Full, &Event::ALL, look_kinds(false), 1).concat() {
            let ops = combination.program(&span).ops;
            let is_event =
                |op: &ProgramOp| matches!(op.action, Action::Event { event, .. } if event == combination.event);
            let event = ops.iter().rposition(is_event);
            let is_look = |op: &ProgramOp| matches!(op.action, Action::Fetch { .. } | Action::Load { .. });
            let look = ops.iter().rposition(is_look);
            assert!(event < look, "{combination:?}");
        }
    }
}
