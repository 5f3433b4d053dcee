//! Runs a plan in the lab.

use std::path::Path;

use hostfacts::interrupt::Interrupt;
use record::journal::WitnessedEnd;
use record::summary::Step;

use crate::answer::{Failure, Outcome};
use crate::lab_runs;
use crate::plans::request::Request;
use crate::suite::runner::{Ended, Steps};

/// Runs a plan in the lab, in each of its kernels one after another: every step boots the kernel afresh.
///
/// # Errors
///
/// What keeps the lab itself from working.
pub fn run(request: &Request, options: &lab::Options) -> Outcome {
    let mut worst = 0;
    let interrupt = Interrupt::catch().map_err(Failure::harness)?;
    for kernel in &options.kernel {
        interrupt.check().map_err(lab_runs::failure)?;
        let options = lab::Options { kernel: vec![kernel.clone()], ..options.clone() };
        if options.dry_run {
            for step in &request.plan.steps {
                println!("{}", step.words.join(" "));
            }
            lab_runs::boot(&options, &[]).map_err(lab_runs::failure)?;
            continue;
        }
        let mut steps = InLab { request, options: &options, failure: None };
        let code = request.execute(&options.results, kernel, &mut steps);
        if let Some(failure) = steps.failure {
            return Err(failure);
        }
        worst = lab_runs::worse(worst, code?);
    }
    Ok(worst)
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
        let boot = match lab_runs::boot(&options, &self.request.command_line(step, None)) {
            Ok(boots) => boots.into_iter().next(),
            Err(error) => {
                let reason = error.to_string();
                // The next step would meet the same: the plan ends here.
                self.failure = Some(lab_runs::failure(error));
                return Ended::Stopped(None, reason);
            }
        };
        let Some(run) = boot.map(lab_runs::complete) else { return Ended::Nothing("the lab left no run".into()) };
        let (directory, end) = match run {
            Err(failure) => return Ended::Nothing(failure.message),
            Ok(lab_runs::LabRun { path: None, .. }) => return Ended::Nothing("the lab left no run".into()),
            Ok(lab_runs::LabRun { path: Some(directory), end, .. }) => (directory, end),
        };
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let cause = end.as_ref().map(|end| lab::cause(&directory, end));
        Ended::Run(name, WitnessedEnd { cause, ..WitnessedEnd::default() })
    }
}
