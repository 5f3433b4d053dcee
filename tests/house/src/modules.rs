//! The modules of a crate, the paths that each uses, and the circles among them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, File, Item, LitStr, Meta, UseTree};

/// A source file.
pub struct Module {
    /// Its path in the crate: empty for the root, `["trace", "parse"]` for `trace/parse.rs`.
    pub path: Vec<String>,
    /// The file.
    pub file: PathBuf,
    /// Its syntax, without everything that is compiled for tests only.
    pub syntax: File,
}

/// Reads every module below a `src` directory.
///
/// # Panics
///
/// If a file cannot be read or is not Rust.
pub fn read(source: &Path) -> Vec<Module> {
    let mut files = Vec::new();
    collect(source, &mut files);
    files.sort();
    let mut modules = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a text");
        let mut syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        syntax.items.retain(|item| !is_for_tests(attributes(item)));
        let relative = file.strip_prefix(source).expect("it is below").with_extension("");
        let mut path: Vec<String> =
            relative.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        if path.last().is_some_and(|last| ["mod", "lib", "main"].contains(&&**last)) {
            path.pop();
        }
        modules.push(Module { path, file, syntax });
    }
    drop_test_modules(&mut modules);
    modules
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Removes the modules that their parents declare for tests only, with all modules below them.
fn drop_test_modules(modules: &mut Vec<Module>) {
    let mut kept: BTreeSet<Vec<String>> = BTreeSet::from([Vec::new()]);
    loop {
        let mut more = Vec::new();
        for module in modules.iter().filter(|module| kept.contains(&module.path)) {
            for item in &module.syntax.items {
                if let Item::Mod(child) = item {
                    let path: Vec<_> = module.path.iter().cloned().chain([child.ident.to_string()]).collect();
                    if !kept.contains(&path) {
                        more.push(path);
                    }
                }
            }
        }
        if more.is_empty() {
            break;
        }
        kept.extend(more);
    }
    modules.retain(|module| kept.contains(&module.path));
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Mod(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Const(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        _ => &[],
    }
}

/// Returns whether an item with these attributes is compiled for tests only: `#[cfg(test)]`.
pub fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let Meta::List(list) = &attribute.meta else { return false };
        let is_test = || list.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"));
        list.path.is_ident("cfg") && is_test()
    })
}

/// Everything that a module's code names.
#[derive(Default)]
pub struct Names {
    /// Paths, such as `crate::store::read` or `std::fs::File`.
    pub paths: Vec<Vec<String>>,
    /// String literals.
    pub texts: Vec<String>,
    /// Identifiers, including those in macros.
    pub words: BTreeSet<String>,
}

impl Names {
    /// Collects the names of a file.
    pub fn of(syntax: &File) -> Self {
        let mut names = Self::default();
        names.visit_file(syntax);
        names
    }

    fn tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: &dyn ToString| before.iter().cloned().chain([name.to_string()]).collect::<Vec<_>>();
        match tree {
            UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree),
            UseTree::Name(name) => self.path(with(&name.ident)),
            UseTree::Rename(rename) => self.path(with(&rename.ident)),
            UseTree::Glob(_) => self.path(before.to_vec()),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(before, tree)),
        }
    }

    fn path(&mut self, path: Vec<String>) {
        self.words.extend(path.iter().cloned());
        self.paths.push(path);
    }

    /// Reads the tokens of a macro: identifiers, string literals, and paths as `a::b`. The grammar of the macro is unknown.
    fn tokens(&mut self, tokens: &proc_macro2::TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens.clone() {
            match token {
                proc_macro2::TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.path(std::mem::take(&mut path));
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                proc_macro2::TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                other => {
                    self.path(std::mem::take(&mut path));
                    colons = 0;
                    if let proc_macro2::TokenTree::Group(group) = &other {
                        self.tokens(&group.stream());
                    } else if let Ok(text) = syn::parse_str::<LitStr>(&other.to_string()) {
                        self.texts.push(text.value());
                    }
                }
            }
        }
        self.path(path);
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.path(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {
        // `pub(super)` names a module and does not use it.
    }

    fn visit_ident(&mut self, ident: &'ast proc_macro2::Ident) {
        self.words.insert(ident.to_string());
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        // Doc comments name items that the code does not use.
        if !attribute.path().is_ident("doc")
            && let Meta::List(list) = &attribute.meta
        {
            self.tokens(&list.tokens);
        }
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        self.path(mac.path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        self.tokens(&mac.tokens);
    }

    fn visit_lit_str(&mut self, text: &'ast LitStr) {
        self.texts.push(text.value());
    }
}

/// Returns the modules of this crate that each module uses. To declare a child is not to use it.
pub fn uses(modules: &[Module]) -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
    let known: BTreeSet<&Vec<String>> = modules.iter().map(|module| &module.path).collect();
    let mut graph = BTreeMap::new();
    for module in modules {
        let names = Names::of(&module.syntax);
        let used = names.paths.iter().filter_map(|path| resolve(path, &module.path, &known));
        graph.insert(module.path.clone(), used.filter(|used| *used != module.path).collect());
    }
    graph
}

/// Returns the module of this crate that has the item `path`, as the module `place` writes it. Returns none if the item
/// is in another crate.
fn resolve(path: &[String], place: &[String], known: &BTreeSet<&Vec<String>>) -> Option<Vec<String>> {
    let mut rest = path;
    let mut base = place.to_vec();
    match rest.first()?.as_str() {
        "crate" => {
            base.clear();
            rest = &rest[1..];
        }
        "self" if rest.len() > 1 => rest = &rest[1..],
        "super" => {
            while rest.first().is_some_and(|part| part == "super") {
                base.pop()?;
                rest = &rest[1..];
            }
        }
        child => {
            // A child of this module, named without a prefix.
            let path: Vec<_> = base.iter().cloned().chain([child.to_owned()]).collect();
            if rest.len() < 2 || !known.contains(&path) {
                return None;
            }
        }
    }
    base.extend(rest.iter().cloned());
    (0..=base.len()).rev().map(|length| base[..length].to_vec()).find(|path| known.contains(path))
}

/// Returns the circles of a graph. A circle is a set of modules of which each uses all others, directly or indirectly.
pub fn circles(graph: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>) -> Vec<Vec<String>> {
    let reach = |from: &Vec<String>| {
        let mut seen: BTreeSet<&Vec<String>> = BTreeSet::new();
        let mut next: Vec<&Vec<String>> = graph.get(from).into_iter().flatten().collect();
        while let Some(module) = next.pop() {
            if seen.insert(module) {
                next.extend(graph.get(module).into_iter().flatten());
            }
        }
        seen
    };
    let reached: BTreeMap<_, _> = graph.keys().map(|module| (module, reach(module))).collect();
    let mut found: BTreeSet<Vec<String>> = BTreeSet::new();
    for (module, targets) in &reached {
        if targets.contains(module) {
            let circle = targets.iter().filter(|other| reached.get(*other).is_some_and(|back| back.contains(module)));
            found.insert(circle.map(|path| if path.is_empty() { "(root)".into() } else { path.join("::") }).collect());
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the circles of a crate with these files.
    fn circles_of(files: &[(&str, &str)]) -> Vec<Vec<String>> {
        let source = tempfile::tempdir().expect("a temporary directory");
        for (name, text) in files {
            let path = source.path().join(name);
            fs::create_dir_all(path.parent().expect("a file")).expect("writable");
            fs::write(path, text).expect("writable");
        }
        circles(&uses(&read(source.path())))
    }

    const ROOT: (&str, &str) = ("lib.rs", "mod a; mod b;");

    #[test]
    fn two_modules_that_use_each_other_are_a_circle() {
        let b = ("b.rs", "fn g() { crate::a::f() }");
        assert_eq!(circles_of(&[ROOT, ("a.rs", "use crate::b::g; pub fn f() {}"), b]), [["a", "b"]]);
        assert!(circles_of(&[ROOT, ("a.rs", "pub fn f() {}"), b]).is_empty());
        assert_eq!(circles_of(&[ROOT, ("a.rs", "m!(crate::b::g);"), b]), [["a", "b"]], "in a macro, too");
    }

    #[test]
    fn a_parent_that_uses_its_child_and_is_used_by_it_is_a_circle() {
        let child = ("a/c.rs", "use super::f;");
        let root = ("lib.rs", "mod a;");
        assert_eq!(circles_of(&[root, ("a/mod.rs", "mod c; use c::g; fn f() {}"), child]), [["a", "a::c"]]);
        assert!(circles_of(&[root, ("a/mod.rs", "mod c; fn f() {}"), child]).is_empty(), "a declaration is no use");
        let open = ("a/c.rs", "pub(super) fn g() {}");
        assert!(circles_of(&[root, ("a/mod.rs", "mod c; use c::g;"), open]).is_empty());
    }

    #[test]
    fn code_for_tests_alone_does_not_count() {
        let a = ("a.rs", "#[cfg(test)] mod tests { use crate::b::g; } pub fn f() {}");
        assert!(circles_of(&[ROOT, a, ("b.rs", "use crate::a::f;")]).is_empty());
        let root = ("lib.rs", "mod a; #[cfg(test)] mod b;");
        assert!(circles_of(&[root, ("a.rs", "use crate::b::g;"), ("b.rs", "use crate::a::f;")]).is_empty());
    }
}
