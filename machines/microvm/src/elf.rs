//! Putting an ELF program into an address space.
//!
//! Segments are private mappings whose source is the file: a page is read when it is first touched, and
//! is anonymous memory from then on. Linux: fs/binfmt_elf.c.

use crate::fs::file::read_inode;
use crate::fs::vfs;
use crate::proc::mm::{self, Backing, Map, Space};
use crate::usercopy;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::elf::{HEAD, Image, Segment};
use anonmem_oslib::errno::{EACCES, EIO, ENOEXEC};
use anonmem_oslib::vfs::path::Follow;
use anonmem_oslib::vfs::{Body, Inode};
use linux_raw_sys::general as abi;

const PAGE: u64 = 4096;
/// Where a position-independent program goes: two thirds of the address space, as on Linux without
/// randomization.
const DYN_BASE: u64 = 0x5555_5555_4000;

/// A file that is an ELF image.
#[derive(Clone, Debug)]
pub struct Object {
    /// The file.
    pub inode: Arc<Inode>,
    /// Its path, for the maps.
    pub path: Vec<u8>,
    /// What its head says.
    pub image: Image,
}

/// A program, and its interpreter if it is dynamic.
#[derive(Clone, Debug)]
pub struct Program {
    /// The program.
    pub main: Object,
    /// The interpreter.
    pub interpreter: Option<Object>,
}

/// Where a program has been put.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// Where to start: the interpreter's entry if there is one.
    pub start: u64,
    /// The program's own entry.
    pub entry: u64,
    /// The interpreter's load bias.
    pub base: u64,
    /// The program headers.
    pub phdr: u64,
    /// Their number.
    pub phnum: u16,
    /// The end of the program's last segment: the heap starts after it.
    pub end: u64,
}

/// Reads the start of an executable file.
///
/// # Errors
/// `EACCES` if it is no regular file or nobody may execute it.
pub fn head(inode: &Inode) -> Result<Vec<u8>> {
    if !matches!(inode.body, Body::File(_)) || inode.meta().mode & 0o111 == 0 {
        return Err(EACCES);
    }
    let mut head = vec![0; HEAD];
    let n = read_inode(inode, 0, &mut head)?;
    head.truncate(n);
    Ok(head)
}

impl Program {
    /// Reads a program's head, and its interpreter's.
    ///
    /// # Errors
    /// `ENOEXEC` if it is no program, `ENOENT` if the interpreter does not exist.
    pub fn read(inode: &Arc<Inode>, path: &[u8], head_bytes: &[u8]) -> Result<Program> {
        let image = Image::parse(head_bytes)?;
        let interpreter = match image.interp {
            None => None,
            Some((offset, len)) => {
                let mut name = vec![0; len.min(HEAD)];
                let n = read_inode(inode, offset, &mut name)?;
                name.truncate(n);
                let name = name.strip_suffix(b"\0").ok_or(ENOEXEC)?.to_vec();
                let file = vfs().lookup(vfs().root(), &name, Follow::Yes)?;
                let image = Image::parse(&head(&file)?)?;
                Some(Object { inode: file, path: name, image })
            }
        };
        Ok(Program { main: Object { inode: inode.clone(), path: path.to_vec(), image }, interpreter })
    }

    /// Maps the program into `space`, which must be the running task's.
    ///
    /// # Errors
    /// `ENOMEM`, `EFAULT`, `EIO` if the file is shorter than its headers say.
    pub fn load(&self, space: &Space) -> Result<Loaded> {
        let main = &self.main.image;
        let bias = if main.relocatable { place_main(&self.main) } else { 0 };
        self.main.map(space, bias)?;
        let mut loaded = Loaded {
            start: main.entry + bias,
            entry: main.entry + bias,
            base: 0,
            phdr: main.phdr + bias,
            phnum: main.phnum,
            end: main.span().end + bias,
        };
        if let Some(interpreter) = &self.interpreter {
            loaded.base = interpreter.find_room(space)?;
            interpreter.map(space, loaded.base)?;
            loaded.start = interpreter.image.entry + loaded.base;
        }
        Ok(loaded)
    }
}

fn place_main(object: &Object) -> u64 {
    (DYN_BASE & !(object.image.align - 1)) - object.image.span().start
}

impl Object {
    /// Finds the load bias at which the image fits: mapped as a whole, and unmapped again.
    fn find_room(&self, space: &Space) -> Result<u64> {
        let span = self.image.span();
        if !self.image.relocatable {
            return Ok(0);
        }
        let len = span.end - span.start + self.image.align;
        let map = Map { addr: 0, len, prot: 0, flags: abi::MAP_PRIVATE | abi::MAP_ANONYMOUS };
        let at = mm::mmap(space, map, Backing::Anonymous)?;
        mm::munmap(space, at, len)?;
        Ok(at.next_multiple_of(self.image.align) - span.start)
    }

    fn map(&self, space: &Space, bias: u64) -> Result<()> {
        self.image.segments.iter().try_for_each(|segment| self.map_segment(space, segment, bias))
    }

    fn map_segment(&self, space: &Space, segment: &Segment, bias: u64) -> Result<()> {
        let start = segment.vaddr + bias;
        let first = start & !(PAGE - 1);
        let file_end = start + segment.file_size;
        let file_pages_end = file_end.next_multiple_of(PAGE);
        let prot = prot_of(segment);
        let fixed = abi::MAP_FIXED | abi::MAP_PRIVATE;
        if segment.file_size > 0 {
            if segment.offset + segment.file_size > self.inode.size() {
                return Err(EIO);
            }
            let offset = segment.offset & !(PAGE - 1);
            let backing = Backing::File { inode: &self.inode, path: &self.path, offset };
            mm::mmap(space, Map { addr: first, len: file_pages_end - first, prot, flags: fixed }, backing)?;
        }
        if segment.mem_size > segment.file_size {
            if segment.file_size > 0 && segment.write {
                usercopy::clear_user(file_end, (file_pages_end - file_end) as usize)?;
            }
            let from = if segment.file_size > 0 { file_pages_end } else { first };
            let to = (start + segment.mem_size).next_multiple_of(PAGE);
            if to > from {
                let map = Map { addr: from, len: to - from, prot, flags: fixed | abi::MAP_ANONYMOUS };
                mm::mmap(space, map, Backing::Anonymous)?;
            }
        }
        Ok(())
    }
}

fn prot_of(segment: &Segment) -> u32 {
    let bit = |on, prot| if on { prot } else { 0 };
    bit(segment.read, abi::PROT_READ)
        | bit(segment.write, abi::PROT_WRITE)
        | bit(segment.exec, abi::PROT_EXEC)
}
