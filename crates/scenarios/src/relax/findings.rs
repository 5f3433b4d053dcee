//! Findings of `relax`.

use record::findings::Finding;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::relax::program::Sharing;

/// A case of `relax`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Findings {
    /// Who executed what.
    pub sharing: Sharing,
}

impl Finding for Findings {
    const SCENARIO: &'static str = "relax";
}
