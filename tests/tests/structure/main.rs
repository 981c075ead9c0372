//! Fails the build when the shape of the project is broken: a dependency that points the wrong way, an outside technology
//! named outside its one file, a clock or socket in a core, a file or function that grew too long, a stray top-level entry.
//!
//! It must never need the network or a compiled binary. The hard case is to be sure that it can fail at all, so each rule is
//! also run over small made-up violations.

mod edges;
mod sources;
mod tree;

use std::path::Path;

/// One broken rule: where, and what.
type Violation = String;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn assert_none(violations: &[Violation]) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

#[test]
fn dependencies_point_one_way() {
    assert_none(&edges::violations_in(root()));
}

#[test]
fn sources_keep_the_house_rules() {
    let files = tree::rust_files(root());
    assert!(files.len() >= 6, "only {} .rs files found below {}", files.len(), root().display());
    let violations: Vec<Violation> =
        files.iter().flat_map(|(path, text)| sources::violations(path, text)).collect();
    assert_none(&violations);
}

#[test]
fn top_level_stays_short() {
    assert_none(&tree::top_level_violations(&tree::top_level_entries(root())));
}
