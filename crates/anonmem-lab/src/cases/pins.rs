//! Pins under the mmap lock: the page that a device was given stays the one that the program sees.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, page, pages, scenario},
};
use crate::Model;
use anonmem::{Advice, Error, LockMode, PinFlags, Prot, Unpin};

const RW: Prot = Prot::READ.union(Prot::WRITE);
const UNSHARE_FORGOTTEN: Mutant =
    Mutant::Patch { name: "pin-keeps-shared", what: "a read pin takes a page that others have, too" };
const FORK_IGNORES_PINS: Mutant =
    Mutant::Patch { name: "fork-ignores-pins", what: "fork shares a page that is pinned" };

/// The page of the case.
pub const DIRTY_COW: Case = Case {
    name: "cow-dirty-cow",
    title: "a write pin breaks copy-on-write, and takes the page that came back instead",
    happened: "Linux, CVE-2016-5195 (Dirty COW): get_user_pages for writing broke copy-on-write, let go of its locks, and tried again without \
               remembering that it writes; MADV_DONTNEED had discarded the copy meanwhile, and the second try was given \
               the page that others have.",
    environment: "Parent and child share a page. CPU0 pins the child's for writing by force, under the mmap lock for reading, and a device \
                  stores; CPU1, a thread of the child, discards it with MADV_DONTNEED.",
    rule: "A write pin is only ever on an exclusive page. Nobody else sees the device's store.",
    mutants: &[Mutant::Patch {
        name: "pin-forgets-write",
        what: "what is shared is pinned for writing once a fault has come back from breaking it",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| {
        let world = || {
            let kernel = Kernel::new(64, LockMode::Mmap);
            kernel.spawn(0, &[0]);
            kernel.map(0, 0, 2, RW);
            kernel.store(0, 0, 7).expect("frames");
            kernel.fork(0, 1, &[1]).expect("frames");
            kernel.mm(1).mprotect(pages(0, 1), Prot::READ).expect("no memory is needed");
            kernel
        };
        boxed(
            scenario("cow-dirty-cow", 1, world)
                .cpu("pins, stores by a device", |k| {
                    k.pin(0, 1, 0, PinFlags::WRITE | PinFlags::FORCE).expect("frames");
                    k.device_store(0, 8);
                })
                .cpu("discards", |k| k.madvise(1, 0, Advice::DontNeed))
                .check(|k| match (k.load(0, 0), k.load(0, 1)) {
                    (Ok(7), Ok(0)) => k.check(),
                    other => Err(format!("7 and nothing was stored in the parent, found {other:?}")),
                }),
        )
    },
};

/// The page of the case.
pub const LEAK: Case = Case {
    name: "cow-pin-leak",
    title: "a child keeps a pin of a shared page and reads what its parent writes later",
    happened: "Linux, CVE-2020-29374 (vmsplice): a child pinned a shared page for reading and unmapped it; the parent wrote, was alone by \
               the count of mappings, reused the page, and the child read the parent's secrets.",
    environment: "Parent and child share a page. CPU1, the child, pins it for reading, under the mmap lock for reading, unmaps it, and reads \
                  through the pin; CPU0, the parent, stores.",
    rule: "A read pin of a shared page makes a page of its own first. The device of the child reads 7 for ever.",
    mutants: &[Mutant::Patch {
        name: "pin-keeps-shared-and-reuse-ignores-pins",
        what: "a read pin takes a page that others have, and the last mapper takes it for its own",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))],
    program: |_| {
        boxed(
            scenario("cow-pin-leak", 1, || Kernel::parent_and_child(1))
                .cpu("the parent stores", |k| assert_eq!(k.store(0, 0, 8), Ok(())))
                .cpu("the child pins, unmaps", |k| {
                    k.pin(0, 1, 0, PinFlags::empty()).expect("frames");
                    k.mm(1).munmap(pages(0, 1)).expect("no memory is needed");
                    assert_eq!(k.device_load(0), 7);
                })
                .check(|k| match (k.load(0, 0), k.device_load(0)) {
                    (Ok(8), 7) => k.check(),
                    other => Err(format!("8 in the parent, 7 through the pin, found {other:?}")),
                }),
        )
    },
};

/// The page of the case.
pub const FORK: Case = Case {
    name: "fork-of-pinned",
    title: "fork shares a page that a device uses, and the parent's next store leaves it to the device",
    happened: "Linux until 5.9: fork write-protected a page that RDMA or O_DIRECT had pinned; the parent's next write copied it, and the device went \
               on with the old page (the fix: commits f3c64eda3e50, 70e806e4e645). gVisor had the same in 2026.",
    environment: "CPU0 pins a page for writing, under the mmap lock for reading, and stores as device and as program. CPU1, another thread, forks, with \
                  the mmap lock for writing.",
    rule: "The parent keeps the page that is pinned, the child gets a copy: device and parent see one another's stores.",
    mutants: &[FORK_IGNORES_PINS],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| {
        boxed(
            scenario("fork-of-pinned", 1, || one_page(&[0, 1]))
                .cpu("pins, stores", |k| {
                    k.pin(0, 0, 0, PinFlags::WRITE).expect("frames");
                    assert_eq!(k.store(0, 0, 8), Ok(()));
                    assert_eq!(k.device_load(0), 8);
                    k.device_store(0, 9);
                })
                .cpu("forks", |k| k.fork(0, 1, &[1]).expect("frames"))
                .check(|k| same_page(k, 0, 9)),
        )
    },
};

/// The page of the case.
pub const UNSHARE: Case = Case {
    name: "pin-unshare-vs-write",
    title: "a read pin unshares a page while a write fault copies it",
    happened: "Two faults of one entry: get_user_pages for reading makes a page of its own (Linux 6.2, FAULT_FLAG_UNSHARE) while another thread's store \
               does the same. Whoever comes second must find that the page is exclusive, and keep it.",
    environment: "Parent and child share a page. CPU0 pins the parent's for reading, CPU1 stores to it, both under the mmap lock for \
                  reading.",
    rule: "One exclusive page comes out, pinned and mapped: the device reads what the program stores.",
    mutants: &[
        Mutant::Patch {
            name: "wp-copy-without-recheck",
            what: "the copy is installed without comparing the entry with the one that was seen",
        },
        UNSHARE_FORGOTTEN,
    ],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| {
        let world = || {
            let kernel = Kernel::new(64, LockMode::Mmap);
            kernel.spawn(0, &[0, 1]);
            kernel.map(0, 0, 1, RW);
            kernel.store(0, 0, 7).expect("frames");
            kernel.fork(0, 1, &[]).expect("frames");
            kernel
        };
        boxed(
            scenario("pin-unshare-vs-write", 1, world)
                .cpu("pins", |k| k.pin(0, 0, 0, PinFlags::empty()).expect("frames"))
                .cpu("stores", |k| assert_eq!(k.store(0, 0, 8), Ok(())))
                .check(|k| same_page(k, 0, 8)),
        )
    },
};

/// The page of the case.
pub const SATURATES: Case = Case {
    name: "pin-saturates",
    title: "two CPUs take the last pin that fits",
    happened: "Linux counts 1,024 references a pin in 32 bits and warns when they saturate; counts that wrap freed pages in use (CVE-2019-11487). \
               Here the count has sixteen bits beside others in one word.",
    environment: "A page has all pins but one that can be counted. Two CPUs pin it, under the mmap lock for reading and without a lock.",
    rule: "An error, never a wrap: the counts of the page are right.",
    mutants: &[Mutant::Patch {
        name: "pin-uncounted-limit",
        what: "a pin without a lock is counted whatever there is room for",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| {
        let world = || {
            let kernel = one_page(&[0, 1]);
            kernel.note_frame(0, 0);
            kernel.pin_noted_but(1);
            kernel
        };
        boxed(
            scenario("pin-saturates", 1, world)
                .cpu("pins", |k| k.notes[0].set(u64::from(full(k.pin(0, 0, 0, PinFlags::WRITE)))))
                .cpu("pins without a lock", |k| {
                    k.notes[1].set(u64::from(full(k.pin_fast(1, 0, 0, PinFlags::WRITE))));
                })
                .check(|k| {
                    let refused = k.notes[0].get() + k.notes[1].get();
                    k.unpin_many();
                    if refused == 1 { k.check() } else { Err(format!("{refused} of two were refused")) }
                }),
        )
    },
};

/// The page of the case.
pub const LAZYFREE: Case = Case {
    name: "lazyfree-vs-pin",
    title: "a device writes to a page that reclaim drops for not being written",
    happened: "MADV_FREE lets a page be dropped unless its entry is dirty; a device's store leaves no trace there. Linux marks the folio dirty when it \
               is unpinned, and asks for that mark after it has cleared the entry (commit 6c8e2a256915, 2022).",
    environment: "A page is given up by MADV_FREE. CPU0 pins it without a lock, stores as a device and unpins it dirty. CPU1 reclaims it, with its folio \
                  lock.",
    rule: "What a device stored is not dropped.",
    mutants: &[Mutant::Patch {
        name: "unmap-drops-written-by-pin",
        what: "whether the page is to be dropped is not asked again once its entry is cleared",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| {
        let world = || {
            let kernel = one_page(&[0]);
            kernel.note_frame(0, 0);
            kernel.madvise(0, 0, Advice::Free);
            kernel
        };
        boxed(
            scenario("lazyfree-vs-pin", 1, world)
                .cpu("pins, stores by a device, unpins", |k| {
                    k.pin_fast(0, 0, 0, PinFlags::empty()).expect("frames");
                    // The zero page, once the page is gone.
                    if k.pinned_frame(0) == k.noted_frame() {
                        k.device_store(0, 8);
                        k.notes[0].set(1);
                    }
                    k.unpin(0, Unpin::Dirty);
                })
                .cpu("reclaims", |k| {
                    k.reclaim_noted();
                })
                .check(|k| match (k.notes[0].get(), k.load(0, 0)) {
                    (1, Ok(8)) | (0, Ok(0)) => k.check(),
                    other => Err(format!("(stored by the device, found) is {other:?}")),
                }),
        )
    },
};

fn full(result: Result<(), Error>) -> bool {
    match result {
        Ok(()) => false,
        Err(Error::Limit(_)) => true,
        Err(other) => panic!("{other:?}"),
    }
}

/// A program with one page, which says 7.
pub(super) fn one_page(cpus: &[u32]) -> Kernel {
    let kernel = Kernel::new(64, LockMode::Mmap);
    kernel.spawn(0, cpus);
    kernel.map(0, 0, 1, RW);
    kernel.store(0, 0, 7).expect("frames");
    kernel
}

/// Program 0 and its device have the same page, which is the program's own and says `value`.
pub(super) fn same_page(k: &Kernel, pin: usize, value: u64) -> Result<(), String> {
    let (mapped, pinned) = (k.mm(0).pagemap(page(0)), k.pinned_frame(pin));
    if mapped.pfn != pinned || !mapped.exclusive {
        return Err(format!(
            "pinned is {pinned:?}, mapped {:?}, exclusive: {}",
            mapped.pfn, mapped.exclusive
        ));
    }
    match (k.load(0, 0), k.device_load(pin)) {
        (Ok(program), device) if program == value && device == value => k.check(),
        other => Err(format!("(program, device) found {other:?}, not {value}")),
    }
}
