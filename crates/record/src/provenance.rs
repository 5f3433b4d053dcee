//! The files and commands of a run, so that its result can be tied to what ran, and be repeated.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The files and commands of a run. Digests are SHA-256, in hexadecimal. A field is absent if it is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Provenance {
    /// Digest of the kernel's image.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kernel_sha256: Option<String>,
    /// Digest of the kernel's configuration, uncompressed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub config_sha256: Option<String>,
    /// Digest of the guest's image.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub payload_sha256: Option<String>,
    /// Digest of the program that ran the guest.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub runner_sha256: Option<String>,
    /// The lab around the run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lab: Option<LabCommands>,
}

/// The commands of a run in the lab.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LabCommands {
    /// The arguments of `faultline` as they were typed.
    pub typed: Vec<String>,
    /// The arguments of `faultline` that repeat this run alone, with every default written out.
    pub repeat: Vec<String>,
    /// The command line of QEMU, as a shell reads it.
    pub qemu: String,
}

impl Provenance {
    /// Returns whether nothing is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns this provenance, completed by `other` where it does not tell.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            kernel_sha256: self.kernel_sha256.or(other.kernel_sha256),
            config_sha256: self.config_sha256.or(other.config_sha256),
            payload_sha256: self.payload_sha256.or(other.payload_sha256),
            runner_sha256: self.runner_sha256.or(other.runner_sha256),
            lab: self.lab.or(other.lab),
        }
    }
}
