//! Reports as one HTML file each, and their pictures as SVG files.
//!
//! A page has no scripts, loads nothing from elsewhere, and is readable without colours and pictures.

mod chart;
mod charts;
mod fleet;
pub(crate) mod page;
mod run_report;
mod source;
mod svg;

pub use fleet::{FleetRun, fleet};
pub use run_report::{pictures, report};
pub use source::{Source, number_namesakes};
