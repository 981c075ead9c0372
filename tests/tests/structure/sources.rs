//! The rules for one Rust source: it opens with `//!`, stays short, and names only what its place allows.
//!
//! Names are looked up in the tokens, so comments and strings may speak of anything. The hard case is test code: it is
//! not counted as lines of its file and may use files and threads, but it too has functions that people must read.

use super::Violation;
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

const FILE_LINES_MAX: usize = 900;
const FUNCTION_LINES_MAX: usize = 70;

/// Each outside technology with the only places (a file, or a folder ending in `/`) that may name it.
///
/// The aggregator's service is also tested by a peer that breaks the rules of our own protocol, which no agent of ours does.
const TECHNOLOGIES: &[(&str, &[&str])] = &[
    ("bincode", &["common/src/wire/codec.rs"]),
    (
        "quinn",
        &[
            "agent/src/uplink/quic.rs",
            "agent/src/uplink/quic/",
            "aggregator/src/listen/quic.rs",
            "aggregator/src/listen/quic/",
            "aggregator/tests/service/",
        ],
    ),
    // Several datagrams with one call of the system, without the rest of quinn.
    ("quinn_udp", &["agent/src/source/datagrams.rs"]),
    ("rumqttc", &["agent/src/uplink/mqtt/client.rs", "aggregator/src/listen/mqtt/client.rs"]),
    ("rusqlite", &["aggregator/src/store/"]),
];

const CORES: &[&str] = &["common/src/", "agent/core/src/", "aggregator/core/src/"];
const NO_STD_CORES: &[&str] = &["common/src/", "agent/core/src/"];
const CRATES_NOT_IN_CORES: &[&str] = &["tokio", "tracing", "rand", "getrandom"];
const STD_NOT_IN_CORES: &[&str] = &["env", "fs", "net", "process", "thread", "time"];

/// Everything that breaks a rule in the file `path` (from the workspace root) with the given text.
pub(crate) fn violations(path: &str, text: &str) -> Vec<Violation> {
    let file = match syn::parse_file(text) {
        Ok(file) => file,
        Err(error) => return vec![format!("{path}: does not parse: {error}")],
    };
    let mut found = Vec::new();
    if !text.starts_with("//!") {
        found.push(format!(
            "{path}:1: does not open with //! (what it owns, what it must never do, the hard case)"
        ));
    }
    let lines = text.lines().count() - test_lines(&file);
    if lines > FILE_LINES_MAX && !is_test_path(path) {
        found.push(format!("{path}: {lines} lines without its tests; {FILE_LINES_MAX} is the limit"));
    }
    let mut functions = Functions { path, found: &mut found };
    functions.visit_file(&file);
    found.extend(misplaced_technologies(path, text));
    found.extend(impurities(path, &file));
    found
}

fn is_test_path(path: &str) -> bool {
    path.split('/').skip(1).any(|part| part == "tests" || part == "tests.rs" || part == "benches")
}

fn is_test_item(item: &syn::Item) -> bool {
    let attributes = match item {
        syn::Item::Mod(module) => &module.attrs,
        syn::Item::Fn(function) => &function.attrs,
        syn::Item::Use(import) => &import.attrs,
        syn::Item::Impl(implementation) => &implementation.attrs,
        _ => return false,
    };
    attributes.iter().any(|attribute| {
        let is_cfg = attribute.path().is_ident("cfg");
        let mentions_test =
            |list: &syn::MetaList| list.tokens.to_string().split(' ').any(|token| token == "test");
        is_cfg && attribute.meta.require_list().is_ok_and(mentions_test)
    })
}

fn lines_of(spanned: &impl Spanned) -> usize {
    let span = spanned.span();
    span.end().line - span.start().line + 1
}

fn test_lines(file: &syn::File) -> usize {
    file.items.iter().filter(|item| is_test_item(item)).map(lines_of).sum()
}

struct Functions<'a> {
    path: &'a str,
    found: &'a mut Vec<Violation>,
}

impl Functions<'_> {
    fn measure(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let (first, last) = (signature.span().start().line, block.span().end().line);
        let lines = last - first + 1;
        if lines > FUNCTION_LINES_MAX {
            let name = &signature.ident;
            self.found.push(format!(
                "{}:{first}: fn {name} has {lines} lines; {FUNCTION_LINES_MAX} is the limit",
                self.path
            ));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.measure(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

fn misplaced_technologies(path: &str, text: &str) -> Vec<Violation> {
    let tokens: TokenStream = text.parse().expect("it parsed as a file");
    let mut found = Vec::new();
    for_each_ident(tokens, &mut |name, line| {
        let names = |technology: &str| {
            name.strip_prefix(technology).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        };
        // A part of a technology that has a place of its own is meant by its longer name.
        let meant = TECHNOLOGIES.iter().filter(|(technology, _)| names(technology));
        let Some((technology, places)) = meant.max_by_key(|(technology, _)| technology.len()) else { return };
        let allowed =
            places.iter().any(|place| path == *place || (place.ends_with('/') && path.starts_with(place)));
        if !allowed {
            found.push(format!("{path}:{line}: {technology} may be named in {} only", places.join(" and ")));
        }
    });
    found
}

fn for_each_ident(tokens: TokenStream, visit: &mut impl FnMut(&str, usize)) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => for_each_ident(group.stream(), visit),
            TokenTree::Ident(ident) => visit(&ident.to_string(), ident.span().start().line),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

/// What a core must not see, outside of its tests.
fn impurities(path: &str, file: &syn::File) -> Vec<Violation> {
    if !CORES.iter().any(|core| path.starts_with(core)) || is_test_path(path) {
        return Vec::new();
    }
    let no_std = NO_STD_CORES.iter().any(|core| path.starts_with(core));
    let mut found = Vec::new();
    for item in file.items.iter().filter(|item| !is_test_item(item)) {
        let line = item.span().start().line;
        for used in forbidden_paths(quote::quote!(#item), no_std) {
            found.push(format!("{path}:{line}: a core must not see {used}"));
        }
    }
    if no_std
        && path.ends_with("/lib.rs")
        && !file.attrs.iter().any(|attribute| quote::quote!(#attribute).to_string().contains("no_std"))
    {
        found.push(format!("{path}: must be #![no_std]"));
    }
    found
}

fn forbidden_paths(tokens: TokenStream, no_std: bool) -> Vec<String> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut found = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => found.extend(forbidden_paths(group.stream(), no_std)),
            TokenTree::Ident(ident) if is_path_start(&tokens, index) => {
                let name = ident.to_string();
                if CRATES_NOT_IN_CORES.contains(&name.as_str()) || (no_std && name == "alloc") {
                    found.push(name);
                } else if name == "std" {
                    let modules = modules_after(&tokens[index + 3..]);
                    let forbidden =
                        modules.into_iter().filter(|module| STD_NOT_IN_CORES.contains(&module.as_str()));
                    found.extend(forbidden.map(|module| format!("std::{module}")));
                }
            }
            _ => {}
        }
    }
    found
}

/// An identifier followed by `::`, and not itself inside a path such as `crate::time`.
fn is_path_start(tokens: &[TokenTree], index: usize) -> bool {
    let is_colon =
        |at: Option<&TokenTree>| matches!(at, Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    let inside = index >= 2 && is_colon(tokens.get(index - 1)) && is_colon(tokens.get(index - 2));
    let inside = inside && index >= 3 && matches!(tokens[index - 3], TokenTree::Ident(_));
    !inside && is_colon(tokens.get(index + 1)) && is_colon(tokens.get(index + 2))
}

/// The first segments after `std::`, one or all of a `{…}`.
fn modules_after(tokens: &[TokenTree]) -> Vec<String> {
    match tokens.first() {
        Some(TokenTree::Ident(ident)) => vec![ident.to_string()],
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
            let mut modules = Vec::new();
            let mut at_start = true;
            for token in group.stream() {
                match token {
                    TokenTree::Ident(ident) if at_start => modules.push(ident.to_string()),
                    TokenTree::Punct(punct) if punct.as_char() == ',' => {
                        at_start = true;
                        continue;
                    }
                    _ => {}
                }
                at_start = false;
            }
            modules
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::violations;

    fn count(path: &str, body: &str) -> usize {
        violations(path, &format!("//! Fixture.\n{body}")).len()
    }

    #[test]
    fn a_missing_head_is_found() {
        assert_eq!(violations("agent/src/a.rs", "fn f() {}").len(), 1);
        assert_eq!(count("agent/src/a.rs", "fn f() {}"), 0);
    }

    #[test]
    fn long_files_are_found_without_their_tests() {
        let long = "const A: u8 = 1;\n".repeat(900);
        assert_eq!(count("agent/src/a.rs", &long), 1);
        let tested = format!("#[cfg(test)]\nmod tests {{\n{long}}}");
        assert_eq!(count("agent/src/a.rs", &tested), 0);
    }

    #[test]
    fn long_functions_are_found_everywhere() {
        let body = "let _ = 1;\n".repeat(69);
        assert_eq!(count("agent/src/a.rs", &format!("fn f() {{\n{body}}}")), 1);
        assert_eq!(count("agent/src/a.rs", &format!("impl A {{ fn f() {{\n{body}}} }}")), 1);
        assert_eq!(count("agent/src/a.rs", &format!("trait A {{ fn f() {{\n{body}}} }}")), 1);
        assert_eq!(count("agent/src/a.rs", &format!("mod tests {{ fn f() {{\n{body}}} }}")), 1);
        let short = "let _ = 1;\n".repeat(68);
        assert_eq!(count("agent/src/a.rs", &format!("fn f() {{\n{short}}}")), 0);
    }

    #[test]
    fn technologies_are_found_outside_their_place() {
        assert_eq!(count("agent/src/a.rs", "use quinn::Connection;"), 1);
        assert_eq!(count("agent/src/a.rs", "m! { quinn::Connection }"), 1);
        assert_eq!(count("agent/src/a.rs", "// quinn is not used here\nconst Q: &str = \"quinn\";"), 0);
        assert_eq!(count("agent/src/uplink/quic.rs", "use quinn::Connection;"), 0);
        assert_eq!(count("agent/src/source/datagrams.rs", "use quinn_udp::RecvMeta;"), 0);
        assert_eq!(count("agent/src/source/datagrams.rs", "use quinn::Connection;"), 1);
        assert_eq!(count("agent/src/source/statsd.rs", "use quinn_udp::RecvMeta;"), 1);
        assert_eq!(count("aggregator/src/store/schema.rs", "use rusqlite::Row;"), 0);
        assert_eq!(count("aggregator/src/api.rs", "use rusqlite::Row;"), 1);
        assert_eq!(count("common/src/wire/frame.rs", "fn f() { bincode::encode(); }"), 1);
    }

    #[test]
    fn clocks_and_sockets_are_found_in_cores() {
        let core = "aggregator/core/src/a.rs";
        assert_eq!(count(core, "use std::collections::BTreeMap;"), 0);
        assert_eq!(count(core, "use std::time::Instant;"), 1);
        assert_eq!(count(core, "use std::{fmt, fs::File, net};"), 2);
        assert_eq!(count(core, "fn f() { let _ = std::time::Instant::now(); }"), 1);
        assert_eq!(count(core, "fn f() { tracing::info!(\"x\"); }"), 1);
        assert_eq!(count(core, "use crate::time::Moment;\nfn f(time: u8, tokio: u8) {}"), 0);
        assert_eq!(count(core, "#[cfg(test)]\nmod tests { use std::fs; }"), 0);
        assert_eq!(count("aggregator/src/a.rs", "use std::time::Instant;"), 0);
    }

    #[test]
    fn the_small_cores_have_no_heap() {
        assert_eq!(count("agent/core/src/a.rs", "use alloc::vec::Vec;"), 1);
        assert_eq!(count("aggregator/core/src/a.rs", "use std::vec::Vec;"), 0);
        assert_eq!(count("common/src/lib.rs", "pub mod a;"), 1);
        assert_eq!(count("common/src/lib.rs", "#![no_std]\npub mod a;"), 0);
    }
}
