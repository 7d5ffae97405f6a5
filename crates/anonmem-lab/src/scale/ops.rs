//! The operations, what each finds, and which of them commute.
//!
//! A fault comes after another one of the same kind in the same mapping, as most do.

use super::{
    Relation,
    side::{HEAP, RW, Side},
};
use crate::cases::kernel::{Kernel, P, page, pages};
use anonmem::{
    Advice, FaultAccess, FaultOutcome, FillMode, MapBacking, MapFlags, MmapRequest, MoveMode, PinFlags, Prot,
    RegisterMode, RemapFlags, Unpin,
};

/// Something that a side does.
pub(super) type Step = fn(&Kernel, Side);

/// Whether a child is needed before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fork {
    /// No.
    None,
    /// The side's address space forks, after what comes before.
    Child,
    /// The same, before anything else.
    First,
}

/// An operation.
#[derive(Debug)]
pub struct Op {
    /// Its name on the command line and in tables.
    pub name: &'static str,
    /// What it is.
    pub what: &'static str,
    pub(super) before_fork: Step,
    pub(super) fork: Fork,
    pub(super) needs_uffd: bool,
    pub(super) after_fork: Step,
    pub(super) run: Step,
}

const NOTHING: Step = |_, _| ();

impl Op {
    const fn new(name: &'static str, what: &'static str, after_fork: Step, run: Step) -> Self {
        Self { name, what, before_fork: NOTHING, fork: Fork::None, needs_uffd: false, after_fork, run }
    }

    const fn of_child(self, before_fork: Step) -> Self {
        Self { before_fork, fork: Fork::Child, ..self }
    }

    const fn of_old_child(self) -> Self {
        Self { fork: Fork::First, ..self }
    }

    const fn by_uffd(self) -> Self {
        Self { needs_uffd: true, ..self }
    }

    /// Whether it and `other` commute by their arguments. They are about different pages; what does not
    /// commute is two changes of one heap, and a fork with whatever changes what is copied.
    pub fn commutes_with(&self, other: &Self, relation: Relation) -> bool {
        let heaps = self.name == "brk" && other.name == "brk";
        let forks = self.name == "fork" || other.name == "fork";
        relation != Relation::Threads || !(heaps || forks)
    }
}

/// The operation called `name`.
pub fn find(name: &str) -> Option<&'static Op> {
    OPS.iter().find(|op| op.name == name)
}

fn fault(k: &Kernel, side: Side, n: u64, access: FaultAccess) {
    assert_eq!(k.mm(side.mm).handle_fault(page(n), access), FaultOutcome::Done);
}

/// Maps a page of the side's own part and stores to it.
fn touch(k: &Kernel, side: Side, n: u64) {
    k.map(side.mm, side.own(n), 1, RW);
    k.store_here(side.mm, side.own(n), 0, 7).expect("frames");
}

/// Maps two pages and stores to both.
fn touch_two(k: &Kernel, side: Side) {
    k.map(side.mm, side.own(3), 2, RW);
    (3..5).for_each(|n| k.store_here(side.mm, side.own(n), 0, 7).expect("frames"));
}

/// Remembers the frame of a page of the side's own part.
fn note(k: &Kernel, side: Side, n: u64) {
    k.notes[side.number].set(k.frame_of(side.mm, side.own(n)).expect("present").0);
}

/// Lets the side's userfaultfd watch pages of its own part.
fn watch(k: &Kernel, side: Side, first: u64, n: u64, mode: RegisterMode) {
    let uffd = k.uffd_number(side.number);
    uffd.register(page(side.own(first)), n * P, mode).expect("a mapping that can be watched");
}

/// Moves a page of the side's own part (UFFDIO_MOVE).
fn move_page(k: &Kernel, side: Side, to: u64, from: u64) {
    let (to, from) = (page(side.own(to)), page(side.own(from)));
    let moved = k.uffd_number(side.number).move_pages(to, from, P, MoveMode::empty());
    assert_eq!(moved.result(), Ok(()));
}

/// Fills a page of the side's own part (UFFDIO_COPY).
fn copy_page(k: &Kernel, side: Side, n: u64) {
    let uffd = k.uffd_number(side.number);
    let filled = uffd.copy(page(side.own(n)), P, FillMode::empty(), &mut |_, _| Ok(()));
    assert_eq!(filled.result(), Ok(()));
}

/// The operations, in the order of the tables.
// Long: it is a list.
pub static OPS: [Op; 20] = [
    Op::new(
        "write-fault",
        "the first write to a page of a mapping that both sides use",
        |k, s| fault(k, s, s.common(1), FaultAccess::Write),
        |k, s| fault(k, s, s.common(2), FaultAccess::Write),
    ),
    Op::new(
        "write-fault-vma",
        "the first write to a page of another mapping",
        |k, s| {
            k.map(s.mm, s.own(3), 2, RW);
            fault(k, s, s.own(3), FaultAccess::Write);
        },
        |k, s| fault(k, s, s.own(4), FaultAccess::Write),
    ),
    Op::new(
        "read-fault",
        "the first read of a page of a mapping that both sides use",
        |k, s| fault(k, s, s.common(1), FaultAccess::Read),
        |k, s| fault(k, s, s.common(2), FaultAccess::Read),
    ),
    Op::new(
        "cow-copy",
        "a write to a page that a child shares",
        |k, s| fault(k, s, s.own(3), FaultAccess::Write),
        |k, s| fault(k, s, s.own(4), FaultAccess::Write),
    )
    .of_child(touch_two),
    Op::new(
        "cow-reuse",
        "a write to a page that a child has shared",
        |k, s| {
            k.madvise(s.child(), s.own(4), Advice::DontNeed);
            fault(k, s, s.own(3), FaultAccess::Write);
        },
        |k, s| fault(k, s, s.own(4), FaultAccess::Write),
    )
    .of_child(touch_two),
    Op::new(
        "swap-in",
        "a write to a page that is in swap",
        |k, s| {
            touch_two(k, s);
            k.page_out(s.mm, s.own(3));
            k.page_out(s.mm, s.own(4));
            fault(k, s, s.own(3), FaultAccess::Write);
            assert_eq!(k.frame_of(s.mm, s.own(4)), None, "it is swapped out");
        },
        |k, s| fault(k, s, s.own(4), FaultAccess::Write),
    ),
    Op::new("mmap", "a mapping at a given place", NOTHING, |k, s| {
        let request = MmapRequest {
            addr: page(s.own(4)),
            len: 2 * P,
            prot: RW,
            flags: MapFlags::FIXED,
            backing: MapBacking::Anonymous,
        };
        assert_eq!(k.mm(s.mm).mmap(request), Ok(page(s.own(4))));
    }),
    Op::new(
        "munmap",
        "the end of a mapping with a page",
        |k, s| touch(k, s, 4),
        |k, s| assert_eq!(k.mm(s.mm).munmap(pages(s.own(4), 1)), Ok(())),
    ),
    Op::new(
        "mprotect",
        "a mapping with a page becomes read-only",
        |k, s| touch(k, s, 4),
        |k, s| assert_eq!(k.mm(s.mm).mprotect(pages(s.own(4), 1), Prot::READ), Ok(())),
    ),
    Op::new(
        "dontneed",
        "a page is given up (MADV_DONTNEED)",
        |k, s| touch(k, s, 4),
        |k, s| k.madvise(s.mm, s.own(4), Advice::DontNeed),
    ),
    Op::new(
        "mremap",
        "a mapping with a page moves",
        |k, s| touch(k, s, 4),
        |k, s| {
            let (old, new) = (page(s.own(4)), page(s.own(6)));
            assert_eq!(k.mm(s.mm).mremap(old, P, P, RemapFlags::MAYMOVE | RemapFlags::FIXED, new), Ok(new));
        },
    ),
    Op::new(
        "brk",
        "the heap grows",
        |k, s| {
            k.mm(s.mm).set_brk_start(page(HEAP));
            assert_eq!(k.mm(s.mm).brk(page(HEAP + 1)), page(HEAP + 1));
        },
        |k, s| assert_eq!(k.mm(s.mm).brk(page(HEAP + 2)), page(HEAP + 2)),
    ),
    Op::new(
        "fork",
        "a process with three mappings forks",
        |k, s| touch(k, s, 4),
        |k, s| {
            k.fork(s.mm, s.child(), &[]).expect("frames");
        },
    ),
    Op::new("exit", "a child ends", NOTHING, |k, s| k.exit(s.child())).of_old_child(),
    Op::new(
        "pin",
        "a page that is there is pinned without a lock",
        |k, s| touch(k, s, 4),
        |k, s| k.pin_fast(s.number, s.mm, s.own(4), PinFlags::WRITE).expect("present"),
    ),
    Op::new(
        "unpin",
        "a page is unpinned",
        |k, s| {
            touch(k, s, 4);
            k.pin(s.number, s.mm, s.own(4), PinFlags::WRITE).expect("present");
        },
        |k, s| k.unpin(s.number, Unpin::Dirty),
    ),
    Op::new(
        "move",
        "a page moves (UFFDIO_MOVE)",
        |k, s| {
            touch_two(k, s);
            k.map(s.mm, s.own(5), 2, RW);
            watch(k, s, 5, 2, RegisterMode::MISSING);
            move_page(k, s, 5, 3);
        },
        |k, s| move_page(k, s, 6, 4),
    )
    .by_uffd(),
    Op::new(
        "copy",
        "a page is filled (UFFDIO_COPY)",
        |k, s| {
            k.map(s.mm, s.own(5), 2, RW);
            watch(k, s, 5, 2, RegisterMode::MISSING);
            copy_page(k, s, 5);
        },
        |k, s| copy_page(k, s, 6),
    )
    .by_uffd(),
    Op::new(
        "swap-out",
        "a page is reclaimed",
        |k, s| {
            touch(k, s, 4);
            note(k, s, 4);
        },
        |k, s| assert!(k.reclaim(anonmem_hal::Pfn(k.notes[s.number].get())), "nobody else has it"),
    ),
    Op::new(
        "migrate",
        "a page goes to another frame",
        |k, s| {
            touch(k, s, 4);
            note(k, s, 4);
        },
        |k, s| {
            let pfn = anonmem_hal::Pfn(k.notes[s.number].get());
            let page = k.vm.frames().try_get(pfn).expect("present");
            assert!(k.vm.migrate_folio(page).is_ok(), "nobody else has it");
        },
    ),
];
