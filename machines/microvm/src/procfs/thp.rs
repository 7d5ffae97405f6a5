//! `/sys/kernel/mm/transparent_hugepage`: the policy of large folios, and what happened to each size. And
//! `/sys/kernel/debug/split_huge_pages`.
//!
//! A setting that this kernel cannot follow is refused with `EINVAL`; it says what is so. `khugepaged/run`
//! and `khugepaged/sizes` are this kernel's own.
//!
//! Linux: mm/huge_memory.c, mm/khugepaged.c.

use super::generated::Taken;
use crate::proc::folios::{self, SizeStat};
use crate::proc::khugepaged;
use crate::proc::number::Number;
use crate::proc::table;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_hal::Order;
use anonmem_oslib::Result;
use anonmem_oslib::choice::{self, SplitRequest};
use anonmem_oslib::errno::{EACCES, EINVAL, ESRCH};
use anonmem_oslib::vfs::{Body, FileType, Meta, Synthetic, Vfs};

const DIR: &str = "/sys/kernel/mm/transparent_hugepage";

/// The numbers of `khugepaged/`.
static KHUGEPAGED: [(&str, &Number); 5] = [
    ("defrag", &khugepaged::DEFRAG),
    ("max_ptes_none", &khugepaged::MAX_PTES_NONE),
    ("max_ptes_shared", &khugepaged::MAX_PTES_SHARED),
    ("max_ptes_swap", &khugepaged::MAX_PTES_SWAP),
    ("pages_to_scan", &khugepaged::PAGES_TO_SCAN),
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
    /// How long the background task sleeps.
    Sleep(&'static Number),
    /// Whether it works.
    Run,
    /// The sizes that it makes everywhere.
    Sizes,
    /// What it has done.
    Done(fn() -> u64),
    /// A number.
    Constant(u64),
    /// Folios are split by writing to it.
    Split,
}

impl File {
    const fn mode(&self) -> u32 {
        match self {
            File::Enabled(_) | File::Fixed { .. } | File::Number(_) => 0o644,
            File::Sleep(_) | File::Run | File::Sizes => 0o644,
            File::Stat(..) | File::Done(_) | File::Constant(_) => 0o444,
            File::Split => 0o200,
        }
    }

    fn text(&self) -> Result<String> {
        Ok(match self {
            File::Enabled(Order::ZERO) => choice::modes(choice::FOR_ALL, folios::mode(Order::ZERO)),
            File::Enabled(order) => choice::modes(choice::FOR_ONE, folios::mode(*order)),
            File::Stat(order, stat) => format!("{}\n", stat.count(*order)),
            File::Fixed { words, is } => choice::text(words, is),
            File::Number(number) | File::Sleep(number) => format!("{}\n", number.get()),
            File::Run => format!("{}\n", khugepaged::run()),
            File::Sizes => khugepaged::sizes(),
            File::Done(count) => format!("{}\n", count()),
            File::Constant(number) => format!("{number}\n"),
            File::Split => return Err(EACCES),
        })
    }

    fn set(&self, text: &str) -> Result<()> {
        let value = || text.parse::<u64>().or(Err(EINVAL));
        match self {
            File::Enabled(order) => folios::set_mode(*order, text),
            File::Fixed { is, .. } if text == *is => Ok(()),
            File::Fixed { .. } => Err(EINVAL),
            File::Number(number) => number.set(value()?),
            File::Sleep(number) => khugepaged::set_sleep(number, value()?),
            File::Run => khugepaged::set_run(value()?),
            File::Sizes => khugepaged::set_sizes(text),
            File::Stat(..) | File::Done(_) | File::Constant(_) => Err(EACCES),
            File::Split => split(text),
        }
    }
}

impl Synthetic for File {
    fn kind(&self) -> FileType {
        FileType::Regular
    }

    fn admits(&self, meta: &Meta, wanted: u32) -> bool {
        super::caller::caller_may(meta, wanted)
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
    let task = |name: &str| at("khugepaged/") + name;
    for (name, number) in KHUGEPAGED {
        put(task(name), File::Number(number))?;
    }
    put(task("scan_sleep_millisecs"), File::Sleep(&khugepaged::SCAN_SLEEP_MS))?;
    put(task("alloc_sleep_millisecs"), File::Sleep(&khugepaged::ALLOC_SLEEP_MS))?;
    put(task("run"), File::Run)?;
    put(task("sizes"), File::Sizes)?;
    put(task("full_scans"), File::Done(khugepaged::full_scans))?;
    put(task("pages_collapsed"), File::Done(khugepaged::pages_collapsed))?;
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
