//! The file format of plans. This module reads text, and no files.
//!
//! ```toml
//! about = "Check a board"          # the purpose, in one line
//! [[step]]
//! run = "relax --blocks page,thp"   # the words after `faultline run`
//! name = "relax-small"              # its name in reports; required if the scenario occurs twice
//! ```

use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

/// Built-in plans: name and text.
pub(crate) const BUILT_IN: [(&str, &str); 5] = [
    ("quick", include_str!("../../../plans/quick.toml")),
    ("the-report", include_str!("../../../plans/the-report.toml")),
    ("storms", include_str!("../../../plans/storms.toml")),
    ("nightly", include_str!("../../../plans/nightly.toml")),
    ("litmus-all", include_str!("../../../plans/litmus.toml")),
];

/// Maximum number of steps, so that a nightly plan ends in time.
const MAX_STEPS: usize = 100;

/// Error of a plan file. Its message begins with the name of the file, and the line if there is one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The file is not TOML, or has other tables or keys.
    #[error("{0}: not a plan: {1}")]
    Toml(String, String),
    /// The plan has no step.
    #[error("{0}: nothing to run: give it at least one [[step]] with run = \"relax\" or another scenario")]
    Empty(String),
    /// The plan has too many steps.
    #[error("{0}: {1} steps, a plan has at most {MAX_STEPS}: make two plans of it")]
    Long(String, usize),
    /// A step names no scenario.
    #[error("{0}:{1}: run is empty: write what you would type after `faultline run`, for example run = \"relax\"")]
    NoScenario(String, usize),
    /// The name of a step has characters that not all formats accept.
    #[error("{0}:{1}: '{2}' is no name: use lower-case letters, digits and '-'")]
    Name(String, usize, String),
    /// Two steps have the same name.
    #[error("{0}:{1}: a second step is called {2}: give it another, such as name = \"{2}-2\"")]
    Twice(String, usize, String),
}

/// A plan: several runs under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Name of the built-in plan, or of the file without `.toml`.
    pub name: String,
    /// Name of the built-in plan, or path of the file, for messages.
    pub source: String,
    /// Purpose of the plan, in one line.
    pub about: String,
    /// Steps in the order of their runs. Never empty.
    pub steps: Vec<Step>,
}

/// A step of a plan: one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Name in reports: that of the scenario, unless the plan gives another.
    pub name: String,
    /// Words after `faultline run`, the name of the scenario first.
    pub words: Vec<String>,
    /// Line of the file on which the step's `run` stands.
    pub line: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlPlan {
    #[serde(default)]
    about: String,
    #[serde(default)]
    step: Vec<TomlStep>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlStep {
    run: Spanned<String>,
    name: Option<Spanned<String>>,
}

/// Returns true if a file is meant to be a plan, as it has steps. `faultline run` accepts other kinds of file, too.
pub fn is_plan_file(text: &str) -> bool {
    toml::from_str::<toml::Table>(text).is_ok_and(|table| table.contains_key("step"))
}

/// Returns the text of the built-in plan with this name.
pub(crate) fn built_in(name: &str) -> Option<&'static str> {
    BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// Parses the text of a plan. `source` is its path or the name of a built-in plan.
///
/// # Errors
///
/// See [`Error`].
pub fn parse(source: &str, text: &str) -> Result<Plan, Error> {
    let at = || source.to_owned();
    let file: TomlPlan =
        toml::from_str(text).map_err(|error| Error::Toml(at(), error.to_string().trim_end().into()))?;
    match file.step.len() {
        0 => return Err(Error::Empty(at())),
        many if many > MAX_STEPS => return Err(Error::Long(at(), many)),
        _ => {}
    }
    let mut steps: Vec<Step> = Vec::new();
    for entry in &file.step {
        let line_of = |offset: usize| text.get(..offset).map_or(0, |before| before.matches('\n').count()) + 1;
        let line = line_of(entry.run.span().start);
        let words: Vec<_> = entry.run.get_ref().split_whitespace().map(str::to_owned).collect();
        let Some(scenario) = words.first() else { return Err(Error::NoScenario(at(), line)) };
        let name = entry.name.as_ref().map_or(scenario, Spanned::get_ref).clone();
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || !name.chars().all(plain) {
            return Err(Error::Name(at(), line, name));
        }
        if steps.iter().any(|step| step.name == name) {
            return Err(Error::Twice(at(), line, name));
        }
        steps.push(Step { name, words, line });
    }
    let stem = Path::new(source).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Plan { name: stem, source: at(), about: file.about, steps })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_plans_are_plans() {
        for (name, text) in BUILT_IN {
            let plan = parse(name, text).unwrap_or_else(|error| panic!("{error}"));
            assert!(is_plan_file(text) && plan.name == name && !plan.about.is_empty(), "{name}");
        }
    }

    #[test]
    fn steps_and_their_names() {
        let text = "[[step]]\nrun = \"relax --rounds 3\"\n\n[[step]]\nname = \"again\"\nrun = \"relax\"\n";
        let plan = parse("dir/my.toml", text).expect("a plan");
        assert_eq!((plan.name.as_str(), plan.steps.len()), ("my", 2));
        assert_eq!((&*plan.steps[0].words[0], &*plan.steps[0].name), ("relax", "relax"));
        assert_eq!((&*plan.steps[1].name, plan.steps[1].line), ("again", 6));
    }

    #[test]
    fn errors_say_where_and_what_to_do() {
        let error = |text: &str| parse("p.toml", text).expect_err("no plan").to_string();
        assert!(error("about = \"x\"\n").contains("[[step]]"));
        assert!(error("[[step]]\nrun = \" \"\n").starts_with("p.toml:2: run is empty"));
        let twice = error("[[step]]\nrun = \"boot\"\n[[step]]\nrun = \"boot\"\n");
        assert!(twice.starts_with("p.toml:4:") && twice.contains("name = \"boot-2\""), "{twice}");
        let unknown = error("[[step]]\nrun = \"boot\"\nrounds = 3\n");
        assert!(unknown.contains("line 3") && unknown.contains("`run`"), "{unknown}");
        assert!(error("[[step]]\nrun = \"boot\"\nname = \"a b\"\n").contains("'a b'"));
        assert!(!is_plan_file("[program]\n") && !is_plan_file("step = "));
        assert!(matches!(parse("p", &"[[step]]\nrun = \"boot\"\n".repeat(101)), Err(Error::Long(_, 101))));
    }
}
