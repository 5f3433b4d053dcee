//! The public items of a crate: those that another crate can name.

use std::collections::BTreeSet;

use syn::visit::{self, Visit};
use syn::{ImplItem, Item, Visibility};

use crate::modules::{Module, is_for_tests};

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// Returns the public items in the public modules of a crate, as `module::item` or `module::Type::method`. An item that
/// is re-exported has the name of its own module.
pub fn items(modules: &[Module]) -> Vec<String> {
    let public = public_modules(modules);
    let exported = re_exports(modules, &public);
    let mut found = Vec::new();
    for module in modules {
        let all = public.contains(&module.path);
        for item in &module.syntax.items {
            let (visibility, name) = match item {
                Item::Fn(item) => (&item.vis, item.sig.ident.to_string()),
                Item::Struct(item) => (&item.vis, item.ident.to_string()),
                Item::Enum(item) => (&item.vis, item.ident.to_string()),
                Item::Const(item) => (&item.vis, item.ident.to_string()),
                Item::Static(item) => (&item.vis, item.ident.to_string()),
                Item::Trait(item) => (&item.vis, item.ident.to_string()),
                Item::Type(item) => (&item.vis, item.ident.to_string()),
                Item::Impl(item) if item.trait_.is_none() => {
                    let owner = owner(&item.self_ty);
                    for method in &item.items {
                        if let ImplItem::Fn(method) = method
                            && is_public(&method.vis)
                            && !is_for_tests(&method.attrs)
                            && (all || exported.contains(&owner))
                        {
                            found.push(qualified(&module.path, &format!("{owner}::{}", method.sig.ident)));
                        }
                    }
                    continue;
                }
                _ => continue,
            };
            if is_public(visibility) && (all || exported.contains(&name)) {
                found.push(qualified(&module.path, &name));
            }
        }
    }
    found
}

fn owner(ty: &syn::Type) -> String {
    match ty {
        syn::Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()).unwrap_or_default(),
        _ => String::new(),
    }
}

fn qualified(path: &[String], name: &str) -> String {
    path.iter().map(String::as_str).chain([name]).collect::<Vec<_>>().join("::")
}

/// Returns the modules that another crate can name.
fn public_modules(modules: &[Module]) -> BTreeSet<Vec<String>> {
    let mut public = BTreeSet::from([Vec::new()]);
    loop {
        let before = public.len();
        for module in modules.iter().filter(|module| public.contains(&module.path)).collect::<Vec<_>>() {
            for item in &module.syntax.items {
                if let Item::Mod(child) = item
                    && is_public(&child.vis)
                {
                    public.insert(module.path.iter().cloned().chain([child.ident.to_string()]).collect());
                }
            }
        }
        if public.len() == before {
            return public;
        }
    }
}

/// Returns the names that public modules re-export.
fn re_exports(modules: &[Module], public: &BTreeSet<Vec<String>>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for module in modules.iter().filter(|module| public.contains(&module.path)) {
        for item in &module.syntax.items {
            if let Item::Use(item) = item
                && is_public(&item.vis)
            {
                leaves(&item.tree, &mut names);
            }
        }
    }
    names
}

fn leaves(tree: &syn::UseTree, names: &mut BTreeSet<String>) {
    match tree {
        syn::UseTree::Path(path) => leaves(&path.tree, names),
        syn::UseTree::Name(name) => drop(names.insert(name.ident.to_string())),
        syn::UseTree::Rename(rename) => drop(names.insert(rename.ident.to_string())),
        syn::UseTree::Glob(_) => {}
        syn::UseTree::Group(group) => group.items.iter().for_each(|tree| leaves(tree, names)),
    }
}

/// Returns every word in the signatures of the public items of a crate. A type in such a signature has to be public.
pub fn signature_words(modules: &[Module]) -> BTreeSet<String> {
    let mut words = Words::default();
    for module in modules {
        for item in &module.syntax.items {
            match item {
                Item::Fn(item) if is_public(&item.vis) => words.visit_signature(&item.sig),
                Item::Struct(item) if is_public(&item.vis) => words.visit_fields(&item.fields),
                Item::Enum(item) if is_public(&item.vis) => {
                    item.variants.iter().for_each(|variant| words.visit_fields(&variant.fields));
                }
                Item::Trait(item) if is_public(&item.vis) => words.visit_item_trait(item),
                Item::Const(item) if is_public(&item.vis) => words.visit_type(&item.ty),
                Item::Static(item) if is_public(&item.vis) => words.visit_type(&item.ty),
                Item::Type(item) if is_public(&item.vis) => words.visit_type(&item.ty),
                Item::Impl(item) => words.visit_impl(item),
                _ => {}
            }
        }
    }
    words.0
}

#[derive(Default)]
struct Words(BTreeSet<String>);

impl Words {
    fn visit_impl(&mut self, item: &syn::ItemImpl) {
        for inner in &item.items {
            match inner {
                ImplItem::Fn(method) if item.trait_.is_some() || is_public(&method.vis) => {
                    self.visit_signature(&method.sig);
                }
                ImplItem::Type(inner) => self.visit_type(&inner.ty),
                ImplItem::Const(inner) if item.trait_.is_some() || is_public(&inner.vis) => self.visit_type(&inner.ty),
                _ => {}
            }
        }
    }

    fn visit_signature(&mut self, signature: &syn::Signature) {
        signature.inputs.iter().for_each(|input| visit::visit_fn_arg(self, input));
        visit::visit_return_type(self, &signature.output);
        visit::visit_generics(self, &signature.generics);
    }
}

impl<'ast> Visit<'ast> for Words {
    fn visit_ident(&mut self, ident: &'ast proc_macro2::Ident) {
        self.0.insert(ident.to_string());
    }
}
