//! Floors: a file names what is on its own floor or below, never what is above.

use std::path::{Path, PathBuf};

use super::resolve::Import;

/// The floors of one crate.
pub(super) struct House {
    /// The crate's root file; it names what it likes.
    pub(super) root: &'static str,
    /// The floors, the ground first: files and folders below the root file's folder.
    pub(super) floors: &'static [&'static [&'static str]],
}

/// What is wrong: a file, a line in it, and why.
pub(super) type Wrong = (PathBuf, usize, String);

impl House {
    /// Every import that goes up, and every file that stands on no floor.
    pub(super) fn check(&self, files: &[PathBuf], imports: &[Import]) -> Vec<Wrong> {
        let floors: Vec<_> = files.iter().map(|file| self.floor_of(file)).collect();
        let mut wrong = Vec::new();
        for (file, floor) in files.iter().zip(&floors) {
            if floor.is_none() && file != Path::new(self.root) {
                wrong.push((file.clone(), 1, "stands on no floor: give it one in HOUSES".to_string()));
            }
        }
        for import in imports {
            let (Some(from), Some(to)) = (floors[import.from], floors[import.to]) else { continue };
            if from < to {
                let message = format!(
                    "floor {from} names {} of floor {to} ({}); move it down, or hand it in from above",
                    import.name,
                    files[import.to].display(),
                );
                wrong.push((files[import.from].clone(), import.line, message));
            }
        }
        wrong
    }

    /// The floor whose longest entry fits.
    fn floor_of(&self, file: &Path) -> Option<usize> {
        let folder = Path::new(self.root).parent()?;
        let below = file.strip_prefix(folder).ok()?;
        let entries =
            self.floors.iter().enumerate().flat_map(|(n, floor)| floor.iter().map(move |e| (n, *e)));
        let fits = entries.filter(|(_, entry)| below.starts_with(entry));
        fits.max_by_key(|(_, entry)| entry.len()).map(|(floor, _)| floor)
    }
}
