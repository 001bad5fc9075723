//! House rules that no compiler checks: who may import whom, and how a file looks.

use std::fs;
use std::path::{Path, PathBuf};

/// Each room under `src/`, lowest first, with the rooms it may import; `*` is all below.
const ROOMS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("store", &["types"]),
    ("key", &["types"]),
    ("sql", &["types"]),
    ("commit", &["types"]),
    ("state", &["types", "store", "key"]),
    ("source", &["types", "store"]),
    ("operator", &["types", "key", "state"]),
    ("delta", &["types", "store", "key", "state", "commit"]),
    ("plan", &["types", "sql", "key", "source", "operator"]),
    ("pipeline", &["types", "store", "state", "source", "commit"]),
    ("testing", &["types", "store", "state", "source", "commit"]),
    ("error", &["*"]),
    ("session", &["*"]),
    ("lib", &["*"]),
];

const LINES_MAX: usize = 600;

#[test]
fn the_house_has_no_circles() {
    for (room, below) in ROOMS {
        for name in below.iter().filter(|name| **name != "*") {
            assert!(floor(name) < floor(room), "{room} may not reach up to {name}");
        }
    }
}

#[test]
fn rooms_import_only_from_below() {
    let mut complaints = Vec::new();
    for (path, text) in sources().into_iter().filter(|(path, _)| !path.ends_with("tests.rs")) {
        let room = room_of(&path);
        for (number, line) in numbered_code(without_tests(&text)) {
            for import in line.split("crate::").skip(1).map(first_word) {
                if !may_import(&room, import) {
                    complaints
                        .push(format!("{}:{number}: {room} imports {import}", path.display()));
                }
            }
            if line.contains("super::super::") || line.contains("crate::{") {
                complaints.push(format!("{}:{number}: name the room", path.display()));
            }
        }
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn files_look_alike() {
    let mut complaints = Vec::new();
    for (path, text) in sources() {
        let name = path.display();
        if !text.starts_with("//!") {
            complaints.push(format!("{name}: does not open with what it is for"));
        }
        if !text.is_ascii() {
            complaints.push(format!("{name}: holds more than ASCII"));
        }
        if text.lines().count() > LINES_MAX {
            complaints.push(format!("{name}: longer than {LINES_MAX} lines"));
        }
        if path.ends_with("mod.rs") {
            complaints.extend(door_items(&text).map(|(number, line)| {
                format!("{name}:{number}: a door holds docs, mod and use only: {line}")
            }));
        }
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn the_top_level_is_as_given() {
    const GIVEN: [&str; 9] = [
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE",
        "README.md",
        "benches",
        "examples",
        "sql",
        "src",
        "tests",
    ];
    for entry in fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let known = name.starts_with('.') || name == "target" || GIVEN.contains(&name.as_str());
        assert!(known, "{name} does not belong at the top level");
    }
}

fn floor(room: &str) -> usize {
    ROOMS.iter().position(|(name, _)| *name == room).unwrap_or_else(|| panic!("no room {room}"))
}

fn may_import(room: &str, import: &str) -> bool {
    let below = ROOMS[floor(room)].1;
    import == room
        || below.contains(&import)
        || below.contains(&"*")
            && ROOMS.iter().any(|(name, _)| *name == import)
            && floor(import) < floor(room)
}

/// Every file of the library; the command line under `bin/` imports the public API only.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let relative = path.strip_prefix(&root).unwrap().to_path_buf();
            if path.is_dir() {
                if relative != Path::new("bin") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push((relative, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!files.is_empty());
    files.sort();
    files
}

fn room_of(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text)
}

fn numbered_code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Lines of a door that are neither blank, nor docs, nor part of a `mod` or `use`.
fn door_items(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_open = false;
    numbered_code(text).filter(move |(_, line)| {
        let line = line.trim();
        let starts = ["mod ", "pub mod ", "use ", "pub use ", "pub(crate) use ", "#["]
            .iter()
            .any(|start| line.starts_with(start));
        let belongs = line.is_empty() || starts || is_open;
        if starts || is_open {
            is_open = !line.ends_with(';') && !line.ends_with(']');
        }
        !belongs
    })
}

fn first_word(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("")
}
