//! The promises of `SwapIo` and `Sources`, and that a store sets the dirty bit.

use super::{Broken, Checked, P, Stop, World, equal, page};
use crate::port::Source;
use anonmem::{Advice, FaultAccess, FaultOutcome, Machine, MapBacking, MmapRequest, Prot, Va};
use anonmem_hal::PAGE_SIZE;

/// Pages that leave and come back.
const PAGES: u64 = 48;

impl<'v, M: Machine> World<'v, '_, M> {
    fn has_swap(&self) -> Checked {
        match self.vm.swap_devices().next() {
            Some(_) => Ok(()),
            None => Err(Stop::NotTried("there is no swap device: Vm::swap_on was not called")),
        }
    }

    /// Sends pages to swap; says how many went.
    fn page_out(&self, mm: &super::Mm<'v, M>, start: Va, pages: u64) -> Result<u64, Stop> {
        mm.madvise(start, pages * P, Advice::PageOut)?;
        Ok((0..pages).filter(|n| mm.pagemap(page(start, *n)).swapped).count() as u64)
    }
}

/// A page that came from swap and has its slot still is dropped when it leaves again, unless a store made it
/// dirty. So is a page that its program gave up (`MADV_FREE`).
pub(super) fn dirty<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    w.has_swap()?;
    let (mm, va) = w.space(1)?;
    let child = w.within(&mm, || w.store(&mm, va, 1)).and_then(|()| Ok(mm.fork()?))?;
    w.within(&mm, || {
        for value in 2..6 {
            w.page_out(&mm, va, 1)?;
            equal("the word that came back", w.load(&mm, va)?, value - 1)?;
            w.store(&mm, va, value)?;
        }
        mm.madvise(va, P, Advice::Free)?;
        w.store(&mm, va, 7)?;
        w.page_out(&mm, va, 1)?;
        Ok(equal("the word that was stored after MADV_FREE", w.load(&mm, va)?, 7)?)
    })?;
    w.within(&child, || Ok(equal("the child's word", w.load(&child, va)?, 1)?))
}

pub(super) fn slots<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    w.has_swap()?;
    let (mm, start) = w.space(PAGES)?;
    let word = |round: u64, n: u64, at: u64| (round * PAGES + n) << 16 | at;
    let places = [0, 8, 2048, 4088];
    w.within(&mm, || {
        for round in 1..4 {
            for n in 0..PAGES {
                let at = |place| Va(page(start, n).0 + place);
                places.iter().try_for_each(|p| w.store(&mm, at(*p), word(round, n, *p)))?;
            }
            let went = w.page_out(&mm, start, PAGES)?;
            if went == 0 {
                return Err(Broken { what: "pages that went to swap", expected: PAGES, found: 0 }.into());
            }
            // Frames that are free now are used by others before the pages come back.
            let (other, elsewhere) = w.space(PAGES)?;
            w.within(&other, || (0..PAGES).try_for_each(|n| w.store(&other, page(elsewhere, n), u64::MAX)))?;
            for n in (0..PAGES).rev() {
                let at = |place| Va(page(start, n).0 + place);
                for p in places {
                    equal("a word that came back from swap", w.load(&mm, at(p))?, word(round, n, p))?;
                }
            }
        }
        Ok(())
    })
}

/// The pages leave before the fork: one that two programs map stays where it is.
pub(super) fn shared_slot<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    w.has_swap()?;
    let (parent, start) = w.space(PAGES)?;
    w.within(&parent, || (0..PAGES).try_for_each(|n| w.store(&parent, page(start, n), n + 1)))?;
    if w.page_out(&parent, start, PAGES)? == 0 {
        return Err(Broken { what: "pages that went to swap", expected: PAGES, found: 0 }.into());
    }
    let child = parent.fork()?;
    w.within(&child, || {
        (0..PAGES).try_for_each(|n| {
            equal("a word of the child", w.load(&child, page(start, n))?, n + 1)?;
            w.store(&child, page(start, n), 99)
        })
    })?;
    w.page_out(&child, start, PAGES)?;
    w.within(&parent, || {
        (0..PAGES)
            .try_for_each(|n| Ok(equal("a word of the parent", w.load(&parent, page(start, n))?, n + 1)?))
    })?;
    drop(parent);
    w.within(&child, || {
        (0..PAGES).try_for_each(|n| Ok(equal("a word of the child", w.load(&child, page(start, n))?, 99)?))
    })
}

impl<M: Machine> World<'_, '_, M> {
    fn source(&self) -> Result<Source, Stop> {
        self.port.source().ok_or(Stop::NotTried("the port names no source"))
    }
}

/// A request for all of a source, and a page more.
fn request(source: Source) -> MmapRequest {
    MmapRequest {
        backing: MapBacking::Source { id: source.id, offset: 0 },
        ..MmapRequest::anonymous((source.len.div_ceil(P) + 1) * P, Prot::READ | Prot::WRITE)
    }
}

pub(super) fn source<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    let source = w.source()?;
    let mm = w.vm.new_mm()?;
    let start = mm.mmap(request(source))?;
    let expected = |at: u64| if at < source.len { (source.byte)(at) } else { 0 };
    w.within(&mm, || {
        for at in (0..source.len.next_multiple_of(P)).step_by(8) {
            let word = u64::from_ne_bytes(core::array::from_fn(|i| expected(at + i as u64)));
            equal("a word of the source, zeroes behind it", w.load(&mm, Va(start.0 + at))?, word)?;
        }
        w.store(&mm, start, !0)?;
        let child = mm.fork()?;
        w.within(&child, || Ok(equal("a word of the copy", w.load(&child, start)?, !0)?))
    })?;
    drop(mm);
    // What one program stored is no other's.
    let again = w.vm.new_mm()?;
    let start = again.mmap(request(source))?;
    let first = u64::from_ne_bytes(core::array::from_fn(|i| expected(i as u64)));
    w.within(&again, || Ok(equal("the first word of the source", w.load(&again, start)?, first)?))
}

pub(super) fn source_end<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    let source = w.source()?;
    let mm = w.vm.new_mm()?;
    let start = mm.mmap(request(source))?;
    let beyond = Va(start.0 + source.len.next_multiple_of(PAGE_SIZE as u64));
    match mm.handle_fault(beyond, FaultAccess::Read) {
        FaultOutcome::Bus => Ok(()),
        FaultOutcome::Done
        | FaultOutcome::Oom
        | FaultOutcome::NodesFull(_)
        | FaultOutcome::SegvMaperr
        | FaultOutcome::SegvAccerr
        | FaultOutcome::Lost => {
            Err(Broken { what: "faults beyond the source that end in a bus error", expected: 1, found: 0 }
                .into())
        }
    }
}
