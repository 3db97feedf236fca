//! What clippy cannot check: which files may know what, and that the map shows the land.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    // asked when it runs: a target directory may be shared with another checkout
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs this test");
    Path::new(&package).join("..")
}

/// Every Rust file of the workspace that is ours.
fn sources() -> Vec<PathBuf> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).expect("readable").flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && !["target", "rootfs", "docs"].contains(&name.as_str()) {
                walk(&path, found);
            } else if name.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &mut found);
    assert!(found.len() > 100, "the walk sees the workspace");
    found
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).expect("readable")
}

#[test]
fn every_file_says_what_it_is() {
    // a file of tests belongs to the file beside it
    let silent: Vec<_> = sources().into_iter().filter(|path| !path.ends_with("tests.rs") && !text(path).starts_with("//!")).collect();
    assert!(silent.is_empty(), "files that do not open with //!: {silent:#?}");
}

/// Files that hold decisions: their names are given in the house style.
fn is_decision(path: &Path) -> bool {
    let path = path.to_string_lossy();
    let ends = [
        "/plan.rs",
        "/pod_actions.rs",
        "/pod_status.rs",
        "/apply.rs",
        "/to_remove.rs",
        "/rules.rs",
        "/diff.rs",
        "/place.rs",
        "/preempt.rs",
        "/topology.rs",
        "experiment/table.rs",
        "experiment/validate.rs",
        "raft/src/ballot.rs",
        "raft/src/majority.rs",
        "raft/src/reign_check.rs",
        "raft/src/succession.rs",
        "raft/src/told.rs",
    ];
    // named after a decision, but they carry out: a netlink shell, and two verbs of kubectl
    let shells = ["network/src/apply.rs", "kubectl/verbs/apply.rs", "kubectl/verbs/diff.rs"];
    (ends.iter().any(|end| path.ends_with(end)) || path.contains("/filters/") || path.contains("/scores/"))
        && !shells.iter().any(|end| path.ends_with(end))
}

#[test]
fn decisions_know_no_runtime() {
    let mut problems = Vec::new();
    let mut decisions = 0;
    for path in sources().into_iter().filter(|path| is_decision(path)) {
        decisions += 1;
        let content = text(&path);
        let body = content.split("#[cfg(test)]").next().unwrap_or_default();
        for name in ["actix", "openraft", "rocksdb", "tokio"] {
            if body.lines().any(|line| line.trim_start().starts_with("use ") && line.contains(&format!("{name}::"))) {
                problems.push(format!("{} uses {name}", path.display()));
            }
        }
        if body.contains("async fn") {
            problems.push(format!("{} is asynchronous", path.display()));
        }
    }
    assert!(decisions > 10, "the names of decision files have changed");
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn the_map_names_every_crate() {
    let map = text(&root().join("docs/ARCHITECTURE.md"));
    let manifest = text(&root().join("Cargo.toml"));
    let members = manifest.split("members = [").nth(1).and_then(|rest| rest.split(']').next()).expect("the workspace has members");
    for member in members.lines().filter_map(|line| line.trim().strip_prefix('"')?.split('"').next()) {
        assert!(map.contains(&format!("`{member}/`")), "docs/ARCHITECTURE.md does not name {member}/");
    }
}

#[test]
fn the_object_model_depends_on_nobody_here() {
    for (manifest, may) in [
        ("controlplane/api/Cargo.toml", &[][..]),
        ("raft/Cargo.toml", &[]),
        ("node-agent/runtime/Cargo.toml", &[]),
        ("node-agent/network/Cargo.toml", &[]),
        ("node-agent/images/Cargo.toml", &["trierarch-runtime"]),
        ("controlplane/client/Cargo.toml", &["trierarch-api"]),
        ("controlplane/scheduler/Cargo.toml", &["trierarch-api", "trierarch-controllers"]),
        ("controlplane/controllers/Cargo.toml", &["trierarch-api"]),
        ("controlplane/apiserver/Cargo.toml", &["trierarch-api", "trierarch-raft"]),
    ] {
        let content = text(&root().join(manifest));
        let dependencies = content.split("[dependencies]").nth(1).and_then(|rest| rest.split("\n[").next()).unwrap_or_default();
        let ours: Vec<&str> =
            dependencies.lines().filter_map(|line| line.split(['.', ' ']).next()).filter(|name| name.starts_with("trierarch")).collect();
        assert!(ours.iter().all(|name| may.contains(name)), "{manifest} depends on {ours:?}");
    }
}
