//! Devices that write through pins; fills, moves and protection by userfaultfd.

use super::{
    Oracle, Verdict, expect,
    page::{Kind, Page, Pinned, Residency, Said},
    space::numbers,
};
use crate::ops::{At, Outcome, errno, pattern};
use anonmem_hal::{PAGE_SHIFT, PAGE_SIZE};
use std::sync::{Arc, atomic::Ordering::Relaxed};

const P: u64 = PAGE_SIZE as u64;

fn reason(has_reason: bool, what: &str, error: i32) -> Verdict {
    if has_reason { Ok(()) } else { Err(format!("{what} with {error}, and there is no reason for it")) }
}

impl Oracle {
    fn page(&self, space: usize, number: u64) -> Option<&Page> {
        self.spaces[space].as_ref().expect("checked").pages.get(&number)
    }

    pub(super) fn page_mut(&mut self, space: usize, number: u64) -> &mut Page {
        self.spaces[space].as_mut().expect("checked").pages.get_mut(&number).expect("checked")
    }

    /// Whether a device may write to all of a range. Nothing grows a stack for it.
    fn device_may_write(&self, at: At) -> bool {
        at.addr.checked_add(at.len).is_some()
            && numbers(at.addr, at.len).all(|number| {
                self.page(at.space, number).is_some_and(|page| {
                    let there = page.contents.is_written() || self.fresh(number, page).is_some();
                    page.attrs.rights.write() && !page.guard && there
                })
            })
    }

    /// A range is pinned, or nothing of it is.
    fn pinned(&mut self, at: At, outcome: &Outcome) -> Result<bool, String> {
        let may = self.device_may_write(at);
        if at.len == 0 && outcome == &Outcome::Errno(errno::EFAULT) {
            return Ok(false);
        }
        let wanted = if may { Outcome::Done } else { Outcome::Errno(errno::EFAULT) };
        expect(outcome, &wanted)?;
        if may {
            for number in numbers(at.addr, at.len) {
                let page = self.page_mut(at.space, number);
                page.resident = Residency::Yes;
                page.soft_dirty.page = Said::Yes;
            }
        } else {
            // Faults came before the page that there is not.
            self.forget_residency(at);
        }
        Ok(may)
    }

    fn forget_residency(&mut self, at: At) {
        let space = self.spaces[at.space].as_mut().expect("checked");
        for (_, page) in space.pages.range_mut(numbers(at.addr, at.len)) {
            page.resident = Residency::Maybe;
            page.soft_dirty.page.or_maybe();
        }
    }

    /// A device writes.
    pub(super) fn device_write(&mut self, at: At, tag: u32, outcome: &Outcome) -> Verdict {
        if self.pinned(at, outcome)? {
            self.store(at.space, at.addr, &pattern(tag, at.len as usize));
            self.successes.device_wrote.fetch_add(numbers(at.addr, at.len).count() as u64, Relaxed);
        }
        Ok(())
    }

    /// A range is pinned until [`release`](Self::release): private pages stay the pages that they are.
    pub(super) fn hold(&mut self, at: At, hold: usize, outcome: &Outcome) -> Verdict {
        if *outcome == Outcome::Skipped || !self.pinned(at, outcome)? {
            return Ok(());
        }
        self.held[hold] = true;
        for (page, number) in numbers(at.addr, at.len).enumerate() {
            let model = self.page_mut(at.space, number);
            if model.attrs.kind == Kind::Private {
                let before = model.pinned.replace(Pinned { hold, page });
                self.held_twice |= before.is_some();
                self.successes.held.fetch_add(1, Relaxed);
            }
        }
        Ok(())
    }

    /// The pins of a hold are dropped.
    pub(super) fn release(&mut self, hold: usize, outcome: &Outcome) -> Verdict {
        for page in self.spaces.iter_mut().flatten().flat_map(|space| space.pages.values_mut()) {
            page.pinned = page.pinned.filter(|pinned| pinned.hold != hold);
        }
        self.held[hold] = false;
        self.held_twice &= self.held.contains(&true);
        expect(outcome, &Outcome::Done)
    }

    /// Whether an outcome that says how far an operation came makes sense; how many pages that is.
    fn came_to(at: At, outcome: &Outcome) -> Result<u64, String> {
        match *outcome {
            // The range cannot be watched so.
            Outcome::Errno(error) if error != 0 => Ok(0),
            Outcome::Progress(bytes, 0) if bytes == at.len => Ok(bytes / P),
            Outcome::Progress(bytes, error) if error != 0 && bytes < at.len && bytes.is_multiple_of(P) => {
                Ok(bytes / P)
            }
            ref other => Err(format!("no way to come to {other:?}")),
        }
    }

    /// The error of a range that cannot be watched has a reason in the range.
    fn refusal(&self, at: At, error: i32) -> Verdict {
        let watchable = |number| {
            self.page(at.space, number).is_some_and(|page| match page.attrs.kind {
                Kind::Private | Kind::Shared { .. } => true,
                Kind::Source { .. } => false,
            })
        };
        let of_pages = at.addr.is_multiple_of(P) && at.len.is_multiple_of(P);
        let is_range = at.len > 0 && of_pages && at.addr.checked_add(at.len).is_some();
        let has_reason = match error {
            errno::ENOMEM => true,
            errno::EINVAL => !is_range || !numbers(at.addr, at.len).all(watchable),
            _ => false,
        };
        reason(has_reason, "a range is not watched", error)
    }

    /// Whether something may be in the way of a page that comes from elsewhere. A touch may have brought a
    /// large folio, and others may have touched a page of an object.
    fn is_taken(&self, space: usize, number: u64) -> bool {
        self.page(space, number).is_none_or(|page| {
            // Others may have touched a page of an object.
            let shared = page.attrs.kind.object_page(number).is_some();
            let absent = page.resident == Residency::No && !self.limits.folios;
            shared || page.guard || page.contents.is_written() || !absent
        })
    }

    /// The error at which a move ends has a reason in the page that it came to.
    fn stopped_move(&self, at: At, to: u64, pages: u64, error: i32) -> Verdict {
        let (from, into) = ((at.addr >> PAGE_SHIFT) + pages, (to >> PAGE_SHIFT) + pages);
        let (source, target) = (self.page(at.space, from), self.page(at.space, into));
        // A mapping may end where the model sees no end.
        let in_pieces = at.len > P;
        let apart = || match (source, target) {
            (Some(a), Some(b)) => {
                let (a, b) = (a.attrs, b.attrs);
                let plain = a.kind == Kind::Private && b.kind == Kind::Private;
                !plain || a.rights != b.rights || a.locked != b.locked || !a.rights.write()
            }
            _ => true,
        };
        let overlap = at.addr.abs_diff(to) < at.len;
        let of_pages = at.addr.is_multiple_of(P) && to.is_multiple_of(P);
        let has_reason = match error {
            errno::ENOMEM => true,
            errno::EINVAL => pages == 0 && (!of_pages || in_pieces || overlap || apart()),
            errno::ENOENT => source.is_none() || target.is_none(),
            errno::EEXIST => self.is_taken(at.space, into),
            errno::EBUSY => self.is_taken(at.space, from),
            errno::EFAULT => source.is_some_and(|page| page.guard),
            _ => false,
        };
        reason(has_reason, "a move stops", error)
    }

    /// The error at which a fill ends has a reason in the page that it came to.
    fn stopped_fill(&self, at: At, pages: u64, error: i32) -> Verdict {
        let number = (at.addr >> PAGE_SHIFT) + pages;
        let beyond = || match self.page(at.space, number).map(|page| page.attrs.kind) {
            Some(kind @ Kind::Shared { .. }) => {
                kind.object_page(number).is_none_or(|(object, index)| index >= self.objects[object].pages)
            }
            Some(Kind::Private | Kind::Source { .. }) => false,
            None => true,
        };
        let has_reason = match error {
            errno::ENOMEM => true,
            // Shared pages beyond the end of their object.
            errno::EFAULT => beyond(),
            errno::ENOENT => pages == 0 && (at.len > P || self.page(at.space, number).is_none()),
            errno::EEXIST => self.is_taken(at.space, number),
            _ => false,
        };
        reason(has_reason, "a fill stops", error)
    }

    /// Pages go from one range to another.
    pub(super) fn uffd_move(&mut self, at: At, to: u64, outcome: &Outcome) -> Verdict {
        let pages = Self::came_to(at, outcome)?;
        match *outcome {
            Outcome::Errno(error) => self.refusal(At { addr: to, ..at }, error)?,
            Outcome::Progress(_, error) if error != 0 => self.stopped_move(at, to, pages, error)?,
            _ => {}
        }
        for nth in 0..pages {
            let (from, into) = ((at.addr >> PAGE_SHIFT) + nth, (to >> PAGE_SHIFT) + nth);
            self.move_page(at.space, from, into)
                .map_err(|why| format!("page {from:#x} moves to {into:#x}: {why}"))?;
        }
        if pages > 0 || matches!(outcome, Outcome::Progress(..)) {
            // The zero page may have gone along, or tables been made.
            self.forget_residency(at);
            self.forget_residency(At { addr: to, ..at });
        }
        Ok(())
    }

    fn move_page(&mut self, space: usize, from: u64, to: u64) -> Verdict {
        let (Some(source), Some(target)) = (self.page(space, from), self.page(space, to)) else {
            return Err("one of them is not mapped".into());
        };
        let (a, b) = (source.attrs, target.attrs);
        let plain = a.kind == Kind::Private && b.kind == Kind::Private;
        if !plain || a.rights != b.rights || a.locked != b.locked || !a.rights.write() {
            return Err("their mappings do not go together".into());
        }
        if target.contents.is_written() || target.guard || source.guard {
            return Err("there is something in the way".into());
        }
        if source.pinned.is_some() {
            return Err("it is pinned".into());
        }
        let contents = source.contents.clone();
        let arrives = contents.is_written() && !contents.lazy;
        self.successes.moved.fetch_add(u64::from(contents.is_written()), Relaxed);
        self.page_mut(space, from).discard();
        let target = self.page_mut(space, to);
        target.contents = contents;
        target.pinned = None;
        target.soft_dirty.page = if arrives { Said::Yes } else { Said::Maybe };
        Ok(())
    }

    /// Pages that are missing are filled with copies.
    pub(super) fn uffd_fill(&mut self, at: At, tag: u32, outcome: &Outcome) -> Verdict {
        let pages = Self::came_to(at, outcome)?;
        match *outcome {
            Outcome::Errno(error) => self.refusal(at, error)?,
            Outcome::Progress(_, error) if error != 0 => self.stopped_fill(at, pages, error)?,
            _ => {}
        }
        let bytes: [u8; PAGE_SIZE] = pattern(tag, PAGE_SIZE).try_into().expect("a page");
        let first = at.addr >> PAGE_SHIFT;
        for number in first..first + pages {
            let Some(page) = self.page(at.space, number) else {
                return Err(format!("page {number:#x} is filled and not mapped"));
            };
            let object = page.attrs.kind.object_page(number);
            let written = match object {
                Some((object, index)) => self.objects[object].written.contains_key(&index),
                None => page.contents.is_written() || matches!(page.attrs.kind, Kind::Source { .. }),
            };
            if written || page.guard {
                return Err(format!("page {number:#x} is filled over something"));
            }
            self.successes.filled.fetch_add(1, Relaxed);
            match object {
                Some((object, index)) => _ = self.objects[object].written.insert(index, Arc::new(bytes)),
                None => self.store(at.space, number << PAGE_SHIFT, &bytes),
            }
            self.page_mut(at.space, number).soft_dirty.page = Said::Yes;
        }
        if matches!(outcome, Outcome::Progress(..)) {
            self.forget_residency(at);
        }
        Ok(())
    }

    /// A range is protected, and written to in its middle.
    pub(super) fn uffd_protect(&mut self, at: At, tag: u32, outcome: &Outcome) -> Verdict {
        match outcome {
            Outcome::Errno(error) => {
                self.refusal(at, *error)?;
                self.forget_residency(at);
            }
            _ => {
                self.write(at.middle(), tag, outcome)?;
                self.successes.protected.fetch_add(u64::from(*outcome == Outcome::Done), Relaxed);
                self.forget_residency(at);
            }
        }
        Ok(())
    }
}
