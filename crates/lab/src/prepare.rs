//! Prepares a boot: the kernel, and the initramfs with the runner and its orders.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::Path;

use hostfacts::interrupt::Interrupt;
use record::machine::LabFacts;
use units::size::Size;

use crate::context::Context;
use crate::error::Error;
use crate::init::protocol::{Manifest, SwapOrder};
use crate::initramfs;
use crate::kernel::choice::KernelChoice;
use crate::kernel::image;
use crate::kernel::modules::SwapModules;
use crate::kernel::resolve::{Kernel, KernelRequest, WantedModules};
use crate::options::Options;
use crate::progress::ProgressLine;
use crate::qemu::emulator::Emulator;
use crate::runner;
use crate::work_dir::WorkDir;

/// CPU models of QEMU without pages of 16 KiB (ID_AA64MMFR0_EL1.TGran16). All have the other sizes.
const WITHOUT_16K: [&str; 4] = ["a64fx", "cortex-a53", "cortex-a57", "cortex-a72"];

/// A kernel, and the directory that it boots in.
#[derive(Debug)]
pub struct PreparedBoot {
    /// The kernel.
    pub kernel: Kernel,
    /// The directory, with the initramfs.
    pub work_dir: WorkDir,
}

/// The contents of the initramfs that all kernels of one call have in common.
#[derive(Debug)]
pub struct Contents {
    /// The runner.
    pub runner: Vec<u8>,
    /// The arguments of the runner.
    pub argv: Vec<String>,
    files: Vec<initramfs::File>,
}

impl Contents {
    /// Reads the runner and the user's files. The runner will get the arguments `argv`.
    ///
    /// # Errors
    ///
    /// [`Error::NoRunner`], [`Error::RunnerKind`], [`Error::Argument`] or [`Error::AddedFile`].
    pub fn read(options: &Options, argv: &[OsString]) -> Result<Self, Error> {
        let text =
            |argument: &OsString| argument.to_str().map(String::from).ok_or_else(|| Error::Argument(argument.clone()));
        let runner = runner::find(options.runner.as_deref())?;
        let argv = argv.iter().map(text).collect::<Result<_, _>>()?;
        let files: Vec<_> = options.with.iter().map(|path| initramfs::File::read(path)).collect::<Result<_, _>>()?;
        Ok(Self { runner, argv, files: files.into_iter().flatten().collect() })
    }
}

/// The parts of a boot that all kernels of one call have in common.
pub struct Preparation<'a> {
    /// The user's options.
    pub options: &'a Options,
    /// The directory for run directories.
    pub results: &'a Path,
    /// The QEMU.
    pub emulator: &'a Emulator,
    /// The user's wish to stop.
    pub interrupt: &'a Interrupt,
    /// The contents of the initramfs.
    pub contents: &'a Contents,
}

impl Preparation<'_> {
    /// Gets a kernel ready, and writes its initramfs.
    ///
    /// # Errors
    ///
    /// The step that failed, see [`Error`].
    pub fn prepare(&self, name: &str, choice: &KernelChoice, line: &ProgressLine<'_>) -> Result<PreparedBoot, Error> {
        let work_dir = WorkDir::create(self.results)?;
        let kernel = KernelRequest {
            name,
            choice,
            modules: if self.options.swap.is_some() { WantedModules::Swap } else { WantedModules::None },
            linux: self.options.linux.as_deref(),
            scratch: work_dir.path(),
        };
        let kernel = kernel.resolve(Context { interrupt: self.interrupt, progress: &|text| line.show(text) });
        line.finish();
        let kernel = kernel?;
        self.check_page_size(&kernel)?;
        self.interrupt.check()?;
        let (swap, modules) = swap_order(self.options.swap, kernel.modules.as_ref());
        let manifest = self.manifest(name, swap);
        let Contents { runner, files, .. } = self.contents;
        let files: Vec<_> = files.iter().cloned().chain(modules).collect();
        let path = work_dir.initramfs();
        initramfs::write(Vec::new(), runner, &manifest, &files)
            .and_then(|archive| fs::write(&path, archive))
            .map_err(|error| Error::results(path, error))?;
        Ok(PreparedBoot { kernel, work_dir })
    }

    /// Refuses a kernel whose pages the CPU model lacks: it would end without a word.
    fn check_page_size(&self, kernel: &Kernel) -> Result<(), Error> {
        let mut header = [0; 64];
        let read = fs::File::open(&kernel.image).and_then(|mut file| file.read_exact(&mut header));
        let page = read.ok().and_then(|()| image::page_bytes(&header));
        let cpu = self.options.cpu().split(',').next().unwrap_or_default();
        match page {
            Some(page) if page == 16 << 10 && WITHOUT_16K.contains(&cpu) => {
                Err(Error::NoPageSize { kernel: kernel.name.clone(), page: Size(page), cpu: cpu.to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Returns the orders for init. They are the same in every run of a kernel with these options.
    fn manifest(&self, kernel: &str, swap: Option<SwapOrder>) -> Manifest {
        let lab = LabFacts {
            emulator: self.emulator.name(),
            cpu: self.options.cpu().to_owned(),
            smp: self.options.smp,
            nodes: self.options.nodes,
            swap: self.options.swap,
            no_swap: None,
            time_scale: self.options.time_scale,
            counting: self.options.count,
            sanitizing: self.options.sanitize,
            // All policy kernels have the same release, so only the name tells them apart.
            kernel: Some(kernel.into()),
        };
        let hooks = self.options.hooks.iter().cloned().collect();
        Manifest { argv: self.contents.argv.clone(), lab, swap, hooks }
    }
}

/// Returns the order to set up swap, and the files of the modules that it needs.
fn swap_order(swap: Option<Size>, modules: Option<&SwapModules>) -> (Option<SwapOrder>, Vec<initramfs::File>) {
    let (files, no_modules) = match modules {
        Some(SwapModules::Found(modules)) => (modules.iter().map(initramfs::File::module).collect(), None),
        Some(SwapModules::Unavailable(why)) => (Vec::new(), Some(why.clone())),
        None => (Vec::new(), None),
    };
    let paths = files.iter().map(initramfs::File::path).collect();
    (swap.map(|size| SwapOrder { bytes: size.0, modules: paths, no_modules }), files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::modules::Module;

    #[test]
    fn a_swap_order_has_modules_or_the_reason_for_their_absence() {
        let module = |name: &str| Module { name: name.into(), contents: name.into() };
        let modules = SwapModules::Found(vec![module("zsmalloc"), module("zram")]);
        let (order, files) = swap_order(Some(Size(1 << 28)), Some(&modules));
        let paths = vec!["/modules/zsmalloc.ko".to_owned(), "/modules/zram.ko".to_owned()];
        assert_eq!(order, Some(SwapOrder { bytes: 1 << 28, modules: paths, no_modules: None }));
        assert_eq!(files.len(), 2);
        let (order, files) = swap_order(Some(Size(1 << 28)), Some(&SwapModules::Unavailable("none".into())));
        assert_eq!(order.and_then(|order| order.no_modules).as_deref(), Some("none"));
        assert!(files.is_empty());
        assert_eq!(swap_order(None, None).0, None);
    }
}
