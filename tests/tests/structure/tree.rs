//! The files of the project: what is on the top level, and every Rust source below it.
//!
//! Built and untracked files are not the project's, so git is asked where there is one.

use super::Violation;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

const TOP_LEVEL: &[&str] =
    &["Cargo.lock", "Cargo.toml", "LICENSE", "README.md", "agent", "aggregator", "common", "cross", "tests"];

/// Folders of the workspace that hold Rust sources.
const SOURCE_FOLDERS: &[&str] = &["common", "agent", "aggregator", "cross", "tests"];

/// Names on the top level that git tracks, or all of them where there is no git.
pub(crate) fn top_level_entries(root: &Path) -> BTreeSet<String> {
    let listed = Command::new("git").arg("-C").arg(root).args(["ls-files", "-z"]).output();
    match listed {
        Ok(output) if output.status.success() && !output.stdout.is_empty() => {
            String::from_utf8_lossy(&output.stdout)
                .split('\0')
                .filter(|path| !path.is_empty())
                .map(|path| path.split('/').next().unwrap_or(path).to_owned())
                .collect()
        }
        _ => fs::read_dir(root)
            .expect("the workspace can be listed")
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name != "target")
            .collect(),
    }
}

/// Entries that are neither dot files nor in the layout.
pub(crate) fn top_level_violations(entries: &BTreeSet<String>) -> Vec<Violation> {
    entries
        .iter()
        .filter(|name| !name.starts_with('.') && !TOP_LEVEL.contains(&name.as_str()))
        .map(|name| format!("{name}: not in the layout of the top level ({})", TOP_LEVEL.join(", ")))
        .collect()
}

/// Every `.rs` file of the workspace as (path from the root, text), in order of path.
pub(crate) fn rust_files(root: &Path) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for folder in SOURCE_FOLDERS {
        collect(root, &root.join(folder), &mut files);
    }
    files.sort();
    files
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<(String, String)>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() && !path.ends_with("target") {
            collect(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).expect("found below the root").to_string_lossy().into_owned();
            files.push((name, fs::read_to_string(&path).expect("a source is UTF-8")));
        }
    }
}

#[test]
fn a_stray_entry_is_found() {
    let entries = ["README.md", ".ci", "scripts", "common"].map(String::from).into();
    assert_eq!(top_level_violations(&entries).len(), 1);
}
