//! Defects that can be planted in a fake machine.

/// Defect of a fake machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// DC does nothing.
    NoClean,
    /// DC leaves out every second line.
    CleanEverySecond,
    /// IC IVAU does nothing.
    NoInvalidate,
    /// IC IVAU leaves out every second line.
    InvalidateEverySecond,
    /// IC IALLUIS does nothing.
    NoInvalidateAll,
    /// Broadcast invalidations do not reach the CPU that vCPU 0 starts on.
    ForgottenCpu,
    /// ISB does nothing.
    NoIsb,
    /// The host does not clean the memory that it maps.
    HostNoClean,
    /// The host does not invalidate the memory that it makes executable.
    HostNoInvalidate,
    /// The host leaves out every second line when it invalidates.
    HostInvalidateEverySecond,
    /// Events lose contents.
    ContentsLost,
    /// A vCPU still reaches the frames that an event replaced.
    OldFrames,
    /// CTR_EL0.IDC is set, but stores do not reach the PoU.
    IdcUntrue,
    /// CTR_EL0.DIC is set, but I-caches are not coherent.
    DicUntrue,
}
