//! Findings that only their scenario understands: stored as they are, typed where the scenario reads them.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A scenario's own part of a stored case, or of a stored run.
pub trait Finding: Serialize + DeserializeOwned + JsonSchema {
    /// Name of the scenario, which tags the stored form.
    const SCENARIO: &'static str;
}

/// Findings in their stored form: an object tagged by the name of its scenario, or nothing.
///
/// Whoever does not know the scenario can store, copy and compare them, and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Findings(Option<Tagged>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Tagged {
    /// Name of the scenario whose findings these are.
    scenario: String,
    #[serde(flatten)]
    own: Map<String, Value>,
}

impl Findings {
    /// Returns the stored form of `finding`, whose type has to be a struct.
    pub fn of<F: Finding>(finding: &F) -> Self {
        match serde_json::to_value(finding) {
            Ok(Value::Object(own)) => Self(Some(Tagged { scenario: F::SCENARIO.into(), own })),
            other => unreachable!("findings are structs of plain data: {other:?}"),
        }
    }

    /// Returns the findings, if they are of this scenario and readable.
    pub fn get<F: Finding>(&self) -> Option<F> {
        let tagged = self.0.as_ref().filter(|tagged| tagged.scenario == F::SCENARIO)?;
        serde_json::from_value(Value::Object(tagged.own.clone())).ok()
    }

    /// Returns the name of the scenario that these findings are of.
    pub fn scenario(&self) -> Option<&str> {
        self.0.as_ref().map(|tagged| tagged.scenario.as_str())
    }

    /// Returns whether there are none.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    struct Own {
        value: u64,
    }

    impl Finding for Own {
        const SCENARIO: &'static str = "own";
    }

    #[derive(Debug, Serialize, Deserialize, JsonSchema)]
    struct Other {
        value: u64,
    }

    impl Finding for Other {
        const SCENARIO: &'static str = "other";
    }

    #[test]
    fn only_their_scenario_reads_them() {
        let stored = serde_json::to_string(&Findings::of(&Own { value: 7 })).expect("plain data");
        assert_eq!(stored, r#"{"scenario":"own","value":7}"#);
        let read: Findings = serde_json::from_str(&stored).expect("the same data");
        assert_eq!(read.get::<Own>(), Some(Own { value: 7 }));
        assert!(read.get::<Other>().is_none());
        let none: Findings = serde_json::from_str("null").expect("nothing");
        assert!(none.is_none() && none.get::<Own>().is_none());
    }
}
