//! Program files: a program as TOML, to run again what once failed. Pure.
//!
//! ```toml
//! failed = "what failed, for people"
//! seed = "7"            # what it was made from, if it was
//! backing = "thp"       # the memory it failed on
//! vcpus = 2
//! [[op]]
//! vcpu = 1
//! do = "write"
//! start = 0
//! stride = 64
//! count = 1
//! generation = 1
//! [[op]]
//! do = "meet"
//! ```

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::legal::{Illegal, Limits, legal};
use crate::program::{Program, Step};

/// Why a file is no program. Each message begins with the file, and the line where there is one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Not TOML, or not these tables and keys.
    #[error("{0}: not a program: {1}")]
    Toml(String, String),
    /// An op that does not read.
    #[error("{0}:{1}: this [[op]] does not read: {2}; see docs/oracle.md for what an op says")]
    Op(String, usize, String),
    /// A key that would be ignored.
    #[error("{0}:{1}: this [[op]] has no use for {2}: take it out")]
    Key(String, usize, String),
    /// A seed that is none.
    #[error("{0}: seed = \"{1}\" is no number: write it as in --seed, or leave it out")]
    Seed(String, String),
    /// Nothing to run.
    #[error("{0}: nothing to run: give it at least one [[op]]")]
    Empty(String),
    /// A program that cannot be judged.
    #[error("{0}:{1}: cannot be judged: {2}")]
    Illegal(String, usize, Illegal),
}

/// A program, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// What failed, in words.
    pub failed: String,
    /// What the program was made from.
    pub seed: Option<u64>,
    /// The memory that it failed on, by the name that `--backing` takes.
    pub backing: Option<String>,
    /// The program.
    pub program: Program,
}

#[derive(Serialize)]
struct Written<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    failed: &'a str,
    /// As text: TOML's integers have a sign.
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backing: Option<&'a str>,
    #[serde(flatten)]
    program: &'a Program,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    #[serde(default)]
    failed: String,
    seed: Option<String>,
    backing: Option<String>,
    vcpus: usize,
    #[serde(default)]
    op: Vec<Spanned<toml::Table>>,
}

/// Says whether a file is meant to be a program: whether it has ops. Plans have steps.
pub fn is_program(text: &str) -> bool {
    toml::from_str::<toml::Table>(text).is_ok_and(|table| table.contains_key("op") && !table.contains_key("step"))
}

impl Replay {
    /// Returns the file.
    ///
    /// # Panics
    ///
    /// Never: numbers in a legal program are below a region's size.
    pub fn to_toml(&self) -> String {
        let Self { failed, seed, backing, program } = self;
        let seed = seed.map(|seed| seed.to_string());
        let written = Written { failed, seed, backing: backing.as_deref(), program };
        toml::to_string(&written).expect("strings and numbers below 2^63 are TOML")
    }

    /// Reads the file at `source`.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn parse(source: &str, text: &str, limits: Limits) -> Result<Self, Error> {
        let at = || source.to_owned();
        let read: Read =
            toml::from_str(text).map_err(|error| Error::Toml(at(), error.to_string().trim_end().into()))?;
        if read.op.is_empty() {
            return Err(Error::Empty(at()));
        }
        let seed = read.seed.map(|seed| seed.parse().map_err(|_| Error::Seed(at(), seed))).transpose()?;
        let lines: Vec<_> = read.op.iter().map(|op| line_of(text, op.span().start)).collect();
        let steps = read.op.into_iter().zip(&lines).map(|(op, line)| step(source, *line, op.into_inner()));
        let program = Program { vcpus: read.vcpus, steps: steps.collect::<Result<_, _>>()? };
        let line = |illegal: &Illegal| illegal.step().and_then(|step| lines.get(step)).copied().unwrap_or(1);
        legal(&program, limits).map_err(|illegal| Error::Illegal(at(), line(&illegal), illegal))?;
        Ok(Self { failed: read.failed, seed, backing: read.backing, program })
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.get(..offset).map_or(0, |before| before.matches('\n').count()) + 1
}

/// Reads one op, and refuses keys that do not come out again.
fn step(source: &str, line: usize, op: toml::Table) -> Result<Step, Error> {
    let error = |error: &dyn std::fmt::Display| Error::Op(source.into(), line, error.to_string().trim_end().into());
    let step: Step = op.clone().try_into().map_err(|e: toml::de::Error| error(&e))?;
    let known = toml::Table::try_from(step).map_err(|e| error(&e))?;
    match op.keys().find(|key| !known.contains_key(*key)) {
        Some(key) => Err(Error::Key(source.into(), line, key.clone())),
        None => Ok(step),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{self, Space};
    use guest::event::Event;

    const LIMITS: Limits = Limits { region_bytes: 1 << 20, line_bytes: 64 };

    #[test]
    fn programs_round_trip() {
        let space = Space { limits: LIMITS, vcpus: 4, steps: 20, events: &Event::ALL };
        for seed in 0..500 {
            let program = generate::program(seed, &space);
            let backing = (seed % 2 == 0).then(|| "thp".to_owned());
            let replay = Replay { failed: "line 3\n\"old\"".into(), seed: Some(u64::MAX - seed), backing, program };
            let text = replay.to_toml();
            assert_eq!(Replay::parse("f.toml", &text, LIMITS).as_ref(), Ok(&replay), "{text}");
            assert!(is_program(&text));
        }
    }

    #[test]
    fn errors_say_where_and_what_to_do() {
        let error = |text: &str| Replay::parse("f.toml", text, LIMITS).expect_err("no program").to_string();
        let fetch = "[[op]]\ndo = \"fetch\"\nstart = 0\nstride = 64\n";
        assert!(error("vcpus = 1\n").contains("[[op]]"));
        assert!(error("vcpus = x\n").contains("line 1"));
        let missing = error(&format!("vcpus = 1\n{fetch}"));
        assert!(missing.starts_with("f.toml:2: ") && missing.contains("count"), "{missing}");
        let unknown = error("vcpus = 1\n\n[[op]]\ndo = \"melt\"\n");
        assert!(unknown.starts_with("f.toml:3: ") && unknown.contains("melt") && unknown.contains("meet"), "{unknown}");
        let extra = error(&format!("vcpus = 1\n{fetch}count = 1\nlook = \"cacheable\"\n"));
        assert!(extra.starts_with("f.toml:2: ") && extra.contains("look"), "{extra}");
        let outside = error(&format!("vcpus = 1\n[[op]]\ndo = \"meet\"\n{fetch}count = 100000000\n"));
        assert!(outside.starts_with("f.toml:4: ") && outside.contains("region"), "{outside}");
        assert!(error("vcpus = 1\nseed = \"x\"\n[[op]]\ndo = \"meet\"\n").contains("seed = \"x\""));
        assert!(!is_program("[[step]]\nrun = \"boot\"\n") && !is_program("[[op"));
    }
}
