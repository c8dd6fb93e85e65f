//! Files and names of the machine the configuration is read on.

use std::path::{Path, PathBuf};

use super::lexer::World;

pub(crate) struct System;

impl World for System {
    fn glob(&self, pattern: &Path) -> Vec<(PathBuf, Result<String, String>)> {
        glob(pattern)
            .into_iter()
            .map(|path| {
                let text = std::fs::read(&path)
                    .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                    .map_err(|e| e.to_string());
                (path, text)
            })
            .collect()
    }

    fn env(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn machine(&self) -> super::scripts::Machine {
        super::scripts::Machine::REAL
    }

    fn config_id(&self) -> String {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        name.trim().split('.').next().unwrap_or_default().to_owned()
    }
}

/// A machine without files.
pub(crate) struct Nothing;

impl World for Nothing {
    fn glob(&self, _: &Path) -> Vec<(PathBuf, Result<String, String>)> {
        Vec::new()
    }
    fn env(&self, _: &str) -> Option<String> {
        None
    }
    fn config_id(&self) -> String {
        String::new()
    }
}

/// Existing files that match, sorted; `*` and `?` stand for characters within a name.
fn glob(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let text = part.as_os_str().to_string_lossy().into_owned();
        if !text.contains(['*', '?']) {
            for path in &mut found {
                path.push(part);
            }
            continue;
        }
        found = found
            .iter()
            .flat_map(|dir| {
                let here = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
                let names = std::fs::read_dir(here).into_iter().flatten().flatten();
                names
                    .map(|entry| entry.file_name())
                    .filter(|name| matches(&text, &name.to_string_lossy()))
                    .map(|name| dir.join(name))
                    .collect::<Vec<_>>()
            })
            .collect();
    }
    found.retain(|path| path.is_file());
    found.sort();
    found
}

/// Hidden files need a pattern that begins with a point, as in a shell.
fn matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    // Greedy with one point to come back to: linear but for the last star.
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&'*') {
            star = Some((p, n));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == name[n]) {
            p += 1;
            n += 1;
        } else if let Some((sp, sn)) = star {
            star = Some((sp, sn + 1));
            p = sp + 1;
            n = sn + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        assert!(matches("*.conf", "a.conf") && matches("a*b*c", "aXbYbZc") && matches("?", "x"));
        assert!(!matches("*.conf", "a.cfg") && !matches("*", ".hidden") && !matches("?", ""));
    }

    #[test]
    fn files_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.conf", "a.conf", "c.txt"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let found: Vec<_> = System
            .glob(&dir.path().join("*.conf"))
            .into_iter()
            .map(|(_, text)| text.unwrap())
            .collect();
        assert_eq!(found, ["a.conf", "b.conf"]);
    }
}
