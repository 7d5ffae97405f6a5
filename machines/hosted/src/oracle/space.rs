//! One address space of the model: a map of pages.

use super::{
    Verdict,
    page::{Attrs, Kind, Page, Residency, Said},
};
use anonmem_hal::{PAGE_SHIFT, PAGE_SIZE};
use std::{collections::BTreeMap, ops::Range};

/// A run of pages with equal attributes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Area {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// What all of its pages have.
    pub attrs: Attrs,
}

impl Area {
    /// Whether `addr` lies in it.
    pub fn contains(&self, addr: u64) -> bool {
        self.start <= addr && addr < self.end
    }
}

/// Compares the areas of a real address space with the model's, both ascending.
///
/// Neighbours that could be one count as one, and shared objects are not told apart: a real system need
/// not merge all it could, and does not number its objects as the model does.
///
/// # Errors
/// What is only on one side.
pub fn compare_areas(found: &[Area], wanted: &[Area]) -> Verdict {
    let (found, wanted) = (merged(found), merged(wanted));
    if found == wanted {
        return Ok(());
    }
    let only = |a: &[Area], b: &[Area]| a.iter().filter(|x| !b.contains(x)).copied().collect::<Vec<_>>();
    Err(format!("areas differ: expected {:x?}, got {:x?}", only(&wanted, &found), only(&found, &wanted)))
}

fn merged(areas: &[Area]) -> Vec<Area> {
    let mut merged: Vec<Area> = Vec::new();
    for &area in areas {
        let kind = match area.attrs.kind {
            Kind::Shared { first, .. } => Kind::Shared { object: 0, first },
            other => other,
        };
        let area = Area { attrs: Attrs { kind, ..area.attrs }, ..area };
        match merged.last_mut() {
            Some(last) if last.end == area.start && last.attrs == area.attrs => last.end = area.end,
            _ => merged.push(area),
        }
    }
    merged
}

/// An address space.
#[derive(Clone)]
pub struct Space {
    /// Its pages by number.
    pub pages: BTreeMap<u64, Page>,
    /// Where the heap starts, in bytes.
    pub heap_start: u64,
    /// Where it ends.
    pub heap_end: u64,
}

/// The numbers of the pages that hold bytes `addr .. addr + len`, saturating at the end of the address space.
pub fn numbers(addr: u64, len: u64) -> Range<u64> {
    let end = addr.saturating_add(len);
    let up = end >> PAGE_SHIFT << PAGE_SHIFT != end;
    addr >> PAGE_SHIFT..(end >> PAGE_SHIFT) + u64::from(up)
}

/// `len` rounded up to pages; `None` on overflow.
pub fn page_up(len: u64) -> Option<u64> {
    len.checked_next_multiple_of(PAGE_SIZE as u64)
}

/// Whether `addr` starts a page.
pub fn aligned(addr: u64) -> bool {
    addr.is_multiple_of(PAGE_SIZE as u64)
}

impl Space {
    /// An empty address space.
    pub fn new(heap_start: u64) -> Self {
        Self { pages: BTreeMap::new(), heap_start, heap_end: heap_start }
    }

    /// Its areas, ascending; neighbours that could be one are one.
    pub fn areas(&self) -> Vec<Area> {
        let mut areas: Vec<Area> = Vec::new();
        for (&number, page) in &self.pages {
            let (start, end) = (number << PAGE_SHIFT, (number + 1) << PAGE_SHIFT);
            match areas.last_mut() {
                Some(last) if last.end == start && last.attrs == page.attrs => last.end = end,
                _ => areas.push(Area { start, end, attrs: page.attrs }),
            }
        }
        areas
    }

    /// Whether no page of the range is mapped.
    pub fn is_free(&self, range: Range<u64>) -> bool {
        range.is_empty() || self.pages.range(range).next().is_none()
    }

    /// Unmaps a range.
    pub fn clear(&mut self, range: Range<u64>) {
        let mut rest = self.pages.split_off(&range.start);
        let mut after = rest.split_off(&range.end.max(range.start));
        self.pages.append(&mut after);
    }

    /// The first page number of the range that is not mapped, or its end.
    pub fn mapped_until(&self, range: Range<u64>) -> u64 {
        range.clone().find(|number| !self.pages.contains_key(number)).unwrap_or(range.end)
    }

    /// What a child gets.
    pub fn fork(&self) -> Self {
        let mut child = self.clone();
        child.pages.retain(|_, page| !page.attrs.dont_fork);
        for page in child.pages.values_mut() {
            page.attrs.locked = false;
            if page.pinned.is_some() {
                page.soft_dirty.page = Said::Yes;
            }
            if matches!(page.attrs.kind, Kind::Shared { .. }) {
                // Faults bring them back.
                page.soft_dirty.page = Said::No;
            }
            // The parent keeps what is pinned, the child gets a copy.
            page.pinned = None;
            if page.attrs.wipe_on_fork {
                page.discard();
                page.guard = false;
            } else if page.resident == Residency::Yes && !page.contents.is_written() {
                // Tables of areas that nobody wrote to need not be copied.
                page.resident = Residency::Maybe;
            }
        }
        child
    }

    /// Areas that could be one may have become one, of which all pages are soft-dirty if some were.
    pub fn spread_soft_dirty(&mut self) {
        for area in self.areas() {
            let pages = || area.start >> PAGE_SHIFT..area.end >> PAGE_SHIFT;
            if self.pages.range(pages()).any(|(_, page)| page.soft_dirty.area != Said::No) {
                self.pages.range_mut(pages()).for_each(|(_, page)| page.soft_dirty.area.or_maybe());
            }
        }
    }

    /// Any area may have become one with one that is new.
    pub fn areas_may_be_new(&mut self) {
        self.pages.values_mut().for_each(|page| page.soft_dirty.area.or_maybe());
    }

    /// Any page may have been written.
    pub fn may_be_soft_dirty(&mut self) {
        self.pages.values_mut().for_each(|page| page.soft_dirty.page.or_maybe());
    }

    /// Maps a range, in place of what was there.
    pub fn map(&mut self, range: Range<u64>, attrs: Attrs) {
        self.clear(range.clone());
        for number in range.clone() {
            let kind = match attrs.kind {
                Kind::Private => Kind::Private,
                other => other.moved(0, range.start),
            };
            self.pages.insert(number, Page::new(Attrs { kind, ..attrs }));
        }
    }
}

impl std::ops::Index<u64> for Space {
    type Output = Page;

    /// The page with this number.
    ///
    /// # Panics
    /// If it is not mapped.
    fn index(&self, number: u64) -> &Page {
        &self.pages[&number]
    }
}
