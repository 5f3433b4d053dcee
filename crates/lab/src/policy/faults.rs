//! Kernels with one fault of cache maintenance each, and what the sanitizer has to report of them.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use record::sanitizer::{Missing, ReportKind};
use serde::Deserialize;

use crate::policy::spec::{Build, Policy, PolicyKernel};

/// Kernel argument that chooses a fault by its number.
const ARGUMENT: &str = "faultline_fault";
/// Name of the kernel without a fault.
const NONE: &str = "none";

/// A fault of `lab/faults/faults.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Fault {
    /// Name.
    pub name: String,
    /// Mistake of the kernel, in words.
    pub what: String,
    /// The run that takes the path: `relax`, or the name of a program.
    pub run: String,
    /// True if only blocks show it.
    #[serde(default)]
    pub blocks: bool,
    /// CPU model, if it matters.
    pub cpu: Option<String>,
    /// The report.
    #[serde(flatten)]
    pub expected: Option<Expected>,
    /// The reason for which nothing has to be reported.
    pub equivalent: Option<String>,
}

/// The report that a fault has to cause.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Expected {
    /// ReportKind.
    pub kind: ReportKind,
    /// Missing thing.
    pub missing: Missing,
    /// True if it comes too late.
    #[serde(default)]
    pub late: bool,
    /// Lines of a mapping that the report names.
    pub lines: Option<Lines>,
}

/// Number of lines of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Lines {
    /// All.
    #[serde(rename = "all")]
    All,
    /// One of two.
    #[serde(rename = "half")]
    Half,
    /// One.
    #[serde(rename = "one")]
    One,
    /// All but those of one page of the kernel.
    #[serde(rename = "all but a page")]
    AllButAPage,
    /// At least one.
    #[serde(rename = "some")]
    Some,
}

/// Returns all faults, in the order of their numbers, which begin with 1.
pub fn all() -> &'static [Fault] {
    #[derive(Deserialize)]
    struct File {
        fault: Vec<Fault>,
    }
    static FAULTS: LazyLock<Vec<Fault>> = LazyLock::new(|| {
        let file: File = toml::from_str(include_str!("../../../../lab/faults/faults.toml")).expect("checked by a test");
        file.fault
    });
    &FAULTS
}

/// A fault and a page size: `d-half`, `i-no-dsb+64k`, or `none` for the kernel without a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultKernel {
    /// Number of the fault; 0 is none.
    number: usize,
    build: Build,
}

/// A text that names no fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no fault is called `{0}`: lab/faults/faults.toml has the names; +64k selects the page size")]
pub struct UnknownFault(String);

impl FaultKernel {
    /// Returns the kernel to build.
    pub fn kernel(self) -> PolicyKernel {
        PolicyKernel { policy: Policy::Faults, build: self.build }
    }

    /// Returns the kernel argument that chooses the fault.
    pub fn argument(self) -> String {
        format!("{ARGUMENT}={}", self.number)
    }
}

impl FromStr for FaultKernel {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        let unknown = || UnknownFault(text.to_owned());
        let (name, build) = Build::split(text).ok_or_else(unknown)?;
        let index = all().iter().position(|fault| fault.name == name);
        let number = index.map(|index| index + 1).or((name == NONE).then_some(0)).ok_or_else(unknown)?;
        Ok(Self { number, build })
    }
}

impl fmt::Display for FaultKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.number.checked_sub(1).map_or(NONE, |index| &all()[index].name);
        write!(f, "{name}{}", self.build)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::spec::SourceVersion;

    #[test]
    fn the_catalogue_has_the_faults_of_the_patch_in_its_order() {
        let patch = Policy::Faults.patch(SourceVersion::DEFAULT);
        let constants = patch.lines().filter_map(|line| line.strip_prefix("+\tFAULT_")?.strip_suffix(','));
        let numbered = constants.filter_map(|line| line.split_once(" = "));
        let in_patch: Vec<_> = numbered.map(|(name, number)| (name.to_lowercase().replace('_', "-"), number)).collect();
        assert!(in_patch.len() >= 24);
        assert_eq!(in_patch.len(), all().len());
        for (index, (fault, (name, number))) in all().iter().zip(in_patch).enumerate() {
            assert_eq!((&fault.name, number), (&name, (index + 1).to_string().as_str()));
            assert_ne!(fault.expected.is_some(), fault.equivalent.is_some(), "{name}");
        }
    }

    #[test]
    fn few_faults_are_equivalent() {
        assert!(all().iter().filter(|fault| fault.equivalent.is_some()).count() <= 2);
    }

    #[test]
    fn a_name_reads_as_it_prints() {
        for text in ["none", "d-half", "i-no-dsb+64k"] {
            assert_eq!(text.parse::<FaultKernel>().expect(text).to_string(), text);
        }
        assert_eq!("d-none".parse::<FaultKernel>().expect("the first").argument(), "faultline_fault=1");
        for text in ["", "d-all", "d-half+32k"] {
            assert_eq!(text.parse::<FaultKernel>(), Err(UnknownFault(text.into())));
        }
    }
}
