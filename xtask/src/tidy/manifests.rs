//! Who may depend on whom: anonmem → {pgtable, frame} → sync → hal; nothing depends on a machine or the lab.

use std::path::Path;

use super::finding::Finding;

/// What each crate of the substrate may depend on, of ours.
const ALLOWED: [(&str, &[&str]); 5] = [
    ("anonmem-hal", &[]),
    ("anonmem-sync", &["anonmem-hal"]),
    ("anonmem-frame", &["anonmem-hal", "anonmem-sync"]),
    ("anonmem-pgtable", &["anonmem-hal", "anonmem-sync", "anonmem-frame"]),
    ("anonmem", &["anonmem-hal", "anonmem-sync", "anonmem-frame", "anonmem-pgtable"]),
];

/// Checks the normal dependencies in a manifest; tests may depend on more.
pub(crate) fn check(path: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(package) = package_name(text) else {
        return findings;
    };
    let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == package) else {
        return findings;
    };
    let mut section = "";
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            section = line;
            continue;
        }
        let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
        if section == "[dependencies]" && name.starts_with("anonmem") && !allowed.contains(&name) {
            findings.push(Finding {
                path: path.into(),
                line: number + 1,
                rule: "dependencies",
                message: format!(
                    "{package} must not depend on {name}; turn the dependency round, or move the code down"
                ),
            });
        }
    }
    findings
}

fn package_name(text: &str) -> Option<&str> {
    let line = text.lines().map(str::trim).find(|line| line.starts_with("name"))?;
    line.split('"').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_run_one_way() {
        let check = |text: &str| check(Path::new("crates/anonmem-sync/Cargo.toml"), text);
        let head = "[package]\nname = \"anonmem-sync\"\n[dependencies]\n";
        assert!(check(&format!("{head}anonmem-hal.workspace = true\nlog = \"1\"\n")).is_empty());
        let findings = check(&format!("{head}anonmem-frame = {{ workspace = true }}\n"));
        assert_eq!((findings.len(), findings[0].line), (1, 4));
        assert!(check(&format!("{head}[dev-dependencies]\nanonmem-lab.workspace = true\n")).is_empty());
        assert!(check("[package]\nname = \"anonmem-cli\"\n[dependencies]\nanonmem-lab = \"1\"\n").is_empty());
    }
}
