//! The shared library that every program finds in its memory: one page, an ELF image around the code of a
//! few calls.
//!
//! A C library looks for `AT_SYSINFO_EHDR`, and there for symbols with the version `LINUX_2.6`. It reads
//! the dynamic section: the names, the symbols, their hash table and their versions. The section headers
//! are for debuggers. Linux: arch/x86/entry/vdso.

use alloc::vec::Vec;

/// The size of the image.
pub const SIZE: usize = 4096;
/// Where the code is in the image: data that lies before the image is found from there.
pub const CODE_AT: usize = 2048;
/// The library's name.
pub const SONAME: &str = "linux-vdso.so.1";
/// The version of its symbols.
pub const VERSION: &str = "LINUX_2.6";

/// A function.
#[derive(Clone, Copy, Debug)]
pub struct Symbol {
    /// Its name, without the `__vdso_` in front of it. It is found by both.
    pub name: &'static str,
    /// Where it is in the code.
    pub at: usize,
    /// How long it is.
    pub len: usize,
}

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const SECTION_HEADER: usize = 64;
const SYMBOL: usize = 24;
/// Places for the program headers: what is loaded, and the dynamic section.
const SEGMENTS: usize = 2;

const SHT_PROGBITS: u32 = 1;
const SHT_STRTAB: u32 = 3;
const SHT_HASH: u32 = 5;
const SHT_DYNAMIC: u32 = 6;
const SHT_DYNSYM: u32 = 11;
const SHT_GNU_VERDEF: u32 = 0x6fff_fffd;
const SHT_GNU_VERSYM: u32 = 0x6fff_ffff;
const ALLOC: u64 = 2;
const EXECUTE: u64 = 4;

/// A section: what the headers say of it.
#[derive(Clone, Copy)]
struct Section {
    name: &'static str,
    kind: u32,
    flags: u64,
    at: usize,
    len: usize,
    /// The section that it is about, by number.
    link: u32,
    info: u32,
    entry: u64,
}

/// The image under construction.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    fn align(&mut self, to: usize) -> usize {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
        self.0.len()
    }
}

/// Names with a NUL behind each, the empty one first.
struct Strings(Vec<u8>);

impl Strings {
    fn add(&mut self, parts: &[&str]) -> u32 {
        let at = self.0.len() as u32;
        parts.iter().for_each(|part| self.0.extend_from_slice(part.as_bytes()));
        self.0.push(0);
        at
    }
}

/// The hash of a name, as the ELF specification has it.
fn hash(parts: &[&str]) -> u32 {
    let step = |h: u32, byte: u8| {
        let h = (h << 4).wrapping_add(byte.into());
        let top = h & 0xf000_0000;
        (h ^ (top >> 24)) & !top
    };
    parts.iter().flat_map(|part| part.bytes()).fold(0, step)
}

/// Where a table is, and how long.
type Place = (usize, usize);

/// Where the tables are that the dynamic section names.
struct Tables {
    hashes: Place,
    symbols: Place,
    versions: Place,
    definitions: Place,
}

/// Makes the image around `code`, which finds what it needs relative to itself and is copied to [`CODE_AT`].
///
/// # Panics
/// The code or the tables are larger than their half of the page.
pub fn image(code: &[u8], symbols: &[Symbol]) -> Vec<u8> {
    let mut out = Bytes::default();
    let mut names = Strings(alloc::vec![0]);
    let (soname, version) = (names.add(&[SONAME]), names.add(&[VERSION]));
    out.0.resize(HEADER + SEGMENTS * PROGRAM_HEADER, 0);
    let count = 1 + 2 * symbols.len();
    let tables = Tables {
        hashes: one_bucket(&mut out, count),
        symbols: symbol_table(&mut out, &mut names, symbols),
        versions: symbol_versions(&mut out, count),
        definitions: version_definitions(&mut out, soname, version),
    };
    let (dynamic, names) = dynamic(&mut out, &tables, soname, &names);
    assert!(out.0.len() <= CODE_AT, "the tables of the vdso have no room");
    out.0.resize(CODE_AT, 0);
    out.0.extend_from_slice(code);
    let of = |name, kind, (at, len): Place, link, info, entry| Section {
        name,
        kind,
        flags: if kind == 0 { 0 } else { ALLOC },
        at,
        len,
        link,
        info,
        entry,
    };
    let sections = [
        of("", 0, (0, 0), 0, 0, 0),
        of(".hash", SHT_HASH, tables.hashes, DYNSYM, 0, 4),
        of(".dynsym", SHT_DYNSYM, tables.symbols, DYNSTR, 1, SYMBOL as u64),
        of(".gnu.version", SHT_GNU_VERSYM, tables.versions, DYNSYM, 0, 2),
        of(".gnu.version_d", SHT_GNU_VERDEF, tables.definitions, DYNSTR, 2, 0),
        of(".dynamic", SHT_DYNAMIC, dynamic, DYNSTR, 0, 16),
        of(".dynstr", SHT_STRTAB, names, 0, 0, 0),
        Section { flags: ALLOC | EXECUTE, ..of(".text", SHT_PROGBITS, (CODE_AT, code.len()), 0, 0, 0) },
    ];
    let headers = section_headers(&mut out, &sections);
    assert!(out.0.len() <= SIZE, "the vdso's code has no room");
    out.0.resize(SIZE, 0);
    let head = head(headers, sections.len() + 1, dynamic);
    out.0[..head.len()].copy_from_slice(&head);
    out.0
}

/// The hash table of so many symbols, the empty one among them: whoever looks compares all names.
fn one_bucket(out: &mut Bytes, count: usize) -> Place {
    let at = out.align(8);
    let count = count as u32;
    [1, count, 1, 0].into_iter().for_each(|word| out.u32(word));
    (1..count).for_each(|i| out.u32(if i + 1 < count { i + 1 } else { 0 }));
    (at, out.0.len() - at)
}

/// The empty symbol, the functions by their long names, and by their short ones.
fn symbol_table(out: &mut Bytes, names: &mut Strings, symbols: &[Symbol]) -> Place {
    const GLOBAL: u8 = 1 << 4;
    const WEAK: u8 = 2 << 4;
    const FUNCTION: u8 = 2;
    let at = out.align(8);
    out.0.resize(at + SYMBOL, 0);
    for (binding, prefix) in [(GLOBAL, "__vdso_"), (WEAK, "")] {
        for symbol in symbols {
            out.u32(names.add(&[prefix, symbol.name]));
            out.0.extend_from_slice(&[binding | FUNCTION, 0]);
            out.u16(TEXT);
            out.u64((CODE_AT + symbol.at) as u64);
            out.u64(symbol.len as u64);
        }
    }
    (at, out.0.len() - at)
}

/// All symbols but the empty one have the second version.
fn symbol_versions(out: &mut Bytes, count: usize) -> Place {
    let at = out.align(8);
    (0..count).for_each(|i| out.u16(if i == 0 { 0 } else { 2 }));
    (at, out.0.len() - at)
}

/// The library's own name is the first version, which no symbol has.
fn version_definitions(out: &mut Bytes, soname: u32, version: u32) -> Place {
    let at = out.align(8);
    for (flags, index, name, text, next) in [(1, 1, soname, SONAME, 28), (0, 2, version, VERSION, 0)] {
        [1, flags, index, 1].into_iter().for_each(|half| out.u16(half));
        [hash(&[text]), 20, next, name, 0].into_iter().for_each(|word| out.u32(word));
    }
    (at, out.0.len() - at)
}

/// The dynamic section, and the names behind it.
fn dynamic(out: &mut Bytes, tables: &Tables, soname: u32, names: &Strings) -> (Place, Place) {
    const ENTRIES: usize = 10;
    let at = out.align(8);
    let names_at = at + ENTRIES * 16;
    let entries: [(u64, u64); ENTRIES] = [
        (14, soname.into()),                        // DT_SONAME
        (4, tables.hashes.0 as u64),                // DT_HASH
        (5, names_at as u64),                       // DT_STRTAB
        (6, tables.symbols.0 as u64),               // DT_SYMTAB
        (10, names.0.len() as u64),                 // DT_STRSZ
        (11, SYMBOL as u64),                        // DT_SYMENT
        (0x6fff_fffc, tables.definitions.0 as u64), // DT_VERDEF
        (0x6fff_fffd, 2),                           // DT_VERDEFNUM
        (0x6fff_fff0, tables.versions.0 as u64),    // DT_VERSYM
        (0, 0),
    ];
    for (tag, value) in entries {
        out.u64(tag);
        out.u64(value);
    }
    out.0.extend_from_slice(&names.0);
    ((at, ENTRIES * 16), (names_at, names.0.len()))
}

/// The numbers of sections that others name.
const DYNSYM: u32 = 2;
const DYNSTR: u32 = 6;
const TEXT: u16 = 7;

/// Appends the names of the sections and their headers; gives where the headers are.
fn section_headers(out: &mut Bytes, sections: &[Section]) -> usize {
    let mut names = Strings(alloc::vec![0]);
    let texts: Vec<u32> =
        sections.iter().map(|s| if s.name.is_empty() { 0 } else { names.add(&[s.name]) }).collect();
    let own = names.add(&[".shstrtab"]);
    let at = out.0.len();
    out.0.extend_from_slice(&names.0);
    let last =
        Section { name: "", kind: SHT_STRTAB, flags: 0, at, len: names.0.len(), link: 0, info: 0, entry: 0 };
    let headers = out.align(8);
    for (section, name) in sections.iter().chain([&last]).zip(texts.into_iter().chain([own])) {
        out.u32(name);
        out.u32(section.kind);
        out.u64(section.flags);
        out.u64(if section.flags & ALLOC != 0 { section.at as u64 } else { 0 });
        out.u64(section.at as u64);
        out.u64(section.len as u64);
        out.u32(section.link);
        out.u32(section.info);
        out.u64(if section.kind == 0 { 0 } else { 8 });
        out.u64(section.entry);
    }
    headers
}

/// The file header and the program headers.
fn head(section_headers: usize, sections: usize, (dynamic, dynamic_len): (usize, usize)) -> Vec<u8> {
    let mut out = Bytes::default();
    out.0.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    out.u16(3); // ET_DYN
    out.u16(62); // EM_X86_64
    out.u32(1);
    out.u64(CODE_AT as u64);
    out.u64(HEADER as u64);
    out.u64(section_headers as u64);
    out.u32(0);
    for half in [HEADER, PROGRAM_HEADER, SEGMENTS, SECTION_HEADER, sections, sections - 1] {
        out.u16(half as u16);
    }
    const READ: u32 = 4;
    const EXEC: u32 = 1;
    for (kind, flags, at, len, align) in [(1, READ | EXEC, 0, SIZE, 4096), (2, READ, dynamic, dynamic_len, 8)]
    {
        out.u32(kind);
        out.u32(flags);
        [at, at, at, len, len, align].into_iter().for_each(|word| out.u64(word as u64));
    }
    out.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use elf::ElfBytes;
    use elf::endian::LittleEndian;

    const SYMBOLS: [Symbol; 2] =
        [Symbol { name: "time", at: 0, len: 3 }, Symbol { name: "getcpu", at: 16, len: 4 }];

    #[test]
    fn the_hash_is_the_one_that_libraries_ask_with() {
        assert_eq!(hash(&["LINUX_2.6"]), 61_765_110);
        assert_eq!(hash(&["LINUX", "_2.6"]), 61_765_110);
    }

    #[test]
    fn the_image_is_what_its_readers_expect() {
        let bytes = image(&[0xc3; 20], &SYMBOLS);
        assert_eq!(bytes.len(), SIZE);
        let file = ElfBytes::<LittleEndian>::minimal_parse(&bytes).unwrap();
        let (symbols, strings) = file.dynamic_symbol_table().unwrap().unwrap();
        let found: Vec<(&str, u64)> =
            symbols.iter().skip(1).map(|s| (strings.get(s.st_name as usize).unwrap(), s.st_value)).collect();
        let at = CODE_AT as u64;
        assert_eq!(
            found,
            [("__vdso_time", at), ("__vdso_getcpu", at + 16), ("time", at), ("getcpu", at + 16)]
        );
        let versions = file.symbol_version_table().unwrap().unwrap();
        for i in 1..symbols.len() {
            let definition = versions.get_definition(i).unwrap().unwrap();
            let names: Vec<&str> = definition.names.map(|n| n.unwrap()).collect();
            assert_eq!((definition.hash, &names[..]), (61_765_110, &[VERSION][..]));
        }
        let text = file.section_header_by_name(".text").unwrap().unwrap();
        assert_eq!((text.sh_addr, text.sh_size), (at, 20));
        let common = file.find_common_data().unwrap();
        let (_, found) = common.sysv_hash.unwrap().find(b"getcpu", &symbols, &strings).unwrap().unwrap();
        assert_eq!(found.st_value, at + 16);
        let dynamic = file.dynamic().unwrap().unwrap();
        let soname = dynamic.iter().find(|entry| entry.d_tag == 14).unwrap();
        assert_eq!(strings.get(soname.d_val() as usize).unwrap(), SONAME);
    }
}
