//! Policy kernels in the cache, each under a key of everything that it depends on.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use crate::context::Context;
use crate::policy::build::Recipe;
use crate::policy::error::Error;
use crate::policy::source::Source;
use crate::policy::spec::PolicyKernel;
use crate::policy::tree::Tree;
use crate::policy::{config, toolchain};

/// Returns the path of the Image of `kernel`. If the cache does not have it, it is built.
///
/// The directory of the Image appears only when the build is complete.
///
/// # Errors
///
/// The step that failed, see [`Error`].
pub fn get(kernel: PolicyKernel, source: &Source, cache: &Path, context: Context<'_>) -> Result<PathBuf, Error> {
    toolchain::check()?;
    let compiler = toolchain::compiler_version()?;
    let tree = source.tree(cache, context)?;
    let inputs = inputs(kernel, &tree, &compiler);
    let folder = cache.join("policy").join(key(&inputs));
    let image = folder.join("Image");
    if is_built_from(&inputs, &folder) {
        return Ok(image);
    }
    let _lock = tree.lock(context)?;
    // Another process may have built it in the meantime.
    if !is_built_from(&inputs, &folder) {
        Recipe { kernel, compiler: &compiler, inputs: &inputs }.build(&tree, &folder, context)?;
    }
    Ok(image)
}

/// Returns everything that the kernel depends on, as a text that people can read and compare.
fn inputs(kernel: PolicyKernel, tree: &Tree, compiler: &str) -> String {
    format!(
        "source: {}\ncompiler: {compiler}\npage size: {}\n\n== config\n{}\n== patch\n{}",
        tree.id,
        kernel.build.page.name(),
        config::fragment(kernel.build, tree.version),
        diff(kernel.policy.patch(tree.version))
    )
}

/// Returns `patch` without its introduction, which is for people only.
fn diff(patch: &str) -> &str {
    patch.find("\n--- a/").map_or("", |start| &patch[start + 1..])
}

/// Returns the name of the directory for `inputs`. [`is_built_from`] compares the whole text, so a collision only costs
/// a build.
fn key(inputs: &str) -> String {
    let mut hasher = DefaultHasher::new();
    inputs.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Returns whether `folder` holds a complete build from exactly `inputs`.
fn is_built_from(inputs: &str, folder: &Path) -> bool {
    folder.join("Image").exists() && fs::read_to_string(folder.join("inputs")).is_ok_and(|stored| stored == inputs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::spec::SourceVersion;

    fn tree() -> Tree {
        Tree { id: "debian 1".into(), version: SourceVersion::DEFAULT, folder: "/".into() }
    }

    #[test]
    fn every_policy_and_page_size_has_its_own_key() {
        let mut keys: Vec<_> = PolicyKernel::all().map(|kernel| key(&inputs(kernel, &tree(), "cc 1"))).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 12);
    }

    #[test]
    fn words_for_people_are_not_part_of_a_key() {
        let kernel: PolicyKernel = "by-line+64k".parse().expect("a name");
        let text = inputs(kernel, &tree(), "cc 1");
        assert!(
            text.contains("== patch\n--- a/arch/arm64/") && text.contains("\nCONFIG_ARM64_64K_PAGES=y\n"),
            "{text}"
        );
        assert!(text.contains("# CONFIG_LOCALVERSION_AUTO is not set") && !text.contains("Checked on"), "{text}");
        assert_eq!(diff(""), "");
    }

    #[test]
    fn a_folder_fits_only_its_own_inputs() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("inputs"), "a").expect("written");
        assert!(!is_built_from("a", folder.path()), "no Image");
        fs::write(folder.path().join("Image"), "").expect("written");
        assert!(is_built_from("a", folder.path()));
        assert!(!is_built_from("b", folder.path()));
    }
}
