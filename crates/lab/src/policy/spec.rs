//! The user's name for a policy kernel: a policy and a page size.

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

    /// Returns the patch that gives a tree of v6.7 or later this policy, or an empty text if no change is needed.
    pub fn patch(self) -> &'static str {
        match self {
            Self::ByLine => include_str!("../../../../lab/policies/by-line.patch"),
            Self::Upton => "",
            Self::Shan => include_str!("../../../../lab/policies/shan.patch"),
            Self::None => include_str!("../../../../lab/policies/none.patch"),
            Self::Faults => include_str!("../../../../lab/faults/faults.patch"),
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

    /// Splits `NAME` or `NAME+SIZE`. Returns none for an unknown size.
    pub fn split(text: &str) -> Option<(&str, Self)> {
        let (name, page) = text.split_once('+').unwrap_or((text, Self::Size4K.name()));
        Some((name, Self::ALL.into_iter().find(|size| size.name() == page)?))
    }

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

/// A policy and a page size: `by-line`, `none+16k`, `upton+64k`, …
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyKernel {
    /// The policy.
    pub policy: Policy,
    /// The page size. A name without one means 4 KiB.
    pub page: PageSize,
}

/// A text that names no policy kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no policy kernel is called `{0}`: take by-line, upton, shan or none, with +16k or +64k for other page sizes")]
pub struct UnknownPolicy(String);

impl FromStr for PolicyKernel {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        let unknown = || UnknownPolicy(text.to_owned());
        let (name, page) = PageSize::split(text).ok_or_else(unknown)?;
        let policy = Policy::ALL.into_iter().find(|policy| policy.name() == name).ok_or_else(unknown)?;
        Ok(Self { policy, page })
    }
}

impl fmt::Display for PolicyKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.policy.name())?;
        match self.page {
            PageSize::Size4K => Ok(()),
            page => write!(f, "+{}", page.name()),
        }
    }
}

#[cfg(test)]
impl PolicyKernel {
    /// Returns all policy kernels.
    pub fn all() -> impl Iterator<Item = Self> {
        Policy::ALL.into_iter().flat_map(|policy| PageSize::ALL.map(|page| Self { policy, page }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_as_it_prints() {
        for text in ["by-line", "upton", "shan", "none", "by-line+16k", "none+64k"] {
            let kernel: PolicyKernel = text.parse().expect(text);
            assert_eq!(kernel.to_string(), text);
        }
        assert_eq!("upton+4k".parse::<PolicyKernel>().expect("4k may be given").to_string(), "upton");
        for text in ["", "byline", "upton+", "upton+32k", "+16k", "UPTON"] {
            assert_eq!(text.parse::<PolicyKernel>(), Err(UnknownPolicy(text.into())), "{text}");
        }
    }
}
