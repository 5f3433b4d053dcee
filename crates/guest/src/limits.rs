//! Limits of KVM on a machine.

use serde::Serialize;

/// KVM's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// The largest IPA, in bits.
    pub ipa_bits: u32,
    /// The most vCPUs that KVM and this tool give a guest.
    pub max_vcpus: usize,
    /// FEAT_S2FWB, where KVM tells.
    pub fwb: Option<bool>,
}
