//! Loads, stores, instruction fetches; the growth of stacks.

use super::{
    Oracle, Verdict, expect,
    page::{Page, Residency, Said, SoftDirty},
};
use crate::ops::{At, Op, Outcome, Signal, pattern};
use anonmem_hal::{PAGE_SHIFT, PAGE_SIZE};
use std::{iter, sync::Arc};

/// Pages that stay free below a stack (Linux: `stack_guard_gap`).
pub(super) const STACK_GUARD_GAP: u64 = 256;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Load,
    Store,
    Fetch,
}

impl Oracle {
    pub(super) fn read(&mut self, at: At, outcome: &Outcome) -> Verdict {
        if let Err(stopped) = self.touch_all(at, Need::Load) {
            return expect(outcome, &stopped);
        }
        let Outcome::Bytes(bytes) = outcome else {
            return Err(format!("expected {} bytes, got {outcome:?}", at.len));
        };
        if bytes.len() as u64 != at.len {
            return Err(format!("expected {} bytes, got {}", at.len, bytes.len()));
        }
        let mut rest = &bytes[..];
        for (addr, n) in pieces(at) {
            let (here, after) = rest.split_at(n);
            rest = after;
            self.observe(at.space, addr, here)?;
        }
        Ok(())
    }

    pub(super) fn fetch(&mut self, at: At, outcome: &Outcome) -> Verdict {
        let at = At { len: 1, ..at };
        if let Err(stopped) = self.touch_all(at, Need::Fetch) {
            return expect(outcome, &stopped);
        }
        let Outcome::Bytes(bytes) = outcome else { return Err(format!("expected a byte, got {outcome:?}")) };
        self.observe(at.space, at.addr, bytes)
    }

    pub(super) fn write(&mut self, at: At, tag: u32, outcome: &Outcome) -> Verdict {
        let reached = self.touch_all(at, Need::Store);
        let done = match &reached {
            Ok(()) => at.len as usize,
            Err(Outcome::Signal(_, done)) => *done,
            Err(_) => 0,
        };
        let bytes = pattern(tag, at.len as usize);
        self.store(at.space, at.addr, &bytes[..done]);
        expect(outcome, &reached.err().unwrap_or(Outcome::Done))
    }

    /// The states in which an access that ran out of memory may leave the address space: its first part is
    /// done, and the stack may have grown for the rest.
    pub(super) fn stopped_access(mut self, op: &Op, at: At, outcome: &Outcome) -> Vec<Self> {
        let done = if let Outcome::Signal(_, done) = outcome { *done } else { 0 };
        let need = if matches!(op, Op::Write(..)) { Need::Store } else { Need::Load };
        // An access of any kind touches the pages before the one that it stopped at.
        let _ = self.touch_all(At { len: done as u64, ..at }, need);
        if let Op::Write(at, tag) = *op {
            self.store(at.space, at.addr, &pattern(tag, at.len as usize)[..done]);
        }
        let mut grown = self.clone();
        let next = at.addr.saturating_add(done as u64) >> PAGE_SHIFT;
        if grown.grow_stack(at.space, next).is_ok() { vec![self, grown] } else { vec![self] }
    }

    /// Stores bytes to pages that may be written.
    pub(super) fn store(&mut self, space: usize, addr: u64, bytes: &[u8]) {
        let mut rest = bytes;
        for (addr, n) in pieces(At { space, addr, len: bytes.len() as u64 }) {
            let (here, after) = rest.split_at(n);
            rest = after;
            self.store_in_page(space, addr, here);
        }
    }

    fn store_in_page(&mut self, space: usize, addr: u64, bytes: &[u8]) {
        let (number, offset) = (addr >> PAGE_SHIFT, addr as usize % PAGE_SIZE);
        let page = &self.spaces[space].as_ref().expect("checked")[number];
        let fresh = self.fresh(number, page).expect("checked");
        let object = page.attrs.kind.object_page(number);
        self.page_mut(space, number).soft_dirty.page = Said::Yes;
        if let Some((object, index)) = object {
            let page = self.objects[object].written.entry(index).or_insert(fresh);
            Arc::make_mut(page)[offset..offset + bytes.len()].copy_from_slice(bytes);
        } else {
            let space = self.spaces[space].as_mut().expect("checked");
            let page = space.pages.get_mut(&number).expect("checked");
            page.contents.write(&fresh, offset, bytes);
        }
    }

    /// Checks that a load of `bytes` within one page is right.
    fn observe(&mut self, space: usize, addr: u64, bytes: &[u8]) -> Verdict {
        let (number, offset) = (addr >> PAGE_SHIFT, addr as usize % PAGE_SIZE);
        let page = &self.spaces[space].as_ref().expect("checked")[number];
        let fresh = self.fresh(number, page).unwrap_or_else(|| Arc::new([0; PAGE_SIZE]));
        let right = if page.attrs.kind.object_page(number).is_some() {
            fresh[offset..offset + bytes.len()] == *bytes
        } else {
            let space = self.spaces[space].as_mut().expect("checked");
            let page = space.pages.get_mut(&number).expect("checked");
            page.contents.observe(&fresh, offset, bytes)
        };
        if right {
            Ok(())
        } else {
            let page = &self.spaces[space].as_ref().expect("checked")[number];
            let wanted = page.contents.candidates[0].as_ref().unwrap_or(&fresh);
            Err(format!("wrong bytes at {addr:#x}: {}", excerpt(bytes, &wanted[offset..])))
        }
    }

    /// Faults in every page of an access, up to the first that cannot be had.
    fn touch_all(&mut self, at: At, need: Need) -> Result<(), Outcome> {
        let mut done = 0;
        for (addr, n) in pieces(at) {
            self.touch(at.space, addr, need).map_err(|signal| Outcome::Signal(signal, done))?;
            done += n;
        }
        Ok(())
    }

    /// Faults in the page at `addr`.
    pub(super) fn touch(&mut self, space: usize, addr: u64, need: Need) -> Result<(), Signal> {
        let number = addr >> PAGE_SHIFT;
        self.grow_stack(space, number)?;
        let page = &self.spaces[space].as_ref().expect("checked")[number];
        let rights = page.attrs.rights;
        let allowed = match need {
            Need::Load => rights.any(),
            Need::Store => rights.write(),
            Need::Fetch => rights.exec(),
        };
        if !allowed {
            return Err(Signal::Denied);
        }
        if page.guard {
            return Err(Signal::Unmapped);
        }
        if !page.contents.is_written() && self.fresh(number, page).is_none() {
            return Err(Signal::Bus);
        }
        let page = self.page_mut(space, number);
        page.resident = Residency::Yes;
        if need == Need::Store {
            page.soft_dirty.page.or_maybe();
        }
        Ok(())
    }

    /// Extends the stack above page `number` down to it, if it is one and may grow so far.
    fn grow_stack(&mut self, space: usize, number: u64) -> Result<(), Signal> {
        let limits = self.limits;
        let space = self.spaces[space].as_mut().expect("checked");
        if space.pages.contains_key(&number) {
            return Ok(());
        }
        let above = space.pages.range(number..).next();
        let Some((&bottom, stack)) = above.filter(|(_, page)| page.attrs.grows_down) else {
            return Err(Signal::Unmapped);
        };
        let (attrs, soft_dirty) = (stack.attrs, SoftDirty { page: Said::No, ..stack.soft_dirty });
        let end = iter::successors(Some(bottom), |n| Some(n + 1))
            .find(|n| space.pages.get(n).is_none_or(|p| p.attrs != attrs))
            .expect("ends somewhere");
        let below = space.pages.range(..number).next_back();
        let too_close = below.is_some_and(|(&n, p)| {
            !p.attrs.grows_down && p.attrs.rights.any() && number - (n + 1) < STACK_GUARD_GAP
        });
        let too_long = (end - number) << PAGE_SHIFT > limits.stack;
        if too_close || too_long || number << PAGE_SHIFT < limits.min_addr {
            return Err(Signal::Unmapped);
        }
        space.pages.extend((number..bottom).map(|n| (n, Page { soft_dirty, ..Page::new(attrs) })));
        Ok(())
    }
}

/// The parts of an access that lie in one page each: address and length.
pub(super) fn pieces(at: At) -> impl Iterator<Item = (u64, usize)> {
    let mut done = 0;
    iter::from_fn(move || {
        (done < at.len).then(|| {
            let addr = at.addr.wrapping_add(done);
            let n = (PAGE_SIZE as u64 - addr % PAGE_SIZE as u64).min(at.len - done);
            done += n;
            (addr, n as usize)
        })
    })
}

fn excerpt(found: &[u8], wanted: &[u8]) -> String {
    let i = found.iter().zip(wanted).position(|(f, w)| f != w).unwrap_or(0);
    let end = found.len().min(i + 8);
    format!("found {:02x?} at +{i:#x}, expected {:02x?}", &found[i..end], &wanted[i..end])
}
