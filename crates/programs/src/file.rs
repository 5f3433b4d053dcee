//! Program files: programs as TOML, for example to run a program again that failed once.
//!
//! ```toml
//! failed = "description of the failure"
//! seed = "7"            # the seed that the program came from
//! backing = "thp"       # the kind of memory on which it failed
//! eager_split = true    # split blocks when dirty logging starts, and not at the next write fault; false if absent
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

use crate::legal::{self, Illegal, Limits};
use crate::program::{Program, ProgramOp};

/// Reason why a file is not a program file. Each message begins with the name of the file and, if known, the line.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The file is not TOML, or has other tables or keys.
    #[error("{0}: not a program: {1}")]
    Toml(String, String),
    /// An op cannot be read.
    #[error("{0}:{1}: this [[op]] cannot be read: {2}; docs/oracle.md lists the keys of an op")]
    Op(String, usize, String),
    /// An op has a key that does not belong to its action.
    #[error("{0}:{1}: this [[op]] has no use for {2}: take it out")]
    Key(String, usize, String),
    /// The seed is not a number.
    #[error("{0}: seed = \"{1}\" is not a number: write it as in --seed, or leave it out")]
    Seed(String, String),
    /// The program has no op.
    #[error("{0}: nothing to run: give it at least one [[op]]")]
    Empty(String),
    /// The program cannot be judged.
    #[error("{0}:{1}: cannot be judged: {2}")]
    Illegal(String, usize, Illegal),
}

/// Program in a file, with its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramFile {
    /// Description of the failure.
    pub failed: String,
    /// Seed that the program came from.
    pub seed: Option<u64>,
    /// Kind of memory on which it failed, as the command line names it.
    pub backing: Option<String>,
    /// True if KVM is to split blocks when dirty logging starts.
    pub eager_split: bool,
    /// The program.
    pub program: Program,
}

/// Form of a file that is written.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    failed: &'a str,
    /// Seed as text, because integers in TOML are signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backing: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    eager_split: bool,
    #[serde(flatten)]
    program: &'a Program,
}

/// Form of a file that is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    #[serde(default)]
    failed: String,
    seed: Option<String>,
    backing: Option<String>,
    #[serde(default)]
    eager_split: bool,
    vcpus: usize,
    #[serde(default)]
    op: Vec<Spanned<toml::Table>>,
}

/// Returns whether the text is meant to be a program file: it has ops and no steps. Plans have steps.
pub fn is_program(text: &str) -> bool {
    toml::from_str::<toml::Table>(text).is_ok_and(|table| table.contains_key("op") && !table.contains_key("step"))
}

impl ProgramFile {
    /// Returns the text of the file.
    ///
    /// # Panics
    ///
    /// Never, because the numbers in a legal program are smaller than the size of a region.
    pub fn to_toml(&self) -> String {
        let Self { failed, seed, backing, eager_split, program } = self;
        let seed = seed.map(|seed| seed.to_string());
        let written = Written { failed, seed, backing: backing.as_deref(), eager_split: *eager_split, program };
        toml::to_string(&written).expect("strings and numbers below 2^63 are TOML")
    }

    /// Reads the text of the file `source`.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn parse(source: &str, text: &str, limits: Limits) -> Result<Self, Error> {
        let name = || source.to_owned();
        let read: Read =
            toml::from_str(text).map_err(|error| Error::Toml(name(), error.to_string().trim_end().into()))?;
        if read.op.is_empty() {
            return Err(Error::Empty(name()));
        }
        let seed = read.seed.map(|seed| seed.parse().map_err(|_| Error::Seed(name(), seed))).transpose()?;
        let lines: Vec<_> = read.op.iter().map(|op| line_of(text, op.span().start)).collect();
        let ops = read.op.into_iter().zip(&lines).map(|(op, line)| parse_op(source, *line, op.into_inner()));
        let program = Program { vcpus: read.vcpus, ops: ops.collect::<Result<_, _>>()? };
        let line = |illegal: &Illegal| illegal.op().and_then(|op| lines.get(op)).copied().unwrap_or(1);
        legal::check(&program, limits).map_err(|illegal| Error::Illegal(name(), line(&illegal), illegal))?;
        let Read { failed, backing, eager_split, .. } = read;
        Ok(Self { failed, seed, backing, eager_split, program })
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.get(..offset).map_or(0, |before| before.matches('\n').count()) + 1
}

/// Reads one op. Refuses each key that writing the op again would lose.
fn parse_op(source: &str, line: usize, table: toml::Table) -> Result<ProgramOp, Error> {
    let error = |error: &dyn std::fmt::Display| Error::Op(source.into(), line, error.to_string().trim_end().into());
    let op: ProgramOp = table.clone().try_into().map_err(|e: toml::de::Error| error(&e))?;
    let known = toml::Table::try_from(op).map_err(|e| error(&e))?;
    match table.keys().find(|key| !known.contains_key(*key)) {
        Some(key) => Err(Error::Key(source.into(), line, key.clone())),
        None => Ok(op),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Space, random_program};
    use guest::event::Event;

    const LIMITS: Limits = Limits { region_bytes: 1 << 20, line_bytes: 64 };

    #[test]
    fn programs_round_trip() {
        let space = Space { limits: LIMITS, vcpus: 4, ops: 20, events: &Event::ALL };
        for seed in 0..500 {
            let program = random_program(seed, &space);
            let backing = (seed % 2 == 0).then(|| "thp".to_owned());
            let file = ProgramFile {
                failed: "line 3\n\"old\"".into(),
                seed: Some(u64::MAX - seed),
                backing,
                eager_split: seed == 0,
                program,
            };
            let text = file.to_toml();
            assert_eq!(ProgramFile::parse("f.toml", &text, LIMITS).as_ref(), Ok(&file), "{text}");
            assert!(is_program(&text));
        }
    }

    #[test]
    fn errors_name_the_place_and_the_remedy() {
        let error = |text: &str| ProgramFile::parse("f.toml", text, LIMITS).expect_err("no program").to_string();
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
