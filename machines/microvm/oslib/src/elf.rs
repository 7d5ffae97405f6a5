//! Reading an ELF program: which bytes go where.
//!
//! Only the head of the file is needed; it is read with the `elf` crate. What is refused is what
//! Linux refuses in fs/binfmt_elf.c: other machines, classes and types, segments that overflow.

use crate::errno::{EINVAL, ENOEXEC, Errno, Result};
use alloc::vec::Vec;
use elf::abi;
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader, parse_ident};
use elf::segment::SegmentTable;

/// Bytes at the start of a file that [`Image::parse`] wants to see.
pub const HEAD: usize = 4096;
/// Bytes of a file header.
const FILE_HEADER: usize = 64;
const PAGE: u64 = 4096;
const USER_END: u64 = 0x7fff_ffff_f000;

/// A segment to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First address, before the load bias.
    pub vaddr: u64,
    /// Where its bytes are in the file; congruent to `vaddr` modulo the page size.
    pub offset: u64,
    /// Bytes from the file.
    pub file_size: u64,
    /// Bytes in memory; what the file does not give is zero.
    pub mem_size: u64,
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// May be executed.
    pub exec: bool,
}

/// A program or an interpreter.
#[derive(Clone, Debug)]
pub struct Image {
    /// Whether it can be loaded anywhere (`ET_DYN`).
    pub relocatable: bool,
    /// Where it starts, before the load bias.
    pub entry: u64,
    /// Where the program headers are in memory, before the load bias.
    pub phdr: u64,
    /// Number of program headers.
    pub phnum: u16,
    /// Where the interpreter's path is in the file: offset and length with its NUL.
    pub interp: Option<(u64, usize)>,
    /// The segments in order of their addresses; at least one.
    pub segments: Vec<Segment>,
    /// Largest alignment that a segment asks for.
    pub align: u64,
}

impl Image {
    /// Reads the head of a file.
    ///
    /// # Errors
    /// `ENOEXEC` if it is no program for this machine, `EINVAL` if it is damaged.
    pub fn parse(head: &[u8]) -> Result<Image> {
        let header = file_header(head)?;
        let relocatable = match header.e_type {
            abi::ET_EXEC => false,
            abi::ET_DYN => true,
            _ => return Err(ENOEXEC),
        };
        let table = program_headers(head, &header)?;
        let mut image = Image {
            relocatable,
            entry: header.e_entry,
            phdr: 0,
            phnum: header.e_phnum,
            interp: None,
            segments: Vec::new(),
            align: PAGE,
        };
        for ph in SegmentTable::new(LittleEndian, Class::ELF64, table).iter() {
            match ph.p_type {
                abi::PT_INTERP => image.interp = Some((ph.p_offset, ph.p_filesz as usize)),
                abi::PT_LOAD if ph.p_memsz > 0 => {
                    let segment = segment(&ph)?;
                    if (ph.p_offset..ph.p_offset + ph.p_filesz).contains(&header.e_phoff) {
                        image.phdr = header.e_phoff - ph.p_offset + ph.p_vaddr;
                    }
                    if ph.p_align.is_power_of_two() {
                        image.align = image.align.max(ph.p_align);
                    }
                    if image.segments.last().is_some_and(|last| last.vaddr + last.mem_size > segment.vaddr) {
                        return Err(EINVAL);
                    }
                    image.segments.push(segment);
                }
                _ => {}
            }
        }
        if image.segments.is_empty() { Err(ENOEXEC) } else { Ok(image) }
    }

    /// Gives the page-aligned range that all segments span, before the load bias.
    pub fn span(&self) -> core::ops::Range<u64> {
        let low = self.segments.first().map_or(0, |s| s.vaddr & !(PAGE - 1));
        let high = self.segments.last().map_or(0, |s| s.vaddr + s.mem_size);
        low..(high + PAGE - 1) & !(PAGE - 1)
    }
}

fn file_header(head: &[u8]) -> Result<FileHeader<LittleEndian>> {
    let bad = |_| ENOEXEC;
    let start = head.get(..FILE_HEADER).ok_or(ENOEXEC)?;
    let ident = parse_ident::<LittleEndian>(start).map_err(bad)?;
    let header = FileHeader::parse_tail(ident, &start[abi::EI_NIDENT..]).map_err(bad)?;
    if header.class != Class::ELF64 || header.e_machine != abi::EM_X86_64 || header.e_phentsize != 56 {
        return Err(ENOEXEC);
    }
    Ok(header)
}

fn program_headers<'a>(head: &'a [u8], header: &FileHeader<LittleEndian>) -> Result<&'a [u8]> {
    let start = usize::try_from(header.e_phoff).map_err(|_| ENOEXEC)?;
    let end = start.checked_add(usize::from(header.e_phnum) * 56).ok_or(ENOEXEC)?;
    head.get(start..end).ok_or(ENOEXEC)
}

fn segment(ph: &elf::segment::ProgramHeader) -> Result<Segment> {
    let end = ph.p_vaddr.checked_add(ph.p_memsz).filter(|&end| end <= USER_END);
    let congruent = ph.p_vaddr % PAGE == ph.p_offset % PAGE;
    if end.is_none()
        || !congruent
        || ph.p_filesz > ph.p_memsz
        || ph.p_offset.checked_add(ph.p_filesz).is_none()
    {
        return Err(EINVAL);
    }
    Ok(Segment {
        vaddr: ph.p_vaddr,
        offset: ph.p_offset,
        file_size: ph.p_filesz,
        mem_size: ph.p_memsz,
        read: ph.p_flags & abi::PF_R != 0,
        write: ph.p_flags & abi::PF_W != 0,
        exec: ph.p_flags & abi::PF_X != 0,
    })
}

/// Splits the first line of a script: its interpreter and at most one argument.
///
/// # Errors
/// `ENOEXEC` if the file does not start with `#!` or names nothing.
pub fn script(head: &[u8]) -> core::result::Result<(Vec<u8>, Option<Vec<u8>>), Errno> {
    let line = head.strip_prefix(b"#!").ok_or(ENOEXEC)?;
    let line = line.split(|&b| b == b'\n' || b == 0).next().unwrap_or(line);
    let line = line.trim_ascii();
    let blank = line.iter().position(|&b| b == b' ' || b == b'\t');
    let (interpreter, argument) = match blank {
        Some(at) => (&line[..at], Some(line[at..].trim_ascii().to_vec())),
        None => (line, None),
    };
    if interpreter.is_empty() { Err(ENOEXEC) } else { Ok((interpreter.to_vec(), argument)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_test_program_itself_can_be_read() {
        let bytes = fs::read("/proc/self/exe").unwrap();
        let image = Image::parse(&bytes[..HEAD]).unwrap();
        assert!(
            image.segments.iter().any(|s| s.exec && (s.vaddr..s.vaddr + s.mem_size).contains(&image.entry))
        );
        assert!(image.span().contains(&image.phdr));
        if let Some((at, len)) = image.interp {
            assert_eq!(bytes[at as usize + len - 1], 0);
        }
    }

    #[test]
    fn damage_is_an_error_and_not_a_panic() {
        let bytes = fs::read("/proc/self/exe").unwrap();
        assert_eq!(Image::parse(b"#!/bin/sh\n").unwrap_err(), ENOEXEC);
        for at in 0..600 {
            for value in [0, 0x7f, 0xff] {
                let mut damaged = bytes[..HEAD].to_vec();
                damaged[at] = value;
                if let Ok(image) = Image::parse(&damaged) {
                    assert!(image.span().end <= USER_END + PAGE);
                }
            }
        }
        for cut in 0..HEAD / 4 {
            let _ = Image::parse(&bytes[..cut]);
        }
    }

    #[test]
    fn a_script_names_an_interpreter_and_one_argument() {
        assert_eq!(script(b"#! /bin/sh -e -x \necho"), Ok((b"/bin/sh".to_vec(), Some(b"-e -x".to_vec()))));
        assert_eq!(script(b"#!/bin/sh"), Ok((b"/bin/sh".to_vec(), None)));
        assert_eq!(script(b"#!\n"), Err(ENOEXEC));
    }
}
