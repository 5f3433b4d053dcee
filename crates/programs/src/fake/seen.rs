//! Events of a fake machine, for an observer that judges maintenance.

/// Event of a fake machine. `pe` is the number of a CPU, `line` the index of a line with a slot, and `page` that of its
/// page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The guest stored.
    Store {
        /// CPU.
        pe: usize,
        /// Line.
        line: usize,
    },
    /// The host stored.
    HostStore {
        /// Line.
        line: usize,
    },
    /// A clean of the D side.
    Clean {
        /// CPU.
        pe: usize,
        /// Line.
        line: usize,
        /// To the point of coherency.
        poc: bool,
        /// By the host.
        host: bool,
    },
    /// An invalidation of the I side.
    Invalidate {
        /// CPU.
        pe: usize,
        /// Line.
        line: usize,
        /// By the host.
        host: bool,
    },
    /// The guest invalidated the I-caches of all CPUs.
    InvalidateAll {
        /// CPU.
        pe: usize,
    },
    /// A barrier.
    Dsb {
        /// CPU.
        pe: usize,
    },
    /// The host mapped a page.
    Map {
        /// CPU.
        pe: usize,
        /// Page.
        page: usize,
        /// With execute permission.
        execute: bool,
    },
    /// The host removed the mapping of a page.
    Unmap {
        /// Page.
        page: usize,
    },
    /// The host removed the mapping of a page, and copied the page to another frame.
    Copy {
        /// Page.
        page: usize,
    },
    /// The guest fetched.
    Fetch {
        /// CPU.
        pe: usize,
        /// Op of the program.
        op: usize,
        /// Line.
        line: usize,
    },
    /// The guest loaded.
    Load {
        /// CPU.
        pe: usize,
        /// Op of the program.
        op: usize,
        /// Line.
        line: usize,
        /// True if the load may hit in a cache.
        cached: bool,
    },
}
