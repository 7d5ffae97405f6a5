//! Looks at pages, and protection of those that were written.

use super::{AT, BESIDE, at, in_every_mode, page_out, watched};
use crate::{
    Advice, Error, PageCategories, PageRegion, PageScan, RegisterMode, ScanEnd, ScanFlags, UffdFeatures,
    testing::{M, P, pages},
};
use std::{vec, vec::Vec};

const WRITTEN: PageCategories = PageCategories::WRITTEN;

/// What is told of `scan`, a page a piece, as numbers of pages and categories.
fn told(mm: &crate::Mm<'_, M>, scan: &PageScan) -> Vec<(u64, PageCategories)> {
    let mut regions = [PageRegion::default(); 16];
    let scanned = mm.pagemap_scan(scan, Some(&mut regions)).unwrap();
    assert_eq!((scanned.end, scanned.next), (ScanEnd::Range, scan.range.end));
    let each = |r: &PageRegion| {
        let categories = r.categories;
        r.range.iter_pages().map(move |va| (va.0 / P, categories)).collect::<Vec<_>>()
    };
    regions[..scanned.regions].iter().flat_map(each).collect()
}

fn written(flags: ScanFlags) -> PageScan {
    PageScan { flags, all_of: WRITTEN, told: WRITTEN, ..PageScan::all(pages(AT, 16)) }
}

fn pages_of(told: Vec<(u64, PageCategories)>) -> Vec<u64> {
    told.into_iter().map(|(page, _)| page - AT).collect()
}

#[test]
fn a_write_is_told_once_in_whatever_form_its_page_is() {
    in_every_mode(|w| {
        let (mm, _uffd) = watched(w, RegisterMode::WP, UffdFeatures::WP_ASYNC);
        (0..8).for_each(|i| mm.store((AT + i) * P, 1).unwrap());
        assert_eq!(pages_of(told(&mm, &written(ScanFlags::PROTECT))), (0..16).collect::<Vec<_>>());
        assert_eq!(pages_of(told(&mm, &written(ScanFlags::PROTECT))), [0u64; 0]);
        // Out and in again, still protected; read, and nothing is written; written, and it is told.
        assert!(page_out(w, &mm, AT) && page_out(w, &mm, AT + 1));
        assert_eq!((mm.load(AT * P), mm.load((AT + 12) * P)), (Ok(1), Ok(0)));
        assert_eq!(pages_of(told(&mm, &written(ScanFlags::empty()))), [0u64; 0]);
        for page in [1, 2, 12, 13] {
            mm.store((AT + page) * P, 7).unwrap();
        }
        assert!(page_out(w, &mm, AT + 2));
        mm.madvise(at(AT + 5), P, Advice::DontNeed).unwrap();
        assert_eq!(pages_of(told(&mm, &written(ScanFlags::empty()))), [1, 2, 5, 12, 13]);
        assert_eq!(pages_of(told(&mm, &written(ScanFlags::PROTECT))), [1, 2, 5, 12, 13]);
        assert_eq!(pages_of(told(&mm, &written(ScanFlags::PROTECT))), [0u64; 0]);
        assert_eq!((mm.load((AT + 2) * P), mm.load((AT + 5) * P)), (Ok(7), Ok(0)));
    });
}

#[test]
fn every_category_and_where_it_stops() {
    in_every_mode(|w| {
        let (mm, _uffd) = watched(w, RegisterMode::WP, UffdFeatures::WP_ASYNC);
        mm.store(AT * P, 1).unwrap();
        mm.store((AT + 3) * P, 1).unwrap();
        assert_eq!(mm.load((AT + 1) * P), Ok(0));
        assert!(page_out(w, &mm, AT + 3));
        mm.madvise(at(AT + 4), P, Advice::GuardInstall).unwrap();
        let all = PageScan::all(pages(AT, 5));
        let mut regions = [PageRegion::default(); 8];
        let scanned = mm.pagemap_scan(&all, Some(&mut regions)).unwrap();
        assert_eq!((scanned.regions, scanned.pages), (5, 5));
        let found: Vec<_> = regions[..5].iter().map(|r| r.categories.bits()).collect();
        // All are soft-dirty, because the mapping is new.
        assert_eq!(found, [0b1000_1011, 0b1010_1011, 0b1000_0011, 0b1001_0011, 0b1_1001_0011]);
        // As on Linux, it stops where there is one more.
        let one = mm.pagemap_scan(&PageScan { max_pages: 2, ..all }, Some(&mut regions)).unwrap();
        assert_eq!((one.regions, one.pages, one.next, one.end), (2, 2, at(AT + 2), ScanEnd::Pages));
        let one = mm.pagemap_scan(&all, Some(&mut regions[..3])).unwrap();
        assert_eq!((one.regions, one.next, one.end), (3, at(AT + 3), ScanEnd::Room));
        let swapped = PageScan { all_of: PageCategories::SWAPPED, ..all };
        assert_eq!(pages_of(told(&mm, &swapped)), [3, 4]);
        let absent = PageScan { inverted: PageCategories::PRESENT, all_of: PageCategories::PRESENT, ..all };
        assert_eq!(pages_of(told(&mm, &absent)), [2, 3, 4]);
    });
}

#[test]
fn what_is_not_watched_so_is_not_protected() {
    in_every_mode(|w| {
        let (mm, uffd) = watched(w, RegisterMode::WP, UffdFeatures::WP_ASYNC);
        mm.store(BESIDE * P, 1).unwrap();
        let beside = PageScan { flags: ScanFlags::PROTECT, ..PageScan::all(pages(BESIDE, 16)) };
        assert_eq!(told(&mm, &beside), vec![]);
        let checked = PageScan { flags: ScanFlags::CHECK_ASYNC, ..beside };
        assert_eq!(mm.pagemap_scan(&checked, None), Err(Error::NotPermitted));
        // Nobody is told, and everything that a table covers is protected.
        let all = PageScan { flags: ScanFlags::PROTECT, ..PageScan::all(pages(AT, 16)) };
        assert_eq!(mm.pagemap_scan(&all, None).unwrap().pages, 0);
        assert!((0..16).all(|i| mm.pagemap(at(AT + i)).uffd_wp) && !mm.pagemap(at(BESIDE)).uffd_wp);
        drop(uffd);
        assert_eq!(mm.pagemap_scan(&written(ScanFlags::CHECK_ASYNC), None), Err(Error::NotPermitted));
        assert_eq!(pages_of(told(&mm, &written(ScanFlags::empty()))), (0..16).collect::<Vec<_>>());
    });
}
