//! Programs whose large folios are equal now and then, against a model of what each page says.

use super::*;
use anonmem_frame::{FolioOwner, Kind, Mapping};

/// Pages of each program.
const PAGES: u64 = 32;
/// Pages of a folio.
const SIZE: u64 = 4;
const PROGRAMS: usize = 3;

/// Numbers that look random (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % n
    }
}

/// A program, and what its pages are to say.
struct Program<'v> {
    mm: Mm<'v, M>,
    says: Vec<u8>,
}

impl<'v> Program<'v> {
    fn new(w: &'v World) -> Self {
        let mm = w.vm.new_mm().unwrap();
        map_mergeable(&mm, PAGES);
        Self { mm, says: vec![0; PAGES as usize] }
    }

    fn child(&self) -> Self {
        Self { mm: self.mm.fork().unwrap(), says: self.says.clone() }
    }

    fn write(&mut self, n: u64, byte: u8) {
        self.mm.store(page(n) + 9, byte).unwrap();
        self.says[n as usize] = byte;
    }

    fn map_anew(&mut self, first: u64, pages: u64) {
        self.mm.munmap(super::pages(AT / P + first, pages)).unwrap();
        map_at(&self.mm, page(first), pages);
        self.mm.madvise(Va(page(first)), pages * P, Advice::Mergeable).unwrap();
        self.says[first as usize..(first + pages) as usize].fill(0);
    }

    fn check(&self) {
        assert_eq!(bytes(&self.mm, PAGES), self.says);
    }
}

/// How many large folios are merged just now.
fn merged_whole(w: &World) -> u64 {
    let mut found = 0;
    w.vm.frames.for_each_frame(|pfn, kind, order| {
        let folio = (kind == Kind::Folio && order != Order::ZERO).then(|| w.vm.frames.folio(pfn)).flatten();
        found += u64::from(folio.is_some_and(|folio| matches!(folio.mapping(), Mapping::Ksm(_))));
    });
    found
}

fn step(w: &World, programs: &mut [Program<'_>], numbers: &mut Numbers) {
    let (who, n) = (numbers.below(PROGRAMS as u64) as usize, numbers.below(PAGES));
    let (first, program) = (n / SIZE * SIZE, &mut programs[who]);
    match numbers.below(12) {
        0..=3 => {
            // A large folio again, whatever was there.
            program.map_anew(first, SIZE);
            let kind = 10 * (1 + numbers.below(2) as u8);
            (0..SIZE).for_each(|nth| program.write(first + nth, kind + nth as u8));
        }
        4 => program.write(n, 77),
        5 => program.map_anew(n, numbers.below(PAGES - n).min(5) + 1),
        6 => {
            program.mm.madvise(Va(page(first)), SIZE * P, Advice::Unmergeable).unwrap();
            program.mm.madvise(Va(page(first)), SIZE * P, Advice::Mergeable).unwrap();
        }
        7 => {
            let range = pages(AT / P + n, 1);
            let pin = program.mm.pin(range, PinFlags::WRITE).unwrap();
            sweep_beside_others(w, 1);
            assert_eq!(pin.runs().next().unwrap().first, frame(&program.mm, n));
        }
        // Some of them stay, for one reason or another.
        8 => _ = present(w, &program.mm, n).map(|page| w.vm.migrate_folio(page)),
        9 => _ = present(w, &program.mm, n).map(|page| w.vm.reclaim_folio(page)),
        10 => {
            let child = program.child();
            programs[(who + 1) % PROGRAMS] = child;
        }
        _ => {
            if let Some(page) = present(w, &program.mm, n)
                && let Some(lock) = page.try_lock()
            {
                let _ = w.vm.split_folio(&lock, &page, Order::ZERO);
            }
        }
    }
}

/// A reference to page `n`, if it is there and no page of zeroes.
fn present<'a>(w: &'a World, mm: &Mm<'_, M>, n: u64) -> Option<FolioRef<'a, M>> {
    let pfn = mm.pagemap(Va(page(n))).pfn.filter(|&pfn| pfn != w.vm.frames.zero_page())?;
    w.vm.frames.try_get(pfn)
}

#[test]
fn every_page_says_what_was_written_last_whatever_is_merged_whole() {
    for (seed, use_zero_pages) in [(1, true), (2, false), (3, true)] {
        let folios = FolioPolicy::default().with(Order::new(2), FolioMode::Always);
        World::run_with(Config { folios, ..Config::default() }, |w| {
            w.vm.swap_on(0, 512, 0).unwrap();
            let settings =
                KsmSettings { use_zero_pages, domains: MergeDomains::One, ..KsmSettings::default() };
            w.vm.set_ksm(settings).unwrap();
            let mut numbers = Numbers(seed);
            let mut programs: Vec<_> = (0..PROGRAMS).map(|_| Program::new(w)).collect();
            let mut whole = 0;
            for round in 0..1500 {
                step(w, &mut programs, &mut numbers);
                w.vm.validate().unwrap();
                if round % 3 == 0 {
                    sweep(w, 1);
                    whole += merged_whole(w);
                }
                if round % 8 == 0 {
                    programs.iter().for_each(Program::check);
                }
            }
            programs.iter().for_each(Program::check);
            assert!(whole > 50, "large folios were merged, and found so {whole} times");
        });
    }
}
