//! The rows of the table: what is measured, what each side includes, and what anonmem aims at.

use serde::Serialize;

/// What a number is per.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// Nanoseconds per base page of 4 KiB.
    #[serde(rename = "ns/page")]
    NsPerPage,
    /// Nanoseconds per pair of calls.
    #[serde(rename = "ns/pair")]
    NsPerPair,
    /// Nanoseconds per call.
    #[serde(rename = "ns/call")]
    NsPerCall,
    /// Bytes per frame of 4 KiB.
    #[serde(rename = "B/frame")]
    BytesPerFrame,
}

impl Unit {
    /// As it is printed.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NsPerPage => "ns/page",
            Self::NsPerPair => "ns/pair",
            Self::NsPerCall => "ns/call",
            Self::BytesPerFrame => "B/frame",
        }
    }
}

/// The work that the hardware alone needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// Zeroing the same pages, one by one, in memory that no cache holds.
    Zeroing,
    /// Copying the same pages, one by one, in memory that no cache holds.
    Copying,
    /// Compressing the same pages and decompressing them, one by one.
    Compressing,
}

impl Limit {
    /// The name of the limit's own row.
    pub const fn row(self) -> &'static str {
        match self {
            Self::Zeroing => "limit-zeroing",
            Self::Copying => "limit-copying",
            Self::Compressing => "limit-compressing",
        }
    }
}

/// What anonmem aims at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Aim {
    /// At most so many times the limit, plus so much.
    Limit(f64, f64),
    /// At most so much.
    Most(f64),
    /// At most so many times another row.
    Row(f64, &'static str),
}

/// What the host pays to get into its kernel, per unit of a row.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Entries {
    /// System calls.
    pub syscalls: f64,
    /// Page-fault exceptions.
    pub exceptions: f64,
}

const ONE_CALL: Entries = Entries { syscalls: 0.0, exceptions: 0.0 };
const FAULT: Entries = Entries { syscalls: 0.0, exceptions: 1.0 };
const PAIR: Entries = Entries { syscalls: 2.0, exceptions: 0.0 };

/// One kind of work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Its name on the command line and in files.
    pub id: &'static str,
    /// What is done, for people.
    pub title: &'static str,
    /// What its numbers are per.
    pub unit: Unit,
    /// What the hardware alone needs, if that is most of the work.
    pub limit: Option<Limit>,
    /// What anonmem aims at.
    pub aim: Option<Aim>,
    /// Exceptions and system calls of the host, per unit.
    pub entries: Entries,
    /// What our side does.
    pub ours: &'static str,
    /// What the host's side does.
    pub host: &'static str,
    /// What the Rust peer's side does.
    pub peer: &'static str,
}

/// A row that waits for a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct NotYet {
    /// Its name.
    pub id: &'static str,
    /// What would be done.
    pub title: &'static str,
    /// What it waits for.
    pub needs: &'static str,
}

/// A row without limit, aim or entries.
const fn row(id: &'static str, title: &'static str, unit: Unit) -> Row {
    Row { id, title, unit, limit: None, aim: None, entries: ONE_CALL, ours: "", host: "", peer: "" }
}

const NO_SLOWER: Option<Aim> = Some(Aim::Row(1.0, "fault-write"));
/// Within a fifth of the same work with the other thread in an address space of its own.
const fn undisturbed(apart: &'static str) -> Option<Aim> {
    Some(Aim::Row(1.2, apart))
}

/// Two threads fault at once.
const fn two_threads(id: &'static str, title: &'static str, aim: Option<Aim>) -> Row {
    Row {
        limit: Some(Limit::Zeroing),
        aim,
        entries: FAULT,
        ours: "as fault-write, a thread on each of two CPUs; time on the wall, per page of one thread",
        host: "as fault-write, a thread on each of two CPUs; time on the wall, per page of one thread",
        ..row(id, title, NsPerPage)
    }
}

/// One thread faults, another one maps and unmaps.
const fn churn(id: &'static str, title: &'static str, aim: Option<Aim>) -> Row {
    Row {
        limit: Some(Limit::Zeroing),
        aim,
        entries: FAULT,
        ours: "as fault-write, while a thread on another CPU maps and unmaps 16 pages without pause; time on the wall",
        host: "as fault-write, while a thread on another CPU maps and unmaps 16 pages without pause; time on the wall",
        ..row(id, title, NsPerPage)
    }
}

/// One thread faults, another one maps and unmaps in an address space of its own.
const fn apart(id: &'static str, title: &'static str) -> Row {
    Row {
        limit: Some(Limit::Zeroing),
        ours: "as threads-churn, but the other thread maps and unmaps in an address space of its own",
        host: "not done: threads-churn is the host's own comparison with fault-write",
        ..row(id, title, NsPerPage)
    }
}

/// One fault in another lock mode.
const fn mode(id: &'static str, title: &'static str) -> Row {
    Row {
        limit: Some(Limit::Zeroing),
        aim: Some(Aim::Limit(1.4, 60.0)),
        entries: FAULT,
        ours: FAULT_CALL,
        host: TOUCH,
        ..row(id, title, NsPerPage)
    }
}

use Unit::{BytesPerFrame, NsPerCall, NsPerPage, NsPerPair};

const NO_SWAP: &str = "a swap device of the host would have to be set up for it: not done";
const FAULT_CALL: &str = "handle_fault for each page in turn; no exception, no access, no TLB";
const TOUCH: &str = "one store to each page in turn: exception, fault, return";
const FORK_HOST: &str =
    "fork() of a process with the region, all of it: tasks, files, the region's page tables";

/// All rows that can be measured, in the table's order.
pub const ROWS: &[Row] = &[
    Row {
        limit: Some(Limit::Zeroing),
        aim: Some(Aim::Limit(1.25, 0.0)),
        ours: "populate(Write) of 256 MiB, page tables included",
        host: "MADV_POPULATE_WRITE of 256 MiB, page tables included",
        peer: "MemorySet::map of 256 MiB with a backend that fills at once, page tables included",
        ..row("populate-4k", "populate fresh memory, 256 MiB", NsPerPage)
    },
    Row {
        limit: Some(Limit::Zeroing),
        aim: Some(Aim::Limit(1.4, 60.0)),
        entries: FAULT,
        ours: FAULT_CALL,
        host: TOUCH,
        peer: "MemorySet::find and a map of one zeroed page, for each page in turn, under one mutex",
        ..row("fault-write", "single write fault", NsPerPage)
    },
    mode("fault-write.vma", "single write fault, per-VMA lock"),
    mode("fault-write.spec", "single write fault, speculative"),
    Row {
        aim: Some(Aim::Most(60.0)),
        entries: FAULT,
        ours: FAULT_CALL,
        host: "one load from each page in turn: exception, fault, return",
        ..row("fault-read", "read fault, zero page", NsPerPage)
    },
    Row {
        limit: Some(Limit::Zeroing),
        aim: Some(Aim::Limit(1.4, 80.0)),
        entries: FAULT,
        ours: FAULT_CALL,
        host: TOUCH,
        ..row("fault-zero-write", "write over the zero page", NsPerPage)
    },
    two_threads("threads-own-vma", "2 threads, a VMA each", None),
    two_threads("threads-own-vma.vma", "2 threads, a VMA each; per-VMA locks", NO_SLOWER),
    two_threads("threads-own-vma.spec", "2 threads, a VMA each; speculative", NO_SLOWER),
    two_threads("threads-one-vma", "2 threads, one VMA", None),
    two_threads("threads-one-vma.vma", "2 threads, one VMA; per-VMA locks", NO_SLOWER),
    two_threads("threads-one-vma.spec", "2 threads, one VMA; speculative", NO_SLOWER),
    two_threads("threads-own-mm", "2 threads, a process each", NO_SLOWER),
    churn("threads-churn", "faults while another thread maps", None),
    churn("threads-churn.vma", "faults while another maps; per-VMA locks", undisturbed("threads-apart.vma")),
    churn("threads-churn.spec", "faults while another maps; speculative", undisturbed("threads-apart.spec")),
    apart("threads-apart", "the same, in another address space"),
    apart("threads-apart.vma", "the same, in another; per-VMA locks"),
    apart("threads-apart.spec", "the same, in another; speculative"),
    Row {
        aim: Some(Aim::Most(400.0)),
        entries: PAIR,
        ours: "mmap + munmap of 16 pages, never touched",
        host: "mmap + munmap of 16 pages, never touched",
        peer: "find_free_area, map and unmap of 16 pages, never touched; unmap asks the table for each page",
        ..row("mmap-munmap", "mmap + munmap, untouched", NsPerPair)
    },
    Row {
        aim: Some(Aim::Most(600.0)),
        entries: PAIR,
        ours: "mprotect of the 8 middle pages of 64 to R and back to RW, never touched: VMAs split and merge",
        host: "mprotect of the 8 middle pages of 64 to R and back to RW, never touched: VMAs split and merge",
        ..row("mprotect-split", "mprotect that splits + one that merges", NsPerPair)
    },
    Row {
        aim: Some(Aim::Most(30.0)),
        ours: "munmap of 256 MiB populated; frames go back, no TLB to flush",
        host: "munmap of 256 MiB populated; frames go back, TLB is flushed",
        peer: "MemorySet::unmap of 256 MiB populated; frames go back, page tables stay, no TLB to flush",
        ..row("munmap", "munmap of populated memory", NsPerPage)
    },
    Row {
        aim: Some(Aim::Most(30.0)),
        ours: "madvise(DONTNEED) of 256 MiB populated; no TLB to flush",
        host: "MADV_DONTNEED of 256 MiB populated; TLB is flushed",
        ..row("dontneed", "MADV_DONTNEED of populated memory", NsPerPage)
    },
    Row {
        aim: Some(Aim::Most(12.0)),
        ours: "fork of an address space with 256 MiB exclusive pages; no task, no files",
        host: FORK_HOST,
        ..row("fork", "fork, exclusive pages", NsPerPage)
    },
    Row {
        aim: Some(Aim::Most(12.0)),
        ours: "the same again: all pages shared and write-protected already",
        host: FORK_HOST,
        ..row("fork-again", "fork again, shared pages", NsPerPage)
    },
    Row {
        aim: Some(Aim::Most(12.0)),
        ours: "drop of the child's address space, all its pages shared with the parent",
        host: "the child's CPU time from _exit on",
        ..row("exit-shared", "exit of a child, shared pages", NsPerPage)
    },
    Row {
        limit: Some(Limit::Copying),
        aim: Some(Aim::Limit(1.4, 80.0)),
        entries: FAULT,
        ours: FAULT_CALL,
        host: TOUCH,
        ..row("cow-copy", "COW fault that copies", NsPerPage)
    },
    Row {
        aim: Some(Aim::Most(60.0)),
        entries: FAULT,
        ours: FAULT_CALL,
        host: TOUCH,
        ..row("cow-reuse", "COW fault that reuses", NsPerPage)
    },
    Row {
        aim: Some(Aim::Most(5.0)),
        ours: "mprotect(R) of 256 MiB populated; no TLB to flush",
        host: "mprotect(R) of 256 MiB populated; TLB is flushed",
        peer: "MemorySet::protect of 256 MiB populated; no TLB to flush",
        ..row("mprotect-ro", "mprotect RW to RO", NsPerPage)
    },
    Row {
        aim: Some(Aim::Most(5.0)),
        ours: "mprotect(RW) of the same",
        host: "mprotect(RW) of the same",
        peer: "the same back: nothing asks whether a page may be written",
        ..row("mprotect-rw", "mprotect RO to RW", NsPerPage)
    },
    Row {
        aim: Some(Aim::Most(1.3)),
        ours: "mremap of 256 MiB populated to where whole page tables fit; no TLB to flush",
        host: "mremap of 256 MiB populated to where whole page tables fit; TLB is flushed",
        ..row("mremap-tables", "mremap that moves tables", NsPerPage)
    },
    Row {
        aim: Some(Aim::Most(10.0)),
        ours: "the same, one page off: entry by entry",
        host: "the same, one page off: entry by entry",
        ..row("mremap-entries", "mremap that moves entries", NsPerPage)
    },
    Row {
        ours: "madvise(PAGEOUT) of 32 MiB that compress to about a third, to compressed memory",
        host: NO_SWAP,
        ..row("swap-out", "page-out to compressed memory", NsPerPage)
    },
    Row {
        ours: "handle_fault for each of these pages in turn",
        host: NO_SWAP,
        ..row("swap-in", "swap-in from compressed memory", NsPerPage)
    },
    Row {
        limit: Some(Limit::Compressing),
        aim: Some(Aim::Limit(1.3, 0.0)),
        ours: "the two rows above, added",
        host: NO_SWAP,
        ..row("swap-out-in", "page-out and swap-in together", NsPerPage)
    },
    Row {
        aim: Some(Aim::Most(60.0)),
        ours: "the VMA of a random address, without a lock",
        host: "no call of the host only looks up a VMA",
        peer: "MemorySet::find of a random address, under a mutex",
        ..row("lookup-10", "VMA lookup among 10", NsPerCall)
    },
    Row {
        aim: Some(Aim::Most(60.0)),
        ours: "the same among 1,000",
        host: "no call of the host only looks up a VMA",
        peer: "MemorySet::find of a random address, under a mutex",
        ..row("lookup-1000", "VMA lookup among 1,000", NsPerCall)
    },
    Row {
        aim: Some(Aim::Most(60.0)),
        ours: "the same among 100,000: the map does not fit in the second-level cache",
        host: "no call of the host only looks up a VMA",
        peer: "MemorySet::find of a random address, under a mutex",
        ..row("lookup-100000", "VMA lookup among 100,000", NsPerCall)
    },
    Row {
        aim: Some(Aim::Most(32.0)),
        ours: "the metadata slot of a frame",
        host: "struct page of a 64-bit kernel",
        ..row("metadata", "metadata per 4 KiB frame", BytesPerFrame)
    },
    Row {
        ours: "memory of the hosted machine, 256 MiB, page by page",
        ..row("limit-zeroing", "limit: zeroing, out of cache", NsPerPage)
    },
    Row {
        ours: "the same 16 pages again and again",
        ..row("limit-zeroing-cached", "limit: zeroing, in cache", NsPerPage)
    },
    Row {
        ours: "memory of the hosted machine, 128 MiB to 128 MiB, page by page",
        ..row("limit-copying", "limit: copying, out of cache", NsPerPage)
    },
    Row {
        ours: "the same 16 pages to the same 16 pages again and again",
        ..row("limit-copying-cached", "limit: copying, in cache", NsPerPage)
    },
    Row {
        ours: "LZ4 of the 32 MiB of the swap rows, page by page, into memory and back",
        ..row("limit-compressing", "limit: compressing and decompressing", NsPerPage)
    },
];

/// The rows that wait for something.
pub const NOT_YET: &[NotYet] = &[
    NotYet {
        id: "large-folios",
        title: "the rows above with folios of 64 KiB and 2 MiB",
        needs: "large folios",
    },
    NotYet { id: "uffd-move", title: "UFFDIO_MOVE, whole region and page by page", needs: "userfaultfd" },
    NotYet { id: "uffd-copy", title: "UFFDIO_COPY, whole region and page by page", needs: "userfaultfd" },
    NotYet { id: "gup-fast", title: "GUP-fast, 256 pages a call", needs: "GUP" },
    NotYet { id: "ksm", title: "KSM, per freed page", needs: "KSM" },
    NotYet { id: "compact", title: "compaction, per migrated page", needs: "migration and compaction" },
];

/// The row with this name.
pub fn find(id: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_that_is_named_exists_once() {
        let ids: Vec<_> = ROWS.iter().map(|r| r.id).chain(NOT_YET.iter().map(|r| r.id)).collect();
        for id in &ids {
            assert_eq!(ids.iter().filter(|other| *other == id).count(), 1, "{id}");
        }
        for row in ROWS {
            if let Some(Aim::Row(_, other)) = row.aim {
                assert!(find(other).is_some(), "{}", row.id);
            }
            if let Some(limit) = row.limit {
                assert!(find(limit.row()).is_some(), "{}", row.id);
            }
        }
    }
}
