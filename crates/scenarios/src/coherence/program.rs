//! `coherence`: old code is executed, so that it can be held; it is changed, something happens to the memory, and the
//! guest looks. Every event on every kind of memory; who writes, who looks and how, in pairs or in full.

use abi::op::Barrier;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use guest::event::{Contents, Event, Mappings};
use programs::program::{Act, Clean, Look, Program, Span, Step};
use units::random::Random;

/// Who changes the code before the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Writer {
    /// The host, behind the guest's back; by the event itself where that writes.
    Host,
    /// vCPU 0, which also asks for the event, with all its maintenance.
    Same,
    /// vCPU 1, with all its maintenance.
    Other,
    /// vCPU 0, which leaves its I-cache invalidation out: what the guest then sees is its own affair.
    Careless,
}

/// How the guest looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Looks {
    /// Calls the code.
    Fetch,
    /// Loads it.
    Load,
    /// Loads it past the caches, by a Non-cacheable mapping.
    LoadNonCacheable,
    /// Loads it with its caches off.
    LoadCachesOff,
}

/// Who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Looker {
    /// vCPU 0.
    Same,
    /// vCPU 1.
    Other,
    /// vCPU 0, once it has been moved to another CPU.
    Moved,
}

/// One way to do one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Combination {
    /// What happens.
    pub event: Event,
    /// Who writes.
    pub writer: Writer,
    /// How the guest looks.
    pub looks: Looks,
    /// Who looks.
    pub looker: Looker,
}

/// Every writer.
const WRITERS: [Writer; 4] = [Writer::Host, Writer::Same, Writer::Other, Writer::Careless];
/// Every looker.
const LOOKERS: [Looker; 3] = [Looker::Same, Looker::Other, Looker::Moved];

/// Which combinations to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Coverage {
    /// Each pair of event, memory, writer, look and looker at least once.
    Pairs,
    /// All combinations.
    Full,
}

/// Returns the looks that can show anything: with FWB, stage 2 forces Write-Back on all of them.
pub fn looks(fwb: bool) -> &'static [Looks] {
    const ALL: [Looks; 4] = [Looks::Fetch, Looks::Load, Looks::LoadNonCacheable, Looks::LoadCachesOff];
    if fwb { &ALL[..2] } else { &ALL }
}

/// Returns the combinations to run on each of `blocks` kinds of memory, in the order of the events.
pub fn combinations(coverage: Coverage, events: &[Event], looks: &[Looks], blocks: usize) -> Vec<Vec<Combination>> {
    let product = |event: Event| {
        let ways = WRITERS.into_iter().flat_map(|writer| looks.iter().map(move |looks| (writer, *looks)));
        ways.flat_map(move |(writer, looks)| LOOKERS.map(|looker| Combination { event, writer, looks, looker }))
    };
    if coverage == Coverage::Full {
        return vec![events.iter().flat_map(|event| product(*event)).collect(); blocks];
    }
    let mut pairs = Pairs::default();
    let mut chosen = vec![Vec::new(); blocks];
    for (block, chosen) in chosen.iter_mut().enumerate() {
        for event in events {
            let best = product(*event).max_by_key(|way| (pairs.fresh(block, way), *way == Combination::plain(*event)));
            chosen.extend(best.inspect(|way| pairs.cover(block, way)));
        }
    }
    // With few kinds of memory some pairs are still left: they go to the kind with the fewest combinations.
    for way in events.iter().flat_map(|event| product(*event)) {
        let Some(block) = (0..blocks).min_by_key(|block| chosen[*block].len()) else { break };
        if pairs.fresh(block, &way) > 0 {
            pairs.cover(block, &way);
            chosen[block].push(way);
        }
    }
    for combinations in &mut chosen {
        combinations.sort_by_key(|way| events.iter().position(|event| *event == way.event));
    }
    chosen
}

/// Pairs of choices that were made together.
#[derive(Default)]
struct Pairs(std::collections::HashSet<[(u8, u8); 2]>);

impl Pairs {
    fn of(block: usize, way: &Combination) -> impl Iterator<Item = [(u8, u8); 2]> {
        let choices = [
            (0, way.event as u64 as u8),
            (1, way.writer as u8),
            (2, way.looks as u8),
            (3, way.looker as u8),
            (4, block as u8),
        ];
        let pairs = (0..choices.len()).flat_map(move |a| (a + 1..choices.len()).map(move |b| (a, b)));
        pairs.map(move |(a, b)| [choices[a], choices[b]])
    }

    fn fresh(&self, block: usize, way: &Combination) -> usize {
        Self::of(block, way).filter(|pair| !self.0.contains(pair)).count()
    }

    fn cover(&mut self, block: usize, way: &Combination) {
        self.0.extend(Self::of(block, way));
    }
}

impl Combination {
    /// Returns the plainest way to see what an event does: the host writes, the same vCPU fetches.
    fn plain(event: Event) -> Self {
        Self { event, writer: Writer::Host, looks: Looks::Fetch, looker: Looker::Same }
    }

    fn look(&self, vcpu: usize, spans: &[Span]) -> Vec<Step> {
        let act = |span: &Span| match self.looks {
            Looks::Fetch => Act::Fetch { span: *span },
            Looks::Load => Act::Load { span: *span, look: Look::Cacheable },
            Looks::LoadNonCacheable => Act::Load { span: *span, look: Look::NonCacheable },
            Looks::LoadCachesOff => Act::Load { span: *span, look: Look::CachesOff },
        };
        spans.iter().map(|span| Step { vcpu, act: act(span) }).collect()
    }

    /// Returns the steps by which a guest changes code: the PoU is enough for a fetch, loads past the caches need the PoC.
    fn change(&self, spans: &[Span], generation: u16) -> Vec<Step> {
        let vcpu = usize::from(self.writer == Writer::Other);
        let to = if matches!(self.looks, Looks::Fetch | Looks::Load) { Clean::Pou } else { Clean::Poc };
        let barrier = |barrier| Act::Barrier { barrier };
        let mut acts: Vec<_> = spans.iter().map(|span| Act::Write { span: *span, generation }).collect();
        acts.extend(spans.iter().map(|span| Act::CleanD { span: *span, to }));
        acts.push(barrier(Barrier::DsbIsh));
        if self.writer != Writer::Careless {
            acts.extend(spans.iter().map(|span| Act::InvalI { span: *span }));
            acts.push(barrier(Barrier::DsbIsh));
        }
        acts.push(barrier(Barrier::Isb));
        acts.into_iter().map(|act| Step { vcpu, act }).collect()
    }

    /// Returns the program that does it on these slots, with two vCPUs.
    ///
    /// Generations grow from 1; every slot begins with 0.
    pub fn program(&self, spans: &[Span]) -> Program {
        let meet = Step { vcpu: 0, act: Act::Meet };
        let host = |event, generation| {
            let writes = event_writes(event);
            let over = if writes { spans } else { &spans[..spans.len().min(1)] };
            let step = move |span: &Span| Step { vcpu: 0, act: Act::Event { event, span: *span, generation } };
            over.iter().map(step).collect::<Vec<_>>()
        };
        let looker = usize::from(self.looker == Looker::Other);
        let fetch = |vcpu| move |span: &Span| Step { vcpu, act: Act::Fetch { span: *span } };
        // Old code is executed by both, so that both can hold it.
        let mut steps: Vec<_> = (0..2).flat_map(|vcpu| spans.iter().map(fetch(vcpu))).collect();
        steps.push(meet);
        if self.event == Event::DirtyLogOff {
            // Blocks have to be split before they can be collapsed.
            steps.extend(host(Event::DirtyLogOn, 0));
            steps.extend(Self { writer: Writer::Same, ..*self }.change(spans, 1));
            steps.push(meet);
        }
        match self.writer {
            Writer::Host if !event_writes(self.event) => steps.extend(host(Event::Rewrite, 2)),
            Writer::Host => (),
            _ => {
                steps.extend(self.change(spans, 2));
                steps.push(meet);
            }
        }
        steps.extend(host(self.event, 3));
        if self.looker == Looker::Moved {
            steps.extend(host(Event::MoveVcpu, 0));
        }
        steps.push(meet);
        steps.extend(self.look(looker, spans));
        steps.push(meet);
        // And the guest goes on with what the event left it: the first write splits, breaks copy-on-write, …
        if self.writer != Writer::Host {
            steps.extend(self.change(spans, 4));
            steps.push(meet);
            steps.extend(self.look(looker, spans));
        }
        Program { vcpus: 2, steps }
    }

    /// Returns the name of a way to do an event.
    pub fn way_name(writer: Writer, looks: Looks, looker: Looker) -> String {
        format!("{}-writes.{}.{}", word(&writer), word(&looks), word(&looker))
    }
}

/// Returns the word that stands for a choice in files.
fn word(choice: &impl Serialize) -> String {
    let value = serde_json::to_value(choice).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

fn event_writes(event: Event) -> bool {
    event.contents() == Contents::Written
}

/// Says whether the guest has to fault after the event before it can look.
pub fn unmaps(event: Event) -> bool {
    event.mappings() != Mappings::Kept
}

/// Memory up to this size is looked at line by line.
const EVERY_LINE_BYTES: u64 = 4 << 20;
/// The most slots of a program above that.
const MAX_SLOTS: u64 = 64 << 10;
/// Slots at seeded places in large memory.
const SEEDED_SLOTS: u64 = 2048;

/// Returns the slots to use in a region of blocks: every line of small regions or where asked to, else the first and the
/// last line of each block, which are also the lines at the boundaries of tables, and lines at seeded places.
pub fn spans(region_bytes: u64, block_bytes: u64, line_bytes: u64, every_line: bool, seed: u64) -> Vec<Span> {
    if every_line || region_bytes <= EVERY_LINE_BYTES {
        return vec![Span { start: 0, stride: line_bytes, count: region_bytes / line_bytes }];
    }
    // Blocks of the tables below are boundaries as well: a GiB has 512 tables of 2 MiB.
    let step = block_bytes.min(2 << 20);
    let blocks = (region_bytes / step).min(MAX_SLOTS / 4);
    let first = Span { start: 0, stride: step, count: blocks };
    let last = Span { start: step - line_bytes, stride: step, count: blocks };
    // An odd number of lines apart, so that every place within a block is as likely; not the first nor the last line.
    let mut random = Random::new(seed);
    let stride = (region_bytes / SEEDED_SLOTS / line_bytes - 1) | 1;
    let start = (1 + random.below(stride)) * line_bytes;
    let mut seeded = Span { start, stride: stride * line_bytes, count: SEEDED_SLOTS - 2 };
    seeded.count = seeded.count.min((region_bytes - start) / seeded.stride);
    vec![first, last, seeded]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_leave_none_out() {
        for (blocks, fwb) in [(1, false), (3, true), (8, false)] {
            let all = combinations(Coverage::Full, &Event::ALL, looks(fwb), blocks);
            let chosen = combinations(Coverage::Pairs, &Event::ALL, looks(fwb), blocks);
            let pairs = |ways: &[Vec<Combination>]| {
                let mut pairs = Pairs::default();
                ways.iter().enumerate().for_each(|(block, ways)| ways.iter().for_each(|way| pairs.cover(block, way)));
                pairs.0
            };
            assert_eq!(pairs(&chosen), pairs(&all));
            assert!(chosen.iter().map(Vec::len).sum::<usize>() < all[0].len());
            assert!(
                chosen.iter().all(|ways| Event::ALL.iter().all(|event| ways.iter().any(|way| way.event == *event)))
            );
        }
    }

    #[test]
    fn small_regions_are_covered_line_by_line() {
        assert_eq!(spans(1 << 20, 4096, 64, false, 1), [Span { start: 0, stride: 64, count: 16384 }]);
    }

    #[test]
    fn large_regions_have_their_edges_and_some_lines_between() {
        let spans = spans(1 << 30, 1 << 30, 64, false, 7);
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
        for way in combinations(Coverage::Full, &Event::ALL, looks(false), 1).concat() {
            let steps = way.program(&span).steps;
            let event =
                steps.iter().rposition(|step| matches!(step.act, Act::Event { event, .. } if event == way.event));
            let look = steps.iter().rposition(|step| matches!(step.act, Act::Fetch { .. } | Act::Load { .. }));
            assert!(event < look, "{way:?}");
        }
    }
}
