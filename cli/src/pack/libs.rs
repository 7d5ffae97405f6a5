//! Shared libraries: which files the dynamic loader would map for a program, found without running it.
//!
//! The search is `ld.so(8)`'s: DT_RPATH of the object and of those that loaded it (unless there is a
//! DT_RUNPATH), LD_LIBRARY_PATH, DT_RUNPATH, ld.so.cache, the standard directories. The guest has no
//! ld.so.cache: a directory that only the cache knows is reported, to go into LD_LIBRARY_PATH there.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::elf::{ElfInfo, FileKind, file_kind};
use super::ldcache;
use super::tree::Tree;

/// Where every loader looks without being told.
pub const STANDARD_DIRS: [&str; 6] =
    ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];

/// Libraries that glibc opens by itself when it needs them: unwinding a cancelled thread.
const OPENED_BY_LIBC: &str = "libgcc_s.so.1";

/// What a library that is nowhere means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The object cannot run: an error that names the library.
    Refuse,
    /// The object may never be loaded: leave the library out.
    Skip,
}

/// Finds and packs libraries; remembers what it has packed.
#[derive(Debug)]
pub struct Libraries {
    cache: HashMap<String, PathBuf>,
    library_path: Vec<PathBuf>,
    packed: HashSet<PathBuf>,
    extra_dirs: BTreeSet<PathBuf>,
}

/// An object whose dependencies are to be found: its place and what it inherits from its loaders.
struct Object {
    path: PathBuf,
    origin: PathBuf,
    info: ElfInfo,
    loader_rpaths: Rc<Vec<PathBuf>>,
}

impl Libraries {
    /// Makes a finder with this host's ld.so.cache; `library_path` is the guest's LD_LIBRARY_PATH.
    #[must_use]
    pub fn new(library_path: Vec<PathBuf>) -> Self {
        let cache = fs::read("/etc/ld.so.cache").map(|bytes| ldcache::parse(&bytes)).unwrap_or_default();
        Self { cache, library_path, packed: HashSet::new(), extra_dirs: BTreeSet::new() }
    }

    /// Visits the directories that the guest's loader must be told of, in LD_LIBRARY_PATH.
    pub fn extra_dirs(&self) -> impl Iterator<Item = &Path> {
        self.extra_dirs.iter().map(PathBuf::as_path)
    }

    /// Packs an ELF file with its interpreter and all libraries that it needs. What is no ELF file is
    /// packed alone.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or a library is missing and `missing` refuses that.
    pub fn pack(&mut self, tree: &mut Tree, path: &Path, missing: Missing) -> io::Result<()> {
        tree.mirror(path)?;
        self.pack_needs(tree, path, missing)
    }

    /// Packs the interpreter and the libraries of a file, not the file itself.
    ///
    /// # Errors
    ///
    /// As [`Libraries::pack`].
    pub fn pack_needs(&mut self, tree: &mut Tree, path: &Path, missing: Missing) -> io::Result<()> {
        let FileKind::Elf(info) = file_kind(path)? else {
            return Ok(());
        };
        let real = path.canonicalize()?;
        let interpreter = info.interpreter.clone();
        if let Some(interpreter) = &interpreter {
            tree.mirror(interpreter).map_err(|_| not_found(path, &interpreter.display().to_string()))?;
        }
        let origin = real.parent().unwrap_or(Path::new("/")).to_path_buf();
        let mut loaded = HashSet::new();
        let mut queue =
            VecDeque::from([Object { path: path.to_path_buf(), origin, info, loader_rpaths: Rc::default() }]);
        while let Some(object) = queue.pop_front() {
            let rpaths = Rc::new(object.rpath_chain());
            for name in &object.info.needed {
                if !loaded.insert(name.clone()) {
                    continue;
                }
                if let Some(found) = self.find(name, &object, &rpaths) {
                    queue.extend(self.load(tree, found, &rpaths)?);
                } else if missing == Missing::Refuse && !provided_by_loader(name, interpreter.as_deref()) {
                    return Err(not_found(&object.path, name));
                }
                if name == "libc.so.6"
                    && loaded.insert(OPENED_BY_LIBC.into())
                    && let Some(found) = self.find(OPENED_BY_LIBC, &object, &rpaths)
                {
                    queue.extend(self.load(tree, found, &rpaths)?);
                }
            }
        }
        Ok(())
    }

    /// Packs one library and returns it for its own needs to be found.
    fn load(
        &mut self,
        tree: &mut Tree,
        found: Found,
        rpaths: &Rc<Vec<PathBuf>>,
    ) -> io::Result<Option<Object>> {
        if self.packed.insert(found.path.clone()) {
            tree.mirror(&found.path)?;
        }
        let dir = found.path.parent().unwrap_or(Path::new("/")).to_path_buf();
        if found.by == FoundBy::Cache && !STANDARD_DIRS.iter().any(|d| Path::new(d) == dir) {
            self.extra_dirs.insert(dir.clone());
        }
        let FileKind::Elf(info) = file_kind(&found.path)? else {
            return Ok(None);
        };
        Ok(Some(Object { path: found.path, origin: dir, info, loader_rpaths: Rc::clone(rpaths) }))
    }

    fn find(&self, name: &str, object: &Object, rpaths: &[PathBuf]) -> Option<Found> {
        if name.contains('/') {
            let path = object.expand(name);
            return usable(&path).then_some(Found { path, by: FoundBy::Directory });
        }
        let runpath = object.info.runpath.iter().map(|p| object.expand(p));
        let standard = STANDARD_DIRS.iter().map(PathBuf::from);
        let in_dirs = |dirs: &mut dyn Iterator<Item = PathBuf>| {
            dirs.map(|dir| dir.join(name))
                .find(|p| usable(p))
                .map(|path| Found { path, by: FoundBy::Directory })
        };
        let own_rpaths: &[PathBuf] = if object.info.runpath.is_empty() { rpaths } else { &[] };
        in_dirs(&mut own_rpaths.iter().chain(&self.library_path).cloned().chain(runpath))
            .or_else(|| {
                let path = self.cache.get(name).filter(|p| usable(p))?.clone();
                Some(Found { path, by: FoundBy::Cache })
            })
            .or_else(|| in_dirs(&mut { standard }))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FoundBy {
    Directory,
    Cache,
}

struct Found {
    path: PathBuf,
    by: FoundBy,
}

impl Object {
    /// DT_RPATH of this object, then of those that loaded it.
    fn rpath_chain(&self) -> Vec<PathBuf> {
        let own = if self.info.runpath.is_empty() { self.info.rpath.as_slice() } else { &[] };
        own.iter().map(|p| self.expand(p)).chain(self.loader_rpaths.iter().cloned()).collect()
    }

    /// Replaces the loader's tokens: $ORIGIN, $LIB, $PLATFORM.
    fn expand(&self, path: &str) -> PathBuf {
        let origin = self.origin.to_string_lossy();
        let mut path = path.to_string();
        for (token, value) in [("ORIGIN", &*origin), ("LIB", "lib/x86_64-linux-gnu"), ("PLATFORM", "x86_64")]
        {
            path = path.replace(&format!("${{{token}}}"), value).replace(&format!("${token}"), value);
        }
        path.into()
    }
}

fn usable(path: &Path) -> bool {
    path.is_file() && matches!(file_kind(path), Ok(FileKind::Elf(_)))
}

/// musl's loader is its libc.
fn provided_by_loader(name: &str, interpreter: Option<&Path>) -> bool {
    let loader = interpreter.and_then(Path::file_name).map(|n| n.to_string_lossy());
    loader.is_some_and(|loader| {
        *loader == *name || (loader.starts_with("ld-musl") && name.starts_with("libc."))
    })
}

fn not_found(needed_by: &Path, name: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!(
            "{} needs {name}, which is not on this host; install it or name it with --file",
            needed_by.display()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Compiles a library or a program with the host's compiler.
    fn cc(dir: &Path, args: &[&str], source: &str) {
        fs::write(dir.join("source.c"), source).unwrap();
        let status = Command::new("cc").current_dir(dir).arg("source.c").args(args).status().unwrap();
        assert!(status.success(), "cc {args:?}");
    }

    fn packed(tree: &Tree, path: &Path) -> bool {
        tree.get(path).is_some()
    }

    #[test]
    fn runpath_with_origin_is_followed_and_links_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("lib/inner")).unwrap();
        cc(&root, &["-shared", "-fPIC", "-o", "lib/inner/libinner.so"], "int inner(void) { return 1; }");
        cc(
            &root,
            &[
                "-shared",
                "-fPIC",
                "-o",
                "lib/libouter.so.1",
                "-Llib/inner",
                "-linner",
                "-Wl,-rpath,$ORIGIN/inner",
            ],
            "int inner(void); int outer(void) { return inner(); }",
        );
        std::os::unix::fs::symlink("libouter.so.1", root.join("lib/libouter.so")).unwrap();
        fs::create_dir(root.join("bin")).unwrap();
        cc(
            &root,
            &["-o", "bin/prog", "-Llib", "-louter", "-Wl,-rpath,$ORIGIN/../lib", "-Wl,-rpath-link,lib/inner"],
            "int outer(void); int main(void) { return outer(); }",
        );

        let mut tree = Tree::new();
        let mut libraries = Libraries::new(Vec::new());
        libraries.pack(&mut tree, &root.join("bin/prog"), Missing::Refuse).unwrap();
        for file in ["bin/prog", "lib/libouter.so", "lib/libouter.so.1", "lib/inner/libinner.so"] {
            assert!(packed(&tree, &root.join(file)), "{file}");
        }
        assert!(packed(&tree, Path::new("/lib64/ld-linux-x86-64.so.2")));
        assert!(tree.iter().any(|(p, _)| p.ends_with("libc.so.6")));
        assert_eq!(libraries.extra_dirs().count(), 0);

        fs::remove_file(root.join("lib/inner/libinner.so")).unwrap();
        let mut libraries = Libraries::new(Vec::new());
        let error = libraries.pack(&mut Tree::new(), &root.join("bin/prog"), Missing::Refuse).unwrap_err();
        assert!(error.to_string().contains("needs libinner.so"), "{error}");
        libraries.pack(&mut Tree::new(), &root.join("bin/prog"), Missing::Skip).unwrap();
    }

    #[test]
    fn rpath_is_inherited_and_library_path_counts() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("a")).unwrap();
        cc(&root, &["-shared", "-fPIC", "-o", "a/libleaf.so"], "int leaf(void) { return 1; }");
        cc(
            &root,
            &["-shared", "-fPIC", "-o", "a/libmid.so", "-La", "-lleaf"],
            "int leaf(void); int mid(void) { return leaf(); }",
        );
        let program = "int mid(void); int main(void) { return mid(); }";
        let rpath = format!("-Wl,--disable-new-dtags,-rpath,{}/a", root.display());
        cc(&root, &["-o", "with", "-La", "-lmid", "-Wl,-rpath-link,a", &rpath], program);
        cc(&root, &["-o", "without", "-La", "-lmid", "-Wl,-rpath-link,a"], program);

        let mut tree = Tree::new();
        Libraries::new(Vec::new()).pack(&mut tree, &root.join("with"), Missing::Refuse).unwrap();
        assert!(packed(&tree, &root.join("a/libleaf.so")));

        let without = root.join("without");
        assert!(Libraries::new(Vec::new()).pack(&mut Tree::new(), &without, Missing::Refuse).is_err());
        let mut tree = Tree::new();
        Libraries::new(vec![root.join("a")]).pack(&mut tree, &without, Missing::Refuse).unwrap();
        assert!(packed(&tree, &root.join("a/libleaf.so")));
    }

    #[test]
    fn a_static_program_needs_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        cc(&root, &["-static", "-o", "prog"], "int main(void) { return 0; }");
        let mut tree = Tree::new();
        Libraries::new(Vec::new()).pack(&mut tree, &root.join("prog"), Missing::Refuse).unwrap();
        assert!(!tree.iter().any(|(p, _)| p.to_string_lossy().contains(".so")));
    }
}
