//! Configures and compiles one policy kernel.

use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process_group, set_parent_process_death_signal};

use crate::policy::source::Tree;
use crate::policy::{Error, PageSize, Spec, io_error};
use crate::process::Interrupt;

/// Debian packages that building a kernel needs, beyond what every installation has.
#[cfg(not(target_arch = "aarch64"))]
pub const PACKAGES: [&str; 9] =
    ["bc", "bison", "flex", "gcc", "gcc-aarch64-linux-gnu", "libc6-dev", "make", "patch", "xz-utils"];
/// Debian packages that building a kernel needs, beyond what every installation has.
#[cfg(target_arch = "aarch64")]
pub const PACKAGES: [&str; 8] = ["bc", "bison", "flex", "gcc", "libc6-dev", "make", "patch", "xz-utils"];

/// Prefix of the compiler's name; an arm64 host uses its own.
const CROSS: &str = if cfg!(target_arch = "aarch64") { "" } else { "aarch64-linux-gnu-" };

/// The compiler that makes the kernel.
const COMPILER: &str = if cfg!(target_arch = "aarch64") { "gcc" } else { "aarch64-linux-gnu-gcc" };

/// The configuration common to all policy kernels; everything it does not mention is off.
const FRAGMENT: &str = include_str!("../../../../lab/kernel.frag");

/// What the lab cannot do without: KVM, hugepages, the watchdog, the trace events, a console and a way in.
const REQUIRED: [&str; 18] = [
    "CONFIG_BLK_DEV_INITRD",
    "CONFIG_CONTIG_ALLOC",
    "CONFIG_DEVTMPFS",
    "CONFIG_EVENT_TRACING",
    "CONFIG_FILE_LOCKING",
    "CONFIG_HUGETLBFS",
    "CONFIG_JUMP_LABEL",
    "CONFIG_KALLSYMS",
    "CONFIG_KPROBE_EVENTS",
    "CONFIG_KRETPROBES",
    "CONFIG_KVM",
    "CONFIG_PRINTK",
    "CONFIG_PROC_FS",
    "CONFIG_SERIAL_AMBA_PL011_CONSOLE",
    "CONFIG_SOFTLOCKUP_DETECTOR",
    "CONFIG_SYSFS",
    "CONFIG_TMPFS",
    "CONFIG_TRANSPARENT_HUGEPAGE",
];

/// Fixed, so that the same inputs give the same image.
const BUILD_IDENTITY: [(&str, &str); 4] = [
    ("KBUILD_BUILD_TIMESTAMP", "2024-01-01 00:00:00 UTC"),
    ("KBUILD_BUILD_USER", "faultline"),
    ("KBUILD_BUILD_HOST", "faultline"),
    ("KBUILD_BUILD_VERSION", "1"),
];

/// Returns the configuration for kernels with pages of this size, without the comments: they make no other kernel.
pub(super) fn config(page: PageSize) -> String {
    let default = PageSize::Size4K.option();
    assert!(FRAGMENT.contains(default), "lab/kernel.frag names the page size");
    let settings = FRAGMENT.lines().filter(|line| line.starts_with("CONFIG_") || line.ends_with(" is not set"));
    settings.flat_map(|line| [line, "\n"]).collect::<String>().replace(default, page.option())
}

/// Says which programs are missing, all at once.
pub(super) fn check_tools() -> Result<(), Error> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = env::split_paths(&path).collect();
    let tools = ["bc", "bison", "flex", "gcc", "make", "patch", "tar", "xz", COMPILER];
    let missing: Vec<_> =
        tools.into_iter().filter(|tool| !folders.iter().any(|folder| folder.join(tool).exists())).collect();
    if missing.is_empty() { Ok(()) } else { Err(Error::Tools(missing)) }
}

/// Returns the first line of the compiler's `--version`.
pub(super) fn compiler_version() -> Result<String, Error> {
    let output = Command::new(COMPILER).arg("--version").env("LC_ALL", "C").output();
    let output = output.map_err(io_error("run", Path::new(COMPILER)))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// Keeps the settings of a make or a shell around us out of the kernel's build.
pub(super) fn scrub(command: &mut Command) {
    for name in
        ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "KCFLAGS", "KAFLAGS", "KBUILD_OUTPUT", "LOCALVERSION"]
    {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C").stdin(Stdio::null());
}

/// Builds `spec` into `folder`, which appears only when it is complete. The caller holds the tree's lock.
pub(super) fn build(
    spec: Spec,
    tree: &Tree,
    compiler: &str,
    inputs: &str,
    folder: &Path,
    interrupt: &Interrupt,
    progress: &dyn Fn(&str),
) -> Result<(), Error> {
    let part = folder.with_extension("part");
    if part.exists() {
        fs::remove_dir_all(&part).map_err(io_error("remove", &part))?;
    }
    fs::create_dir_all(&part).map_err(io_error("create", &part))?;
    let objects = tree.folder.join(format!("build-{}", spec.page.name()));
    fs::create_dir_all(&objects).map_err(io_error("create", &objects))?;
    let log = part.join("build.log");
    let make = Make { spec, src: &tree.folder.join("src"), objects: &objects, log, interrupt };

    tree.select(spec.policy)?;
    configure(&make, compiler, progress)?;
    make.run(&["Image"], progress)?;

    copy(&objects.join("arch/arm64/boot/Image"), &part.join("Image"))?;
    copy(&objects.join("System.map"), &part.join("System.map"))?;
    copy(&objects.join(".config"), &part.join("config"))?;
    let stored = part.join("inputs");
    fs::write(&stored, inputs).map_err(io_error("write", &stored))?;
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(io_error("remove", folder))?;
    }
    fs::rename(&part, folder).map_err(io_error("rename", &part))
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    fs::copy(from, to).map(drop).map_err(io_error("copy", from))
}

/// How many objects are built from one word on progress to the next.
const OBJECTS_A_LINE: u32 = 25;

/// Makes `.config`, unless it was made from the same fragment for the same compiler.
fn configure(make: &Make, compiler: &str, progress: &dyn Fn(&str)) -> Result<(), Error> {
    let fragment = config(make.spec.page);
    let (file, stamp) = (make.objects.join("faultline.frag"), make.objects.join("faultline.configured"));
    let current = format!("{compiler}\n{fragment}");
    if fs::read_to_string(&stamp).is_ok_and(|stored| stored == current) {
        return Ok(());
    }
    progress(&format!("configuring {}", make.spec));
    fs::write(&file, &fragment).map_err(io_error("write", &file))?;
    make.run(&[&format!("KCONFIG_ALLCONFIG={}", file.display()), "allnoconfig"], &|_| ())?;
    let config = make.objects.join(".config");
    let made = fs::read_to_string(&config).map_err(io_error("read", &config))?;
    let missing = missing(&made, make.spec.page);
    if !missing.is_empty() {
        return Err(Error::Config { missing, config });
    }
    fs::write(&stamp, current).map_err(io_error("write", &stamp))
}

/// Returns the required options that `config` does not switch on.
fn missing(config: &str, page: PageSize) -> Vec<String> {
    let is_on = |option: &str| config.lines().any(|line| line.strip_suffix("=y") == Some(option));
    REQUIRED.into_iter().chain([page.option()]).filter(|option| !is_on(option)).map(str::to_owned).collect()
}

/// One make of the kernel's, with its output in a log.
struct Make<'a> {
    spec: Spec,
    src: &'a Path,
    objects: &'a Path,
    log: PathBuf,
    interrupt: &'a Interrupt,
}

impl Make<'_> {
    /// Runs make with `arguments`, adds what it prints to the log, and shows how many objects it made.
    fn run(&self, arguments: &[&str], progress: &dyn Fn(&str)) -> Result<(), Error> {
        let mut log = File::options().create(true).append(true).open(&self.log).map_err(io_error("open", &self.log))?;
        let errors = log.try_clone().map_err(io_error("open", &self.log))?;
        let jobs = thread::available_parallelism().map_or(1, usize::from);
        let mut command = Command::new("make");
        command.arg("-C").arg(self.src).arg(format!("O={}", self.objects.display())).arg(format!("-j{jobs}"));
        command.args(["ARCH=arm64", &format!("CROSS_COMPILE={CROSS}"), "KBUILD_VERBOSE=0"]).args(arguments);
        scrub(&mut command);
        // A group of its own, to end it with all its compilers; they write where the next build will.
        command.process_group(0);
        // SAFETY: between fork and exec only prctl(PR_SET_PDEATHSIG) is called, which is async-signal-safe and touches no
        // memory.
        unsafe {
            command.pre_exec(|| set_parent_process_death_signal(Some(Signal::TERM)).map_err(io::Error::from));
        }
        let child = command.envs(BUILD_IDENTITY).stdout(Stdio::piped()).stderr(errors).spawn();
        let mut child = child.map_err(io_error("run", Path::new("make")))?;
        let output = child.stdout.take().expect("stdout was asked for above");
        let mut made = 0;
        for line in BufReader::new(output).split(b'\n') {
            if self.interrupt.is_set() {
                // make ends its children and removes what they had not finished; gone already is as good.
                let _ = kill_process_group(Pid::from_child(&child), Signal::TERM);
            }
            let line = line.map_err(io_error("read the output of", Path::new("make")))?;
            log.write_all(&[&line[..], b"\n"].concat()).map_err(io_error("write", &self.log))?;
            if let Some(object) = compiled(&String::from_utf8_lossy(&line)) {
                made += 1;
                // Where progress is lines of a log, every object would be one.
                if made % OBJECTS_A_LINE != 1 {
                    continue;
                }
                progress(&format!("building {}: {made} objects, {object}", self.spec));
            }
        }
        let status = child.wait().map_err(io_error("wait for", Path::new("make")))?;
        if status.success() {
            return Ok(());
        }
        let text = fs::read(&self.log).map_err(io_error("read", &self.log))?;
        let line = cause(&String::from_utf8_lossy(&text)).unwrap_or_else(|| format!("make: {status}"));
        Err(Error::Build { spec: self.spec, line, log: self.log.clone() })
    }
}

/// Returns the object of a line like `  CC      arch/arm64/kvm/mmu.o`, for the steps that take time.
fn compiled(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    let step = words.next().filter(|_| line.starts_with("  "))?;
    let object = words.next()?;
    matches!(step, "CC" | "AS" | "LD" | "AR" | "HOSTCC").then_some(object)
}

/// Returns the first line of a log that names a cause rather than a consequence.
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
    fn the_fragment_asks_for_what_is_required() {
        // CONTIG_ALLOC, EVENT_TRACING and KRETPROBES cannot be asked for by name; what they follow from is there.
        let derived = ["CONFIG_CONTIG_ALLOC", "CONFIG_EVENT_TRACING", "CONFIG_KRETPROBES"];
        for page in [PageSize::Size4K, PageSize::Size16K, PageSize::Size64K] {
            assert_eq!(missing(&config(page), page), derived);
            assert_eq!(config(page).matches("K_PAGES=y").count(), 1);
        }
    }

    #[test]
    fn progress_counts_steps_that_take_time() {
        assert_eq!(compiled("  CC      arch/arm64/kvm/mmu.o"), Some("arch/arm64/kvm/mmu.o"));
        assert_eq!(compiled("  CALL    scripts/checksyscalls.sh"), None);
        assert_eq!(compiled("make[1]: Entering directory '/x'"), None);
    }

    #[test]
    fn a_failure_is_told_by_its_cause() {
        let log = "  CC      mm/slub.o\nmm/slub.c:1:2: error: expected ';'\nmake[2]: *** [x] Error 1\n";
        assert_eq!(cause(log).as_deref(), Some("mm/slub.c:1:2: error: expected ';'"));
        assert_eq!(
            cause("make[2]: *** No rule to make target 'x'.\n").as_deref(),
            Some("make[2]: *** No rule to make target 'x'.")
        );
        assert_eq!(cause("  CC a.o\n"), None);
    }
}
