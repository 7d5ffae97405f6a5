//! `mremap` of the model.

use super::{
    Oracle, Verdict,
    calls::{EFAULT, EINVAL, ENOMEM},
    expect,
    page::{Attrs, Kind, Page, Residency},
    space::{Space, aligned, numbers, page_up},
};
use crate::ops::{At, Outcome, Place, Remap, errno};
use anonmem_hal::PAGE_SHIFT;

/// The arguments, rounded to pages.
#[derive(Clone, Copy)]
struct Request {
    space: usize,
    old: u64,
    old_len: u64,
    new_len: u64,
    how: Remap,
}

impl Request {
    fn fixed(self) -> Option<u64> {
        match self.how {
            Remap::Fixed(to) | Remap::DontUnmapFixed(to) => Some(to),
            Remap::InPlace | Remap::MayMove | Remap::DontUnmap => None,
        }
    }

    fn moves(self) -> bool {
        self.fixed().is_some() || self.keeps_old()
    }

    fn keeps_old(self) -> bool {
        matches!(self.how, Remap::DontUnmap | Remap::DontUnmapFixed(_))
    }
}

impl Oracle {
    pub(super) fn mremap(
        &mut self,
        at: At,
        new_len: u64,
        how: Remap,
        outcome: &Outcome,
        area_end: Option<u64>,
    ) -> Verdict {
        let request = match self.check_request(at, new_len, how) {
            Ok(request) => request,
            Err(error) => return expect(outcome, &error),
        };
        // A range that wraps around may be found to overlap the new one, or to be too long for the area.
        if page_up(at.len).and_then(|len| at.addr.checked_add(len)).is_none() && *outcome == EINVAL {
            return Ok(());
        }
        let Some(area_end) = area_end else { return expect(outcome, &EFAULT) };
        if request.old_len == 0 && !self.is_shared(request) {
            return expect(outcome, &EINVAL);
        }
        if let Some(early) = self.unmappable_tail(request, area_end, outcome) {
            return early;
        }
        if !request.moves() && request.new_len <= request.old_len {
            return self.shrink(request, area_end, outcome);
        }
        if request.old_len.min(request.new_len) > area_end - request.old {
            // A move that does not resize may take several areas along, holes included, since Linux 6.17.
            let all = request.fixed().is_some() && request.new_len == request.old_len;
            let refused = self.limits.is_host && *outcome == EFAULT;
            if !all || refused {
                return expect(outcome, &EFAULT);
            }
            self.relocate(request, outcome)?;
            // Each may have become one with what the next one was to replace.
            self.space_mut(request.space).areas_may_be_new();
            return Ok(());
        }
        if !request.moves() && self.expands_in_place(request, area_end) {
            self.extend(request);
            return expect(outcome, &Outcome::Address(request.old));
        }
        if how == Remap::InPlace {
            return expect(outcome, &ENOMEM);
        }
        self.relocate(request, outcome)
    }

    /// What is said of a tail that cannot be unmapped because it leaves the address space. If what moves is
    /// not of one area, that is said first; Linux may say either.
    fn unmappable_tail(&self, request: Request, area_end: u64, outcome: &Outcome) -> Option<Verdict> {
        let old_end = request.old.checked_add(request.old_len);
        if request.new_len >= request.old_len || old_end.is_some_and(|end| end <= self.limits.user_end) {
            return None;
        }
        let is_split = request.moves() && request.new_len > area_end - request.old;
        let split_first = is_split && (!self.limits.is_host || *outcome == EFAULT);
        Some(expect(outcome, if split_first { &EFAULT } else { &EINVAL }))
    }

    /// Cuts the tail off, in place; of the same length, it changes nothing.
    fn shrink(&mut self, request: Request, area_end: u64, outcome: &Outcome) -> Verdict {
        // The same length over several areas: versions of Linux have answered both ways.
        let crosses = request.old_len > area_end - request.old;
        if self.limits.is_host && crosses && request.new_len == request.old_len && *outcome == EFAULT {
            return Ok(());
        }
        let (keep, tail) = (request.old + request.new_len, request.old_len - request.new_len);
        self.space_mut(request.space).clear(numbers(keep, tail));
        expect(outcome, &Outcome::Address(request.old))
    }

    fn check_request(&self, at: At, new_len: u64, how: Remap) -> Result<Request, Outcome> {
        let user_end = self.limits.user_end;
        let (old_len, new_len) = (page_up(at.len).unwrap_or(0), page_up(new_len).unwrap_or(0));
        let request = Request { space: at.space, old: at.addr, old_len, new_len, how };
        if !aligned(at.addr) || new_len == 0 || new_len > user_end {
            return Err(EINVAL);
        }
        if request.keeps_old() && old_len != new_len {
            return Err(EINVAL);
        }
        // MREMAP_DONTUNMAP alone takes the unset destination, address 0, through the same checks.
        if let Some(to) = request.fixed().or(request.keeps_old().then_some(0)) {
            let overlaps = at.addr < to.wrapping_add(new_len) && to < at.addr.wrapping_add(old_len);
            if !aligned(to) || to > user_end - new_len || overlaps {
                return Err(EINVAL);
            }
        }
        Ok(request)
    }

    fn is_shared(&self, request: Request) -> bool {
        let space = self.spaces[request.space].as_ref().expect("checked");
        matches!(space[request.old >> PAGE_SHIFT].attrs.kind, Kind::Shared { .. })
    }

    fn expands_in_place(&self, request: Request, area_end: u64) -> bool {
        let space = self.spaces[request.space].as_ref().expect("checked");
        let end = request.old + request.new_len;
        request.old + request.old_len == area_end
            && request.old_len > 0
            && end <= self.limits.user_end
            && space.is_free(numbers(area_end, end - area_end))
    }

    fn extend(&mut self, request: Request) {
        let space = self.space_mut(request.space);
        let end = (request.old + request.old_len) >> PAGE_SHIFT;
        let attrs = space[end - 1].attrs;
        fill(space, end, (request.new_len - request.old_len) >> PAGE_SHIFT, attrs);
    }

    fn relocate(&mut self, request: Request, outcome: &Outcome) -> Verdict {
        if request.fixed().is_some_and(|to| to < self.limits.min_addr) {
            return expect(outcome, &Outcome::Errno(errno::EPERM));
        }
        let Outcome::Address(to) = *outcome else {
            return Err(format!("expected an address, got {outcome:?}"));
        };
        let place = request.fixed().map_or(Place::Anywhere, Place::Fixed);
        self.check_new_place(request.space, to, request.new_len, place)?;
        move_pages(self.space_mut(request.space), request, to >> PAGE_SHIFT);
        Ok(())
    }
}

/// Moves the pages of a request so that the first one is `to`, and adds or drops at the end.
fn move_pages(space: &mut Space, request: Request, to: u64) {
    let from = request.old >> PAGE_SHIFT;
    let (old, new) = (request.old_len >> PAGE_SHIFT, request.new_len >> PAGE_SHIFT);
    let first = space[from].attrs;
    if new != old {
        space.clear(to..to + new);
    }
    for i in 0..old.min(new) {
        move_page(space, from + i, to + i, request.keeps_old());
    }
    if !request.keeps_old() {
        space.clear(from..from + old);
    }
    if new > old {
        // The rest continues the last page, or, if there is none, is the first one again.
        let duplicate = Attrs { kind: first.kind.moved(from, to), ..first };
        let attrs = if old == 0 { duplicate } else { space[to + old - 1].attrs };
        fill(space, to + old, new - old, attrs);
    }
}

fn fill(space: &mut Space, first: u64, pages: u64, attrs: Attrs) {
    space.pages.extend((first..first + pages).map(|number| {
        let resident = if attrs.locked { Residency::Maybe } else { Residency::No };
        (number, Page { resident, ..Page::new(attrs) })
    }));
}

/// Moves one page over what was there; a hole leaves the destination as it was.
fn move_page(space: &mut Space, from: u64, to: u64, keep_old: bool) {
    let Some(mut page) = space.pages.get(&from).cloned() else { return };
    page.attrs.kind = page.attrs.kind.moved(from, to);
    if page.attrs.locked {
        page.resident = Residency::Maybe;
    }
    // What has moved is soft-dirty, if anything has.
    page.soft_dirty.page.or_maybe();
    space.pages.insert(to, page);
    if keep_old {
        let old = space.pages.get_mut(&from).expect("was there");
        old.discard();
        old.guard = false;
        old.attrs.locked = false;
    }
}
