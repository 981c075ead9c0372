//! The dependency rule, read from the manifests: who may depend on whom, versions only in the root, pure cores.

use super::Violation;
use std::fs;
use std::path::Path;
use toml::{Table, Value};

struct Member {
    name: &'static str,
    folder: &'static str,
    /// The crates of the workspace it may depend on, direct and through another.
    may_use: &'static [&'static str],
    /// A core is deterministic and without IO, so these rules out whole crates.
    core: bool,
}

const COMMON: &str = "vedette-common";
const AGENT_CORE: &str = "vedette-agent-core";
const AGGREGATOR_CORE: &str = "vedette-aggregator-core";

const MEMBERS: &[Member] = &[
    Member { name: COMMON, folder: "common", may_use: &[], core: true },
    Member { name: AGENT_CORE, folder: "agent/core", may_use: &[COMMON], core: true },
    Member { name: "vedette-agent", folder: "agent", may_use: &[COMMON, AGENT_CORE], core: false },
    Member { name: AGGREGATOR_CORE, folder: "aggregator/core", may_use: &[COMMON], core: true },
    Member {
        name: "vedette-aggregator",
        folder: "aggregator",
        may_use: &[COMMON, AGGREGATOR_CORE, AGENT_CORE],
        core: false,
    },
    Member {
        name: "vedette-tests",
        folder: "tests",
        may_use: &[COMMON, AGENT_CORE, "vedette-agent", AGGREGATOR_CORE, "vedette-aggregator"],
        core: false,
    },
];

/// Crates that bring clocks, sockets, files, threads or randomness.
const NOT_IN_CORES: &[&str] = &[
    "anyhow",
    "axum",
    "getrandom",
    "quinn",
    "rand",
    "rumqttc",
    "rusqlite",
    "rustls",
    "socket2",
    "tokio",
    "tracing",
    "tracing-subscriber",
    "ureq",
];

pub(crate) fn violations_in(root: &Path) -> Vec<Violation> {
    let mut found = unknown_members(&read(&root.join("Cargo.toml")));
    for member in MEMBERS {
        let path = root.join(member.folder).join("Cargo.toml");
        found.extend(violations(member, &read(&path)));
    }
    found
}

fn read(path: &Path) -> Table {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn unknown_members(root: &Table) -> Vec<Violation> {
    let listed = root["workspace"]["members"].as_array().expect("the workspace lists its members");
    listed
        .iter()
        .filter_map(Value::as_str)
        .filter(|folder| !MEMBERS.iter().any(|member| member.folder == *folder))
        .map(|folder| format!("Cargo.toml: member {folder} has no place in the dependency rule"))
        .collect()
}

fn violations(member: &Member, manifest: &Table) -> Vec<Violation> {
    let mut found = Vec::new();
    for (kind, name, requirement) in dependencies(manifest) {
        let place = format!("{}/Cargo.toml, [{kind}] {name}", member.folder);
        if name.starts_with("vedette-") && !member.may_use.contains(&name) {
            found.push(format!("{place}: {} must not depend on {name}", member.name));
        }
        if member.core && kind == "dependencies" && NOT_IN_CORES.contains(&name) {
            found.push(format!("{place}: a core is deterministic and without IO"));
        }
        if requirement.get("workspace").and_then(Value::as_bool) != Some(true) {
            found.push(format!("{place}: versions stand in the root only (`{name}.workspace = true`)"));
        }
    }
    found
}

/// All (table, name, requirement) of a manifest, those of single targets included.
fn dependencies(manifest: &Table) -> Vec<(&str, &str, &Value)> {
    let targets =
        manifest.get("target").and_then(Value::as_table).into_iter().flat_map(|table| table.values());
    let tables = std::iter::once(manifest).chain(targets.filter_map(Value::as_table));
    let mut found = Vec::new();
    for table in tables {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let entries = table.get(kind).and_then(Value::as_table).into_iter().flatten();
            found.extend(entries.map(|(name, requirement)| (kind, name.as_str(), requirement)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(name: &str, manifest: &str) -> usize {
        let member = MEMBERS.iter().find(|member| member.name == name).expect("a member");
        violations(member, &manifest.parse().expect("TOML")).len()
    }

    #[test]
    fn a_forbidden_edge_is_found_wherever_it_stands() {
        assert_eq!(count(COMMON, "[dependencies]\nserde.workspace = true"), 0);
        assert_eq!(count(COMMON, "[dependencies]\nvedette-agent-core.workspace = true"), 1);
        assert_eq!(count(AGGREGATOR_CORE, "[dev-dependencies]\nvedette-agent-core.workspace = true"), 1);
        assert_eq!(
            count("vedette-aggregator", "[target.'cfg(unix)'.dependencies]\nvedette-agent.workspace = true"),
            1
        );
    }

    #[test]
    fn a_clock_or_a_version_is_found() {
        assert_eq!(count(AGENT_CORE, "[dependencies]\ntokio.workspace = true"), 1);
        assert_eq!(count("vedette-agent", "[dependencies]\nserde = \"1\""), 1);
        assert_eq!(
            unknown_members(&"[workspace]\nmembers = [\"common\", \"extra\"]".parse().expect("TOML")).len(),
            1
        );
    }
}
