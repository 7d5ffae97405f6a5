//! `/sys/kernel/mm/transparent_hugepage`: the policy of large folios, and what happened to each size. And
//! `/sys/kernel/debug/split_huge_pages`.
//!
//! A setting that this kernel cannot follow is refused with `EINVAL`; it says what is so. The settings of
//! khugepaged are kept, and nobody scans.
//!
//! Linux: mm/huge_memory.c, mm/khugepaged.c.

use super::generated::Taken;
use crate::proc::folios::{self, SizeStat};
use crate::proc::table;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_hal::Order;
use anonmem_oslib::Result;
use anonmem_oslib::choice::{self, SplitRequest};
use anonmem_oslib::errno::{EACCES, EINVAL, ESRCH};
use anonmem_oslib::vfs::{Body, FileType, Synthetic, Vfs};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

const DIR: &str = "/sys/kernel/mm/transparent_hugepage";

/// A number that can be set, within bounds.
struct Number {
    name: &'static str,
    value: AtomicU64,
    least: u64,
    most: u64,
}

impl Number {
    const fn new(name: &'static str, value: u64, least: u64, most: u64) -> Self {
        Number { name, value: AtomicU64::new(value), least, most }
    }
}

/// The most entries of a table that may be of some kind: one must be another.
const MOST_ENTRIES: u64 = 511;

static KHUGEPAGED: [Number; 7] = [
    Number::new("alloc_sleep_millisecs", 60_000, 0, u32::MAX as u64),
    Number::new("defrag", 1, 0, 1),
    Number::new("max_ptes_none", MOST_ENTRIES, 0, MOST_ENTRIES),
    Number::new("max_ptes_shared", 256, 0, MOST_ENTRIES),
    Number::new("max_ptes_swap", 64, 0, MOST_ENTRIES),
    Number::new("pages_to_scan", 4096, 1, u32::MAX as u64),
    Number::new("scan_sleep_millisecs", 10_000, 0, u32::MAX as u64),
];

/// What a setting is here, of what it may be on Linux.
struct Fixed {
    name: &'static str,
    words: &'static [&'static str],
    is: &'static str,
}

const SHMEM: &[&str] = &["always", "inherit", "within_size", "advise", "never"];

const FIXED: [Fixed; 2] = [
    // What is free is taken, and nobody makes room in a fault.
    Fixed { name: "defrag", words: &["always", "defer", "defer+madvise", "madvise", "never"], is: "never" },
    Fixed {
        name: "shmem_enabled",
        words: &["always", "within_size", "advise", "never", "deny", "force"],
        is: "never",
    },
];

/// A file.
enum File {
    /// When folios of an order are taken; of order 0, those that inherit.
    Enabled(Order),
    /// What happened to folios of an order.
    Stat(Order, SizeStat),
    /// Something that cannot be otherwise.
    Fixed { words: &'static [&'static str], is: &'static str },
    /// A number that can be set.
    Number(&'static Number),
    /// A number.
    Constant(u64),
    /// Folios are split by writing to it.
    Split,
}

impl File {
    const fn mode(&self) -> u32 {
        match self {
            File::Enabled(_) | File::Fixed { .. } | File::Number(_) => 0o644,
            File::Stat(..) | File::Constant(_) => 0o444,
            File::Split => 0o200,
        }
    }

    fn text(&self) -> Result<String> {
        Ok(match self {
            File::Enabled(Order::ZERO) => choice::modes(choice::FOR_ALL, folios::mode(Order::ZERO)),
            File::Enabled(order) => choice::modes(choice::FOR_ONE, folios::mode(*order)),
            File::Stat(order, stat) => format!("{}\n", stat.count(*order)),
            File::Fixed { words, is } => choice::text(words, is),
            File::Number(number) => format!("{}\n", number.value.load(Relaxed)),
            File::Constant(number) => format!("{number}\n"),
            File::Split => return Err(EACCES),
        })
    }

    fn set(&self, text: &str) -> Result<()> {
        match self {
            File::Enabled(order) => folios::set_mode(*order, text),
            File::Fixed { is, .. } if text == *is => Ok(()),
            File::Fixed { .. } => Err(EINVAL),
            File::Number(number) => {
                let value: u64 = text.parse().or(Err(EINVAL))?;
                if !(number.least..=number.most).contains(&value) {
                    return Err(EINVAL);
                }
                number.value.store(value, Relaxed);
                Ok(())
            }
            File::Stat(..) | File::Constant(_) => Err(EACCES),
            File::Split => split(text),
        }
    }
}

impl Synthetic for File {
    fn kind(&self) -> FileType {
        FileType::Regular
    }

    fn content(&self) -> Result<Vec<u8>> {
        self.text().map(String::into_bytes)
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        self.set(core::str::from_utf8(bytes).or(Err(EINVAL))?)
    }
}

#[doc(alias = "split_huge_pages_write")]
fn split(text: &str) -> Result<()> {
    match SplitRequest::parse(text).ok_or(EINVAL)? {
        SplitRequest::All => folios::split_all(),
        SplitRequest::Range { pid, start, end, order } => {
            let process = table::process(pid).ok_or(ESRCH)?;
            folios::split(&process.space().ok_or(EINVAL)?, start, end, order);
        }
    }
    Ok(())
}

/// Puts the files into the tree.
pub(super) fn init(vfs: &Vfs) -> core::result::Result<(), Taken> {
    let put = |path: String, file: File| {
        let mode = file.mode();
        let put = vfs.put(path.as_bytes(), mode, Body::Synthetic(Arc::new(file)));
        put.map(|_| ()).map_err(|error| Taken(path, error))
    };
    let at = |name: &str| format!("{DIR}/{name}");
    put(at("enabled"), File::Enabled(Order::ZERO))?;
    put(at("hpage_pmd_size"), File::Constant(folios::LEAF_BYTES))?;
    for fixed in &FIXED {
        put(at(fixed.name), File::Fixed { words: fixed.words, is: fixed.is })?;
    }
    // There is no large page of zeroes; what nobody touched is given back when memory is short.
    for (name, is) in [("use_zero_page", "0"), ("shrink_underused", "1")] {
        put(at(name), File::Fixed { words: &[], is })?;
    }
    for number in &KHUGEPAGED {
        put(at("khugepaged/") + number.name, File::Number(number))?;
    }
    for name in ["full_scans", "pages_collapsed"] {
        put(at("khugepaged/") + name, File::Constant(0))?;
    }
    for order in folios::orders() {
        let dir = at("hugepages-") + &(order.bytes() >> 10).to_string() + "kB/";
        put(dir.clone() + "enabled", File::Enabled(order))?;
        put(dir.clone() + "shmem_enabled", File::Fixed { words: SHMEM, is: "never" })?;
        for &(name, stat) in folios::SIZE_STATS {
            put(format!("{dir}stats/{name}"), File::Stat(order, stat))?;
        }
    }
    put("/sys/kernel/debug/split_huge_pages".into(), File::Split)
}
