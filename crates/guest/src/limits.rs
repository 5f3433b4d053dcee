//! The limits that KVM sets for guests on one machine.

use serde::Serialize;

/// KVM's limits for guests on one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Size of the largest IPA space in bits.
    pub ipa_bits: u32,
    /// Maximum number of vCPUs: the smaller of KVM's limit and the channel's.
    pub max_vcpus: usize,
    /// Presence of FEAT_S2FWB; `None` if KVM does not give the ID register.
    pub fwb: Option<bool>,
}
