//! The input of a report: a run with the files beside its result.

use record::machine::Platform;
use record::result::RunResult;
use record::view::{View, Viewed};

use crate::samples::{self, Sample};

/// A run with its view and the contents of its files. The contents may be empty.
#[derive(Clone, Debug)]
pub struct Source<'a> {
    pub(super) result: &'a RunResult,
    pub(super) view: View,
    /// Name of the run: its label and its kernel.
    pub(super) name: String,
    /// Short name of the run, for places with little room.
    pub(super) short: String,
    /// Timed elements.
    pub(super) samples: Vec<Sample>,
    /// Text of `kmsg.raw`.
    pub(super) kmsg: String,
}

impl<'a> Source<'a> {
    /// Returns a run with the text of its `samples.csv` and `kmsg.raw`, which are empty if the run has none.
    pub fn new(viewed: Viewed<'a>, samples: &str, kmsg: &str) -> Self {
        let Viewed { run: result, view } = viewed;
        let release = &result.machine.kernel_release;
        // All policy kernels have the same release.
        let policy = result.lab_kernel().filter(|kernel| kernel.starts_with("policy:"));
        let kernel = policy.unwrap_or(release);
        let label = result.under_test.label.as_ref();
        let name = label.map_or_else(|| kernel.to_owned(), |label| format!("{label} ({kernel})"));
        let version: String = release.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        let kernel = policy.map_or_else(|| version.trim_end_matches(".0"), |policy| &policy["policy:".len()..]);
        let short = label.map_or(kernel, String::as_str);
        let short = short.chars().take(12).collect();
        Self { result, view, name, short, samples: samples::parse(samples), kmsg: kmsg.to_owned() }
    }

    /// Returns the samples of one operation in one block.
    pub(super) fn samples_of(&self, block: &str, op: &str) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| sample.block == block && sample.op == op)
    }
}

/// Gives different names to runs that have the same one. Kernels of one tree that differ by a patch have the same release.
pub fn number_namesakes(sources: &mut [Source<'_>]) {
    let names: Vec<_> = sources.iter().map(|source| source.name.clone()).collect();
    let titles: Vec<_> = sources.iter().map(|source| source.result.title().to_owned()).collect();
    for (n, source) in sources.iter_mut().enumerate() {
        if names.iter().filter(|name| **name == names[n]).count() > 1 {
            let title = source.result.title();
            // The runs of a plan differ by what was run.
            let is_unique = titles.iter().filter(|other| *other == title).count() == 1;
            source.short = if is_unique { title.to_owned() } else { format!("run {}", n + 1) };
            source.name = format!("{}, {}", names[n], source.short);
        }
    }
}

/// Returns the runs before and after, if there are two runs of the same scenario. Two steps of a plan are no such pair.
pub fn pair<'a, 'b>(sources: &'b [Source<'a>]) -> Option<(&'b Source<'a>, &'b Source<'a>)> {
    match sources {
        [before, after] if before.result.title() == after.result.title() => Some((before, after)),
        _ => None,
    }
}

/// Returns the emulator, the CPU model and the meaning of times, as the end of a sentence that begins with "Emulated".
/// `None` if no run was emulated.
pub fn emulation_notice(sources: &[Source<'_>]) -> Option<String> {
    let mut machines = sources.iter().map(|source| &source.result.machine);
    let lab = machines.find(|machine| machine.platform == Platform::Emulated)?.lab.as_ref();
    let (emulator, cpu) = lab.map_or(("unknown", "unknown"), |lab| (&*lab.emulator, &*lab.cpu));
    let model = if lab.is_some_and(|lab| lab.time_scale.is_some()) {
        "in which every instruction costs alike: they repeat exactly"
    } else {
        "and hold the noise of the host"
    };
    Some(format!("by {emulator}, CPU model {cpu}. Times are a model {model}; they must not be compared with hardware."))
}
