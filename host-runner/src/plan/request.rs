//! `faultline run PLAN`: reads the plan and its options, and runs it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Parser;
use record::result::RunId;
use record::summary::Step;
use scenarios::options::Common;

use crate::failure::{CommandResult, Failure};
use crate::invocation::{self, Invocation, unknown_scenario};
use crate::output::note_stored;
use crate::plan::file::{self, Plan};
use crate::plan::runner::{self, FinishedPlan, StepRunner};
use crate::plan::summary;

/// Run several scenarios under one name: quick, the-report, storms, nightly, litmus-all, or a file with [[step]] tables.
///
/// Every step is a run of its own in the plan's directory. The files for test labs in this directory cover all runs. With
/// --baseline, or if the directory of the results has a baseline.json, the exit code is also 1 if anything got worse.
#[derive(Parser)]
#[command(name = "faultline run PLAN", no_binary_name = true, args_override_self = true)]
struct Options {
    #[command(flatten)]
    common: Common,
    /// Compare the runs with this file of `faultline baseline set` [default: baseline.json in the directory of the results,
    /// if there is one]
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
}

/// A plan to be run, with its options.
pub struct PlanRequest {
    /// The plan.
    pub plan: Plan,
    options: Options,
}

impl PlanRequest {
    /// Parses the words after `run`: the name or file of a plan, and options.
    ///
    /// # Errors
    ///
    /// If there is no such plan, or the plan or the options are wrong. `--help` is an error with exit code 0.
    pub fn parse(words: &[OsString]) -> Result<Self, Failure> {
        let (name, rest) = words.split_first().ok_or_else(|| Failure::usage("name a scenario or a plan"))?;
        let name = name.to_string_lossy();
        let text = match file::built_in(&name) {
            Some(text) => text.to_owned(),
            None => read_file(&name)?,
        };
        let plan = file::parse(&name, &text).map_err(Failure::usage)?;
        for step in &plan.steps {
            Invocation::parse(&step.words)
                .map_err(|error| Failure::usage(format!("{}:{}: {}", plan.source, step.line, error.trim_end())))?;
        }
        let options = Options::try_parse_from(rest).map_err(|error| Failure::clap(&error))?;
        Ok(Self { plan, options })
    }

    /// Parses the words after `lab … --`. Returns none if they name no plan.
    ///
    /// # Errors
    ///
    /// As [`PlanRequest::parse`].
    pub fn parse_in_lab(argv: &[OsString]) -> Result<Option<Self>, Failure> {
        let [run, name, ..] = argv else { return Ok(None) };
        let is_plan = |name: &str| {
            file::built_in(name).is_some() || std::fs::read_to_string(name).is_ok_and(|text| file::is_plan_file(&text))
        };
        if run != "run" || !is_plan(&name.to_string_lossy()) { Ok(None) } else { Self::parse(&argv[1..]).map(Some) }
    }

    /// Returns the same request with its summary printed as JSON.
    pub fn with_json(mut self) -> Self {
        self.options.common.json = true;
        self
    }

    /// Returns the command line of a step, from `run` on: its own words, then the options of the whole plan.
    pub fn command_line(&self, step: &Step, results: Option<&Path>) -> Vec<OsString> {
        let mut line: Vec<OsString> = vec!["run".into()];
        line.extend(step.words.iter().map(OsString::from));
        line.push("--quiet".into());
        if step.words.first() != Some(&step.name) {
            line.push(invocation::word("--step", step.name.as_ref()));
        }
        line.extend(results.map(|results| invocation::word("--results", results.as_os_str())));
        line.extend(invocation::words(&self.options.common));
        line
    }

    /// Returns the options that every scenario has.
    #[cfg_attr(not(all(target_os = "linux", target_arch = "aarch64")), expect(dead_code, reason = "only runs need it"))]
    pub fn common(&self) -> &Common {
        &self.options.common
    }

    /// Runs the plan on `kernel` and prints its summary.
    ///
    /// # Errors
    ///
    /// If the plan was interrupted, or if its own files cannot be written or read.
    pub fn execute(&self, results: &Path, kernel: &str, runner: &mut dyn StepRunner) -> CommandResult {
        let now = jiff::Timestamp::now();
        let plain = |c: char| if c.is_ascii_alphanumeric() || ".+_-".contains(c) { c } else { '_' };
        let kernel: String = kernel.chars().map(plain).collect();
        let time = now.strftime("%Y%m%dT%H%M%SZ");
        let id = format!("{time}-{kernel}-{}-{:04x}", self.plan.name, std::process::id() & 0xffff);
        let started = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let command = std::env::args().skip(1).collect();
        let common = &self.options.common;
        let run = RunId { id, started, finished: String::new() };
        let summary = summary::begin(run, &self.plan, command, common.under_test.clone());
        let finished = runner::run(summary, results, self.options.baseline.as_deref(), runner).map_err(failure)?;
        if !common.quiet {
            // Ignores a reader that closes the pipe: the summary is on disk.
            let subject = summary::subject(&finished.stored);
            let _ = report::formats::print(&mut std::io::stdout(), common.format(), &subject);
            note_stored(&finished.directory);
        }
        exit_code(&finished)
    }
}

fn failure(error: runner::Error) -> Failure {
    match error {
        runner::Error::Baseline(error) => Failure::usage(error),
        runner::Error::Store(error) => Failure::harness(error),
    }
}

fn exit_code(finished: &FinishedPlan) -> CommandResult {
    if finished.stopped {
        return Err(Failure::interrupted(&finished.directory));
    }
    Ok(finished.stored.summary.verdict.status.exit_code())
}

/// Reads the file of a plan.
fn read_file(name: &str) -> Result<String, Failure> {
    let plans: Vec<_> = file::BUILT_IN.iter().map(|(name, _)| *name).collect();
    if !Path::new(name).exists() {
        return Err(Failure::usage(format!(
            "{}; or a plan: {}, or the path of a file",
            unknown_scenario(name),
            plans.join(", ")
        )));
    }
    std::fs::read_to_string(name).map_err(|error| Failure::usage(format!("cannot read the plan {name}: {error}")))
}

#[cfg(test)]
mod tests {
    use record::exit::USAGE;

    use super::*;
    use crate::plan::runner::StepEnd;

    fn parse(words: &[&str]) -> Result<PlanRequest, Failure> {
        PlanRequest::parse(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn every_step_of_the_built_in_plans_is_a_command() {
        for (name, _) in file::BUILT_IN {
            assert!(parse(&[name]).is_ok(), "{name}");
        }
    }

    #[test]
    fn every_built_in_plan_is_named_where_plans_are_explained() {
        let help = <Options as clap::CommandFactory>::command().render_long_help().to_string();
        let page = include_str!("../../../docs/adding-a-scenario.md");
        for (name, _) in file::BUILT_IN {
            assert!(help.contains(name) && page.contains(&format!("`{name}`")), "{name}");
        }
    }

    #[test]
    fn the_plans_options_come_after_the_steps_own() {
        let request = parse(&["nightly", "--label", "x", "--time-limit", "60", "--hugepages"]).expect("a plan");
        let step = |name: &str, words: &[&str]| Step {
            name: name.into(),
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            directory: None,
            verdict: record::status::Verdict::new(record::status::Status::Error, ""),
        };
        let line = request.command_line(&step("relax", &["relax", "--rounds", "2"]), None);
        let wanted = ["run", "relax", "--rounds", "2", "--quiet", "--hugepages", "--time-limit=60", "--label=x"];
        assert_eq!(line, wanted);
        let request = parse(&["nightly", "-v", "--guest-ctr", "dic=0,imin=16"]).expect("a plan");
        let line = request.command_line(&step("again", &["relax"]), Some(Path::new("dir")));
        assert!(line.contains(&"--verbose".into()) && line.contains(&"--guest-ctr=imin=16,dic=0".into()), "{line:?}");
        assert!(line.contains(&"--step=again".into()) && line.contains(&"--results=dir".into()), "{line:?}");
    }

    #[test]
    fn a_baseline_that_is_not_there_is_wrong_usage() {
        struct Never;
        impl StepRunner for Never {
            fn directory(&mut self, _: &Step) -> Option<String> {
                unreachable!("the plan does not begin")
            }

            fn run(&mut self, _: &Path, _: &Step) -> StepEnd {
                unreachable!("the plan does not begin")
            }
        }
        let results = tempfile::tempdir().expect("a temporary directory");
        let nowhere = results.path().join("nowhere.json");
        let request = parse(&["quick", "--baseline", &nowhere.to_string_lossy()]).expect("a plan");
        let failure = request.execute(results.path(), "6.12", &mut Never).expect_err("no baseline");
        assert_eq!(failure.code, USAGE, "{}", failure.message);
        assert!(failure.message.contains("nowhere.json"), "{}", failure.message);
    }

    #[test]
    fn errors_name_file_and_line() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("p.toml");
        let error = |text: &str| {
            std::fs::write(&path, text).expect("writable");
            parse(&[&path.to_string_lossy()]).err().map(|failure| (failure.code, failure.message)).expect("wrong")
        };
        let (code, message) = error("[[step]]\nrun = \"relax --ruonds 3\"\n");
        assert!(code == USAGE && message.contains("p.toml:2: ") && message.contains("--rounds"), "{message}");
        let (_, message) = error("[[step]]\nrun = \"nightly\"\n");
        assert!(message.contains("p.toml:2: there is no scenario 'nightly'"), "{message}");
        let message = parse(&["nightli"]).err().map(|failure| failure.message).expect("wrong");
        assert!(message.contains("relax") && message.contains("nightly"), "{message}");
    }
}
