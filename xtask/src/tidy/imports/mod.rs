//! No file imports itself through others.
//!
//! [`modules`] reads a crate, [`resolve`] finds which file each name comes from (re-exports lead on to the
//! definition, so a `lib.rs` that only collects names is no hub), [`circles`] finds the sets of files that
//! import one another, [`floors`] the imports that go up where a crate has floors.
//!
//! Calls of methods are not seen: `impl` blocks may stand in any file.

mod circles;
mod floors;
mod modules;
mod resolve;

use std::path::{Path, PathBuf};

use super::finding::Finding;
use floors::House;
use modules::Crate;
use resolve::Import;

/// The crates that are checked, by their root files: no file of theirs may be in a circle.
const CRATES: [&str; 12] = [
    "bench/src/lib.rs",
    "cli/src/lib.rs",
    "crates/anonmem/src/lib.rs",
    "crates/anonmem-frame/src/lib.rs",
    "crates/anonmem-hal/src/lib.rs",
    "crates/anonmem-lab/src/lib.rs",
    "crates/anonmem-pgtable/src/lib.rs",
    "crates/anonmem-sync/src/lib.rs",
    "machines/hosted/src/lib.rs",
    "machines/zram/src/lib.rs",
    "machines/microvm/src/main.rs",
    "xtask/src/main.rs",
];

/// The crates that have floors: their root files, and the documents that draw the floors in a block "floors".
const HOUSES: [(&str, &str); 2] = [
    ("crates/anonmem/src/lib.rs", "ARCHITECTURE.md"),
    ("machines/microvm/src/main.rs", "machines/microvm/README.md"),
];

/// Folders whose files may import one another, and why. A circle that leaves the folder is none of these.
const ONE_THING: [(&str, &str); 2] = [
    ("machines/microvm/src/sched", "a scheduler is one thing: queues, tasks, waits and deadlines"),
    ("machines/microvm/src/proc", "processes, their threads, signals, table and end know one another"),
];

/// Gives the text of a file, if there is one.
type Read<'a> = dyn Fn(&Path) -> Option<String> + 'a;

/// Checks every crate of the repository.
pub(crate) fn check(root: &Path) -> Vec<Finding> {
    let read = |path: &Path| std::fs::read_to_string(root.join(path)).ok();
    let circles = CRATES.iter().flat_map(|file| check_circles(Path::new(file), &read));
    let floors =
        HOUSES.iter().flat_map(|(root, drawing)| check_floors(Path::new(root), Path::new(drawing), &read));
    circles.chain(floors).collect()
}

fn check_floors(root: &Path, drawing: &Path, read: &Read<'_>) -> Vec<Finding> {
    let Some(house) = read(drawing).and_then(|text| House::drawn(root, &text)) else {
        return vec![finding(
            drawing,
            1,
            format!("draw the floors of {} in a block \"floors\"", root.display()),
        )];
    };
    let found = match Crate::read(root, read) {
        Ok(found) => found,
        Err((path, why)) => return vec![finding(&path, 1, format!("cannot be read: {why}"))],
    };
    let wrong = house.check(&found.files, &found.imports()).into_iter();
    wrong.map(|(path, line, message)| Finding { path, line, rule: "floor", message }).collect()
}

fn check_circles(root: &Path, read: &Read<'_>) -> Vec<Finding> {
    let found = match Crate::read(root, read) {
        Ok(found) => found,
        Err((path, why)) => return vec![finding(&path, 1, format!("cannot be read: {why}"))],
    };
    let imports = found.imports();
    circles::circles(found.files.len(), &imports)
        .into_iter()
        .filter(|circle| !is_one_thing(&found.files, circle))
        .map(|circle| report(&found.files, &circle, &imports))
        .collect()
}

fn is_one_thing(files: &[PathBuf], circle: &[usize]) -> bool {
    ONE_THING.iter().any(|(folder, _)| circle.iter().all(|&file| files[file].starts_with(folder)))
}

/// Says how a circle goes round, at the first of its files.
fn report(files: &[PathBuf], circle: &[usize], imports: &[Import]) -> Finding {
    let inside: Vec<Import> =
        imports.iter().filter(|i| circle.contains(&i.from) && circle.contains(&i.to)).cloned().collect();
    let ways = circle.iter().map(|&file| circles::shortest(&inside, file));
    let way = ways.min_by_key(Vec::len).unwrap_or_default();
    let steps: Vec<String> = way
        .iter()
        .map(|step| format!("{}:{} names {}", files[step.from].display(), step.line, step.name))
        .collect();
    let first = way.first().map_or((&files[circle[0]], 1), |step| (&files[step.from], step.line));
    let message = format!(
        "{} files import one another: {}; move what both need below both",
        circle.len(),
        steps.join(", "),
    );
    finding(first.0, first.1, message)
}

fn finding(path: &Path, line: usize, message: String) -> Finding {
    Finding { path: path.into(), line, rule: "circle", message }
}

#[cfg(test)]
mod tests;
