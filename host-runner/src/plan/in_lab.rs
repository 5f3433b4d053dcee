//! Runs a plan in the lab, each step in a fresh emulated host.

use std::path::Path;

use hostfacts::interrupt::Interrupt;
use record::journal::WitnessedEnd;
use record::summary::Step;

use crate::failure::{CommandResult, Failure};
use crate::lab_runs;
use crate::lab_settings;
use crate::output::emit;
use crate::plan::request::PlanRequest;
use crate::plan::runner::{StepEnd, StepRunner};

/// Runs a plan on each kernel of `options`, one after another. Every step boots the kernel anew.
///
/// # Errors
///
/// If the lab itself does not work.
pub fn run(request: &PlanRequest, options: &lab::Options) -> CommandResult {
    let mut worst = 0;
    let interrupt = Interrupt::catch().map_err(Failure::harness)?;
    for kernel in &options.kernel {
        interrupt.check().map_err(lab_runs::failure)?;
        let options = lab::Options { kernel: vec![kernel.clone()], ..options.clone() };
        if options.dry_run {
            for step in &request.plan.steps {
                emit(&(step.words.join(" ") + "\n"))?;
            }
            lab_runs::boot(&options, &[]).map_err(lab_runs::failure)?;
            continue;
        }
        let mut boots = StepBoots { request, options: &options, failure: None };
        let code = request.execute(&options.results, kernel, &mut boots);
        if let Some(failure) = boots.failure {
            return Err(failure);
        }
        worst = lab_runs::worse(worst, code?);
    }
    Ok(worst)
}

/// Runner of steps as boots of an emulated host.
struct StepBoots<'a> {
    request: &'a PlanRequest,
    options: &'a lab::Options,
    /// Failure of the lab itself.
    failure: Option<Failure>,
}

impl StepRunner for StepBoots<'_> {
    fn directory(&mut self, _: &Step) -> Option<String> {
        None
    }

    fn run(&mut self, plan: &Path, step: &Step) -> StepEnd {
        let options = lab::Options { results: plan.to_owned(), ..self.options.clone() };
        let words = self.request.command_line(step, None);
        let booted = lab_settings::for_check(&options, &words).and_then(|check| {
            let (options, words) = check.unwrap_or((options, words));
            lab_runs::boot(&options, &words).map_err(lab_runs::failure)
        });
        let boot = match booted {
            Ok(boots) => boots.into_iter().next(),
            Err(failure) => {
                let reason = failure.message.clone();
                // Every further step would fail in the same way.
                self.failure = Some(failure);
                return StepEnd::Stop { directory: None, reason };
            }
        };
        let Some(run) = boot.map(lab_runs::complete) else { return StepEnd::NoRun("the lab left no run".into()) };
        let (path, end) = match run {
            Err(failure) => return StepEnd::NoRun(failure.message),
            Ok(lab_runs::LabRun { path: None, .. }) => return StepEnd::NoRun("the lab left no run".into()),
            Ok(lab_runs::LabRun { path: Some(path), end, .. }) => (path, end),
        };
        let directory = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let cause = end.as_ref().map(|end| lab::cause(&path, end));
        StepEnd::Run { directory, witness: WitnessedEnd { cause, ..WitnessedEnd::default() } }
    }
}
