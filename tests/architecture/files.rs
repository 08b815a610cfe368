//! What files look like: length, module documentation, words, migrations.

use std::path::{Path, PathBuf};

/// Longer than this and a file has two subjects.
const LINES_MAX: usize = 500;

/// Words that name nothing.
const EMPTY_TYPES: [&str; 8] = [
    "Manager", "Util", "Helper", "Common", "Misc", "Job", "Runner", "Worker",
];
const EMPTY_FILES: [&str; 8] = [
    "util", "utils", "common", "helper", "helpers", "misc", "manager", "imp",
];

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for top in [
        "dispatcher",
        "agent",
        "cache-daemon",
        "deploy",
        "proto",
        "crates",
        "tests",
    ] {
        collect(&super::root().join(top), &mut found);
    }
    assert!(found.len() > 150, "only {} sources found", found.len());
    found
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("readable").flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn shown(path: &Path) -> String {
    let root = super::root();
    path.strip_prefix(root)
        .unwrap_or(path)
        .display()
        .to_string()
}

#[test]
fn files_are_short_enough_to_be_read() {
    let mut wrong = Vec::new();
    for path in sources() {
        let name = shown(&path);
        let lines = std::fs::read_to_string(&path)
            .expect("readable")
            .lines()
            .count();
        if lines > LINES_MAX {
            wrong.push(format!("{name}: {lines} lines"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_says_what_it_is() {
    let mut wrong = Vec::new();
    for path in sources() {
        let text = std::fs::read_to_string(&path).expect("readable");
        if !text.starts_with("//!") {
            wrong.push(shown(&path));
        }
    }
    assert!(
        wrong.is_empty(),
        "no `//!` at the top:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn names_say_something() {
    let mut wrong = Vec::new();
    for path in sources() {
        let stem = path
            .file_stem()
            .and_then(|s| s.to_str())
            .unwrap_or_default();
        if EMPTY_FILES.contains(&stem) {
            wrong.push(shown(&path));
        }
        let text = std::fs::read_to_string(&path).expect("readable");
        for line in text.lines() {
            let bare = line
                .trim_start()
                .trim_start_matches("pub ")
                .trim_start_matches("pub(crate) ");
            let name = ["struct ", "enum ", "trait ", "type "]
                .iter()
                .find_map(|word| bare.strip_prefix(word));
            let Some(name) = name.and_then(|n| n.split(|c: char| !c.is_alphanumeric()).next())
            else {
                continue;
            };
            if words(name)
                .iter()
                .any(|w| EMPTY_TYPES.contains(&w.as_str()))
            {
                wrong.push(format!("{}: {name}", shown(&path)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// `ImageRun` → `Image`, `Job`.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for c in name.chars() {
        if c.is_uppercase() || words.is_empty() {
            words.push(String::new());
        }
        if let Some(last) = words.last_mut() {
            last.push(c);
        }
    }
    words
}

#[test]
fn tasks_are_spawned_by_name_in_one_place() {
    let mut wrong = Vec::new();
    for path in sources() {
        let name = shown(&path);
        let text = std::fs::read_to_string(&path).expect("readable");
        // The store imports core alone and starts its one writer by itself.
        let home = name == "crates/daemon/src/spawn.rs" || name == "crates/store/src/writer.rs";
        let call = concat!("tokio::", "spawn(");
        if text.contains(call) && !home {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn both_engines_have_the_same_migrations() {
    let names = |engine: &str| {
        let dir = super::root().join("migrations").join(engine);
        let entries = std::fs::read_dir(dir).expect("readable").flatten();
        let mut names: Vec<String> = entries
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    let sqlite = names("sqlite");
    assert_eq!(sqlite, names("postgres"));
    for (number, name) in sqlite.iter().enumerate() {
        let expected = format!("{:04}_", number + 1);
        assert!(
            name.starts_with(&expected) && name.ends_with(".sql"),
            "{name}"
        );
    }
}
