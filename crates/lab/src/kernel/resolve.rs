//! The way from the user's name for a kernel to a checked Image.

use std::path::{Path, PathBuf};

use crate::cache;
use crate::context::Context;
use crate::error::Error;
use crate::kernel::choice::KernelChoice;
use crate::kernel::modules::SwapModules;
use crate::kernel::store::KernelStore;
use crate::kernel::{debian, unpack};
use crate::policy;
use crate::policy::source::Source;
use crate::policy::spec::PolicyKernel;

/// A kernel that is ready to boot.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The user's name for it.
    pub name: String,
    /// The uncompressed Image.
    pub image: PathBuf,
    /// The release in the banner of the Image.
    pub release: Option<String>,
    /// Modules for swap, if they were asked for.
    pub modules: Option<SwapModules>,
    /// Argument that the kernel gets besides those of the options.
    pub argument: Option<String>,
}

/// Modules that a kernel is wanted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedModules {
    /// The modules that swap needs.
    Swap,
    /// None.
    None,
}

/// A kernel to get.
#[derive(Debug, Clone, Copy)]
pub struct KernelRequest<'a> {
    /// The user's name for it.
    pub name: &'a str,
    /// The meaning of the name.
    pub choice: &'a KernelChoice,
    /// The modules that are wanted with it.
    pub modules: WantedModules,
    /// The source tree for policy kernels, if it is not Debian's.
    pub linux: Option<&'a Path>,
    /// A directory for an unpacked Image.
    pub scratch: &'a Path,
}

impl KernelRequest<'_> {
    /// Fetches, builds or unpacks the kernel as needed, and checks it.
    ///
    /// # Errors
    ///
    /// The step that failed, see [`Error`].
    pub fn resolve(&self, context: Context<'_>) -> Result<Kernel, Error> {
        let (path, modules) = match self.choice {
            KernelChoice::Path(path) => (path.clone(), self.no_modules()),
            KernelChoice::Policy(kernel) => (self.built(*kernel, context)?, self.no_modules()),
            KernelChoice::Fault(fault) => (self.built(fault.kernel(), context)?, self.no_modules()),
            KernelChoice::Debian(name) => {
                let store = KernelStore::open(context)?;
                let image = debian::get(name, &store, context)?;
                let modules = self.debian_modules(&image, &store, context)?;
                (image, modules)
            }
        };
        let (image, release) = unpack::plain_image(&path, self.scratch)?;
        let argument = match self.choice {
            KernelChoice::Fault(fault) => Some(fault.argument()),
            _ => None,
        };
        Ok(Kernel { name: self.name.to_string(), image, release, modules, argument })
    }

    fn built(&self, kernel: PolicyKernel, context: Context<'_>) -> Result<PathBuf, Error> {
        let source = match self.linux {
            Some(tree) => Source::Tree(tree.to_owned()),
            None => Source::Debian(kernel.build.source),
        };
        let image = policy::image::get(kernel, &source, &cache::directory()?, context);
        // An interrupted build fails with an error of make, which would hide the reason.
        context.interrupt.check()?;
        Ok(image?)
    }

    fn debian_modules(
        &self,
        image: &Path,
        store: &KernelStore,
        context: Context<'_>,
    ) -> Result<Option<SwapModules>, Error> {
        match self.modules {
            WantedModules::None => Ok(None),
            WantedModules::Swap => debian::modules(image, store, context).map(Some),
        }
    }

    /// Returns the reason why a kernel that is not Debian's has no modules, if they are wanted.
    fn no_modules(&self) -> Option<SwapModules> {
        let why = "the lab has modules only for Debian's kernels";
        (self.modules == WantedModules::Swap).then(|| SwapModules::Unavailable(why.into()))
    }
}
