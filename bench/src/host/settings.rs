//! Transparent huge pages of the host: set for some rows, put back whatever happens.
//!
//! A setting is a file under /sys/kernel/mm/transparent_hugepage. What it said is kept from the first change
//! on and written back when the guard drops (so also when a measurement panics), and by a thread that waits
//! for SIGINT, SIGTERM and SIGHUP. Only SIGKILL leaves them changed.

use super::folios::{Folios, Made};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

const ROOT: &str = "/sys/kernel/mm/transparent_hugepage";

/// Settings that were changed, and what they said before.
type Changed = Arc<Mutex<BTreeMap<PathBuf, String>>>;

/// Owns the changes; dropping it takes them back.
pub struct Settings {
    root: PathBuf,
    changed: Changed,
}

impl Settings {
    /// Changes nothing yet. From now on an interrupt ends the process with status 130, after taking back what
    /// was changed.
    ///
    /// # Errors
    /// If signals cannot be waited for.
    pub fn guard() -> io::Result<Self> {
        let settings = Self::at(Path::new(ROOT));
        let changed = settings.changed.clone();
        let all = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
        let mut signals = signal_hook::iterator::Signals::new(all)?;
        thread::Builder::new().name("put-back".into()).spawn(move || {
            if let Some(signal) = signals.forever().next() {
                put_back(&changed);
                std::process::exit(128 + signal);
            }
        })?;
        Ok(settings)
    }

    fn at(root: &Path) -> Self {
        Self { root: root.into(), changed: Changed::default() }
    }

    /// Runs `work` while the host uses folios of this size, and no other large ones, for memory that asks;
    /// then takes the change back.
    ///
    /// # Errors
    /// `work`'s; if the host has no such folios, or not enough of them.
    pub fn with(&self, folios: Folios, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let result = self.use_folios(folios).and_then(|()| {
            let before = Made::now(&self.root, folios);
            work()?;
            match (before, Made::now(&self.root, folios)) {
                (Some(before), Some(now)) => now.check_since(before, folios),
                _ => Ok(()),
            }
        });
        self.restore();
        result
    }

    /// Lets the host use folios of this size. Base pages need no setting: memory that wants nothing else says
    /// so itself.
    fn use_folios(&self, folios: Folios) -> io::Result<()> {
        let Some(wanted) = folios.dir() else { return Ok(()) };
        if !self.root.join(wanted).is_dir() {
            return Err(io::Error::other(format!("the host's kernel has no {wanted}")));
        }
        for entry in fs::read_dir(&self.root)?.filter_map(Result::ok) {
            let file = entry.path().join("enabled");
            // Sizes for shared memory alone have no such file.
            if entry.file_name().to_string_lossy().starts_with("hugepages-") && file.exists() {
                let value = if entry.file_name() == wanted { "madvise" } else { "never" };
                self.set(&file, value)?;
            }
        }
        Ok(())
    }

    /// Takes all changes back.
    fn restore(&self) {
        put_back(&self.changed);
    }

    fn set(&self, path: &Path, value: &str) -> io::Result<()> {
        let mut changed = lock(&self.changed);
        let before = chosen(&fs::read_to_string(path)?);
        if before == value {
            return Ok(());
        }
        // Remembered first: the signal's thread may come at any time after the write.
        changed.entry(path.into()).or_insert(before);
        fs::write(path, value).map_err(|e| {
            io::Error::new(e.kind(), format!("cannot write {}: {e}; run as root", path.display()))
        })
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        put_back(&self.changed);
    }
}

fn lock(changed: &Changed) -> MutexGuard<'_, BTreeMap<PathBuf, String>> {
    changed.lock().unwrap_or_else(PoisonError::into_inner)
}

fn put_back(changed: &Changed) {
    for (path, value) in std::mem::take(&mut *lock(changed)) {
        if let Err(e) = fs::write(&path, &value) {
            eprintln!("anonmem: cannot put {} back to \"{value}\": {e}", path.display());
        }
    }
}

/// The bracketed one of a list of choices; the text itself if there is none.
fn chosen(text: &str) -> String {
    let inside = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inside.map_or_else(|| text.trim().to_string(), |(choice, _)| choice.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake() -> (PathBuf, PathBuf) {
        let root = std::env::temp_dir().join(format!("anonmem-settings-{}", std::process::id()));
        let file = root.join("hugepages-64kB").join("enabled");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "always inherit madvise [never]\n").unwrap();
        (root, file)
    }

    #[test]
    fn what_was_changed_is_put_back_even_by_a_panic() {
        let (root, file) = fake();
        let result = std::panic::catch_unwind(|| {
            let settings = Settings::at(&root);
            let _ = settings.with(Folios::Kib64, || {
                assert_eq!(fs::read_to_string(&file).unwrap(), "madvise");
                panic!("on purpose");
            });
        });
        assert!(result.is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "never");
        let settings = Settings::at(&root);
        settings.with(Folios::Kib64, || Ok(())).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "never");
        assert!(settings.with(Folios::Mib2, || Ok(())).unwrap_err().to_string().contains("2048kB"));
        fs::remove_dir_all(root).unwrap();
    }
}
