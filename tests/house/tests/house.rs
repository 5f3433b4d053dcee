//! Checks that the source tree obeys the rules of ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use house::modules::{Module, Names, circles, read, uses};
use house::public;
use house::workspace::{Crate, allowed_arrows, crates, root};

/// Returns the code of a crate, and of its tests, its build script and its benches.
fn all_code(of: &Crate) -> Vec<Module> {
    let mut modules = read(&of.directory.join("src"));
    for beside in ["tests", "benches"] {
        modules.extend(files(&of.directory.join(beside)));
    }
    modules
}

/// Returns the Rust files of a directory. Each is read as a crate root.
fn files(directory: &Path) -> Vec<Module> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found = Vec::new();
    for path in entries {
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a text");
            let syntax = syn::parse_file(&text).expect("Rust");
            found.push(Module { path: Vec::new(), file: path, syntax });
        }
    }
    found
}

#[test]
fn arrows_are_those_of_the_architecture() {
    let allowed = allowed_arrows();
    let mut wrong = Vec::new();
    for one in crates().into_iter().filter(|one| one.name != "house") {
        let Some(allowed) = allowed.get(&one.name) else {
            wrong.push(format!("ARCHITECTURE.md has no line for {}", one.name));
            continue;
        };
        wrong
            .extend(one.dependencies.difference(allowed).map(|other| format!("{} → {other} is not allowed", one.name)));
        wrong.extend(
            allowed
                .difference(&one.dependencies)
                .map(|other| format!("{} → {other} is drawn, and not there", one.name)),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_circles_among_modules() {
    let mut found = Vec::new();
    for one in crates() {
        let circles = circles(&uses(&read(&one.directory.join("src"))));
        found.extend(circles.iter().map(|circle| format!("{}: {}", one.name, circle.join(", "))));
    }
    assert!(found.is_empty(), "these modules use each other in circles:\n{}", found.join("\n"));
}

/// Names that only some crates may use.
struct Absence {
    /// The rule, in the words of ARCHITECTURE.md.
    rule: &'static str,
    /// Crates that may use them, or folders below the `src` of a crate.
    only: &'static [&'static str],
    /// Beginnings of paths, such as `std::fs`.
    paths: &'static [&'static str],
    /// Beginnings of string literals, such as `/proc/`.
    texts: &'static [&'static str],
}

const ABSENCES: [Absence; 4] = [
    Absence {
        rule: "only vmm sees KVM's types",
        only: &["vmm"],
        paths: &["kvm_ioctls", "kvm_bindings", "vm_memory", "vm_superio", "vm_fdt"],
        texts: &["/dev/kvm"],
    },
    Absence {
        rule: "only hostfacts reads /proc, /sys, tracefs and /dev/kmsg, and init of the emulated host mounts them",
        only: &["hostfacts", "lab/init"],
        paths: &[],
        texts: &["/proc/", "/sys/", "/dev/kmsg"],
    },
    Absence {
        rule: "abi, guest, klog, programs and units know no files, processes or environment",
        only: &[
            "cmo-plugin",
            "hostfacts",
            "host-runner",
            "house",
            "lab",
            "payload",
            "record",
            "report",
            "scenarios",
            "vmm",
        ],
        paths: &["std::fs", "std::process", "std::net", "std::env"],
        texts: &[],
    },
    Absence {
        rule: "only the code that reads raw memory, registers or system calls is unsafe",
        only: &["cmo-plugin", "hostfacts", "lab", "payload", "scenarios/litmus", "vmm"],
        paths: &["core::arch", "std::arch", "libc"],
        texts: &[],
    },
];

#[test]
fn absences_hold() {
    let mut wrong = Vec::new();
    let crates = crates();
    for one in &crates {
        let modules = read(&one.directory.join("src"));
        for (module, absence) in modules.iter().flat_map(|module| ABSENCES.iter().map(move |absence| (module, absence)))
        {
            let place: Vec<_> = std::iter::once(&one.name).chain(&module.path).map(String::as_str).collect();
            let place = place.join("/");
            let within = |folder: &&str| place == *folder || place.starts_with(&format!("{folder}/"));
            if absence.only.iter().any(within) {
                continue;
            }
            let names = Names::of(&module.syntax);
            let named = |path: &Vec<String>| {
                let path = path.join("::");
                absence.paths.iter().any(|start| path == *start || path.starts_with(&format!("{start}::")))
            };
            let paths = names.paths.iter().filter(|path| named(path)).map(|path| path.join("::"));
            let said = |text: &&String| {
                // A message has spaces, and a path has none.
                !text.contains(' ') && absence.texts.iter().any(|start| text.starts_with(start))
            };
            let all = paths.chain(names.texts.iter().filter(said).cloned()).collect::<BTreeSet<_>>();
            wrong.extend(all.iter().map(|what| format!("{place}: {what}: {}", absence.rule)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Public items that no other crate uses. Each line has `crate::module::item` and the reason.
const DECLARED: &str = include_str!("../declared.txt");

#[test]
fn public_items_are_used_by_another_crate_or_declared() {
    let crates = crates();
    let declared: BTreeSet<&str> = DECLARED
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let mut words: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for one in &crates {
        let of = all_code(one).iter().flat_map(|module| Names::of(&module.syntax).words).collect();
        words.insert(&one.name, of);
    }
    let fuzz = files(&root().join("fuzz/fuzz_targets")).iter().flat_map(|file| Names::of(&file.syntax).words).collect();
    words.insert("fuzz", fuzz);
    // The tests and examples of a crate use it from outside.
    let own_tests = |one: &Crate| -> BTreeSet<String> {
        let tests = files(&one.directory.join("tests"));
        let mut words: BTreeSet<_> = tests.iter().flat_map(|file| Names::of(&file.syntax).words).collect();
        let root = std::fs::read_to_string(one.directory.join("src/lib.rs")).unwrap_or_default();
        let docs = root
            .lines()
            .filter(|line| line.starts_with("//!"))
            .flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'));
        words.extend(docs.map(str::to_owned));
        words
    };
    let (mut unused, mut known) = (Vec::new(), BTreeSet::new());
    for one in crates.iter().filter(|one| !["house", "cmo-plugin"].contains(&&*one.name)) {
        let outside = own_tests(one);
        let modules = read(&one.directory.join("src"));
        let needed = public::signature_words(&modules);
        for item in public::items(&modules) {
            let name = format!("{}::{item}", one.name);
            let last = item.rsplit("::").next().unwrap_or_default();
            // A word in a signature names a type. A method of the same name is something else.
            let is_type = last.starts_with(char::is_uppercase);
            let used = outside.contains(last)
                || (is_type && needed.contains(last))
                || words.iter().any(|(other, words)| *other != one.name && words.contains(last));
            if !used && !declared.contains(&*name) {
                unused.push(name.clone());
            }
            known.insert(name);
        }
    }
    let stale: Vec<_> = declared.iter().filter(|name| !known.contains(**name)).collect();
    assert!(stale.is_empty(), "declared, and not there: {stale:?}");
    assert!(
        unused.is_empty(),
        "public, and no other crate names them (tests/house/declared.txt):\n{}",
        unused.join("\n")
    );
}
