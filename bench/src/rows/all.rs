//! All rows, in the table's order, and those that wait for something.

use super::{
    Aim, Entries,
    HostOnly::{self, Charge, Exception, Lru, SystemCall, Task, TlbFlush},
    Limit, NotYet, Row, Unit,
};

/// A row per page, without limit, aim or entries.
const fn row(id: &'static str, title: &'static str) -> Row {
    let entries = Entries { syscalls: 0.0, exceptions: 0.0 };
    let (unit, ours, host, peer) = (Unit::NsPerPage, "", "", "");
    Row { id, title, unit, limit: None, aim: None, entries, host_only: &[], ours, host, peer }
}

impl Row {
    const fn per(self, unit: Unit) -> Self {
        Self { unit, ..self }
    }

    const fn limit(self, limit: Limit) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// Aims at so much.
    const fn most(self, most: f64) -> Self {
        Self { aim: Some(Aim::Most(most)), ..self }
    }

    /// Aims at so many times the limit, plus so much.
    const fn limit_times(self, limit: Limit, times: f64, more: f64) -> Self {
        Self { aim: Some(Aim::Limit(times, more)), ..self.limit(limit) }
    }

    /// Aims at so many times another row.
    const fn row_times(self, times: f64, row: &'static str) -> Self {
        Self { aim: Some(Aim::Row(times, row)), ..self }
    }

    /// The host traps for each unit.
    const fn traps(self) -> Self {
        Self { entries: Entries { syscalls: 0.0, exceptions: 1.0 }, ..self }
    }

    /// The host is called twice for each unit.
    const fn two_calls(self) -> Self {
        Self { entries: Entries { syscalls: 2.0, exceptions: 0.0 }, ..self }
    }

    const fn host_only(self, host_only: &'static [HostOnly]) -> Self {
        Self { host_only, ..self }
    }

    const fn ours(self, ours: &'static str) -> Self {
        Self { ours, ..self }
    }

    const fn host(self, host: &'static str) -> Self {
        Self { host, ..self }
    }

    const fn peer(self, peer: &'static str) -> Self {
        Self { peer, ..self }
    }

    /// Both sides do the same.
    const fn both(self, does: &'static str) -> Self {
        self.ours(does).host(does)
    }

    /// One fault after the other.
    const fn faults(self) -> Self {
        let ours = "handle_fault for each page in turn; no exception, no access, no TLB";
        self.ours(ours).host("one store to each page in turn: exception, fault, return").traps()
    }

    /// First writes to fresh memory, at best as fast as it is zeroed.
    const fn first_writes(self) -> Self {
        self.limit(Limit::Zeroing).host_only(&[Exception, Charge, Lru]).traps()
    }
}

/// Two threads fault at once.
const fn two_threads(id: &'static str, title: &'static str) -> Row {
    let does = "as fault-write, a thread on each of two CPUs; time on the wall, per page of one thread";
    row(id, title).first_writes().both(does)
}

/// One thread faults, another one maps and unmaps.
const fn churn(id: &'static str, title: &'static str) -> Row {
    let does = "as fault-write, while a thread on another CPU maps and unmaps 16 pages without pause; time on the wall";
    row(id, title).first_writes().both(does)
}

/// Pages move until a block is free.
const fn compact(id: &'static str, title: &'static str) -> Row {
    row(id, title)
        .per(Unit::NsPerCall)
        .ours("32 MiB of memory filled with single pages, the others freed; per block that is made")
        .host("not done")
}

/// A fault in a window that collapses: it may wait for the copy of the window's `pages`.
const fn wait(id: &'static str, title: &'static str, pages: f64, ours: &'static str) -> Row {
    row(id, title)
        .per(Unit::NsPerCall)
        .limit_times(Limit::Copying, pages, 0.0)
        .ours(ours)
        .host("not done: khugepaged cannot be told when")
}

/// One thread faults, another one maps and unmaps in an address space of its own.
const fn apart(id: &'static str, title: &'static str) -> Row {
    row(id, title)
        .limit(Limit::Zeroing)
        .ours("as threads-churn, but the other thread maps and unmaps in an address space of its own")
        .host("not done: threads-churn is the host's own comparison with fault-write")
}

/// Two threads fault, a third one maps and unmaps.
const fn crowd(id: &'static str, title: &'static str) -> Row {
    row(id, title)
        .limit(Limit::Zeroing)
        .ours("two threads fault in a VMA each while a third maps and unmaps 16 pages without pause; on two CPUs they take turns: time on the wall, per page of one thread")
        .host("not done: with two CPUs three threads measure the host's scheduler")
}

/// One write fault after the other, in one of the lock modes.
const fn fault_write(id: &'static str, title: &'static str) -> Row {
    row(id, title).faults().first_writes().limit_times(Limit::Zeroing, 1.4, 60.0)
}

/// Pages that leave for compressed memory or come back.
const fn swap(id: &'static str, title: &'static str, ours: &'static str) -> Row {
    row(id, title).ours(ours).host("a swap device of the host would have to be set up for it: not done")
}

/// The VMA of an address.
const fn lookup(id: &'static str, title: &'static str, ours: &'static str) -> Row {
    row(id, title)
        .per(Unit::NsPerCall)
        .most(60.0)
        .ours(ours)
        .host("no call of the host only looks up a VMA")
        .peer("MemorySet::find of a random address, under a mutex")
}

/// What a program costs that touches little of what it maps.
const fn footprint(id: &'static str, title: &'static str) -> Row {
    row(id, title).per(Unit::PerTouched).both(
        "64 arenas of 4 MiB in turns: every eighth is filled in order, of the others a few pages are touched",
    )
}

/// What the hardware alone needs.
const fn limit(id: &'static str, title: &'static str, does: &'static str) -> Row {
    row(id, title).ours(does)
}

const FORK_HOST: &str =
    "fork() of a process with the region, all of it: tasks, files, the region's page tables";

/// All rows that can be measured, in the table's order.
pub const ROWS: &[Row] = &[
    row("populate-4k", "populate fresh memory, 256 MiB")
        .limit_times(Limit::Zeroing, 1.25, 0.0)
        .host_only(&[Charge, Lru])
        .ours("populate(Write) of 256 MiB, page tables included")
        .host("MADV_POPULATE_WRITE of 256 MiB, page tables included")
        .peer("MemorySet::map of 256 MiB with a backend that fills at once, page tables included"),
    fault_write("fault-write", "single write fault")
        .peer("MemorySet::find and a map of one zeroed page, for each page in turn, under one mutex"),
    fault_write("fault-write.vma", "single write fault, per-VMA lock"),
    fault_write("fault-write.spec", "single write fault, speculative"),
    row("fault-read", "read fault, zero page")
        .faults()
        .most(60.0)
        .host_only(&[Exception])
        .host("one load from each page in turn: exception, fault, return"),
    row("fault-zero-write", "write over the zero page")
        .faults()
        .limit_times(Limit::Zeroing, 1.4, 80.0)
        .host_only(&[Exception, TlbFlush, Charge, Lru]),
    two_threads("threads-own-vma", "2 threads, a VMA each"),
    two_threads("threads-own-vma.vma", "2 threads, a VMA each; per-VMA locks").row_times(1.0, "fault-write"),
    two_threads("threads-own-vma.spec", "2 threads, a VMA each; speculative").row_times(1.0, "fault-write"),
    two_threads("threads-one-vma", "2 threads, one VMA"),
    two_threads("threads-one-vma.vma", "2 threads, one VMA; per-VMA locks").row_times(1.0, "fault-write"),
    two_threads("threads-one-vma.spec", "2 threads, one VMA; speculative").row_times(1.0, "fault-write"),
    two_threads("threads-own-mm", "2 threads, a process each").row_times(1.0, "fault-write"),
    // Within a fifth of the same work with the other thread in an address space of its own.
    churn("threads-churn", "faults while another thread maps"),
    churn("threads-churn.vma", "faults while another maps; per-VMA locks")
        .row_times(1.2, "threads-apart.vma"),
    churn("threads-churn.spec", "faults while another maps; speculative")
        .row_times(1.2, "threads-apart.spec"),
    apart("threads-apart", "the same, in another address space"),
    apart("threads-apart.vma", "the same, in another; per-VMA locks"),
    apart("threads-apart.spec", "the same, in another; speculative"),
    crowd("threads-crowd", "two fault while a third maps"),
    crowd("threads-crowd.vma", "two fault while a third maps; per-VMA locks")
        .row_times(1.2, "threads-crowd-apart.vma"),
    crowd("threads-crowd.spec", "two fault while a third maps; speculative")
        .row_times(1.2, "threads-crowd-apart.spec"),
    crowd("threads-crowd-apart", "the same, the third in another address space"),
    crowd("threads-crowd-apart.vma", "the same, the third in another; per-VMA locks"),
    crowd("threads-crowd-apart.spec", "the same, the third in another; speculative"),
    row("mmap-munmap", "mmap + munmap, untouched")
        .per(Unit::NsPerPair)
        .most(400.0)
        .two_calls()
        .host_only(&[SystemCall])
        .both("mmap + munmap of 16 pages, never touched")
        .peer("find_free_area, map and unmap of 16 pages, never touched; unmap asks the table for each page"),
    row("mprotect-split", "mprotect that splits + one that merges")
        .per(Unit::NsPerPair)
        .most(600.0)
        .two_calls()
        .host_only(&[SystemCall])
        .both(
            "mprotect of the 8 middle pages of 64 to R and back to RW, never touched: VMAs split and merge",
        ),
    row("munmap", "munmap of populated memory")
        .most(30.0)
        .host_only(&[TlbFlush, Charge, Lru])
        .ours("munmap of 256 MiB populated; frames go back, no TLB to flush")
        .host("munmap of 256 MiB populated; frames go back, TLB is flushed")
        .peer("MemorySet::unmap of 256 MiB populated; frames go back, page tables stay, no TLB to flush"),
    row("dontneed", "MADV_DONTNEED of populated memory")
        .most(30.0)
        .host_only(&[TlbFlush, Charge, Lru])
        .ours("madvise(DONTNEED) of 256 MiB populated; no TLB to flush")
        .host("MADV_DONTNEED of 256 MiB populated; TLB is flushed"),
    row("pin-fast", "pin without a lock, runs of 256")
        .most(8.0)
        .ours("pin_fast(WRITE) of 256 pages that are there, for each run of 256 MiB; a list of pins each")
        .host("vmsplice of 256 pages into a pipe: GUP-fast, a reference and a slot of the pipe a page"),
    row("unpin", "unpin, runs of 256")
        .most(8.0)
        .ours("the pinned ranges are dropped")
        .host("splice of the pages to /dev/null"),
    row("pin-fast-64k", "pin without a lock, folios of 64 KiB")
        .most(0.8)
        .ours("pin-fast over folios of 64 KiB: a pin a folio")
        .host("not done: vmsplice takes a slot of the pipe a page, whatever the folio"),
    row("unpin-64k", "unpin, folios of 64 KiB").ours("the pinned ranges are dropped").host("not done"),
    row("pin-fast-2m", "pin without a lock, folios of 2 MiB")
        .most(0.8)
        .ours("pin-fast over folios of 2 MiB, behind a leaf where a fault made one")
        .host("not done"),
    row("unpin-2m", "unpin, folios of 2 MiB").ours("the pinned ranges are dropped").host("not done"),
    row("fork-pinned", "fork, 1 % pinned")
        .ours("as fork, with one page in a hundred pinned: those are copied for the child")
        .host("no call of the host pins pages for as long as a fork takes, unless its kernel has gup_test"),
    row("fork", "fork, exclusive pages")
        .most(12.0)
        .host_only(&[TlbFlush, Task])
        .ours("fork of an address space with 256 MiB exclusive pages; no task, no files")
        .host(FORK_HOST),
    row("fork-again", "fork again, shared pages")
        .most(12.0)
        .host_only(&[TlbFlush, Task])
        .ours("the same again: all pages shared and write-protected already")
        .host(FORK_HOST),
    row("exit-shared", "exit of a child, shared pages")
        .most(12.0)
        .host_only(&[TlbFlush, Task])
        .ours("drop of the child's address space, all its pages shared with the parent")
        .host("the child's CPU time from _exit on"),
    row("cow-copy", "COW fault that copies")
        .faults()
        .limit_times(Limit::Copying, 1.4, 80.0)
        .host_only(&[Exception, TlbFlush, Charge, Lru]),
    row("cow-reuse", "COW fault that reuses").faults().most(60.0).host_only(&[Exception]),
    row("mprotect-ro", "mprotect RW to RO")
        .most(5.0)
        .host_only(&[TlbFlush])
        .ours("mprotect(R) of 256 MiB populated; no TLB to flush")
        .host("mprotect(R) of 256 MiB populated; TLB is flushed")
        .peer("MemorySet::protect of 256 MiB populated; no TLB to flush"),
    row("mprotect-rw", "mprotect RO to RW")
        .most(5.0)
        .both("mprotect(RW) of the same")
        .peer("the same back: nothing asks whether a page may be written"),
    row("mremap-tables", "mremap that moves tables")
        .most(1.3)
        .host_only(&[TlbFlush])
        .ours("mremap of 256 MiB populated to where whole page tables fit; no TLB to flush")
        .host("mremap of 256 MiB populated to where whole page tables fit; TLB is flushed"),
    row("mremap-entries", "mremap that moves entries")
        .most(10.0)
        .host_only(&[TlbFlush])
        .both("the same, one page off: entry by entry"),
    row("uffd-copy", "UFFDIO_COPY, 2 MiB a call")
        .limit_times(Limit::Copying, 1.2, 40.0)
        .both("COPY of 256 MiB in pieces of 2 MiB, from 64 MiB again and again"),
    row("uffd-copy-one", "UFFDIO_COPY, a page a call")
        .limit_times(Limit::Copying, 1.2, 40.0)
        .both("the same, a page a call"),
    row("uffd-move", "UFFDIO_MOVE, 2 MiB a call")
        .most(15.0)
        .both("MOVE of 256 MiB populated in pieces of 2 MiB, to another mapping"),
    row("uffd-move-one", "UFFDIO_MOVE, a page a call").most(60.0).both("back again, a page a call"),
    row("uffd-move-64k", "UFFDIO_MOVE of folios of 64 KiB")
        .most(1.5)
        .ours("uffd-move, of folios of 64 KiB, which go whole")
        .host("not done: Linux splits them"),
    row("uffd-move-2m", "UFFDIO_MOVE of folios of 2 MiB")
        .most(1.5)
        .ours("uffd-move, of folios of 2 MiB, which go whole, behind a leaf where a fault made one")
        .host("not done"),
    row("uffd-arm", "UFFDIO_WRITEPROTECT of a region")
        .most(5.0)
        .host_only(&[TlbFlush])
        .both("write protection of 256 MiB populated with one call: arming 1 GiB is 262,144 of these"),
    row("uffd-wp-fault", "write fault that ends a protection")
        .most(60.0)
        .host_only(&[Exception])
        .ours("handle_fault for each page in turn; protection of WP_ASYNC ends with the write")
        .host("one store to each page in turn: exception, fault, return")
        .traps(),
    row("uffd-missing", "missing fault answered by a thread")
        .per(Unit::NsPerCall)
        .ours("handle_fault; a thread on the other CPU reads the message and copies a page; time on the wall")
        .host("one store; a thread on the other CPU reads the message and copies a page; time on the wall"),
    swap(
        "swap-out",
        "page-out to compressed memory",
        "madvise(PAGEOUT) of 32 MiB that compress to about a third, to compressed memory",
    ),
    swap("swap-in", "swap-in from compressed memory", "handle_fault for each of these pages in turn"),
    swap("swap-out-in", "page-out and swap-in together", "the two rows above, added").limit_times(
        Limit::Compressing,
        1.3,
        0.0,
    ),
    row("migrate", "migration of single pages")
        .limit_times(Limit::Copying, 1.3, 120.0)
        .ours("evacuation of 32 MiB of single pages")
        .host("not done: without a second node nothing moves a page when it is asked to"),
    row("migrate-64k", "migration of folios of 64 KiB")
        .limit_times(Limit::Copying, 1.3, 120.0)
        .ours("the same in folios of 64 KiB, which go whole")
        .host("not done"),
    row("migrate-2m", "migration of leaves")
        .limit_times(Limit::Copying, 1.3, 120.0)
        .ours("the same in leaves, which go as leaves")
        .host("not done"),
    compact("compact-64k-50", "a block of 64 KiB, half full"),
    compact("compact-64k-80", "a block of 64 KiB, 80 % full"),
    compact("compact-64k-95", "a block of 64 KiB, 95 % full"),
    compact("compact-2m-50", "a block of 2 MiB, half full"),
    compact("compact-2m-80", "a block of 2 MiB, 80 % full"),
    compact("compact-2m-95", "a block of 2 MiB, 95 % full"),
    row("collapse-64k", "collapse into folios of 64 KiB")
        .limit_times(Limit::Copying, 1.2, 60.0)
        .ours("32 MiB of single pages become folios of 64 KiB")
        .host("not done: Linux collapses to 2 MiB when it is asked to"),
    row("collapse-2m", "collapse into leaves")
        .limit_times(Limit::Copying, 1.2, 60.0)
        .host_only(&[TlbFlush])
        .ours("32 MiB of single pages become leaves, window by window; no TLB to flush")
        .host("madvise(COLLAPSE) of 32 MiB of single pages; TLB is flushed"),
    row("collapse-in-place", "a table becomes a leaf")
        .most(5.0)
        .host_only(&[TlbFlush])
        .ours(
            "the same when the frames lie right already: tables of one folio become leaves; no TLB to flush",
        )
        .host("not done: Linux copies"),
    wait(
        "collapse-64k-wait",
        "longest wait of a fault in a window of 64 KiB",
        16.0,
        "single pages become folios of 64 KiB by copying while another thread faults on the window's pages in \
         turn; its longest fault, at the median of 64 windows; time on the wall",
    ),
    wait(
        "collapse-2m-wait",
        "longest wait of a fault in a window of 2 MiB",
        512.0,
        "the same for leaves, at the median of 16 windows",
    ),
    wait(
        "collapse-in-place-wait",
        "longest wait of a fault in a table that becomes a leaf",
        512.0,
        "the same where the frames lie right already, and nothing is copied",
    ),
    row("ksm-pairs", "KSM, pairs of equal pages")
        .most(1500.0)
        .ours("three sweeps over 32 MiB in which every page has one equal, per page that is given up")
        .host("not done here: ksmd's time is the kernel's own"),
    row("ksm-equal", "KSM, all pages equal")
        .most(1500.0)
        .ours("the same where all pages are equal")
        .host("not done here"),
    row("ksm-hundred", "KSM, a hundred programs alike")
        .most(1500.0)
        .ours("two sweeps over 100 programs that have the same 4 MiB each, per page that is given up: all but one's")
        .host("not done here"),
    lookup("lookup-10", "VMA lookup among 10", "the VMA of a random address, without a lock"),
    lookup("lookup-1000", "VMA lookup among 1,000", "the same among 1,000"),
    lookup(
        "lookup-100000",
        "VMA lookup among 100,000",
        "the same among 100,000: the map does not fit in the second-level cache",
    ),
    row("metadata", "metadata per 4 KiB frame")
        .per(Unit::BytesPerFrame)
        .most(32.0)
        .ours("the metadata slot of a frame")
        .host("struct page of a 64-bit kernel"),
    limit(
        "limit-zeroing",
        "limit: zeroing, out of cache",
        "memory of the hosted machine, 256 MiB, page by page",
    ),
    limit("limit-zeroing-cached", "limit: zeroing, in cache", "the same 4 pages again and again"),
    footprint("rss-per-touched", "resident ÷ touched pages of a malloc trace"),
    footprint("rss-per-touched.auto", "the same with folios that grow (auto)"),
    limit(
        "limit-copying",
        "limit: copying, out of cache",
        "memory of the hosted machine, 128 MiB to 128 MiB, page by page",
    ),
    limit(
        "limit-copying-cached",
        "limit: copying, in cache",
        "the same 16 pages to the same 4 pages again and again",
    ),
    limit(
        "limit-compressing",
        "limit: compressing and decompressing",
        "LZ4 of the 32 MiB of the swap rows, page by page, into memory and back",
    ),
];

/// The rows that wait for something.
pub const NOT_YET: &[NotYet] = &[];
