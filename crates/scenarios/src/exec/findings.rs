//! The part of a stored result that only `exec` has.

use record::findings::Finding;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Findings of `exec` in its case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Findings {
    /// The program and its arguments.
    pub program: Vec<String>,
    /// Exit code; absent if the program did not start, or a signal killed it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exit_code: Option<i32>,
}

impl Finding for Findings {
    const SCENARIO: &'static str = "exec";
}
