//! Findings of a scenario. They are stored as plain data, and only the scenario itself reads them as its own type.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The own part of a scenario in a stored case, or in a stored run.
pub trait Finding: Serialize + DeserializeOwned + JsonSchema {
    /// Name of the scenario. It tags the stored form.
    const SCENARIO: &'static str;
}

/// Findings in their stored form: an object that is tagged with the name of its scenario, or nothing.
///
/// Code that does not know the scenario can only store, copy and compare them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct StoredFindings(Option<Tagged>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Tagged {
    /// Name of the scenario that the findings belong to.
    scenario: String,
    #[serde(flatten)]
    own: Map<String, Value>,
}

impl StoredFindings {
    /// Returns the stored form of `finding`.
    ///
    /// # Panics
    ///
    /// Panics if the type of `finding` is not a struct of plain data, or has a field `scenario`: the tag has that name.
    pub fn of<F: Finding>(finding: &F) -> Self {
        match serde_json::to_value(finding) {
            Ok(Value::Object(own)) if !own.contains_key("scenario") => {
                Self(Some(Tagged { scenario: F::SCENARIO.into(), own }))
            }
            other => unreachable!("findings are structs of plain data without a field `scenario`: {other:?}"),
        }
    }

    /// Returns the findings as the type `F`. Returns `None` if they belong to another scenario, or if their fields are
    /// not those of `F`.
    pub fn get<F: Finding>(&self) -> Option<F> {
        let tagged = self.0.as_ref().filter(|tagged| tagged.scenario == F::SCENARIO)?;
        serde_json::from_value(Value::Object(tagged.own.clone())).ok()
    }

    /// Returns the name of the scenario that the findings belong to.
    pub fn scenario(&self) -> Option<&str> {
        self.0.as_ref().map(|tagged| tagged.scenario.as_str())
    }

    /// Returns whether there are no findings.
    pub fn is_empty(&self) -> bool {
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
    fn only_its_scenario_reads_a_finding() {
        let stored = serde_json::to_string(&StoredFindings::of(&Own { value: 7 })).expect("plain data");
        assert_eq!(stored, r#"{"scenario":"own","value":7}"#);
        let read: StoredFindings = serde_json::from_str(&stored).expect("the same data");
        assert_eq!(read.get::<Own>(), Some(Own { value: 7 }));
        assert!(read.get::<Other>().is_none());
        let none: StoredFindings = serde_json::from_str("null").expect("nothing");
        assert!(none.is_empty() && none.get::<Own>().is_none());
    }
}
