//! The part of a stored result that only `relax` has.

use record::findings::Finding;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::relax::program::Sharing;

/// Findings of `relax` in one case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Findings {
    /// Assignment of blocks to vCPUs.
    pub sharing: Sharing,
}

impl Finding for Findings {
    const SCENARIO: &'static str = "relax";
}
