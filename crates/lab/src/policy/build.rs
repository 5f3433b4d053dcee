//! Configures and compiles one policy kernel.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;

use rustix::process::{Pid, Signal, kill_process_group, set_parent_process_death_signal};

use crate::context::Context;
use crate::policy::error::{Error, io_error};
use crate::policy::spec::{PolicyKernel, SourceVersion};
use crate::policy::tree::Tree;
use crate::policy::{config, toolchain};

/// Constants in place of the time and the user of the build, so that the same inputs give the same Image.
const BUILD_IDENTITY: [(&str, &str); 4] = [
    ("KBUILD_BUILD_TIMESTAMP", "2024-01-01 00:00:00 UTC"),
    ("KBUILD_BUILD_USER", "faultline"),
    ("KBUILD_BUILD_HOST", "faultline"),
    ("KBUILD_BUILD_VERSION", "1"),
];

/// Everything that a policy kernel is built from, besides the tree.
#[derive(Clone, Copy)]
pub struct Recipe<'a> {
    /// The kernel.
    pub kernel: PolicyKernel,
    /// The version of the compiler.
    pub compiler: &'a str,
    /// All inputs, as a text that is stored beside the Image.
    pub inputs: &'a str,
}

impl Recipe<'_> {
    /// Builds the kernel into `folder`, which appears only when it is complete. The caller holds the tree's lock.
    ///
    /// # Errors
    ///
    /// The step that failed, see [`Error`].
    pub fn build(&self, tree: &Tree, folder: &Path, context: Context<'_>) -> Result<(), Error> {
        let part = folder.with_extension("part");
        if part.exists() {
            fs::remove_dir_all(&part).map_err(io_error("remove", &part))?;
        }
        fs::create_dir_all(&part).map_err(io_error("create", &part))?;
        let objects = tree.folder.join(format!("build-{}", self.kernel.build.page.name()));
        fs::create_dir_all(&objects).map_err(io_error("create", &objects))?;
        let log = part.join("build.log");
        let make = Make {
            kernel: self.kernel,
            src: &tree.folder.join("src"),
            version: tree.version,
            objects: &objects,
            log,
            context,
        };

        tree.select(self.kernel.policy)?;
        make.configure(self.compiler)?;
        make.run(&["Image"], context.progress)?;

        copy(&objects.join("arch/arm64/boot/Image"), &part.join("Image"))?;
        copy(&objects.join("System.map"), &part.join("System.map"))?;
        copy(&objects.join(".config"), &part.join("config"))?;
        let stored = part.join("inputs");
        fs::write(&stored, self.inputs).map_err(io_error("write", &stored))?;
        if folder.exists() {
            fs::remove_dir_all(folder).map_err(io_error("remove", folder))?;
        }
        fs::rename(&part, folder).map_err(io_error("rename", &part))
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    fs::copy(from, to).map(drop).map_err(io_error("copy", from))
}

/// Number of objects between two lines of progress.
const OBJECTS_A_LINE: u32 = 25;

/// The kernel's make, with its output in a log.
struct Make<'a> {
    kernel: PolicyKernel,
    src: &'a Path,
    version: SourceVersion,
    objects: &'a Path,
    log: PathBuf,
    context: Context<'a>,
}

impl Make<'_> {
    /// Makes `.config`, unless it was made from the same fragment for the same compiler.
    fn configure(&self, compiler: &str) -> Result<(), Error> {
        let fragment = config::fragment(self.kernel.build, self.version);
        let (file, stamp) = (self.objects.join("faultline.frag"), self.objects.join("faultline.configured"));
        let current = format!("{compiler}\n{fragment}");
        if fs::read_to_string(&stamp).is_ok_and(|stored| stored == current) {
            return Ok(());
        }
        self.context.show(&format!("configuring {}", self.kernel));
        fs::write(&file, &fragment).map_err(io_error("write", &file))?;
        self.run(&[&format!("KCONFIG_ALLCONFIG={}", file.display()), "allnoconfig"], &|_| ())?;
        let config = self.objects.join(".config");
        let made = fs::read_to_string(&config).map_err(io_error("read", &config))?;
        let missing = config::missing(&made, self.kernel.build, self.version);
        if !missing.is_empty() {
            return Err(Error::Config { missing, config });
        }
        fs::write(&stamp, current).map_err(io_error("write", &stamp))
    }

    /// Runs make with `arguments`, appends its output to the log, and shows the number of objects that it made.
    fn run(&self, arguments: &[&str], progress: &dyn Fn(&str)) -> Result<(), Error> {
        let mut log = File::options().create(true).append(true).open(&self.log).map_err(io_error("open", &self.log))?;
        let errors = log.try_clone().map_err(io_error("open", &self.log))?;
        let jobs = thread::available_parallelism().map_or(1, usize::from);
        let mut command = toolchain::make();
        command.arg("-C").arg(self.src).arg(format!("O={}", self.objects.display())).arg(format!("-j{jobs}"));
        let cross = format!("CROSS_COMPILE={}", toolchain::CROSS);
        command.args(["ARCH=arm64", &cross, "KBUILD_VERBOSE=0"]).args(arguments);
        // In a process group of its own, make can be ended together with its compilers. They write to the directory of
        // the next build.
        command.process_group(0);
        // SAFETY: between fork and exec only prctl(PR_SET_PDEATHSIG) is called, which is async-signal-safe and touches
        // no memory.
        unsafe {
            command.pre_exec(|| set_parent_process_death_signal(Some(Signal::TERM)).map_err(io::Error::from));
        }
        let child = command.envs(BUILD_IDENTITY).stdout(Stdio::piped()).stderr(errors).spawn();
        let mut child = child.map_err(io_error("run", Path::new("make")))?;
        let output = child.stdout.take().expect("stdout was set to a pipe");
        let mut made = 0;
        for line in BufReader::new(output).split(b'\n') {
            if self.context.interrupt.is_set() {
                // make ends its children and removes their unfinished files. The call fails only if make has ended.
                let _ = kill_process_group(Pid::from_child(&child), Signal::TERM);
            }
            let line = line.map_err(io_error("read the output of", Path::new("make")))?;
            log.write_all(&[&line[..], b"\n"].concat()).map_err(io_error("write", &self.log))?;
            if let Some(object) = compiled(&String::from_utf8_lossy(&line)) {
                made += 1;
                // If progress goes to a log, a line for each object would be too many.
                if made % OBJECTS_A_LINE == 1 {
                    progress(&format!("building {}: {made} objects, {object}", self.kernel));
                }
            }
        }
        let status = child.wait().map_err(io_error("wait for", Path::new("make")))?;
        if status.success() {
            return Ok(());
        }
        let text = fs::read(&self.log).map_err(io_error("read", &self.log))?;
        let line = cause(&String::from_utf8_lossy(&text)).unwrap_or_else(|| format!("make: {status}"));
        Err(Error::Build { kernel: self.kernel, line, log: self.log.clone() })
    }
}

/// Returns the object of a line such as `  CC      arch/arm64/kvm/mmu.o`, if it is a step that takes time.
fn compiled(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    let step = words.next().filter(|_| line.starts_with("  "))?;
    let object = words.next()?;
    matches!(step, "CC" | "AS" | "LD" | "AR" | "HOSTCC").then_some(object)
}

/// Returns the first line of a log that names the cause of a failure, and not a consequence.
fn cause(log: &str) -> Option<String> {
    let lines = || log.lines().map(str::trim);
    let is_error = |line: &&str| line.contains("error:") || line.contains("Error:") || line.contains("No space left");
    let found = lines().find(is_error).or_else(|| lines().find(|line| line.contains("***")));
    found.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_counts_steps_that_take_time() {
        assert_eq!(compiled("  CC      arch/arm64/kvm/mmu.o"), Some("arch/arm64/kvm/mmu.o"));
        assert_eq!(compiled("  CALL    scripts/checksyscalls.sh"), None);
        assert_eq!(compiled("make[1]: Entering directory '/x'"), None);
    }

    #[test]
    fn the_cause_of_a_failure_is_found() {
        let log = "  CC      mm/slub.o\nmm/slub.c:1:2: error: expected ';'\nmake[2]: *** [x] Error 1\n";
        assert_eq!(cause(log).as_deref(), Some("mm/slub.c:1:2: error: expected ';'"));
        assert_eq!(
            cause("make[2]: *** No rule to make target 'x'.\n").as_deref(),
            Some("make[2]: *** No rule to make target 'x'.")
        );
        assert_eq!(cause("  CC a.o\n"), None);
    }
}
