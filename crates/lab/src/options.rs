//! Options of the lab: the kernels to boot, and the emulated host to boot them on.

use std::fs;
use std::path::PathBuf;

use clap::Parser;
use units::size::Size;

use crate::error::Error;
use crate::kernel::choice::KernelChoice;
use crate::progress::Verbosity;
use crate::qemu::choice::{OWN_QEMU, QemuChoice};

/// The smallest swap: a header and a few pages of any size.
const LEAST_SWAP: Size = Size(1 << 20);

/// The most NUMA nodes that every kernel of the lab has room for (`CONFIG_NODES_SHIFT`).
const MOST_NODES: i64 = 4;

/// The kernels to boot, and the emulated host to boot them on.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Kernels to boot: debian:VERSION or debian:SUITE, with -rt, -cloud or -16k if wanted, an exact Debian release,
    /// policy:NAME, fault:NAME, or the path of a kernel; several with commas
    #[arg(long, required = true, value_delimiter = ',', value_name = "KERNEL,…")]
    pub kernel: Vec<String>,
    /// Directory that receives one run directory for each kernel
    #[arg(long, default_value = "results", value_name = "DIR")]
    pub results: PathBuf,
    /// CPU model that QEMU emulates [default: neoverse-n1; for `check`, one without DIC and, if QEMU has one, with FWB]
    #[arg(long, value_name = "MODEL")]
    pub cpu: Option<String>,
    /// CPUs of the emulated host
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub smp: u32,
    /// Memory of the emulated host, in MiB
    #[arg(long, default_value_t = 4096, value_name = "MIB", value_parser = clap::value_parser!(u32).range(256..))]
    pub mem: u32,
    /// NUMA nodes that share the CPUs and the memory
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MOST_NODES))]
    pub nodes: u32,
    /// Swap of the emulated host, in compressed memory (zram)
    #[arg(long, value_name = "SIZE")]
    pub swap: Option<Size>,
    /// Let every instruction take 2^N ns of virtual time, so that results repeat; without it, time is that of this
    /// machine
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=10))]
    pub time_scale: Option<u8>,
    /// More arguments for the emulated kernel
    #[arg(long, default_value = "", value_name = "ARGS", allow_hyphen_values = true)]
    pub append: String,
    /// Source tree that policy:NAME kernels are built from, in place of Debian's linux-source-6.12
    #[arg(long, value_name = "DIR")]
    pub linux: Option<PathBuf>,
    /// Count every cache maintenance instruction by a TCG plugin, and put the counts beside the predictions
    #[arg(long)]
    pub count: bool,
    /// Judge all cache maintenance by a TCG plugin (QEMU 10), and fail what the host's kernel owes
    #[arg(long, conflicts_with = "count")]
    pub sanitize: bool,
    /// Put this file or directory into the emulated host, under its own name, in the directory where the runner starts
    #[arg(long, value_name = "PATH")]
    pub with: Vec<PathBuf>,
    /// Print QEMU's command line for each kernel and do nothing else
    #[arg(long)]
    pub dry_run: bool,
    /// Keep the initramfs and QEMU's command line beside the run directory
    #[arg(long)]
    pub keep: bool,
    /// End an emulated host that has not ended after this many seconds
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub qemu_timeout: u64,
    /// One more argument for QEMU
    #[arg(long = "qemu-arg", hide = true, value_name = "ARG", allow_hyphen_values = true)]
    pub qemu_args: Vec<String>,
    /// The QEMU to use: a program, or a major version such as 10. A version means this machine's own QEMU if that is at
    /// least as new, otherwise Debian's backport, unpacked into the cache
    #[arg(long, default_value = OWN_QEMU, value_name = "PROGRAM|VERSION")]
    pub qemu: QemuChoice,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub verbosity: Verbosity,
    /// Treatment of a kernel that cannot be had: if true, its boot says so, and the other kernels boot.
    #[arg(skip)]
    pub keep_going: bool,
    /// An accident in the emulated host, for tests: see crates/lab/src/init/hooks.rs
    #[arg(long = "guest-hook", hide = true, value_name = "KEY=VALUE", value_parser = key_value)]
    pub hooks: Vec<(String, String)>,
    /// Static arm64 runner for the emulated host, in place of the one that was built with this program
    #[arg(long = "guest-runner", hide = true, value_name = "FILE")]
    pub runner: Option<PathBuf>,
}

impl Options {
    /// Returns the defaults of the command line for one kernel.
    pub fn for_kernel(kernel: &str) -> Self {
        #[derive(Parser)]
        struct CommandLine {
            #[command(flatten)]
            options: Options,
        }
        let parsed = CommandLine::try_parse_from(["lab", "--kernel", ""]).expect("all other options have defaults");
        Self { kernel: vec![kernel.to_string()], ..parsed.options }
    }

    /// Returns the words of `faultline lab` with which `kernel` boots in the same way and runs `argv`. Every default that
    /// matters is written out. The directory of results and the amount of output are left out.
    pub(crate) fn words(&self, kernel: &str, argv: &[String]) -> Vec<String> {
        let mut words = vec!["lab".to_owned(), format!("--kernel={kernel}"), format!("--cpu={}", self.cpu())];
        words.push(format!("--smp={}", self.smp));
        words.push(format!("--mem={}", self.mem));
        words.push(format!("--nodes={}", self.nodes));
        words.push(format!("--append={}", self.append));
        words.push(format!("--qemu={}", self.qemu));
        words.push(format!("--qemu-timeout={}", self.qemu_timeout));
        words.extend(self.swap.map(|size| format!("--swap={size}")));
        words.extend(self.time_scale.map(|scale| format!("--time-scale={scale}")));
        words.extend(self.linux.iter().map(|tree| format!("--linux={}", tree.display())));
        words.extend(self.count.then(|| "--count".to_owned()));
        words.extend(self.sanitize.then(|| "--sanitize".to_owned()));
        words.extend(self.with.iter().map(|path| format!("--with={}", path.display())));
        words.extend(self.hooks.iter().map(|(key, value)| format!("--guest-hook={key}={value}")));
        words.push("--".to_owned());
        words.extend(argv.iter().cloned());
        words
    }

    /// Returns the CPU model that QEMU emulates.
    pub fn cpu(&self) -> &str {
        self.cpu.as_deref().unwrap_or("neoverse-n1")
    }

    /// Checks the options that clap does not check, and returns the kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Cpu`], [`Error::Swap`], [`Error::UnknownKernel`], [`Error::KernelFile`] or [`Error::Policy`].
    pub(crate) fn check(&self) -> Result<Vec<KernelChoice>, Error> {
        if !is_cpu_name(self.cpu()) {
            return Err(Error::Cpu(self.cpu().to_owned()));
        }
        if let Some(size) = self.swap.filter(|size| *size < LEAST_SWAP) {
            return Err(Error::Swap { size, least: LEAST_SWAP });
        }
        let choices: Vec<KernelChoice> = self.kernel.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
        for choice in &choices {
            if let KernelChoice::Path(path) = choice {
                fs::metadata(path).map_err(|error| Error::KernelFile { path: path.clone(), error })?;
            }
        }
        Ok(choices)
    }
}

fn key_value(text: &str) -> Result<(String, String), &'static str> {
    text.split_once('=').map(|(key, value)| (key.into(), value.into())).ok_or("KEY=VALUE expected")
}

/// Returns whether QEMU reads `name` as one CPU model with its properties.
fn is_cpu_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('-')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ',' | '='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_for_a_kernel_of_any_name() {
        let options = Options::for_kernel("/a,b");
        assert_eq!((options.kernel, options.smp, options.mem), (vec!["/a,b".to_owned()], 2, 4096));
        assert_eq!((options.qemu, options.qemu_timeout), (QemuChoice::default(), 600));
    }

    /// Words that make another run must not be lost.
    #[test]
    fn the_words_give_the_same_options() {
        #[derive(Parser)]
        struct CommandLine {
            #[command(flatten)]
            options: Options,
            #[arg(last = true)]
            argv: Vec<String>,
        }
        let given = ["lab", "--kernel=/a", "--cpu=max", "--smp=3", "--mem=512", "--nodes=2", "--append=a b", "--count"];
        let more = ["--swap=256M", "--time-scale=6", "--linux=/l", "--with=/w", "--guest-hook=k=v=w", "--qemu=10"];
        let parse = |words: Vec<String>| CommandLine::try_parse_from(words).expect("it is a command line");
        let first = parse([&given[..], &more, &["--", "run", "boot"]].concat().into_iter().map(String::from).collect());
        let again = parse(first.options.words("/a", &first.argv));
        assert_eq!(format!("{:?}", first.options), format!("{:?}", again.options));
        assert_eq!(first.argv, again.argv);
    }

    #[test]
    fn cpu_names_are_checked() {
        assert!(is_cpu_name("neoverse-n1") && is_cpu_name("max,lpa2=off"));
        assert!(!is_cpu_name("") && !is_cpu_name("-device") && !is_cpu_name("n1 -device x"));
    }

    #[test]
    fn too_small_a_swap_is_refused() {
        let options = Options { swap: Some(Size(4096)), ..Options::for_kernel("debian:6.1") };
        assert!(options.check().is_err_and(|error| error.to_string().contains("--swap 4K is too small")));
        assert!(Options { swap: Some(LEAST_SWAP), ..options }.check().is_ok());
    }
}
