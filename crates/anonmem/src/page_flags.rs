//! What a frame is, as /proc/kpageflags and /proc/kpagecount show it.
//!
//! Locks: none. It is a snapshot, and what it says may be over when it is told.
//!
//! Linux: fs/proc/page.c `stable_page_flags`. Differs: no page is on a list of reclaim. Of a large folio, a
//! page is mapped as often as its pages are on average, as without `CONFIG_PAGE_MAPCOUNT`.

use crate::{rmap::machine::Machine, vm::Vm};
use anonmem_frame::{Folio, Kind, Mapping};
use anonmem_hal::Pfn;

/// The bits of /proc/kpageflags (include/uapi/linux/kernel-page-flags.h).
mod bit {
    pub(super) const LOCKED: u32 = 0;
    pub(super) const UPTODATE: u32 = 3;
    pub(super) const SLAB: u32 = 7;
    pub(super) const BUDDY: u32 = 10;
    pub(super) const MMAP: u32 = 11;
    pub(super) const ANON: u32 = 12;
    pub(super) const SWAPCACHE: u32 = 13;
    pub(super) const SWAPBACKED: u32 = 14;
    pub(super) const COMPOUND_HEAD: u32 = 15;
    pub(super) const COMPOUND_TAIL: u32 = 16;
    pub(super) const NOPAGE: u32 = 20;
    pub(super) const KSM: u32 = 21;
    pub(super) const THP: u32 = 22;
    pub(super) const OFFLINE: u32 = 23;
    pub(super) const ZERO_PAGE: u32 = 24;
    pub(super) const PGTABLE: u32 = 26;
}

const fn word(bits: &[u32]) -> u64 {
    let (mut word, mut i) = (0, 0);
    while i < bits.len() {
        word |= 1 << bits[i];
        i += 1;
    }
    word
}

/// What a frame is, as of now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageState {
    /// The word of /proc/kpageflags.
    pub flags: u64,
    /// How often it is mapped: the word of /proc/kpagecount.
    pub mappings: u64,
}

impl<M: Machine> Vm<M> {
    /// What the frame is.
    ///
    /// ```
    /// # use anonmem::*;
    /// # use anonmem_testkit::Program;
    /// # anonmem_testkit::example(|vm, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(4096, Prot::READ | Prot::WRITE))?;
    /// mm.store(start, 7)?;
    /// let page = vm.page_state(mm.pagemap(start).pfn.unwrap());
    /// assert_eq!((page.mappings, page.flags >> 12 & 1), (1, 1), "mapped once, and anonymous");
    /// # Ok(())
    /// # });
    /// ```
    #[doc(alias = "stable_page_flags")]
    pub fn page_state(&self, pfn: Pfn) -> PageState {
        let frames = self.frames();
        let no_folio = |bits: &[u32]| PageState { flags: word(bits), mappings: 0 };
        if !frames.contains(pfn) {
            return no_folio(&[bit::NOPAGE]);
        }
        if pfn == frames.zero_page() {
            return no_folio(&[bit::ZERO_PAGE]);
        }
        match frames.kind(pfn) {
            Kind::Buddy | Kind::BuddyTail => no_folio(&[bit::BUDDY]),
            Kind::Folio | Kind::Tail => match frames.folio(pfn) {
                Some(folio) => of_folio(&folio, pfn),
                None => PageState::default(),
            },
            Kind::Table => no_folio(&[bit::PGTABLE]),
            Kind::Slab => no_folio(&[bit::SLAB]),
            Kind::Offline => no_folio(&[bit::OFFLINE]),
            Kind::Reserved if frames.is_fresh(pfn) => no_folio(&[bit::BUDDY]),
            Kind::Reserved | Kind::Pcp | Kind::New | Kind::Kernel => PageState::default(),
        }
    }
}

fn of_folio<M: Machine>(folio: &Folio<'_, M>, pfn: Pfn) -> PageState {
    let (pages, maps) = (folio.nr_pages().0, folio.counts().maps());
    let mut flags = word(&[bit::UPTODATE]);
    let mut set = |on: bool, bits: &[u32]| flags |= if on { word(bits) } else { 0 };
    set(maps > 0, &[bit::MMAP]);
    set(folio.is_anon(), &[bit::ANON]);
    set(matches!(folio.mapping(), Mapping::Ksm(_)), &[bit::KSM]);
    set(!folio.is_lazyfree(), &[bit::SWAPBACKED]);
    set(folio.is_locked(), &[bit::LOCKED]);
    set(folio.swap_entry().is_some(), &[bit::SWAPCACHE]);
    if pages > 1 {
        let part = if pfn == folio.pfn() { bit::COMPOUND_HEAD } else { bit::COMPOUND_TAIL };
        set(true, &[part, bit::THP]);
    }
    // A page of a folio that is mapped counts as mapped (Linux: `folio_average_page_mapcount`).
    let average = ((maps + pages / 2) / pages).max(u64::from(maps > 0));
    PageState { flags, mappings: average }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Config, FolioPolicy,
        testing::{P, RW, World, pages},
        vma::Backing,
    };
    use anonmem_hal::Va;

    #[test]
    fn pages_of_a_large_folio_are_told_from_others() {
        let folios: FolioPolicy = "16K".parse().unwrap();
        World::run_with(Config { folios, ..Config::default() }, |w| {
            let mm = w.vm.new_mm().unwrap();
            mm.map_raw(pages(16, 4), RW, Backing::Anonymous);
            mm.map_raw(pages(33, 1), RW, Backing::Anonymous);
            mm.store(17 * P, 1).unwrap();
            mm.store(33 * P, 1).unwrap();
            let at = |page: u64| w.vm.page_state(mm.pagemap(Va(page * P)).pfn.unwrap());
            let anon = word(&[bit::MMAP, bit::ANON, bit::SWAPBACKED, bit::UPTODATE]);
            let thp = word(&[bit::THP]);
            assert_eq!(at(33), PageState { flags: anon, mappings: 1 });
            assert_eq!(at(16), PageState { flags: anon | thp | word(&[bit::COMPOUND_HEAD]), mappings: 1 });
            assert_eq!(at(19), PageState { flags: anon | thp | word(&[bit::COMPOUND_TAIL]), mappings: 1 });
            let child = mm.fork().unwrap();
            assert_eq!((at(16).mappings, at(33).mappings), (2, 2));
            drop(child);
            assert_eq!(w.vm.page_state(w.vm.frames().zero_page()).flags, word(&[bit::ZERO_PAGE]));
            assert_eq!(w.vm.page_state(Pfn(u64::MAX)).flags, word(&[bit::NOPAGE]));
        });
    }
}
