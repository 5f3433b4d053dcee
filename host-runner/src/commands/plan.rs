//! `faultline run PLAN`, on this machine and in the lab.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use clap::Parser;

use super::run::{Common, TIME_LIMIT_S, check_step, unknown};
use super::{Failure, HARNESS, INTERRUPTED, Outcome, USAGE};
use crate::lab::{self, Interrupt, TICK};
use crate::plan::suite::{self as file, Suite};
use crate::recover::Witness;
use crate::report;
use crate::suite::runner::{self, Done, Ended, Steps};
use crate::suite::{Step, Summary};

/// Run several scenarios under one name: quick, storms, nightly, litmus-all, or a file with [[step]] tables.
///
/// Every step is a run of its own in the plan's directory; the files for labs beside them cover all of it. Where the
/// results hold a baseline.json, or with --baseline, the exit code is also 1 where something got worse.
#[derive(Parser)]
#[command(name = "faultline run PLAN", no_binary_name = true, args_override_self = true)]
struct Options {
    #[command(flatten)]
    common: Common,
    /// Hold the runs against this file of `faultline baseline set`; without it, against baseline.json in the results
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
}

/// A plan to be run, and how.
pub struct Request {
    plan: Suite,
    options: Options,
}

impl Request {
    /// Reads the words after `run`: a plan, and options.
    ///
    /// # Errors
    ///
    /// If there is no such plan, or it or the options are wrong. Also the text of `--help`, with exit code 0.
    pub fn of(words: &[OsString]) -> Result<Self, Failure> {
        let usage = |error: &dyn std::fmt::Display| Failure::new(USAGE, error);
        let (name, rest) = words.split_first().ok_or_else(|| usage(&"name a scenario or a plan"))?;
        let name = name.to_string_lossy();
        let text = match file::built_in(&name) {
            Some(text) => text.to_owned(),
            None => from_disk(&name)?,
        };
        let plan = file::parse(&name, &text).map_err(|error| usage(&error))?;
        for step in &plan.steps {
            check_step(&step.words)
                .map_err(|error| usage(&format!("{}:{}: {}", plan.source, step.line, error.trim_end())))?;
        }
        let options = Options::try_parse_from(rest).map_err(|error| Failure::clap(&error))?;
        Ok(Self { plan, options })
    }

    /// Returns the plan that the words after `lab … --` ask for, if they ask for one.
    ///
    /// # Errors
    ///
    /// As [`Request::of`].
    pub fn in_words(argv: &[OsString]) -> Result<Option<Self>, Failure> {
        let [run, name, ..] = argv else { return Ok(None) };
        let is_plan = |name: &str| {
            file::built_in(name).is_some() || std::fs::read_to_string(name).is_ok_and(|text| file::is_suite(&text))
        };
        if run != "run" || !is_plan(&name.to_string_lossy()) { Ok(None) } else { Self::of(&argv[1..]).map(Some) }
    }

    /// Returns the same, to be told in JSON.
    pub fn in_json(mut self) -> Self {
        self.options.common.json = true;
        self
    }

    /// Returns the command line of a step's run, from `run` on: its own words, then what was said of the whole plan.
    fn command_line(&self, step: &Step, results: Option<&Path>) -> Vec<OsString> {
        let common = &self.options.common;
        let mut line: Vec<OsString> = vec!["run".into()];
        line.extend(step.words.iter().map(OsString::from));
        line.push("--quiet".into());
        for (flag, said) in
            [("--verbose", common.verbose), ("--hugepages", common.hugepages), ("--no-trace", common.no_trace)]
        {
            line.extend(said.then(|| flag.into()));
        }
        let own_name = (step.words.first() != Some(&step.name)).then(|| step.name.clone());
        let (known, time_limit) = (&common.under_test, common.time_limit);
        let values: [(&str, Option<OsString>); 9] = [
            ("--step", own_name.map(Into::into)),
            ("--results", results.map(Into::into)),
            ("--time-limit", (time_limit != TIME_LIMIT_S).then(|| time_limit.to_string().into())),
            ("--watchdog-thresh", common.watchdog_thresh.map(|seconds| seconds.to_string().into())),
            ("--guest-ctr", common.guest_ctr.map(|shown| shown.to_string().into())),
            ("--label", known.label.clone().map(Into::into)),
            ("--git-commit-hash", known.git_commit_hash.clone().map(Into::into)),
            ("--patchset-hash", known.patchset_hash.clone().map(Into::into)),
            ("--payload", common.payload.clone().map(Into::into)),
        ];
        for (name, value) in values {
            // As one word: a value may begin with a dash.
            line.extend(value.map(|value| {
                let mut word = OsString::from(name);
                word.push("=");
                word.push(value);
                word
            }));
        }
        line
    }

    /// Runs the plan on `kernel` and prints what came of it.
    fn execute(&self, results: &Path, kernel: &str, steps: &mut dyn Steps) -> Outcome {
        let now = jiff::Timestamp::now();
        let plain = |c: char| if c.is_ascii_alphanumeric() || ".+_-".contains(c) { c } else { '_' };
        let kernel: String = kernel.chars().map(plain).collect();
        let time = now.strftime("%Y%m%dT%H%M%SZ");
        let id = format!("{time}-{kernel}-{}-{:04x}", self.plan.name, std::process::id() & 0xffff);
        let started = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let command = std::env::args().skip(1).collect();
        let common = &self.options.common;
        let summary = Summary::begin(&id, started, &self.plan, command, common.under_test.clone());
        let done = runner::run(summary, results, self.options.baseline.as_deref(), steps).map_err(failure)?;
        if !common.quiet {
            // A closed pipe is the reader's choice; the summary is on disk.
            let _ = report::formats::print(&mut std::io::stdout(), common.format(), &done.stored.subject());
            match common.format() {
                report::formats::Format::Human => println!("{}", done.directory.display()),
                _ => eprintln!("{}", done.directory.display()),
            }
        }
        exit_code(&done)
    }
}

fn failure(error: runner::Error) -> Failure {
    match error {
        runner::Error::Baseline(error) => Failure::new(USAGE, error),
        runner::Error::Store(error) => Failure::harness(error),
    }
}

fn exit_code(done: &Done) -> Outcome {
    if done.stopped {
        let kept = done.directory.display();
        return Err(Failure::new(
            INTERRUPTED,
            format!("interrupted: settings are back as they were, what was recorded is in {kept}"),
        ));
    }
    Ok(done.stored.summary.verdict.status.exit_code())
}

/// Reads a plan's file.
fn from_disk(name: &str) -> Result<String, Failure> {
    let usage = |message: String| Failure::new(USAGE, message);
    let plans: Vec<_> = file::BUILT_IN.iter().map(|(name, _)| *name).collect();
    if !Path::new(name).exists() {
        return Err(usage(format!("{}; or a plan: {}, or the path of a file", unknown(name), plans.join(", "))));
    }
    std::fs::read_to_string(name).map_err(|error| usage(format!("cannot read the plan {name}: {error}")))
}

/// Runs a plan on this machine, each step in a process of its own: what kills one leaves the others alone.
///
/// # Errors
///
/// If the plan's own files cannot be written.
pub fn run(request: Request) -> Outcome {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let results = request.options.common.results.clone();
    let interrupt = Interrupt::catch();
    let mut here = Here { request: &request, release: &release, interrupt: &interrupt, begun: 0 };
    request.execute(&results, &release, &mut here)
}

/// Runs a plan in the lab, in each of its kernels one after another: every step boots the kernel afresh.
///
/// # Errors
///
/// What keeps the lab itself from working.
pub fn run_in_lab(request: &Request, options: &lab::Options) -> Outcome {
    let mut worst = 0;
    let interrupt = Interrupt::catch();
    for kernel in &options.kernel {
        interrupt.check().map_err(super::lab::failure)?;
        let options = lab::Options { kernel: vec![kernel.clone()], ..options.clone() };
        if options.dry_run {
            for step in &request.plan.steps {
                println!("{}", step.words.join(" "));
            }
            lab::run(&options, &[]).map_err(super::lab::failure)?;
            continue;
        }
        let mut steps = InLab { request, options: &options, failure: None };
        let code = request.execute(&options.results, kernel, &mut steps);
        if let Some(failure) = steps.failure {
            return Err(failure);
        }
        worst = super::lab::worse(worst, code?);
    }
    Ok(worst)
}

/// This machine.
struct Here<'a> {
    request: &'a Request,
    release: &'a str,
    interrupt: &'a Interrupt,
    begun: usize,
}

impl Steps for Here<'_> {
    fn directory(&mut self, _: &Step) -> Option<String> {
        self.begun += 1;
        let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
        Some(format!("{time}-{}-{:04x}.{}", self.release, std::process::id() & 0xffff, self.begun))
    }

    fn run(&mut self, plan: &Path, step: &Step) -> Ended {
        let name = step.directory.clone().unwrap_or_default();
        match self.child(plan, step, &name) {
            Err(error) => Ended::Nothing(format!("the run could not be started: {error}")),
            Ok((status, said)) => {
                let began = plan.join(&name).join(crate::journal::FILE).is_file();
                if self.interrupt.is_set() {
                    return Ended::Stopped(began.then_some(name), "interrupted".into());
                }
                let cause = how(status, said);
                if began {
                    Ended::Run(name, Witness { cause: Some(cause), ..Witness::default() })
                } else {
                    Ended::Nothing(cause)
                }
            }
        }
    }
}

impl Here<'_> {
    /// Runs the step; returns how it ended and the last thing it complained about.
    fn child(&self, plan: &Path, step: &Step, name: &str) -> std::io::Result<(ExitStatus, Option<String>)> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(self.request.command_line(step, Some(plan)))
            .env("FAULTLINE_RUN_NAME", name)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = child.stderr.take();
        let listener = std::thread::spawn(move || stderr.map(listen).unwrap_or_default());
        let status = self.attend(&mut child)?;
        Ok((status, listener.join().unwrap_or_default()))
    }

    /// Waits for the child. The user's wish to end reaches it too: it puts its settings back and ends by itself.
    fn attend(&self, child: &mut Child) -> std::io::Result<ExitStatus> {
        let mut told = false;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(TICK);
            if self.interrupt.is_set() && !told {
                // One that is gone already needs no signal.
                let _ = rustix::process::kill_process(
                    rustix::process::Pid::from_child(child),
                    rustix::process::Signal::TERM,
                );
                told = true;
            }
        }
    }
}

/// Passes on what a child says, and returns its last error.
fn listen(stderr: impl std::io::Read) -> Option<String> {
    let mut last = None;
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        eprintln!("{line}");
        if let Some(error) = line.strip_prefix("faultline: ") {
            last = Some(error.to_owned());
        }
    }
    last
}

fn how(status: ExitStatus, said: Option<String>) -> String {
    match (status.code(), status.signal(), said) {
        (_, Some(signal), _) => format!("the runner was killed by signal {signal}"),
        (_, None, Some(said)) => format!("the runner gave up: {said}"),
        (code, None, None) => format!("the runner ended with exit code {}", code.unwrap_or(HARNESS.into())),
    }
}

/// The lab.
struct InLab<'a> {
    request: &'a Request,
    options: &'a lab::Options,
    /// What keeps the lab from working at all.
    failure: Option<Failure>,
}

impl Steps for InLab<'_> {
    fn directory(&mut self, _: &Step) -> Option<String> {
        None
    }

    fn run(&mut self, plan: &Path, step: &Step) -> Ended {
        let options = lab::Options { results: plan.to_owned(), ..self.options.clone() };
        let outcomes = match lab::run(&options, &self.request.command_line(step, None)) {
            Ok(outcomes) => outcomes,
            Err(error) => {
                let reason = error.to_string();
                // The next step would meet the same: the plan ends here.
                self.failure = Some(super::lab::failure(error));
                return Ended::Stopped(None, reason);
            }
        };
        let completed = super::lab::complete(&outcomes);
        let Some((directory, outcome)) =
            outcomes.first().and_then(|outcome| Some((outcome.run_dir.as_deref()?, outcome)))
        else {
            return Ended::Nothing("the lab left no run".into());
        };
        if let Err(failure) = completed {
            return Ended::Nothing(failure.message);
        }
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let cause = outcome.exit.as_ref().map(|exit| lab::cause(directory, exit));
        Ended::Run(name, Witness { cause, ..Witness::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> Result<Request, Failure> {
        Request::of(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn every_step_of_the_built_in_plans_is_a_command() {
        for (name, _) in file::BUILT_IN {
            assert!(of(&[name]).is_ok(), "{name}");
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
        let request = of(&["nightly", "--label", "x", "--time-limit", "60", "--hugepages"]).expect("a plan");
        let step = |name: &str, words: &[&str]| Step {
            name: name.into(),
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            directory: None,
            verdict: crate::result::Verdict::new(crate::result::Status::Error, ""),
        };
        let line = request.command_line(&step("relax", &["relax", "--rounds", "2"]), None);
        let wanted = ["run", "relax", "--rounds", "2", "--quiet", "--hugepages", "--time-limit=60", "--label=x"];
        assert_eq!(line, wanted);
        let request = of(&["nightly", "-v", "--guest-ctr", "dic=0,imin=16"]).expect("a plan");
        let line = request.command_line(&step("again", &["relax"]), Some(Path::new("dir")));
        assert!(line.contains(&"--verbose".into()) && line.contains(&"--guest-ctr=imin=16,dic=0".into()), "{line:?}");
        assert!(line.contains(&"--step=again".into()) && line.contains(&"--results=dir".into()), "{line:?}");
    }

    #[test]
    fn a_baseline_that_is_not_there_is_wrong_usage() {
        struct Never;
        impl Steps for Never {
            fn directory(&mut self, _: &Step) -> Option<String> {
                unreachable!("the plan does not begin")
            }

            fn run(&mut self, _: &Path, _: &Step) -> Ended {
                unreachable!("the plan does not begin")
            }
        }
        let results = tempfile::tempdir().expect("a temporary directory");
        let nowhere = results.path().join("nowhere.json");
        let request = of(&["quick", "--baseline", &nowhere.to_string_lossy()]).expect("a plan");
        let failure = request.execute(results.path(), "6.12", &mut Never).expect_err("no baseline");
        assert_eq!(failure.code, USAGE, "{}", failure.message);
        assert!(failure.message.contains("nowhere.json"), "{}", failure.message);
    }

    #[test]
    fn wrong_plans_are_told_by_file_and_line() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("p.toml");
        let error = |text: &str| {
            std::fs::write(&path, text).expect("writable");
            of(&[&path.to_string_lossy()]).err().map(|failure| (failure.code, failure.message)).expect("wrong")
        };
        let (code, message) = error("[[step]]\nrun = \"relax --ruonds 3\"\n");
        assert!(code == USAGE && message.contains("p.toml:2: ") && message.contains("--rounds"), "{message}");
        let (_, message) = error("[[step]]\nrun = \"nightly\"\n");
        assert!(message.contains("p.toml:2: there is no scenario 'nightly'"), "{message}");
        let message = of(&["nightli"]).err().map(|failure| failure.message).expect("wrong");
        assert!(message.contains("relax") && message.contains("nightly"), "{message}");
    }
}
