//! `/proc` and the few files of `/sys` that programs look at.
//!
//! Everything is generated when it is opened: [`system`] has what concerns the machine, [`pid`] what concerns
//! a process.

mod caller;
mod generated;
mod gup_test;
mod kpage;
mod ksm;
mod map_files;
mod nodes;
mod pagemap;
pub mod pid;
mod procmap;
pub mod system;
mod thp;

pub use generated::Taken;
use generated::{FIRST_INO, now};

use crate::arch::percpu::cpu_count;
use crate::fs::open::Opener;
use crate::proc::table;
use crate::proc::thread::try_current;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EACCES, ENOENT};
use anonmem_oslib::vfs::{Body, FileType, Inode, LinkTarget, Meta, Synthetic, Vfs, first_names};

/// A generated file: a function that writes its text.
pub struct Text(pub fn() -> String);

impl Synthetic for Text {
    fn kind(&self) -> FileType {
        FileType::Regular
    }
    fn admits(&self, meta: &Meta, wanted: u32) -> bool {
        caller::caller_may(meta, wanted)
    }
    fn content(&self) -> Result<Vec<u8>> {
        Ok((self.0)().into_bytes())
    }
    fn write(&self, _bytes: &[u8]) -> Result<()> {
        Err(EACCES)
    }
}

/// `/proc` itself: the named files, and a directory for each process.
struct Root {
    inode: spin::Once<alloc::sync::Weak<Inode>>,
}

impl Root {
    fn file(&self, index: usize) -> Result<Arc<Inode>> {
        let (name, text) = system::FILES[index];
        let parent = self.inode.get().and_then(alloc::sync::Weak::upgrade).ok_or(ENOENT)?;
        let (ino, mode) = (FIRST_INO + index as u64, system::file_mode(name));
        Ok(Inode::synthetic(ino, mode, now(), &parent, Arc::new(Text(text))))
    }
}

impl Synthetic for Root {
    fn kind(&self) -> FileType {
        FileType::Directory
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<Inode>> {
        let parent = self.inode.get().and_then(alloc::sync::Weak::upgrade).ok_or(ENOENT)?;
        let text = core::str::from_utf8(name).or(Err(ENOENT))?;
        if let Some(index) = system::FILES.iter().position(|(file, _)| *file == text) {
            return self.file(index);
        }
        if let Some(index) = kpage::FILES.iter().position(|(file, _)| *file == text) {
            let object = Arc::new(kpage::KPage(kpage::FILES[index].1));
            let ino = FIRST_INO + 50 + index as u64;
            return Ok(Inode::synthetic(ino, 0o400, now(), &parent, object));
        }
        let (process, target) = match text {
            "self" => (None, format!("{}", current_pid()?)),
            "thread-self" => (None, format!("{0}/task/{0}", current_pid()?)),
            "mounts" => (None, "self/mounts".into()),
            "sys" => {
                let dir = Arc::new(Branch { prefix: "", ino: FIRST_INO + 200, me: spin::Once::new() });
                return Ok(dir.inode(&parent));
            }
            number => (table::process(number.parse().or(Err(ENOENT))?), String::new()),
        };
        match process {
            Some(process) => Ok(pid::directory(process, &parent)),
            None if target.is_empty() => Err(ENOENT),
            None => Ok(Inode::synthetic(FIRST_INO + 100, 0o777, now(), &parent, Arc::new(Link(target)))),
        }
    }

    fn list_after(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, FileType)>> {
        let files = system::FILES.iter().map(|(name, _)| (name.as_bytes().to_vec(), FileType::Regular));
        let pages = kpage::FILES.map(|(name, _)| (name.as_bytes().to_vec(), FileType::Regular));
        let fixed = [
            (b"self".to_vec(), FileType::Symlink),
            (b"thread-self".to_vec(), FileType::Symlink),
            (b"mounts".to_vec(), FileType::Symlink),
            (b"sys".to_vec(), FileType::Directory),
        ];
        let processes = table::processes().map(|p| (format!("{}", p.pid).into_bytes(), FileType::Directory));
        Ok(first_names(after, limit, files.chain(pages).chain(fixed).chain(processes)))
    }
}

fn current_pid() -> Result<u32> {
    try_current().map(|thread| thread.process.pid).ok_or(ENOENT)
}

/// A symbolic link to a path.
struct Link(String);

impl Synthetic for Link {
    fn kind(&self) -> FileType {
        FileType::Symlink
    }
    fn target(&self) -> Result<LinkTarget> {
        Ok(LinkTarget::Path(self.0.clone().into_bytes()))
    }
}

/// A directory of `/proc/sys`: those of [`system::SYSCTLS`] that start with its prefix.
struct Branch {
    prefix: &'static str,
    ino: u64,
    me: spin::Once<alloc::sync::Weak<Inode>>,
}

impl Branch {
    fn inode(self: Arc<Self>, parent: &Arc<Inode>) -> Arc<Inode> {
        let inode = Inode::synthetic(self.ino, 0o555, now(), parent, self.clone());
        self.me.call_once(|| Arc::downgrade(&inode));
        inode
    }

    /// What follows the prefix in the paths below this directory, with the place in the list.
    fn below(&self) -> impl Iterator<Item = (usize, &'static str)> + '_ {
        system::SYSCTLS
            .iter()
            .enumerate()
            .filter_map(|(i, (path, _))| path.strip_prefix(self.prefix).map(|rest| (i, rest)))
    }
}

impl Synthetic for Branch {
    fn kind(&self) -> FileType {
        FileType::Directory
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<Inode>> {
        let me = self.me.get().and_then(alloc::sync::Weak::upgrade).ok_or(ENOENT)?;
        for (i, rest) in self.below() {
            let (path, text) = system::SYSCTLS[i];
            if rest.as_bytes() == name {
                let ino = FIRST_INO + 300 + i as u64;
                let setting = system::Sysctl { path, text };
                return Ok(Inode::synthetic(ino, setting.mode(), now(), &me, Arc::new(setting)));
            }
            if let Some((first, _)) = rest.split_once('/')
                && first.as_bytes() == name
            {
                let prefix = &path[..self.prefix.len() + first.len() + 1];
                let dir = Branch { prefix, ino: FIRST_INO + 201 + i as u64, me: spin::Once::new() };
                return Ok(Arc::new(dir).inode(&me));
            }
        }
        Err(ENOENT)
    }

    fn list(&self) -> Result<Vec<(Vec<u8>, FileType)>> {
        let mut all: Vec<(Vec<u8>, FileType)> = self
            .below()
            .map(|(_, rest)| match rest.split_once('/') {
                Some((first, _)) => (first.as_bytes().to_vec(), FileType::Directory),
                None => (rest.as_bytes().to_vec(), FileType::Regular),
            })
            .collect();
        all.dedup();
        Ok(all)
    }
}

/// Puts `/proc` and `/sys` into the tree.
///
/// # Errors
/// [`Taken`] if the archive has put something in their place.
pub fn init(vfs: &Vfs) -> core::result::Result<(), Taken> {
    let taken = |path: &str| {
        let path = String::from(path);
        move |error| Taken(path, error)
    };
    let root = Arc::new(Root { inode: spin::Once::new() });
    // An archive may bring an empty directory along; what is generated takes its place.
    let place = vfs.make_place(b"/proc").map_err(taken("/proc"))?;
    vfs.rmdir(&place).map_err(taken("/proc"))?;
    let inode = vfs.create(&place, 0o555, Body::Synthetic(root.clone())).map_err(taken("/proc"))?;
    root.inode.call_once(|| Arc::downgrade(&inode));
    for cpu in 0..cpu_count() {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}");
        vfs.make_dirs(path.as_bytes()).map_err(taken(&path))?;
        for (name, file) in system::Topology::of(cpu) {
            let path = format!("{path}/topology/{name}");
            vfs.put(path.as_bytes(), 0o444, Body::Synthetic(Arc::new(file))).map_err(taken(&path))?;
        }
    }
    for (path, text) in system::SYS_FILES {
        vfs.put(path.as_bytes(), 0o444, Body::Synthetic(Arc::new(Text(*text)))).map_err(taken(path))?;
    }
    thp::init(vfs)?;
    ksm::init(vfs)?;
    nodes::init(vfs)?;
    let path = "/sys/kernel/debug/gup_test";
    let object = Arc::new(Opener(gup_test::GupTest::open));
    let body = Body::Special { kind: FileType::Regular, rdev: 0, object };
    vfs.put(path.as_bytes(), 0o600, body).map_err(taken(path))?;
    Ok(())
}
