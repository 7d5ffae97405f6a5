//! Filling the tree: from the archive, and by hand.

use super::Vfs;
use super::data::FileData;
use super::inode::{Body, FileType, Inode};
use super::path::{Follow, Place};
use crate::cpio::{Archive, Entry};
use crate::errno::{EEXIST, EINVAL, Result};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use spin::Mutex;

impl Vfs {
    /// Unpacks an archive: files keep referencing its bytes.
    ///
    /// # Errors
    /// `EINVAL` if the archive is damaged; what came before the damage is there.
    pub fn unpack(&self, archive: &'static [u8]) -> Result<()> {
        let mut links = BTreeMap::new();
        for entry in Archive::new(archive) {
            self.unpack_entry(entry.map_err(|_| EINVAL)?, &mut links)?;
        }
        Ok(())
    }

    fn unpack_entry(&self, entry: Entry<'static>, links: &mut BTreeMap<u32, Arc<Inode>>) -> Result<()> {
        let name = entry.name.strip_prefix(b"./").unwrap_or(entry.name);
        if name.is_empty() || name == b"." {
            return Ok(());
        }
        let place = self.make_place(name)?;
        if entry.nlink > 1
            && let Some(inode) = links.get(&entry.ino)
        {
            if !entry.data.is_empty()
                && let Body::File(data) = &inode.body
            {
                *data.lock() = FileData::in_place(entry.data);
            }
            return self.link(inode, &place);
        }
        let body = match entry.mode >> 12 {
            t if t == FileType::Directory as u32 => Body::Directory(Mutex::default()),
            t if t == FileType::Symlink as u32 => Body::Symlink(entry.data.into()),
            t if t == FileType::Regular as u32 => Body::File(Mutex::new(FileData::in_place(entry.data))),
            _ => return Ok(()),
        };
        let inode = match self.create(&place, entry.mode, body) {
            Err(EEXIST) => self.lookup(&place.dir, &place.name, Follow::No)?,
            made => made?,
        };
        let time = u64::from(entry.mtime) * 1_000_000_000;
        inode.update(|meta| {
            meta.mode = entry.mode & 0o7777;
            (meta.atime_ns, meta.mtime_ns, meta.ctime_ns) = (time, time, time);
        });
        if entry.nlink > 1 && !inode.is_dir() {
            links.insert(entry.ino, inode);
        }
        Ok(())
    }

    /// Finds the place of `path`, making the directories that it needs.
    ///
    /// # Errors
    /// `ENOTDIR` if a file is in the way.
    pub fn make_place(&self, path: &[u8]) -> Result<Place> {
        let root = self.root().clone();
        let path = path.strip_prefix(b"/").unwrap_or(path);
        if let Some(slash) = path.iter().rposition(|&b| b == b'/') {
            self.make_dirs(&path[..slash])?;
        }
        self.lookup_place(&root, path)
    }

    /// Makes the directory `path` and those above it, as far as they are missing.
    ///
    /// # Errors
    /// `ENOTDIR` if a file is in the way.
    pub fn make_dirs(&self, path: &[u8]) -> Result<Arc<Inode>> {
        let mut here = self.root().clone();
        for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
            here = match self.lookup(&here, name, Follow::Yes) {
                Ok(next) => next,
                Err(_) => {
                    let place = self.lookup_place(&here, name)?;
                    self.create(&place, 0o755, Body::Directory(Mutex::default()))?
                }
            };
        }
        Ok(here)
    }

    /// Drops everything below the root, so that what still lives is held by somebody else.
    pub fn clear(&self) {
        let mut here = self.root().clone();
        // Leaf by leaf: directories may be nested deeper than a stack is.
        loop {
            let Body::Directory(dir) = &here.body else { return };
            let first =
                dir.lock().entries.first_key_value().map(|(name, inode)| (name.clone(), inode.clone()));
            let up = match first {
                Some((_, inode)) if has_entries(&inode) => inode,
                Some((name, _)) => {
                    let gone = dir.lock().entries.remove(&name);
                    drop(gone);
                    continue;
                }
                None => match here.parent() {
                    Some(parent) if !Arc::ptr_eq(&here, &parent) => parent,
                    Some(_) | None => return,
                },
            };
            here = up;
        }
    }

    /// Puts `body` at `path`, making the directories that it needs.
    ///
    /// # Errors
    /// `EEXIST` if something is there.
    pub fn put(&self, path: &[u8], mode: u32, body: Body) -> Result<Arc<Inode>> {
        let place = self.make_place(path)?;
        self.create(&place, mode, body)
    }
}

fn has_entries(inode: &Inode) -> bool {
    matches!(&inode.body, Body::Directory(dir) if !dir.lock().entries.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::names::Replace;
    use super::*;
    use crate::cpio::tests::pack;
    use crate::errno::*;
    use std::boxed::Box;
    use std::vec::Vec;

    fn vfs() -> Vfs {
        let bytes = pack(&[
            (".anonmem/run", 1, 0o100644, b"exe=/bin/sh\0"),
            ("bin", 2, 0o040755, b""),
            ("bin/busybox", 3, 0o100755, b"ELF"),
            ("bin/sh", 4, 0o120777, b"busybox"),
            ("lib64", 5, 0o120777, b"usr/lib64"),
            ("usr/lib64/ld.so", 6, 0o100755, b"ld"),
            ("loop", 7, 0o120777, b"/loop"),
        ]);
        let vfs = Vfs::new(|| 5_000_000_000);
        vfs.unpack(Box::leak(bytes.into_boxed_slice())).unwrap();
        vfs
    }

    fn read(inode: &Inode) -> Vec<u8> {
        let Body::File(data) = &inode.body else { panic!("not a file") };
        let mut out = std::vec![0; inode.size() as usize];
        data.lock().read(0, &mut out).unwrap();
        out
    }

    fn find(vfs: &Vfs, path: &str) -> Result<Arc<Inode>> {
        vfs.lookup(vfs.root(), path.as_bytes(), Follow::Yes)
    }

    fn place(vfs: &Vfs, path: &str) -> Place {
        vfs.lookup_place(vfs.root(), path.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_shown_is_the_path_without_links() {
        let vfs = vfs();
        let real = |at: &str, path: &str, follow| {
            let at = find(&vfs, at).unwrap();
            vfs.real_path(&at, path.as_bytes(), follow)
                .map(|path| std::string::String::from_utf8(path).unwrap())
        };
        assert_eq!(real("/", "/bin/sh", Follow::Yes).unwrap(), "/bin/busybox");
        assert_eq!(real("/", "/bin/sh", Follow::No).unwrap(), "/bin/sh");
        assert_eq!(real("/bin", "../lib64/./ld.so", Follow::Yes).unwrap(), "/usr/lib64/ld.so");
        assert_eq!(real("/bin", "../../..", Follow::Yes).unwrap(), "/");
        assert_eq!(real("/bin", "not/there", Follow::Yes).unwrap(), "/bin/not/there");
        assert_eq!(real("/", "/loop", Follow::Yes), Err(ELOOP));
    }

    #[test]
    fn links_are_followed_and_loops_end() {
        let vfs = vfs();
        assert_eq!(read(&find(&vfs, "/bin/sh").unwrap()), b"ELF");
        assert_eq!(read(&find(&vfs, "lib64/../lib64/./ld.so").unwrap()), b"ld");
        assert_eq!(find(&vfs, "/loop").unwrap_err(), ELOOP);
        assert_eq!(find(&vfs, "/bin/busybox/").unwrap_err(), ENOTDIR);
        assert_eq!(find(&vfs, "/bin/busybox/x").unwrap_err(), ENOTDIR);
        assert_eq!(find(&vfs, "/bin/none").unwrap_err(), ENOENT);
        assert_eq!(find(&vfs, "").unwrap_err(), ENOENT);
        assert_eq!(find(&vfs, "/../../bin").unwrap().ino, find(&vfs, "/bin").unwrap().ino);
        let link = vfs.lookup(vfs.root(), b"/bin/sh", Follow::No).unwrap();
        assert_eq!(link.kind(), FileType::Symlink);
    }

    #[test]
    fn a_removed_file_lives_on_for_who_has_it_open() {
        let vfs = vfs();
        let file = find(&vfs, "/bin/busybox").unwrap();
        vfs.unlink(&place(&vfs, "/bin/busybox")).unwrap();
        assert_eq!(find(&vfs, "/bin/busybox").unwrap_err(), ENOENT);
        assert_eq!((read(&file), file.meta().nlink), (b"ELF".to_vec(), 0));
    }

    #[test]
    fn rename_replaces_files_and_empty_directories_only() {
        let vfs = vfs();
        let dir = |path: &str| vfs.put(path.as_bytes(), 0o755, Body::Directory(Mutex::default())).unwrap();
        dir("/a/b");
        dir("/c");
        let rename = |from: &str, to: &str| vfs.rename(&place(&vfs, from), &place(&vfs, to), Replace::Yes);
        assert_eq!(rename("/a", "/a/b/d"), Err(EINVAL));
        assert_eq!(rename("/a", "/bin"), Err(ENOTEMPTY));
        assert_eq!(rename("/a", "/bin/busybox"), Err(ENOTDIR));
        assert_eq!(rename("/bin/busybox", "/a"), Err(EISDIR));
        rename("/a", "/c").unwrap();
        assert_eq!(vfs.path_of(&find(&vfs, "/c/b").unwrap()).unwrap(), b"/c/b");
        rename("/bin/busybox", "/usr/lib64/ld.so").unwrap();
        assert_eq!(read(&find(&vfs, "/lib64/ld.so").unwrap()), b"ELF");
        assert_eq!(find(&vfs, "/bin/sh").unwrap_err(), ENOENT);
        let (from, to) = (place(&vfs, "/c"), place(&vfs, "/bin"));
        assert_eq!(vfs.rename(&from, &to, Replace::No), Err(EEXIST));
        vfs.rename(&from, &to, Replace::Exchange).unwrap();
        assert!(find(&vfs, "/bin/b").is_ok() && find(&vfs, "/c/sh").is_err());
        assert_eq!(find(&vfs, "/").unwrap().meta().nlink, 2 + 4);
    }

    #[test]
    fn a_listing_survives_removal_between_two_calls() {
        let vfs = vfs();
        for name in ["x1", "x2", "x3", "x4"] {
            vfs.put(std::format!("/d/{name}").as_bytes(), 0o644, Body::File(Mutex::default())).unwrap();
        }
        let dir = find(&vfs, "/d").unwrap();
        let two = dir.list(None, 2).unwrap();
        vfs.unlink(&place(&vfs, "/d/x1")).unwrap();
        vfs.unlink(&place(&vfs, "/d/x2")).unwrap();
        let rest = dir.list(Some(&two[1].0), 9).unwrap();
        assert_eq!(rest.iter().map(|e| &e.0[..]).collect::<Vec<_>>(), [b"x3", b"x4"]);
    }

    #[test]
    fn nothing_is_created_in_a_removed_directory() {
        let vfs = vfs();
        vfs.make_dirs(b"/gone").unwrap();
        let inside = place(&vfs, "/gone/file");
        vfs.rmdir(&place(&vfs, "/gone")).unwrap();
        assert_eq!(vfs.create(&inside, 0o644, Body::File(Mutex::default())).unwrap_err(), ENOENT);
        assert_eq!(vfs.rmdir(&place(&vfs, "/bin")), Err(ENOTEMPTY));
    }
}
