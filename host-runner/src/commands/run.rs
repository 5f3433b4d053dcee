//! `faultline run SCENARIO`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use super::{Failure, Outcome};
use crate::coherence::event::Event;
use crate::litmus::event::Across;
use crate::plan::blocks::Block;
use crate::plan::coherence::Coverage;
use crate::plan::ctr::GuestCtr;
use crate::plan::relax::Sharing;
use crate::plan::storm::{Mode, Order};
use crate::plan::suite;
use crate::report::formats::Format;
use crate::result::UnderTest;
use crate::size::Size;

/// What to run.
#[derive(ClapArgs)]
#[command(after_help = plans_help())]
pub struct Args {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
#[command(subcommand_value_name = "SCENARIO", subcommand_help_heading = "Scenarios")]
enum Scenario {
    /// Touch each block as data, then execute it: the permission fault of the report, timed
    Relax(Relax),
    /// Let vCPUs race into the same block: the storm of the report, against the number of racers
    Storm(Storm),
    /// Find out which I-cache maintenance this kernel does
    Policy(Policy),
    /// First touch and teardown of large memory, where the host cleans the D-cache: not what the I-cache patch fixes
    Dside(DSide),
    /// Change code, let the host do something to its memory, and look: what KVM's maintenance has to make visible
    Coherence(Coherence),
    /// Race the published instruction-fetch litmus tests, plain and across stage-2 events: does anything forbidden come
    Litmus(Litmus),
    /// Run random programs of writes, maintenance, host events and looks, and judge each
    Random(Random),
    /// Boot the guest, map a region, start all vCPUs and power off: does KVM work here at all
    Boot(Boot),
    /// Run guests that scribble over everything they can reach: does this program live with it
    Chaos(Chaos),
    // Not `Plan(plan::Args)`: a plan is named by a file as well.
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// Returns what `run --help` says besides.
fn plans_help() -> String {
    let mut help = String::from("Plans, several runs under one name:\n");
    for (name, text) in suite::BUILT_IN {
        let about = suite::parse(name, text).map(|plan| plan.about).unwrap_or_default();
        help += &format!("  {name:<10} {about}\n");
    }
    help + "  FILE       A plan of your own: docs/adding-a-scenario.md\n\n`faultline run nightly --help` prints their options."
}

/// Parses the words of a plan's step as the command line would be.
///
/// # Errors
///
/// What clap says of them; or that a plan is no step.
pub fn check_step(words: &[String]) -> Result<(), String> {
    #[derive(clap::Parser)]
    #[command(no_binary_name = true)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }
    match <Line as clap::Parser>::try_parse_from(words) {
        Ok(Line { args: Args { scenario: Scenario::Other(_) } }) => Err(unknown(&words[0])),
        Ok(_) => Ok(()),
        Err(error) => Err(error.render().to_string()),
    }
}

/// Says that no scenario has this name.
pub fn unknown(name: &str) -> String {
    let command = <Args as clap::Args>::augment_args(clap::Command::new("run"));
    let known: Vec<_> = command.get_subcommands().map(|scenario| scenario.get_name().to_owned()).collect();
    format!("there is no scenario '{name}': name one of {}", known.join(", "))
}

/// Time that a guest gets unless the command line says otherwise, in seconds.
pub const TIME_LIMIT_S: u64 = 300;

/// Options of every scenario.
#[derive(ClapArgs, Clone, Debug)]
pub struct Common {
    /// Directory that receives the run's directory
    #[arg(long, default_value = "results", value_name = "DIR")]
    pub results: PathBuf,
    /// Stop a guest that takes longer
    #[arg(long, default_value_t = TIME_LIMIT_S, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub time_limit: u64,
    /// Set kernel.watchdog_thresh for the run; soft lockups are reported after twice this time
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=60))]
    pub watchdog_thresh: Option<u32>,
    /// Fill hugetlb pools that are too small, for the run
    #[arg(long)]
    pub hugepages: bool,
    /// Show guests another CTR_EL0: imin=BYTES, dmin=BYTES, idc=0, dic=0, several with commas, or a whole value 0x…; KVM has
    /// to agree, which it may since Linux 6.11
    #[arg(long, value_name = "FIELD=VALUE,…")]
    pub guest_ctr: Option<GuestCtr>,
    /// Do not trace: no evidence of the faults taken, so nothing can pass
    #[arg(long)]
    pub no_trace: bool,
    /// What to print at the end; all but the table for programs
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// Print JSON
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub under_test: UnderTest,
    /// Do not print the result, which is in the run's directory
    #[arg(short, long)]
    pub quiet: bool,
    /// Tell on the way which case begins, what is set and what the kernel says; times suffer a little
    #[arg(short, long)]
    pub verbose: bool,
    /// Exit as `git bisect run` wants it: 0 good, 1 bad, 125 for anything that shows neither
    #[arg(long)]
    pub bisect: bool,
    /// What a plan calls this run
    #[arg(long, hide = true, value_name = "NAME")]
    pub step: Option<String>,
    /// Use this image in place of the one inside this program
    #[arg(long, value_name = "FILE")]
    pub payload: Option<PathBuf>,
}

impl Common {
    /// Returns what to print at the end.
    pub fn format(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }
}

/// Options of `relax`.
#[derive(ClapArgs, Clone, Debug)]
#[command(args_override_self = true)]
pub struct Relax {
    /// Kinds of memory: page, thp, memfd, file, or a hugetlb size such as 2M or 1G; without it, all that this host has
    #[arg(long, value_delimiter = ',', value_name = "BLOCK,…")]
    pub blocks: Vec<Block>,
    /// Number of vCPUs
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=abi::channel::MAX_VCPUS as u64))]
    pub vcpus: u64,
    /// Whether vCPUs have blocks of their own or execute the same ones
    #[arg(long, default_value = "distinct", value_enum)]
    pub sharing: Sharing,
    /// Timed rounds; one more is traced
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub rounds: u64,
    /// Size of the region for each kind of memory; a multiple of its blocks
    #[arg(long, value_name = "SIZE")]
    pub region: Option<Size>,
    /// Go on with a run that the machine or the runner did not survive, after the case that ended it; give the same
    /// other options as then
    #[arg(long, value_name = "RUN", conflicts_with = "blocks")]
    pub resume: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub common: Common,
}

/// Options of `storm`.
#[derive(ClapArgs, Clone, Debug)]
#[command(args_override_self = true)]
pub struct Storm {
    /// Kinds of memory: page, thp, memfd, file, or a hugetlb size such as 2M or 1G; without it, the largest block that this host has
    #[arg(long, value_delimiter = ',', value_name = "BLOCK,…")]
    pub blocks: Vec<Block>,
    /// Numbers of vCPUs that race, each at most the number of CPUs; 1 gives the cost that the model rests on
    #[arg(long, value_delimiter = ',', default_value = "1,2,4", value_name = "N,…", value_parser = clap::value_parser!(u64).range(1..=abi::channel::MAX_VCPUS as u64))]
    pub racers: Vec<u64>,
    /// Who races into which block: all into one, each into one of its own, or two into each
    #[arg(long, default_value = "shared", value_enum)]
    pub mode: Mode,
    /// What comes first: data, so that the fetch relaxes a permission, or, as a control, the fetch
    #[arg(long, default_value = "data-first", value_enum)]
    pub order: Order,
    /// Timed rounds; one more is traced
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub rounds: u64,
    /// Go on with timed rounds for this long in each case
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: Option<u64>,
    /// Size of the region for each kind of memory; a multiple of its blocks, and of the blocks raced into at once
    #[arg(long, value_name = "SIZE")]
    pub region: Option<Size>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub common: Common,
}

/// Options of `policy`.
#[derive(ClapArgs, Clone, Debug)]
#[command(args_override_self = true)]
pub struct Policy {
    /// Kinds of memory: page, thp, memfd, file, or a hugetlb size such as 2M or 1G; without it, all that this host has
    #[arg(long, value_delimiter = ',', value_name = "BLOCK,…")]
    pub blocks: Vec<Block>,
    /// Timed rounds; one more is traced
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub rounds: u64,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub common: Common,
}

/// Options of `dside`.
#[derive(ClapArgs, Clone, Debug)]
#[command(args_override_self = true)]
pub struct DSide {
    /// Kinds of memory: page, thp, memfd, file, or a hugetlb size such as 2M or 1G; without it, all that this host has
    #[arg(long, value_delimiter = ',', value_name = "BLOCK,…")]
    pub blocks: Vec<Block>,
    /// Timed rounds; one more is traced
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub rounds: u64,
    /// Size of the region for each kind of memory
    #[arg(long, default_value = "1G", value_name = "SIZE")]
    pub region: Size,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub common: Common,
}

/// Options of `coherence`.
#[derive(ClapArgs, Clone, Debug)]
#[command(args_override_self = true)]
pub struct Coherence {
    /// Kinds of memory: page, thp, memfd, file, or a hugetlb size such as 2M or 1G; without it, all that there are
    #[arg(long, value_delimiter = ',', value_name = "BLOCK,…")]
    pub blocks: Vec<Block>,
    /// Host events: rewrite, unmap, discard, …; without it, all of them
    #[arg(long, value_delimiter = ',', value_name = "EVENT,…", value_parser = parse_event)]
    pub events: Vec<Event>,
    /// Who writes, who looks and how: each pair of choices once, or all combinations
    #[arg(long, default_value = "pairs", value_enum)]
    pub coverage: Coverage,
    /// Look at every line of large blocks as well, not only at their edges and some lines between
    #[arg(long)]
    pub every_line: bool,
    /// Picks the lines between
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub common: Common,
}

/// Options of `litmus`.
#[derive(ClapArgs, Clone, Debug)]
#[command(args_override_self = true)]
pub struct Litmus {
    /// Tests, by their published names; without it, all: docs/litmus.md
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    pub tests: Vec<String>,
    /// What happens at stage 2 in each iteration, each a case of its own
    #[arg(long, value_delimiter = ',', default_value = "plain", value_enum, value_name = "EVENT,…")]
    pub events: Vec<Across>,
    /// Iterations of each case
    #[arg(long, default_value_t = 4_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    pub iterations: u64,
    /// Go on with each case for this long instead
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: Option<u64>,
    /// vCPUs that race, at most the number of CPUs: plain, as many copies of a test as they hold. Without it, up to 4
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=abi::channel::MAX_VCPUS as u64))]
    pub vcpus: Option<u64>,
    /// Seed of the skew between threads
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub common: Common,
}

/// How long `random` goes on unless the command line says otherwise, in seconds.
pub const RANDOM_SECONDS: u64 = 10;

/// Options of `random`.
#[derive(ClapArgs, Clone, Debug)]
#[command(args_override_self = true)]
pub struct Random {
    /// Seed of the first program; the others follow
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(..1 << 62))]
    pub seed: u64,
    /// Go on for this long; 10 unless there is a number of programs
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: Option<u64>,
    /// Run this many programs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub programs: Option<u64>,
    /// Kind of memory: page, thp, memfd, file, or a hugetlb size such as 2M
    #[arg(long, default_value = "page", value_name = "BLOCK")]
    pub block: Block,
    /// Number of vCPUs
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=4))]
    pub vcpus: u64,
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

/// Options of `boot`.
#[derive(ClapArgs, Clone, Debug)]
#[command(args_override_self = true)]
pub struct Boot {
    /// Number of vCPUs
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=abi::channel::MAX_VCPUS as u64))]
    pub vcpus: u64,
    /// Size of the region that the guest maps; nothing touches it, so it takes no memory
    #[arg(long, default_value = "1G", value_name = "SIZE")]
    pub region: Size,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub common: Common,
}

/// Options of `chaos`.
#[derive(ClapArgs, Clone, Debug)]
#[command(args_override_self = true)]
pub struct Chaos {
    /// Number of guests
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub runs: u64,
    /// Seed of the first guest; the others follow
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(..1 << 62))]
    pub seed: u64,
    /// Number of vCPUs
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=abi::channel::MAX_VCPUS as u64))]
    pub vcpus: u64,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub common: Common,
}

#[cfg(test)]
impl Args {
    /// Returns the words that name no scenario.
    pub fn plan(&self) -> Option<&[OsString]> {
        match &self.scenario {
            Scenario::Other(words) => Some(words),
            _ => None,
        }
    }
}

impl Args {
    /// Says whether the exit code is for `git bisect run`.
    pub fn bisect(&self) -> bool {
        match &self.scenario {
            Scenario::Relax(Relax { common, .. })
            | Scenario::Storm(Storm { common, .. })
            | Scenario::Policy(Policy { common, .. })
            | Scenario::Dside(DSide { common, .. })
            | Scenario::Coherence(Coherence { common, .. })
            | Scenario::Litmus(Litmus { common, .. })
            | Scenario::Random(Random { common, .. })
            | Scenario::Boot(Boot { common, .. })
            | Scenario::Chaos(Chaos { common, .. }) => common.bisect,
            Scenario::Other(words) => words.iter().any(|word| word == "--bisect"),
        }
    }
}

/// Runs the scenario, or the plan.
///
/// # Errors
///
/// What kept it from ending with a verdict.
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
pub fn run(args: &Args) -> Outcome {
    let outcome = match &args.scenario {
        Scenario::Relax(relax) => crate::scenario::relax::run(relax),
        Scenario::Storm(storm) => crate::scenario::storm::run(storm),
        Scenario::Policy(policy) => crate::scenario::policy::run(policy),
        Scenario::Dside(dside) => crate::scenario::dside::run(dside),
        Scenario::Coherence(coherence) => crate::scenario::coherence::run(coherence),
        Scenario::Litmus(litmus) => crate::scenario::litmus::run(litmus),
        Scenario::Random(random) => crate::scenario::random::run(random),
        Scenario::Boot(boot) => crate::scenario::boot::run(boot),
        Scenario::Chaos(chaos) => crate::scenario::chaos::run(chaos),
        Scenario::Other(words) => return other(words),
    };
    outcome.map_err(|error| Failure::new(error.exit_code(), error))
}

/// Says that this is the wrong machine.
///
/// # Errors
///
/// Always.
#[cfg(not(all(target_os = "linux", target_arch = "aarch64")))]
pub fn run(args: &Args) -> Outcome {
    if let Scenario::Other(words) = &args.scenario {
        // Wrong names, files and options, and --help, are told on any machine.
        if super::replay::Request::of(words)?.is_none() {
            super::plan::Request::of(words)?;
        }
    }
    Err(Failure::new(
        super::HARNESS,
        format!(
            "run needs an arm64 Linux host with KVM, this is {} {}: try it emulated with `faultline lab --kernel debian:6.12 -- run …`, or copy the arm64 build to such a host",
            std::env::consts::ARCH,
            std::env::consts::OS
        ),
    ))
}

/// Runs what is no scenario.
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
fn other(words: &[OsString]) -> Outcome {
    if let Some(super::replay::Request { replay, common }) = super::replay::Request::of(words)? {
        let outcome = crate::scenario::random::replay(&replay, &common);
        return outcome.map_err(|error| Failure::new(error.exit_code(), error));
    }
    super::plan::run(super::plan::Request::of(words)?)
}
