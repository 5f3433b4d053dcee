//! The trace of guest faults and of the kernel's cache maintenance, with sizes and times.
//!
//! [`Trace`] owns a tracefs instance. It never uses the global instance, which another user of the machine may need.
//! The names of the instance and of its probe group contain the pid of the process (`faultline_<pid>`). A drop removes
//! both, and the next [`Trace::open`] removes those of dead runs.

mod instance;
mod parse;
mod probe;
mod stale;
mod survey;
mod tracefs;

pub use instance::{AbsentPart, Trace};
pub use parse::{GuestFault, Maintenance, Step, TraceLog};
pub use stale::clean_up;
pub use survey::{Survey, survey};
pub use tracefs::Absent;
