//! Floors: a file names what is on its own floor or below, never what is above.

use std::path::{Path, PathBuf};

use super::resolve::Import;

/// The floors of one crate.
#[derive(Debug)]
pub(super) struct House {
    /// The crate's root file; it names what it likes.
    root: PathBuf,
    /// The floors, the ground last: their names, and the files and folders below the root file's folder.
    floors: Vec<(String, Vec<String>)>,
}

/// Where a document's drawing of the floors starts.
const DRAWING: &str = "```floors";

/// What is wrong: a file, a line in it, and why.
pub(super) type Wrong = (PathBuf, usize, String);

impl House {
    /// Reads the drawing in `document`: a line for each floor, the highest first, its name and what stands on
    /// it.
    pub(super) fn drawn(root: &Path, document: &str) -> Option<Self> {
        let from = document.find(DRAWING)? + DRAWING.len();
        let lines = document[from..].lines().skip(1).take_while(|line| !line.starts_with("```"));
        let floors = lines.filter(|line| !line.trim().is_empty()).map(|line| {
            let is_entry = |word: &&str| word.ends_with(".rs") || word.ends_with('/');
            let (entries, name): (Vec<_>, Vec<_>) = line.split_whitespace().partition(is_entry);
            (name.join(" "), entries.into_iter().map(String::from).collect())
        });
        Some(Self { root: root.to_path_buf(), floors: floors.collect() })
    }

    /// Every import that goes up, and every file that stands on no floor.
    pub(super) fn check(&self, files: &[PathBuf], imports: &[Import]) -> Vec<Wrong> {
        let floors: Vec<_> = files.iter().map(|file| self.floor_of(file)).collect();
        let mut wrong = Vec::new();
        for (file, floor) in files.iter().zip(&floors) {
            if floor.is_none() && *file != self.root {
                wrong.push((file.clone(), 1, "stands on no floor: draw it on one".to_string()));
            }
        }
        for import in imports {
            let (Some(from), Some(to)) = (floors[import.from], floors[import.to]) else { continue };
            // The highest floor is the first.
            if from > to {
                let message = format!(
                    "a file of \"{}\" names {} of \"{}\" ({}); move it down, or hand it in from above",
                    self.floors[from].0,
                    import.name,
                    self.floors[to].0,
                    files[import.to].display(),
                );
                wrong.push((files[import.from].clone(), import.line, message));
            }
        }
        wrong
    }

    /// The floor whose longest entry fits.
    fn floor_of(&self, file: &Path) -> Option<usize> {
        let below = file.strip_prefix(self.root.parent()?).ok()?;
        let entries =
            self.floors.iter().enumerate().flat_map(|(n, (_, all))| all.iter().map(move |e| (n, e)));
        let fits = entries.filter(|(_, entry)| below.starts_with(entry));
        fits.max_by_key(|(_, entry)| entry.len()).map(|(floor, _)| floor)
    }
}
