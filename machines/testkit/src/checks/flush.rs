//! The promises of `Mmu`, and the order of activate, load, leave, deactivate.
//!
//! Each check lets a CPU cache a translation, has the memory manager take it back, and asks whether the CPU
//! still has it. Nothing is freed meanwhile that somebody else might get, so a broken flush is seen here and
//! harms nobody.

use super::{Broken, Checked, Mm, P, Stop, World, equal, holds, page, range};
use crate::tally::{Step, Tally, pause};
use anonmem::{Advice, Machine, MmapRequest, Prot, Va};
use anonmem_hal::{Arch, CpuSet, CpuSlots, FlushRange};
use core::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

/// Pages of a range that is flushed one by one, and of one that is flushed as a whole.
const FEW: u64 = 4;
const MANY: u64 = 600;
/// How often a race is tried.
const ROUNDS: u64 = 100;
/// How long a neighbour that stores all the time is waited for.
const WAITS_NS: u64 = 10_000_000;
/// How long a store may be under way at most.
const UNDER_WAY_NS: u64 = 20_000;

pub(super) fn init_root<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    let mm = w.vm.new_mm()?;
    let root = w.machine().direct_map(mm.root()).cast::<u64>();
    let last = M::Arch::index(Va(M::Arch::USER_END.0 - 1), M::Arch::LEVELS - 1);
    for at in 0..=last {
        // SAFETY: the entry lies in the table, which is a frame.
        let entry = unsafe { root.add(at) };
        // SAFETY: as above; the table lives as long as `mm`.
        let found = unsafe { entry.read_volatile() };
        equal("an entry of the user half of a new top-level table", found, 0)?;
    }
    Ok(())
}

/// A CPU that runs a program is one that the memory manager flushes. If no flush of its own reaches this one,
/// and the same flush by hand does, nobody has called `activate`.
pub(super) fn active<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    let (mm, va) = w.space(1)?;
    w.within(&mm, || {
        for n in 0..FEW {
            mm.mprotect(range(va, 1), Prot::READ | Prot::WRITE)?;
            w.store(&mm, va, n)?;
            mm.mprotect(range(va, 1), Prot::READ)?;
            if !w.port.store(&mm, va, n) {
                return Ok(());
            }
            let me = M::current_cpu();
            let here = M::Cpus::words(|n| if n == me.word() { me.bit() } else { 0 });
            // Twice: a machine that leaves out every other flush is another one's to find.
            for _ in 0..2 {
                let what = FlushRange::Range(range(va, 1));
                w.machine().flush(CpuSet::new(here.as_ref()), mm.root(), what);
            }
            if w.port.store(&mm, va, n) {
                return Err(Stop::NotTried("a flush by hand does not reach this CPU either"));
            }
        }
        Ok(holds("one flush of several reaches the CPU that runs a program", false)?)
    })
}

fn own<M: Machine>(w: &World<'_, '_, M>, pages: u64) -> Checked {
    let (mm, start) = w.space(pages)?;
    w.within(&mm, || {
        (0..pages).try_for_each(|n| w.store(&mm, page(start, n), n + 1))?;
        mm.mprotect(range(start, pages), Prot::READ)?;
        for n in 0..pages {
            let stored = w.port.store(&mm, page(start, n), 99);
            holds("a store is refused after mprotect(PROT_READ)", !stored)?;
            equal("the word after mprotect", w.load(&mm, page(start, n))?, n + 1)?;
        }
        mm.munmap(range(start, pages))?;
        (0..pages).try_for_each(|n| gone(w, &mm, page(start, n)))
    })
}

fn gone<'v, M: Machine>(w: &World<'v, '_, M>, mm: &Mm<'v, M>, va: Va) -> Checked {
    Ok(holds("a load is refused after munmap", w.port.load(mm, va).is_none())?)
}

pub(super) fn own_page<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    own(w, 1)
}

pub(super) fn own_many<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    own(w, MANY)
}

pub(super) fn after_fork<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    let (parent, va) = w.space(FEW)?;
    w.within(&parent, || {
        w.store(&parent, va, 1)?;
        let child = parent.fork()?;
        holds("a store is refused right after fork", !w.port.store(&parent, va, 2))?;
        w.store(&parent, va, 2)?;
        w.within(&child, || {
            equal("what the child of fork reads", w.load(&child, va)?, 1)?;
            w.store(&child, va, 3)
        })?;
        Ok(equal("what its parent reads", w.load(&parent, va)?, 2)?)
    })
}

/// The page that a store copied is read through a translation to the new one.
pub(super) fn after_copy<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    let (parent, va) = w.space(FEW)?;
    w.within(&parent, || {
        w.store(&parent, va, 1)?;
        let child = parent.fork()?;
        equal("the word before the copy", w.load(&parent, va)?, 1)?;
        w.store(&parent, va, 2)?;
        equal("the word after the copy", w.load(&parent, va)?, 2)?;
        drop(child);
        Ok(())
    })
}

/// Far apart, so that each page has tables of its own.
const APART: u64 = 1 << 30;

fn far<M: Machine>(mm: &Mm<'_, M>, n: u64) -> Result<Va, Stop> {
    let request = MmapRequest::anonymous(P, Prot::READ | Prot::WRITE);
    Ok(mm.mmap(MmapRequest { addr: Va(APART * (n + 1)), flags: anonmem::MapFlags::FIXED, ..request })?)
}

pub(super) fn own_tables<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    let mm = w.vm.new_mm()?;
    w.within(&mm, || {
        for n in 0..FEW {
            let va = far(&mm, n)?;
            w.store(&mm, va, n)?;
            mm.munmap(range(va, 1))?;
            gone(w, &mm, va)?;
            // A table of the next one may be the frame of the last one's.
            let next = far(&mm, n + FEW)?;
            w.store(&mm, next, n)?;
            gone(w, &mm, va)?;
        }
        Ok(())
    })
}

/// A neighbour on another CPU caches `pages` pages; then `change` takes them back, and `ask` is asked on the
/// neighbour's CPU.
fn with_neighbour<'v, M: Machine>(
    w: &World<'v, '_, M>,
    pages: u64,
    change: impl Fn(&Mm<'v, M>, Va) -> Checked + Sync,
    ask: impl Fn(&Mm<'v, M>, Va) -> Checked + Sync,
) -> Checked {
    let tasks = w.several()?;
    let (mm, start) = w.space(pages)?;
    let (tally, step) = (Tally::new(), Step::new());
    w.port.at_once(tasks, &|me| {
        if me == 0 {
            step.meet::<M>(tasks, 1);
            tally.note_stop(change(&mm, start));
            step.meet::<M>(tasks, 2);
            return;
        }
        let mut asked = false;
        tally.note_stop(w.within(&mm, || {
            let cached = (0..pages).try_for_each(|n| w.store(&mm, page(start, n), n + 1));
            // Between the two a CPU spins in `relax`, and must answer from there.
            step.meet::<M>(tasks, 1);
            step.meet::<M>(tasks, 2);
            asked = true;
            cached?;
            (0..pages).try_for_each(|n| ask(&mm, page(start, n)))
        }));
        if !asked {
            tally.note(holds("`within` runs its program", false));
            step.meet::<M>(tasks, 1);
            step.meet::<M>(tasks, 2);
        }
    });
    Ok(tally.result()?)
}

pub(super) fn others<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    for pages in [1, FEW, MANY] {
        with_neighbour(
            w,
            pages,
            |mm, start| Ok(mm.mprotect(range(start, pages), Prot::READ)?),
            |mm, va| Ok(holds("a store is refused after another CPU's mprotect", !w.port.store(mm, va, 9))?),
        )?;
        with_neighbour(
            w,
            pages,
            |mm, start| Ok(mm.munmap(range(start, pages))?),
            |mm, va| {
                Ok(holds("a load is refused after another CPU's munmap", w.port.load(mm, va).is_none())?)
            },
        )?;
        with_neighbour(
            w,
            pages,
            |mm, start| Ok(mm.madvise(start, pages * P, Advice::DontNeed)?),
            |mm, va| Ok(equal("a word after another CPU's MADV_DONTNEED", w.load(mm, va)?, 0)?),
        )?;
    }
    Ok(())
}

pub(super) fn others_after_fork<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    with_neighbour(
        w,
        FEW,
        |mm, _| {
            mm.fork()?;
            Ok(())
        },
        |mm, va| Ok(holds("a store is refused after another CPU's fork", !w.port.store(mm, va, 9))?),
    )
}

pub(super) fn others_tables<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    let tasks = w.several()?;
    let mm = w.vm.new_mm()?;
    let (tally, step, place) = (Tally::new(), Step::new(), AtomicU64::new(0));
    w.port.at_once(tasks, &|me| {
        let asks = w.within(&mm, || {
            for n in 0..FEW {
                let round = 3 * n as usize;
                if me == 0 {
                    let va = far(&mm, n);
                    place.store(va.as_ref().map_or(0, |va| va.0), SeqCst);
                    tally.note_stop(va.and_then(|va| w.store(&mm, va, n)));
                }
                step.meet::<M>(tasks, round + 1);
                let va = Va(place.load(SeqCst));
                if me != 0 {
                    tally.note_stop(w.load(&mm, va).map(drop));
                }
                step.meet::<M>(tasks, round + 2);
                if me == 0 {
                    tally.note_stop(mm.munmap(range(va, 1)).map_err(Stop::from));
                    tally.note_stop(far(&mm, n + FEW).and_then(|next| w.store(&mm, next, n)));
                }
                step.meet::<M>(tasks, round + 3);
                tally.note_stop(gone(w, &mm, va));
            }
            Ok(())
        });
        tally.note_stop(asks);
    });
    Ok(tally.result()?)
}

/// A neighbour stores as fast as it can. When mprotect has returned, no store is under way any more.
pub(super) fn over_on_return<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    w.several()?;
    let (mm, va) = w.space(1)?;
    let (tally, stop, tries) = (Tally::new(), AtomicBool::new(false), AtomicU64::new(0));
    w.port.at_once(2, &|me| {
        tally.note_stop(w.within(&mm, || {
            if me == 1 {
                let mut value = 0;
                while !stop.load(Relaxed) {
                    value += u64::from(w.port.store(&mm, va, value));
                    tries.fetch_add(1, Relaxed);
                    M::relax();
                }
                return Ok(());
            }
            let result = (0..ROUNDS).try_for_each(|_| {
                w.store(&mm, va, 0)?;
                // The neighbour has to be at it, or there is nothing to see.
                let began = w.machine().now_ns();
                while w.load(&mm, va)? == 0 && w.machine().now_ns() - began < WAITS_NS {
                    M::relax();
                }
                mm.mprotect(range(va, 1), Prot::READ)?;
                let before = w.load(&mm, va)?;
                pause(w.machine(), UNDER_WAY_NS);
                // Nor is there if it has not tried since: the second try began after the load.
                let (tried, began) = (tries.load(Relaxed), w.machine().now_ns());
                while tries.load(Relaxed) < tried + 2 && w.machine().now_ns() - began < WAITS_NS {
                    M::relax();
                }
                equal("a word that nobody may store to any more", w.load(&mm, va)?, before)?;
                mm.mprotect(range(va, 1), Prot::READ | Prot::WRITE)?;
                Ok(())
            });
            stop.store(true, Relaxed);
            result
        }));
        stop.store(true, Relaxed);
    });
    Ok(tally.result()?)
}

/// All CPUs flush each other at once.
pub(super) fn at_each_other<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    let tasks = w.several()?;
    let (mm, start) = w.space(tasks as u64)?;
    let (tally, step) = (Tally::new(), Step::new());
    w.port.at_once(tasks, &|me| {
        let va = page(start, me as u64);
        tally.note_stop(w.within(&mm, || {
            step.meet::<M>(tasks, 1);
            let result = (0..ROUNDS).try_for_each(|n| {
                w.store(&mm, va, n)?;
                mm.mprotect(range(va, 1), Prot::READ)?;
                holds("a store is refused after mprotect", !w.port.store(&mm, va, 99))?;
                equal("the word after mprotect", w.load(&mm, va)?, n)?;
                mm.mprotect(range(va, 1), Prot::READ | Prot::WRITE)?;
                Ok(())
            });
            step.meet::<M>(tasks, 2);
            result
        }));
    });
    Ok(tally.result()?)
}

/// A page gets writable behind a CPU's back, which needs no flush: the CPU traps, and `flush_local` is all
/// that is done.
pub(super) fn spurious<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    let tasks = w.several()?;
    let (mm, va) = w.space(1)?;
    let (tally, step) = (Tally::new(), Step::new());
    w.port.at_once(tasks, &|me| {
        tally.note_stop(w.within(&mm, || {
            let mut result = if me == 0 { w.store(&mm, va, 7) } else { Ok(()) };
            step.meet::<M>(tasks, 1);
            if me == 0 {
                result = result.and(mm.mprotect(range(va, 1), Prot::READ).map_err(Stop::from));
            }
            step.meet::<M>(tasks, 2);
            let cached = w.load(&mm, va);
            step.meet::<M>(tasks, 3);
            if me == 0 {
                let writable = mm.mprotect(range(va, 1), Prot::READ | Prot::WRITE);
                result = result.and(writable.map_err(Stop::from)).and(w.store(&mm, va, 8));
            }
            step.meet::<M>(tasks, 4);
            let seen = cached.and_then(|_| w.store(&mm, va, 9)).and_then(|()| w.load(&mm, va));
            result.and(seen.and_then(|seen| Ok(equal("what was stored after all", seen, 9)?)))
        }));
    });
    Ok(tally.result()?)
}

pub(super) fn ends<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    for _ in 0..FEW {
        let (mm, va) = w.space(FEW)?;
        let mut ran = 0;
        w.port.within(&mm, &mut || ran += 1);
        w.within(&mm, || w.store(&mm, va, 1))?;
        equal("how often `within` ran its program", ran, 1)?;
        // Panics in the memory manager if this CPU is still active in the address space.
        drop(mm);
    }
    w.vm.drain();
    w.vm.validate().map_err(|_| Broken { what: "Vm::validate is content", expected: 1, found: 0 })?;
    Ok(equal("pages that nobody has any more", w.vm.stats().user, 0)?)
}
