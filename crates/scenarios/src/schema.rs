//! The JSON schema of `result.json`, with the findings of every scenario.

use record::result::RunResult;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use crate::list::LIST;

/// Returns the schema of `result.json`.
///
/// The crate `record` stores findings as an object whose contents it does not know. Their place in the schema is
/// replaced by a choice among the findings of all scenarios.
pub fn result() -> Schema {
    let mut generator = SchemaGenerator::default();
    let known: Vec<Schema> = LIST.iter().flat_map(|scenario| scenario.schemas(&mut generator)).collect();
    let mut schema = generator.into_root_schema_for::<RunResult>();
    let findings = record::findings::StoredFindings::schema_name();
    let any: Vec<Value> =
        known.into_iter().map(Schema::to_value).chain([json_schema!({ "type": "null" }).to_value()]).collect();
    if let Some(definitions) = schema.get_mut("$defs").and_then(Value::as_object_mut) {
        let description = definitions.get(&*findings).and_then(|stored| stored.get("description")).cloned();
        let mut choice = serde_json::Map::new();
        choice.extend(description.map(|text| ("description".to_owned(), text)));
        choice.insert("anyOf".into(), any.into());
        definitions.insert(findings.into_owned(), choice.into());
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../results/schema/result-v1.json");

    /// Writes the file first if `FAULTLINE_WRITE_SCHEMA` is set.
    #[test]
    fn schema_is_the_committed_one() {
        let schema = serde_json::to_string_pretty(&result()).expect("a schema is JSON") + "\n";
        if std::env::var_os("FAULTLINE_WRITE_SCHEMA").is_some() {
            std::fs::write(SCHEMA, &schema).expect("the repository can be written to");
        }
        let committed = std::fs::read_to_string(SCHEMA).expect("the schema is committed");
        assert!(
            committed == schema,
            "results/schema is stale: FAULTLINE_WRITE_SCHEMA=1 cargo test -p faultline-scenarios"
        );
    }

    /// The generator numbers types of one name, and a new type would then change the numbers of the others.
    #[test]
    fn no_two_types_of_the_schema_have_one_name() {
        let schema = result();
        let names = schema.get("$defs").and_then(|all| all.as_object()).expect("definitions").keys();
        let numbered: Vec<_> = names.filter(|name| name.ends_with(|last: char| last.is_ascii_digit())).collect();
        assert!(numbered.is_empty(), "{numbered:?}");
    }
}
