//! Pages that leave for compressed memory and come back, and the compressor alone.

use super::Experiment;
use crate::{
    PAGE,
    clock::time,
    ours::{Active, Machine, World, fault_all, map_region},
    outcome::{Bench, Samples, Side},
};
use anonmem::{Advice, Event, FaultAccess, LockMode, Mm, Populate};
use anonmem_hal::{PAGE_SIZE, VaRange};
use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "swap",
    rows: &["swap-out", "swap-in", "swap-out-in", "limit-compressing"],
    ours: Some(ours),
    ..Experiment::NONE
};

const LEN: usize = 32 << 20;
const PAGES: usize = LEN / PAGE;
/// Room for the pages, compressed, and tables beside them.
const FRAMES: u64 = 3 * PAGES as u64;

/// What a page holds: records of 32 bytes that differ in their numbers, like a heap's.
fn contents(page: usize) -> [u8; PAGE_SIZE] {
    let mut bytes =
        *b"{\"id\":        ,\"name\":\"record\"}\n".repeat(PAGE_SIZE / 32).first_chunk().expect("a page");
    for (i, record) in bytes.chunks_exact_mut(32).enumerate() {
        let id = (page * 128 + i).wrapping_mul(0x9e37_79b9) & 0xff_ffff;
        record[6..14].copy_from_slice(format!("{id:8}").as_bytes());
    }
    bytes
}

fn ours(_: &Bench, samples: &mut Samples) {
    let world = World::with(FRAMES, LockMode::Mmap);
    let machine = world.vm.machine();
    machine.swap().keep_compressed(PAGES as u64, FRAMES, machine.cpus().len());
    let _cpu = world.enter(0);
    world.vm.swap_on(0, PAGES as u64, 0).expect("memory for the slots");
    let mm = world.new_mm();
    let active = Active::on(&mm, 0);
    let range = map_region(&mm, 0, LEN);
    mm.populate(range, Populate::Write).expect("memory for the region");
    let pages: Vec<_> = frames_of(&mm, range).collect();
    pages.iter().enumerate().for_each(|(i, &page)| machine.arena().write(page, 0, &contents(i)));

    let mut add = |row, ns: f64| samples.add(row, Side::Ours, ns / PAGES as f64);
    add("limit-compressing", compressor_alone());
    let out = time(|| mm.madvise(range.start, range.len(), Advice::PageOut).expect("mapped"));
    assert_eq!(world.vm.stats().event(Event::SwapOut), PAGES as u64, "all pages leave");
    let back = time(|| fault_all(&mm, range, FaultAccess::Read));
    assert_eq!(world.vm.stats().event(Event::SwapIn), PAGES as u64, "all pages return");
    add("swap-out", out);
    add("swap-in", back);
    add("swap-out-in", out + back);
    drop(active);
    drop(mm);
    world.vm.swap_off(0).expect("nothing is left there");
    // SAFETY: the machine is this `Vm`'s.
    unsafe { machine.swap().clear(world.vm.frames()) };
}

fn frames_of<'a>(mm: &'a Mm<'_, Machine>, range: VaRange) -> impl Iterator<Item = anonmem_hal::Pfn> + 'a {
    range.iter_pages().map(|va| mm.pagemap(va).pfn.expect("just populated"))
}

/// Nanoseconds for all pages, one after the other, and then back again; in plain memory that has been
/// touched.
fn compressor_alone() -> f64 {
    let mut pages: Vec<_> = (0..PAGES).map(contents).collect();
    let (mut table, mut buffer) = (CompressTable::small(), vec![1; get_maximum_output_size(PAGE_SIZE)]);
    let (mut kept, mut ends) = (vec![1; LEN], vec![0; PAGES]);
    let mut end = 0;
    let out = time(|| {
        for (page, ends) in pages.iter().zip(&mut ends) {
            let n = compress_into_with_table(page, &mut buffer, &mut table).expect("room for the worst page");
            kept[end..end + n].copy_from_slice(&buffer[..n]);
            end += n;
            *ends = end;
        }
    });
    let back = time(|| {
        let mut start = 0;
        for (page, &end) in pages.iter_mut().zip(&ends) {
            decompress_into(&kept[start..end], page).expect("what was compressed");
            start = end;
        }
    });
    assert!((0..PAGES).step_by(97).all(|i| pages[i] == contents(i)), "the pages come back as they were");
    out + back
}
