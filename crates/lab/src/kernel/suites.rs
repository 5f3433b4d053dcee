//! The suites of Debian that have kernels.

use crate::apt::{Archive, Installed, Scope};

/// All of them.
pub const SCOPE: Scope = Scope {
    suites: &[
        ("bullseye", Archive::Main),
        ("bullseye-updates", Archive::Main),
        ("bullseye-security", Archive::Security),
        ("bookworm", Archive::Main),
        ("bookworm-updates", Archive::Main),
        ("bookworm-security", Archive::Security),
        ("bookworm-backports", Archive::Main),
        ("trixie", Archive::Main),
        ("trixie-updates", Archive::Main),
        ("trixie-security", Archive::Security),
        ("trixie-backports", Archive::Main),
        ("forky", Archive::Main),
        ("sid", Archive::Main),
        ("experimental", Archive::Main),
    ],
    architecture: Some("arm64"),
    installed: Installed::Nothing,
};

/// Ends of the names of suites that correct another suite.
const CORRECTIONS: [&str; 2] = ["-updates", "-security"];

/// Returns the suite with this name that a kernel may be asked of.
pub fn named(name: &str) -> Option<&'static str> {
    selectable().find(|suite| *suite == name)
}

/// Returns the suites that a kernel may be asked of.
pub fn selectable() -> impl Iterator<Item = &'static str> {
    let is_correction = |suite: &str| CORRECTIONS.iter().any(|end| suite.ends_with(end));
    SCOPE.suites.iter().map(|(suite, _)| *suite).filter(move |suite| !is_correction(suite))
}

/// Returns whether `suite` is `name`, or corrects it.
pub fn belongs(suite: &str, name: &str) -> bool {
    suite.strip_prefix(name).is_some_and(|rest| rest.is_empty() || CORRECTIONS.contains(&rest))
}
