//! Child processes that end when the user interrupts.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::process::{Child, Command, ExitStatus, Stdio};

use hostfacts::interrupt::Interrupt;

/// The output of a program that ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Reasons why a program has no [`Finished`].
#[derive(Debug)]
pub enum Unfinished {
    /// It could not be started, or its output could not be read.
    Io(io::Error),
    /// The user interrupted it.
    Interrupted,
}

impl From<io::Error> for Unfinished {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Runs a program to its end, or kills it on an interrupt.
///
/// # Errors
///
/// [`Unfinished::Io`] or [`Unfinished::Interrupted`].
pub fn finish(command: &mut Command, interrupt: &Interrupt) -> Result<Finished, Unfinished> {
    // Files never fill up as pipes do, so nobody has to read them while the program runs.
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let mut child = command.stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?).spawn()?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if interrupt.wait().is_err() {
            kill(&mut child);
            return Err(Unfinished::Interrupted);
        }
    };
    if interrupt.is_set() {
        return Err(Unfinished::Interrupted);
    }
    Ok(Finished { status, stdout: reread(&mut stdout)?, stderr: reread(&mut stderr)? })
}

/// Kills a child and collects its exit status.
pub fn kill(child: &mut Child) {
    // Both calls fail only if the child has ended already.
    let _ = child.kill();
    let _ = child.wait();
}

fn reread(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Runs `commands` as a shell pipeline: the output of each is the input of the next.
///
/// The standard errors do not appear on the screen, where they would break the progress display.
///
/// # Errors
///
/// The name of the first command that failed, with the first line of its standard error.
pub fn pipe<const N: usize>(commands: [Command; N]) -> Result<(), String> {
    let mut running = Vec::new();
    let mut input = Stdio::null();
    for (index, mut command) in commands.into_iter().enumerate() {
        let name = command.get_program().to_string_lossy().into_owned();
        let failed = |error: io::Error| format!("{name}: {error}");
        let stderr = tempfile::tempfile().map_err(failed)?;
        command.stdin(input).stderr(stderr.try_clone().map_err(failed)?);
        if index + 1 < N {
            command.stdout(Stdio::piped());
        }
        let mut child = command.spawn().map_err(failed)?;
        input = child.stdout.take().map_or_else(Stdio::null, Stdio::from);
        running.push((name, child, stderr));
    }
    let mut failed = None;
    for (name, mut child, stderr) in running {
        let status = child.wait().map_err(|error| format!("{name}: {error}"))?;
        if !status.success() {
            let reason = first_line(stderr).unwrap_or_else(|| status.to_string());
            failed.get_or_insert(format!("{name}: {reason}"));
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Returns the first line of `file` that is not empty.
fn first_line(mut file: File) -> Option<String> {
    reread(&mut file).ok()?.lines().find(|line| !line.trim().is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_in_a_pipe_is_named() {
        let [mut good, bad] = [Command::new("true"), Command::new("false")];
        good.arg("unused");
        let reason = pipe([good, bad]).expect_err("false fails");
        assert!(reason.starts_with("false: exit status"), "{reason}");
        let mut tar = Command::new("tar");
        tar.args(["-xf", "/nonexistent"]);
        let reason = pipe([tar, Command::new("cat")]).expect_err("there is no such file");
        assert!(reason.contains("/nonexistent"), "{reason}");
    }
}
