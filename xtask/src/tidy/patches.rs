//! Planted bugs must still apply: a patch that does not plants nothing.
//!
//! Every `*.patch` of the repository, wherever its runner lives. `patch` does the checking, with the
//! tolerance that the runners have.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::finding::Finding;

/// Checks every patch in `files`.
pub(crate) fn check(root: &Path, files: &[PathBuf]) -> Vec<Finding> {
    let patches = files.iter().filter(|path| path.extension().is_some_and(|e| e == "patch"));
    patches.filter_map(|path| check_one(root, path).err().map(|message| finding(path, message))).collect()
}

fn finding(path: &Path, message: String) -> Finding {
    Finding { path: path.into(), line: 1, rule: "patch", message }
}

/// Applies a patch without writing anything.
fn check_one(root: &Path, path: &Path) -> Result<(), String> {
    let file = match std::fs::File::open(root.join(path)) {
        Ok(file) => file,
        // Listed and gone: it is being deleted.
        Err(_) => return Ok(()),
    };
    let output = Command::new("patch")
        .args(["--dry-run", "--strip=1", "--force", "--directory"])
        .arg(root)
        .stdin(Stdio::from(file))
        .output()
        .map_err(|error| format!("cannot run patch ({error}); install it: make deps"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let why = said.lines().find(|line| line.contains("FAILED") || line.contains("can't find"));
    let why = why.unwrap_or("it is no patch of this tree");
    Err(format!("does not apply any more ({why}); write the bug into the code as it is now"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_is_refused_when_its_file_has_moved_on() {
        let root = tempfile_dir("patches");
        let patch = "The bug.\n\n--- a/code.rs\n+++ b/code.rs\n@@ -1,3 +1,2 @@\n one\n-two\n three\n";
        std::fs::write(root.join("bug.patch"), patch).unwrap();
        let files = [PathBuf::from("code.rs"), PathBuf::from("bug.patch")];

        std::fs::write(root.join("code.rs"), "one\ntwo\nthree\n").unwrap();
        assert_eq!(check(&root, &files), []);
        std::fs::write(root.join("code.rs"), "one\n2\nthree\n").unwrap();
        let findings = check(&root, &files);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].message.contains("FAILED"), "{}", findings[0]);
        std::fs::remove_file(root.join("code.rs")).unwrap();
        assert_eq!(check(&root, &files).len(), 1);
        std::fs::remove_dir_all(root).unwrap();
    }

    fn tempfile_dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("anonmem-xtask-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }
}
