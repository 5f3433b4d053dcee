//! Options of `coherence`.

use clap::Args as ClapArgs;
use guest::event::Event;
use record::memory::MemoryKind;

use crate::coherence::program::Coverage;
use crate::options::Common;

/// Options of `coherence`.
#[derive(ClapArgs, Clone, Debug)]
#[command(args_override_self = true)]
pub struct Args {
    /// Kinds of memory: page, thp, memfd, file, or a hugetlb size such as 2M or 1G; without it, all kinds
    #[arg(long, value_delimiter = ',', value_name = "BLOCK,…")]
    pub blocks: Vec<MemoryKind>,
    /// Host events: rewrite, unmap, discard, …; without it, all of them
    #[arg(long, value_delimiter = ',', value_name = "EVENT,…", value_parser = parse_event)]
    pub events: Vec<Event>,
    /// Combinations of writer, look and reader: each pair of choices once, or all combinations
    #[arg(long, default_value = "pairs", value_enum)]
    pub coverage: Coverage,
    /// Look at every line of large blocks, too, not only at their edges and some lines between
    #[arg(long)]
    pub every_line: bool,
    /// Seed that selects the lines between
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub common: Common,
}

fn parse_event(text: &str) -> Result<Event, String> {
    Event::ALL.into_iter().find(|event| event.name() == text).ok_or_else(|| {
        let names: Vec<_> = Event::ALL.iter().map(|event| event.name()).collect();
        format!("name one of {}", names.join(", "))
    })
}
