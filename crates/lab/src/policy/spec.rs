//! The user's name for a policy kernel: a policy, a source, a page size and a preemption model.

use std::fmt;
use std::str::FromStr;

/// The I-cache maintenance of a kernel when stage 2 grants execute permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Line by line, whatever the size: KVM up to v6.6.
    ByLine,
    /// Line by line up to `MAX_DVM_OPS` lines, otherwise the whole I-cache: KVM since v6.7, the tree as it is.
    Upton,
    /// Line by line for one page, the whole I-cache for any larger size.
    Shan,
    /// No maintenance: a kernel that is broken on purpose.
    None,
    /// As the tree is, with faults that are chosen at boot. Only [`FaultKernel`](super::faults::FaultKernel) names it.
    Faults,
}

impl Policy {
    /// All policies that a name selects.
    const ALL: [Self; 4] = [Self::Upton, Self::ByLine, Self::Shan, Self::None];

    /// Returns the name of the policy in [`PolicyKernel`] and in lab/policies/.
    pub fn name(self) -> &'static str {
        match self {
            Self::ByLine => "by-line",
            Self::Upton => "upton",
            Self::Shan => "shan",
            Self::None => "none",
            Self::Faults => "faults",
        }
    }

    /// Returns the patch that gives a source of this version the policy, or an empty text if no change is needed.
    pub fn patch(self, source: SourceVersion) -> &'static str {
        // The limit of v6.7.
        let has_limit = source >= SourceVersion(6, 7);
        match self {
            Self::ByLine if has_limit => include_str!("../../../../lab/policies/by-line.patch"),
            Self::ByLine => "",
            Self::Upton if has_limit => "",
            Self::Upton => include_str!("../../../../lab/policies/before-6.7/upton.patch"),
            Self::Shan if has_limit => include_str!("../../../../lab/policies/shan.patch"),
            Self::Shan => include_str!("../../../../lab/policies/before-6.7/shan.patch"),
            Self::None if has_limit => include_str!("../../../../lab/policies/none.patch"),
            Self::None => include_str!("../../../../lab/policies/before-6.7/none.patch"),
            Self::Faults => include_str!("../../../../lab/faults/faults.patch"),
        }
    }
}

/// The first two numbers of the version of a kernel source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceVersion(pub u32, pub u32);

impl SourceVersion {
    /// The source of a name without one.
    pub const DEFAULT: Self = Self(6, 12);
}

impl FromStr for SourceVersion {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (major, minor) = text.split_once('.').ok_or(())?;
        Ok(Self(major.parse().map_err(drop)?, minor.parse().map_err(drop)?))
    }
}

impl fmt::Display for SourceVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// Preemption model of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preemption {
    /// None where the source has it (up to 7.2), and else lazy.
    Default,
    /// PREEMPT_NONE.
    None,
    /// PREEMPT_LAZY (since 6.13).
    Lazy,
    /// PREEMPT.
    Full,
    /// PREEMPT_RT (since 6.12).
    Rt,
}

impl Preemption {
    const ALL: [Self; 5] = [Self::Default, Self::None, Self::Lazy, Self::Full, Self::Rt];

    /// Returns the part of a kernel's name.
    fn name(self) -> &'static str {
        match self {
            Self::Default => "",
            Self::None => "preempt-none",
            Self::Lazy => "preempt-lazy",
            Self::Full => "preempt-full",
            Self::Rt => "preempt-rt",
        }
    }

    /// Returns the kernel option that selects the model.
    pub fn option(self) -> &'static str {
        match self {
            Self::Default | Self::None => "CONFIG_PREEMPT_NONE",
            Self::Lazy => "CONFIG_PREEMPT_LAZY",
            Self::Full => "CONFIG_PREEMPT",
            Self::Rt => "CONFIG_PREEMPT_RT",
        }
    }
}

/// Page size of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageSize {
    /// 4 KiB.
    Size4K,
    /// 16 KiB.
    Size16K,
    /// 64 KiB.
    Size64K,
}

impl PageSize {
    /// All page sizes.
    const ALL: [Self; 3] = [Self::Size4K, Self::Size16K, Self::Size64K];

    /// Returns `4k`, `16k` or `64k`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Size4K => "4k",
            Self::Size16K => "16k",
            Self::Size64K => "64k",
        }
    }

    /// Returns the kernel option that selects the page size.
    pub fn option(self) -> &'static str {
        match self {
            Self::Size4K => "CONFIG_ARM64_4K_PAGES",
            Self::Size16K => "CONFIG_ARM64_16K_PAGES",
            Self::Size64K => "CONFIG_ARM64_64K_PAGES",
        }
    }
}

/// Everything that a name says besides the policy or the fault: `@7.3`, `+64k`, `+preempt-full`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Build {
    /// The version of Debian's linux-source, or of the user's tree.
    pub source: SourceVersion,
    /// The page size. A name without one means 4 KiB.
    pub page: PageSize,
    /// The preemption model.
    pub preemption: Preemption,
}

impl Build {
    /// The build of a name without parts.
    pub const DEFAULT: Self =
        Self { source: SourceVersion::DEFAULT, page: PageSize::Size4K, preemption: Preemption::Default };

    /// Splits `NAME[@VERSION][+SIZE][+preempt-MODEL]`. Returns none for a part that is not known.
    pub fn split(text: &str) -> Option<(&str, Self)> {
        let mut parts = text.split('+');
        let mut build = Self::DEFAULT;
        let head = parts.next()?;
        let (name, version) = head.split_once('@').map_or((head, None), |(name, version)| (name, Some(version)));
        if let Some(version) = version {
            build.source = version.parse().ok()?;
        }
        for part in parts {
            if let Some(page) = PageSize::ALL.into_iter().find(|size| size.name() == part) {
                build.page = page;
            } else {
                let is_named = |model: &Preemption| !part.is_empty() && model.name() == part;
                build.preemption = Preemption::ALL.into_iter().find(is_named)?;
            }
        }
        Some((name, build))
    }
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.source != SourceVersion::DEFAULT {
            write!(f, "@{}", self.source)?;
        }
        if self.page != PageSize::Size4K {
            write!(f, "+{}", self.page.name())?;
        }
        if self.preemption != Preemption::Default {
            write!(f, "+{}", self.preemption.name())?;
        }
        Ok(())
    }
}

/// A policy and its build: `by-line`, `none@7.3`, `upton+64k`, …
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyKernel {
    /// The policy.
    pub policy: Policy,
    /// The build.
    pub build: Build,
}

/// A text that names no policy kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no policy kernel is called `{0}`: take by-line, upton, shan or none, with @7.3 for another source, +16k or +64k for \
     other page sizes, +preempt-none, -lazy, -full or -rt for a preemption model"
)]
pub struct UnknownPolicy(String);

impl FromStr for PolicyKernel {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        let unknown = || UnknownPolicy(text.to_owned());
        let (name, build) = Build::split(text).ok_or_else(unknown)?;
        let policy = Policy::ALL.into_iter().find(|policy| policy.name() == name).ok_or_else(unknown)?;
        Ok(Self { policy, build })
    }
}

impl fmt::Display for PolicyKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.policy.name(), self.build)
    }
}

#[cfg(test)]
impl PolicyKernel {
    /// Returns all policy kernels.
    pub fn all() -> impl Iterator<Item = Self> {
        let build = |page| Build { page, ..Build::DEFAULT };
        Policy::ALL.into_iter().flat_map(move |policy| PageSize::ALL.map(|page| Self { policy, build: build(page) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_as_it_prints() {
        for text in ["by-line", "none", "by-line+16k", "none@7.3", "upton@6.1+64k+preempt-full", "shan+preempt-rt"] {
            let kernel: PolicyKernel = text.parse().expect(text);
            assert_eq!(kernel.to_string(), text);
        }
        assert_eq!("upton+4k".parse::<PolicyKernel>().expect("4k may be given").to_string(), "upton");
        for text in [
            "",
            "byline",
            "upton+",
            "upton+32k",
            "+16k",
            "UPTON",
            "upton@",
            "upton@7",
            "upton+preempt-",
            "upton+16k@7.3",
        ] {
            assert_eq!(text.parse::<PolicyKernel>(), Err(UnknownPolicy(text.into())), "{text}");
        }
    }
}
