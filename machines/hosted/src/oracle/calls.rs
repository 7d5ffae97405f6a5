//! The system calls of the model, except `mremap`.

use super::{
    Object, Oracle, Verdict,
    access::{Need, STACK_GUARD_GAP},
    expect,
    page::{Attrs, Kind, Page, Residency, Said},
    space::{Space, aligned, numbers, page_up},
};
use crate::ops::{Advise, At, Backing, Outcome, Place, Rights, Signal, errno};
use anonmem_hal::{PAGE_SHIFT, PAGE_SIZE};
use std::ops::Range;

/// `Ok` with the page numbers, or the error that the call returns before it looks at the pages.
type Checked = Result<Range<u64>, Outcome>;

pub(super) const EINVAL: Outcome = Outcome::Errno(errno::EINVAL);
pub(super) const ENOMEM: Outcome = Outcome::Errno(errno::ENOMEM);
pub(super) const EFAULT: Outcome = Outcome::Errno(errno::EFAULT);

impl Oracle {
    pub(super) fn space_mut(&mut self, space: usize) -> &mut Space {
        self.spaces[space].as_mut().expect("the caller has checked that it exists")
    }

    pub(super) fn mmap(
        &mut self,
        at: At,
        place: Place,
        rights: Rights,
        backing: Backing,
        outcome: &Outcome,
    ) -> Verdict {
        let len = match self.mmap_len(at, place) {
            Ok(len) => len,
            Err(error) => return expect(outcome, &error),
        };
        let Outcome::Address(addr) = *outcome else {
            return Err(format!("expected an address, got {outcome:?}"));
        };
        self.check_new_place(at.space, addr, len, place)?;
        let attrs = self.new_attrs(rights, backing, len);
        self.space_mut(at.space).map(numbers(addr, len), attrs);
        Ok(())
    }

    fn mmap_len(&self, at: At, place: Place) -> Result<u64, Outcome> {
        if at.len == 0 {
            return Err(EINVAL);
        }
        let len = page_up(at.len).filter(|&len| len <= self.limits.user_end).ok_or(ENOMEM)?;
        if let Place::Fixed(addr) | Place::NoReplace(addr) = place {
            if addr > self.limits.user_end - len {
                return Err(ENOMEM);
            }
            if !aligned(addr) {
                return Err(EINVAL);
            }
            if addr < self.limits.min_addr {
                return Err(Outcome::Errno(errno::EPERM));
            }
            let taken = !self.spaces[at.space].as_ref().expect("checked").is_free(numbers(addr, len));
            if matches!(place, Place::NoReplace(_)) && taken {
                return Err(Outcome::Errno(errno::EEXIST));
            }
        }
        Ok(len)
    }

    /// Whether the kernel may have put a new mapping there.
    pub(super) fn check_new_place(&self, space: usize, addr: u64, len: u64, place: Place) -> Verdict {
        let space = self.spaces[space].as_ref().expect("checked");
        let wanted = match place {
            Place::Fixed(wanted) | Place::NoReplace(wanted) => Some(wanted),
            Place::Hint(hint) => self.usable_hint(space, hint, len),
            Place::Anywhere => None,
        };
        if let Some(wanted) = wanted {
            return if addr == wanted {
                Ok(())
            } else {
                Err(format!("mapped at {addr:#x}, not {wanted:#x}"))
            };
        }
        let in_range = addr >= self.limits.min_addr && addr <= self.limits.user_end - len;
        if aligned(addr) && in_range && space.is_free(numbers(addr, len)) {
            return Ok(());
        }
        Err(format!("the address {addr:#x} was not to be had"))
    }

    /// The address that a hint leads to, unless it is taken or near a stack, which keeps others away.
    fn usable_hint(&self, space: &Space, hint: u64, len: u64) -> Option<u64> {
        let hint = Some(hint & !(PAGE_SIZE as u64 - 1)).filter(|&hint| hint != 0)?.max(self.limits.min_addr);
        let end = hint.checked_add(len).filter(|&end| end <= self.limits.user_end)?;
        let near_stack =
            space.pages.range(end >> PAGE_SHIFT..).next().is_some_and(|(_, p)| p.attrs.grows_down);
        (!near_stack && space.is_free(numbers(hint, len))).then_some(hint)
    }

    fn new_attrs(&mut self, rights: Rights, backing: Backing, len: u64) -> Attrs {
        let kind = match backing {
            Backing::Private | Backing::NoReserve | Backing::Stack => Kind::Private,
            Backing::Source(first) => Kind::Source { first: first as i64 },
            Backing::Shared => {
                self.objects.push(Object { pages: len >> PAGE_SHIFT, ..Object::default() });
                Kind::Shared { object: self.objects.len() - 1, first: 0 }
            }
        };
        Attrs {
            no_reserve: backing == Backing::NoReserve,
            grows_down: backing == Backing::Stack,
            ..Attrs::new(rights, kind)
        }
    }

    pub(super) fn munmap(&mut self, at: At, outcome: &Outcome) -> Verdict {
        let end = page_up(at.len).and_then(|len| at.addr.checked_add(len));
        if !aligned(at.addr) || at.len == 0 || end.is_none_or(|end| end > self.limits.user_end) {
            return expect(outcome, &EINVAL);
        }
        self.space_mut(at.space).clear(numbers(at.addr, at.len));
        expect(outcome, &Outcome::Done)
    }

    /// Applies `change` from the start of the range to the first hole, and says whether there was one.
    fn change_mapped(&mut self, at: At, range: Range<u64>, mut change: impl FnMut(&mut Page)) -> Outcome {
        let space = self.space_mut(at.space);
        let until = space.mapped_until(range.clone());
        space.pages.range_mut(range.start..until).for_each(|(_, page)| change(page));
        if until < range.end { ENOMEM } else { Outcome::Done }
    }

    pub(super) fn mprotect(&mut self, at: At, rights: Rights, outcome: &Outcome) -> Verdict {
        let wanted = match checked(at, ENOMEM) {
            Ok(range) => self.change_mapped(at, range, |page| {
                page.attrs.rights = rights;
                if page.attrs.locked {
                    page.soft_dirty.page.or_maybe();
                }
                if page.attrs.locked && page.resident == Residency::No {
                    // Locked pages that become writable are faulted in.
                    page.resident = Residency::Maybe;
                }
            }),
            Err(early) => early,
        };
        expect(outcome, &wanted)
    }

    pub(super) fn mlock(&mut self, at: At, locked: bool, outcome: &Outcome) -> Verdict {
        let start = at.addr & !(PAGE_SIZE as u64 - 1);
        // A length that wraps around when it is rounded up is one of no pages; a range that wraps is an
        // error.
        let len = page_up(at.len.wrapping_add(at.addr - start)).unwrap_or(0);
        let Some(end) = start.checked_add(len) else { return expect(outcome, &EINVAL) };
        let range = start >> PAGE_SHIFT..end >> PAGE_SHIFT;
        let mut wanted = self.change_mapped(at, range.clone(), |page| page.attrs.locked = locked);
        if locked && wanted == Outcome::Done && self.populate_locked(at.space, range).is_err() {
            wanted = ENOMEM;
        }
        expect(outcome, &wanted)
    }

    /// Faults in locked pages, for writing where that is allowed, as `mlock` does.
    fn populate_locked(&mut self, space: usize, range: Range<u64>) -> Result<(), Signal> {
        for number in range {
            let rights = self.space_mut(space)[number].attrs.rights;
            let need = if rights.write() { Need::Store } else { Need::Load };
            self.touch(space, number << PAGE_SHIFT, need)?;
        }
        Ok(())
    }

    pub(super) fn mincore(&mut self, at: At, outcome: &Outcome) -> Verdict {
        if !aligned(at.addr) {
            return expect(outcome, &EINVAL);
        }
        if at.addr.checked_add(at.len).is_none_or(|end| end > self.limits.user_end) {
            return expect(outcome, &ENOMEM);
        }
        let (range, swap, folios) = (numbers(at.addr, at.len), self.limits.swap, self.limits.folios);
        let space = self.space_mut(at.space);
        if space.mapped_until(range.clone()) < range.end {
            return expect(outcome, &ENOMEM);
        }
        let Outcome::Resident(found) = outcome else {
            return Err(format!("expected residency, got {outcome:?}"));
        };
        for (number, found) in range.clone().zip(found) {
            let page = &space[number];
            let private = page.attrs.kind == Kind::Private && !page.contents.lazy;
            // With large folios, a page of zeroes that nobody has touched since the fault that brought its
            // folio is given back when memory is short: one that was read, or that KSM had merged into the
            // zero page.
            let zeroes = page.contents.candidates.iter().any(|bytes| match bytes {
                Some(bytes) => bytes.iter().all(|byte| *byte == 0),
                None => true,
            });
            // What is locked or pinned stays.
            let given_back = folios && zeroes && !page.attrs.locked && page.pinned.is_none();
            let wrong = match page.resident {
                Residency::Yes => !(*found || swap || given_back),
                Residency::No => *found && !folios,
                Residency::Maybe => false,
            };
            if private && wrong {
                return Err(format!("page {number:#x}: resident is {found}, should be {:?}", page.resident));
            }
        }
        let n = (range.end - range.start) as usize;
        if found.len() == n { Ok(()) } else { Err(format!("{} answers for {n} pages", found.len())) }
    }

    pub(super) fn brk(&mut self, at: At, outcome: &Outcome) -> Verdict {
        let user_end = self.limits.user_end;
        let space = self.space_mut(at.space);
        let target = space.heap_start.saturating_add(at.len);
        let (old_end, new_end) = (page_up(space.heap_end), page_up(target));
        let (Some(old_end), Some(new_end)) = (old_end, new_end.filter(|&end| end <= user_end)) else {
            return expect(outcome, &Outcome::Address(space.heap_end));
        };
        if new_end > old_end {
            // One page more stays free, so that the heap does not run into its neighbour.
            let grown = numbers(old_end, new_end - old_end);
            let next = space.pages.range(grown.end..).next();
            let near = next.is_some_and(|(&n, page)| {
                let gap = if page.attrs.grows_down { STACK_GUARD_GAP } else { 0 };
                n.saturating_sub(gap) < grown.end + 1
            });
            if near || !space.is_free(grown.clone()) {
                return expect(outcome, &Outcome::Address(space.heap_end));
            }
            space.map(grown, Attrs::new(Rights::RW, Kind::Private));
        } else if new_end < old_end {
            // What was unmapped by hand is not the heap's to give back.
            let rest = numbers(new_end, old_end - new_end);
            if target < space.heap_start || space.is_free(rest.clone()) {
                return expect(outcome, &Outcome::Address(space.heap_end));
            }
            space.clear(rest);
        }
        space.heap_end = target;
        expect(outcome, &Outcome::Address(target))
    }

    pub(super) fn madvise(&mut self, at: At, advice: Advise, outcome: &Outcome) -> Verdict {
        let wanted = match checked(at, EINVAL) {
            Err(early) => early,
            Ok(range) => match advice {
                Advise::PopulateRead => self.populate(at.space, range, Need::Load),
                Advise::PopulateWrite => self.populate(at.space, range, Need::Store),
                _ => self.advise_each(at.space, range, advice),
            },
        };
        expect(outcome, &wanted)
    }

    /// Holes are skipped and reported at the end; an error ends the walk.
    fn advise_each(&mut self, space: usize, range: Range<u64>, advice: Advise) -> Outcome {
        if advice == Advise::PageOut {
            // An object's pages leave for all who map them, or are at least unmapped.
            for page in self.spaces.iter_mut().flatten().flat_map(|space| space.pages.values_mut()) {
                if matches!(page.attrs.kind, Kind::Shared { .. }) {
                    page.soft_dirty.page.unless();
                }
            }
        }
        let space = self.space_mut(space);
        let hole = space.mapped_until(range.clone()) < range.end;
        for (_, page) in space.pages.range_mut(range) {
            if !advise(page, advice) {
                return EINVAL;
            }
        }
        if hole { ENOMEM } else { Outcome::Done }
    }

    fn populate(&mut self, space: usize, range: Range<u64>, need: Need) -> Outcome {
        for number in range {
            let Some(page) = self.space_mut(space).pages.get(&number) else { return ENOMEM };
            let rights = page.attrs.rights;
            let allowed = if need == Need::Store { rights.write() } else { rights.any() };
            if !allowed {
                return EINVAL;
            }
            if self.touch(space, number << PAGE_SHIFT, need).is_err() {
                return EFAULT;
            }
            if need == Need::Store {
                self.page_mut(space, number).soft_dirty.page = Said::Yes;
            }
        }
        Outcome::Done
    }
}

/// Gives one page a piece of advice; false if that is not possible.
fn advise(page: &mut Page, advice: Advise) -> bool {
    let private = page.attrs.kind == Kind::Private;
    match advice {
        Advise::DontNeed | Advise::Free if page.attrs.locked => return false,
        Advise::DontNeed => page.discard(),
        Advise::Free if !private => return false,
        Advise::Free => {
            page.contents.free_lazily();
            page.soft_dirty.page.unless();
        }
        Advise::DontFork => page.attrs.dont_fork = true,
        Advise::DoFork => page.attrs.dont_fork = false,
        Advise::WipeOnFork if !private => return false,
        Advise::WipeOnFork => page.attrs.wipe_on_fork = true,
        Advise::KeepOnFork => page.attrs.wipe_on_fork = false,
        Advise::Cold | Advise::PageOut if page.attrs.locked => return false,
        Advise::Cold | Advise::PageOut => {}
        Advise::GuardInstall if page.attrs.locked => return false,
        Advise::GuardInstall => {
            page.discard();
            page.guard = true;
        }
        Advise::GuardRemove => page.guard = false,
        Advise::PopulateRead | Advise::PopulateWrite => unreachable!("not advice on single pages"),
    }
    true
}

/// The checks that `mprotect` and `madvise` share: alignment, then emptiness, then overflow.
fn checked(at: At, overflow: Outcome) -> Checked {
    if !aligned(at.addr) {
        return Err(EINVAL);
    }
    if at.len == 0 {
        return Err(Outcome::Done);
    }
    let Some(len) = page_up(at.len) else { return Err(overflow) };
    if at.addr.checked_add(len).is_none() {
        return Err(overflow);
    }
    Ok(numbers(at.addr, len))
}
