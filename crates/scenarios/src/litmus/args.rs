//! Options of `litmus`.

use clap::Args as ClapArgs;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use programs::litmus::event::RaceEvent;

use crate::options::Common;

/// Options of `litmus`.
#[derive(ClapArgs, Clone, Debug)]
#[command(args_override_self = true)]
pub struct Args {
    /// Tests by their published names; without it, all (docs/litmus.md)
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    pub tests: Vec<String>,
    /// Stage-2 events; each is a case of its own, and happens in each of its iterations
    #[arg(long, value_delimiter = ',', default_value = "plain", value_name = "EVENT,…", value_parser = event_parser())]
    pub events: Vec<RaceEvent>,
    /// Number of iterations of each case
    #[arg(long, default_value_t = 4_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    pub iterations: u64,
    /// Run each case for this long instead
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: Option<u64>,
    /// Number of vCPUs that race, at most the number of CPUs; without it, up to 4. Plain races use them for as many copies
    /// of a test as possible
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=abi::channel::MAX_VCPUS as u64))]
    pub vcpus: Option<u64>,
    /// Seed of the skew between threads
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub common: Common,
}

/// Returns the parser of an event's name.
fn event_parser() -> impl TypedValueParser<Value = RaceEvent> {
    let names = RaceEvent::ALL.map(|event| PossibleValue::new(event.name()).help(help(event)));
    PossibleValuesParser::new(names).try_map(|name| {
        let event = RaceEvent::ALL.into_iter().find(|event| event.name() == name);
        event.ok_or("not the name of an event")
    })
}

/// Returns the help text of an event.
fn help(event: RaceEvent) -> &'static str {
    match event {
        RaceEvent::Plain => "Nothing",
        RaceEvent::Relax => "The code is mapped by data accesses, so that the fetch takes a permission fault",
        RaceEvent::Unmap => "The code is unmapped after the write, so that the fetch takes a translation fault",
        RaceEvent::Split => "Dirty logging begins: the write takes a permission fault and splits the block",
        RaceEvent::Collapse => {
            "Dirty logging ends: the write or the fetch takes a permission fault, and the first makes a block of pages"
        }
        RaceEvent::Move => "Every vCPU moves to another CPU after the write",
    }
}
