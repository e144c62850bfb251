//! Rules of the house that a machine can check.

use std::{
    fs,
    path::{Path, PathBuf},
};

use edgecoder_tests::{programs::root, skipped};

/// Longest file. Longer ones want splitting; tests and generated files too.
const MAX_LINES: usize = 640;

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a folder").filter_map(Result::ok) {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() {
                if !matches!(name.to_str(), Some("target" | "dist" | ".git" | "gen")) {
                    dirs.push(path);
                }
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    assert!(!files.is_empty(), "no files under {}", dir.display());
    files
}

/// Lines outside of test modules, with their numbers.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(n, line)| (n + 1, line))
        .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
}

/// agent-core's modules by level; a module may use only lower levels (and its own).
const LEVELS: [(&str, u32); 18] = [
    ("clock", 1),
    ("text", 1),
    ("config", 1),
    ("identity", 1),
    ("events", 1),
    ("logging", 1),
    ("backoff", 1),
    ("tls", 1),
    ("limit", 1),
    ("storage", 2),
    ("models", 3),
    ("machine", 3),
    ("mesh", 3),
    ("inference", 4),
    ("tasks", 5),
    ("node", 6),
    ("api", 7),
    ("supervisor", 8),
];

fn level(module: &str) -> Option<u32> {
    LEVELS.iter().find(|(name, _)| *name == module).map(|(_, level)| *level)
}

/// Foundations may use each other; they are one room.
const FOUNDATION: u32 = 1;

#[test]
fn modules_use_only_what_lies_below_them() {
    let src = root().join("agent-core/src");
    let mut wrong = Vec::new();
    for path in rust_files(&src) {
        let inside = path.strip_prefix(&src).expect("inside");
        let module = inside.iter().next().and_then(|part| part.to_str()).unwrap_or_default();
        let module = module.trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let own = level(module).unwrap_or_else(|| panic!("give {module} a level in tidy.rs"));
        let text = fs::read_to_string(&path).expect("reads");
        for used in uses_of_crate(&text) {
            let Some(other) = level(&used) else { continue };
            let fine = used == module || other < own || (other == FOUNDATION && own == FOUNDATION);
            if !fine {
                wrong.push(format!(
                    "{}: {module} (level {own}) uses {used} (level {other})",
                    path.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// First path segments after `crate::`, also inside `use crate::{...}`.
fn uses_of_crate(text: &str) -> Vec<String> {
    let mut used = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut word = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' | ':' | ' ' | '\n' if depth == 0 => used.push(std::mem::take(&mut word)),
                    c if depth == 0 => word.push(c),
                    _ => {}
                }
            }
            used.push(word);
        } else {
            used.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    used
}

#[test]
fn crates_see_only_what_they_may() {
    let may: [(&str, &[&str]); 6] = [
        ("agent-core/agent-api", &[]),
        ("agent-core", &["agent-api"]),
        ("agent-core/runner", &["agent-api"]),
        ("agent-core/sandbox", &["agent-api"]),
        ("ui", &["agent-api"]),
        ("src-tauri", &["agent-api", "agent-core"]),
    ];
    for (dir, allowed) in may {
        let manifest = fs::read_to_string(root().join(dir).join("Cargo.toml")).expect("a manifest");
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap_or_default();
        let dependencies = dependencies.split("\n[").next().unwrap_or_default();
        for ours in [
            "agent-api",
            "agent-core",
            "edgecoder-runner",
            "edgecoder-sandbox",
            "edgecoder-node",
            "edgecoder-ui",
        ] {
            let named = dependencies
                .lines()
                .any(|l| l.starts_with(&format!("{ours}.")) || l.starts_with(&format!("{ours} ")));
            assert!(!named || allowed.contains(&ours), "{dir} may not depend on {ours}");
        }
    }
}

#[test]
fn files_are_small_rooms_and_no_mod_rs() {
    let mut wrong = Vec::new();
    for path in rust_files(&root()) {
        let lines = fs::read_to_string(&path).expect("reads").lines().count();
        if lines > MAX_LINES {
            wrong.push(format!("{} has {lines} lines; split it", path.display()));
        }
        if path.file_name().is_some_and(|name| name == "mod.rs") {
            wrong.push(format!("{}: name it after its folder", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_unfinished_work_and_no_empty_words() {
    let me = Path::new(file!()).file_name().expect("a name").to_owned();
    let mut wrong = Vec::new();
    for path in rust_files(&root()).into_iter().filter(|path| path.file_name() != Some(&me)) {
        let text = fs::read_to_string(&path).expect("reads");
        for (n, line) in code_lines(&text) {
            for bad in
                ["todo!(", "unimplemented!(", "TODO", "FIXME", "XXX", "coming soon", "lorem ipsum"]
            {
                if line.contains(bad) {
                    wrong.push(format!("{}:{n}: {bad}", path.display()));
                }
            }
            for word in ["Manager", "Helper", "Util"] {
                let names = ["struct", "enum", "trait", "mod", "fn"];
                let named = names.iter().any(|kind| {
                    line.contains(&format!("{kind} "))
                        && line
                            .split_whitespace()
                            .any(|w| w.trim_end_matches(['{', ';', '(']).ends_with(word))
                });
                if named {
                    wrong.push(format!("{}:{n}: {word} says nothing", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_says_what_it_is_for() {
    let mut wrong = Vec::new();
    for dir in ["agent-core", "src-tauri/src", "ui/src", "xtask/src", "tests"] {
        for path in rust_files(&root().join(dir)) {
            let text = fs::read_to_string(&path).expect("reads");
            let first = text
                .lines()
                .find(|line| !line.is_empty() && !line.starts_with("#!"))
                .unwrap_or_default();
            if !first.starts_with("//!") {
                wrong.push(path.display().to_string());
            }
        }
    }
    assert!(wrong.is_empty(), "no head comment in\n{}", wrong.join("\n"));
}

#[test]
fn the_repository_names_no_machine_and_no_registry() {
    let git = std::process::Command::new("git").arg("ls-files").current_dir(root()).output();
    let Ok(listed) = git else {
        skipped("git is not installed");
        return;
    };
    let mut wrong = Vec::new();
    for name in String::from_utf8_lossy(&listed.stdout).lines() {
        let Ok(text) = fs::read_to_string(root().join(name)) else { continue };
        if name.ends_with("tidy.rs") {
            continue;
        }
        for bad in ["/work/main", "/work/shared", "/root/.c"] {
            if text.contains(bad) {
                wrong.push(format!("{name}: {bad}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn published_migrations_are_never_edited() {
    // Add a line for a new migration; never change one.
    let known = [
        ("0001_init.sql", 1_011),
        ("0002_models.sql", 1_010),
        ("0003_pulls.sql", 565),
        ("0004_mesh.sql", 541),
        ("0005_tasks.sql", 5_760),
        ("0006_schedules.sql", 1_493),
        ("0007_reputation.sql", 406),
        ("0008_bounds.sql", 458),
    ];
    for (name, bytes) in known {
        let path = root().join("agent-core/migrations").join(name);
        let found = fs::metadata(path).expect("the migration").len();
        assert_eq!(found, bytes, "{name} was edited; add a new migration instead");
    }
    let count = fs::read_dir(root().join("agent-core/migrations")).expect("a folder").count();
    assert_eq!(count, known.len(), "list the new migration here");
}
