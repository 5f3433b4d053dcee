//! The series of Debian kernels that the lab follows.

/// A series of Debian kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Series {
    /// 6.1, before the fix.
    V6_1,
    /// 6.12, after the fix.
    V6_12,
    /// 6.12 with 16 KiB pages.
    V6_12Pages16K,
}

/// The two constant ends of the package names of a series.
pub struct PackageName {
    /// Everything before the release within the series.
    pub prefix: &'static str,
    /// Everything after it.
    pub suffix: &'static str,
}

impl Series {
    /// Returns the series that is called `name` in `debian:NAME`.
    pub fn named(name: &str) -> Option<Self> {
        [Self::V6_1, Self::V6_12, Self::V6_12Pages16K].into_iter().find(|series| series.name() == name)
    }

    /// Returns the name in `debian:NAME`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::V6_12Pages16K => "6.12-16k",
        }
    }

    /// Returns the constant parts of the package names.
    pub fn package_name(self) -> PackageName {
        let (prefix, suffix) = match self {
            Self::V6_1 => ("linux-image-6.1.0-", "-arm64-unsigned"),
            Self::V6_12 => ("linux-image-6.12.", "-arm64-unsigned"),
            Self::V6_12Pages16K => ("linux-image-6.12.", "-arm64-16k-unsigned"),
        };
        PackageName { prefix, suffix }
    }

    /// Returns whether `package` is a kernel of this series. Other flavours (`cloud`, `rt`) are not.
    pub fn contains(self, package: &str) -> bool {
        let PackageName { prefix, suffix } = self.package_name();
        package
            .strip_prefix(prefix)
            .and_then(|rest| rest.strip_suffix(suffix))
            .is_some_and(|release| !release.is_empty() && !release.contains('-'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_flavours_belong_to_a_series() {
        assert!(Series::V6_1.contains("linux-image-6.1.0-56-arm64-unsigned"));
        assert!(Series::V6_12.contains("linux-image-6.12.117+deb12-arm64-unsigned"));
        assert!(Series::V6_12Pages16K.contains("linux-image-6.12.117+deb12-arm64-16k-unsigned"));
        for other in [
            "linux-image-6.1.0-56-rt-arm64-unsigned",
            "linux-image-6.1.0-56-arm64",
            "linux-image-6.1.0--arm64-unsigned",
        ] {
            assert!(!Series::V6_1.contains(other), "{other}");
        }
        assert!(!Series::V6_12.contains("linux-image-6.12.117+deb12-arm64-16k-unsigned"));
        assert!(!Series::V6_12.contains("linux-image-6.12.117+deb12-cloud-arm64-unsigned"));
    }
}
