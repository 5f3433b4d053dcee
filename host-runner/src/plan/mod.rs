//! Scenarios as programs for the guest, and the events they ask of the host. Pure: nothing here touches a machine.

pub mod blocks;
pub mod chaos;
pub mod relax;

/// Host events, argument 0 of [`abi::OpCode::Event`].
pub mod event {
    /// A new round begins: the regions lose their stage-2 mappings, but not before the first round.
    pub const ROUND: u64 = 1;
}
