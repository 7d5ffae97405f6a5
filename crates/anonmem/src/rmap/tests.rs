//! Which anon_vma a page belongs to, and that every mapping is found.

use super::{Rmap, folio::folio_lock_anon_vma_read, referenced::folio_referenced, reverse_map::ReverseMap};
use crate::{
    Advice, Config, MapBacking, MapFlags, Mm, MmapRequest, Prot, ReverseMapChoice, Vm,
    testing::{M, P, World},
};
use anonmem_frame::FolioOwner;
use anonmem_hal::{CpuId, Va, VaRange};
use std::vec::Vec;

fn map(mm: &Mm<'_, M>, pages: u64) -> Va {
    let prot = Prot::READ | Prot::WRITE;
    let request = MmapRequest {
        addr: Va(0),
        len: pages * P,
        prot,
        flags: MapFlags::empty(),
        backing: MapBacking::Anonymous,
    };
    mm.mmap(request).unwrap()
}

fn referenced(vm: &Vm<M>, mm: &Mm<'_, M>, va: Va) -> (u64, u64) {
    let page = vm.frames.try_get(mm.pagemap(va).pfn.unwrap()).unwrap();
    let found = folio_referenced(vm, page.folio());
    (found.mappings, found.young)
}

#[test]
fn every_sharer_is_found_and_asked_once() {
    World::run(|w| {
        let parent = w.vm.new_mm().unwrap();
        let va = map(&parent, 1);
        parent.store(va.0, 1).unwrap();
        let children: Vec<_> = (0..5).map(|_| parent.fork().unwrap()).collect();
        assert_eq!(referenced(&w.vm, &parent, va), (6, 1), "a child has not accessed it yet");
        assert_eq!(referenced(&w.vm, &parent, va), (6, 0), "the bits were cleared");
        children.iter().for_each(|c| assert_eq!(c.load(va.0), Ok(1)));
        assert_eq!(referenced(&w.vm, &parent, va), (6, 5));
    });
}

#[test]
fn who_was_accessed_nearby_is_noted_on_the_way() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        let va = map(&mm, 1024);
        let near = va.align_down(64 * P);
        let [first, second, cold, far] = [64, 65, 66, 128].map(|n| Va(near.0 + n * P));
        [first, second, cold, far].iter().for_each(|va| mm.store(va.0, 1).unwrap());
        let frame = |va| w.vm.frames.try_get(mm.pagemap(va).pfn.unwrap()).unwrap();
        assert_eq!(referenced(&w.vm, &mm, cold), (1, 1));
        assert!(frame(second).test_and_clear_referenced());
        assert!(!frame(cold).test_and_clear_referenced(), "its walker was told");
        assert_eq!(referenced(&w.vm, &mm, second), (1, 0), "its accessed bit was taken");
        assert_eq!(referenced(&w.vm, &mm, far), (1, 1), "too far away");
        mm.store(second.0, 2).unwrap();
        assert_eq!(referenced(&w.vm, &mm, cold), (1, 0));
        assert!(!frame(second).test_and_clear_referenced(), "who was not used himself does not look around");
        assert_eq!(referenced(&w.vm, &mm, second), (1, 1), "its accessed bit is still there");
        assert!(frame(first).test_and_clear_referenced());
        assert!(!frame(first).test_and_clear_referenced(), "told once");
    });
}

#[test]
fn a_copy_belongs_to_the_child_alone() {
    World::run(|w| {
        let parent = w.vm.new_mm().unwrap();
        let va = map(&parent, 1);
        parent.store(va.0, 1).unwrap();
        let child = parent.fork().unwrap();
        child.store(va.0, 2).unwrap();
        assert_eq!((referenced(&w.vm, &child, va).0, referenced(&w.vm, &parent, va).0), (1, 1));
        let grandchild = child.fork().unwrap();
        assert_eq!(referenced(&w.vm, &grandchild, va).0, 2, "the child's page is in the grandchild too");
    });
}

#[test]
fn a_page_that_outlives_the_process_that_made_it_is_still_found() {
    World::run(|w| {
        let parent = w.vm.new_mm().unwrap();
        let va = map(&parent, 1);
        parent.store(va.0, 1).unwrap();
        let child = parent.fork().unwrap();
        drop(parent);
        assert_eq!(referenced(&w.vm, &child, va).0, 1);
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_chain_of_forks_does_not_grow_without_end() {
    World::run(|w| {
        let mut mm = w.vm.new_mm().unwrap();
        let va = map(&mm, 1);
        mm.store(va.0, 1).unwrap();
        for generation in 0..50 {
            let child = mm.fork().unwrap();
            child.store(va.0, generation).unwrap();
            mm = child;
        }
        let stats = w.vm.stats();
        assert!(
            stats.anon_vmas <= 3 && stats.chains <= 3,
            "{} anon_vmas, {} chains",
            stats.anon_vmas,
            stats.chains
        );
        w.vm.validate().unwrap();
    });
}

#[test]
fn an_anon_vma_that_a_vma_uses_is_not_given_to_a_child() {
    // One counter for VMAs and children would say 1 here, and the second child would get what the
    // first one's VMA still uses.
    World::run(|w| {
        let parent = w.vm.new_mm().unwrap();
        let va = map(&parent, 2);
        parent.store(va.0, 1).unwrap();
        parent.mprotect(VaRange::page(va), Prot::READ).unwrap();
        let first = parent.fork().unwrap();
        parent.munmap(VaRange::page(va)).unwrap();
        let second = parent.fork().unwrap();
        first.store(va.0 + P, 2).unwrap();
        second.store(va.0 + P, 3).unwrap();
        parent.store(va.0 + P, 4).unwrap();
        w.vm.validate().unwrap();
        assert_eq!([&first, &second, &parent].map(|mm| mm.load(va.0 + P).unwrap()), [2, 3, 4]);
    });
}

#[test]
fn both_halves_of_a_split_are_found() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        let va = map(&mm, 4);
        (0..4).for_each(|i| mm.store(va.0 + i * P, 1).unwrap());
        mm.mprotect(VaRange::new(Va(va.0 + P), Va(va.0 + 2 * P)), Prot::READ).unwrap();
        assert_eq!(mm.counters().vmas, 3);
        for i in 0..4 {
            assert_eq!(referenced(&w.vm, &mm, Va(va.0 + i * P)).0, 1);
        }
        w.vm.validate().unwrap();
    });
}

#[test]
fn shared_pages_nearby_are_noted_too() {
    World::run(|w| {
        let parent = w.vm.new_mm().unwrap();
        let va = map(&parent, 128).align_down(64 * P);
        let [first, second] = [64, 65].map(|n| Va(va.0 + n * P));
        [first, second].iter().for_each(|va| parent.store(va.0, 1).unwrap());
        let child = parent.fork().unwrap();
        let page = w.vm.frames.try_get(parent.pagemap(second).pfn.unwrap()).unwrap();
        referenced(&w.vm, &parent, second);
        page.test_and_clear_referenced();
        [first, second].iter().for_each(|va| assert_eq!(child.load(va.0), Ok(1)));
        assert_eq!(referenced(&w.vm, &parent, first).0, 2);
        assert!(page.test_and_clear_referenced());
    });
}

/// Does `f` on another CPU, and waits for it.
fn elsewhere<R: Send>(w: &World, f: impl FnOnce() -> R + Send) -> R {
    let cpus = w.vm.machine().cpus().clone();
    std::thread::scope(|scope| scope.spawn(move || cpus.run_on(CpuId(1), f)).join().unwrap())
}

#[test]
fn a_walk_does_not_wait_for_tables_that_do_not_map_the_page() {
    World::run(|w| {
        let parent = w.vm.new_mm().unwrap();
        let va = map(&parent, 1);
        parent.store(va.0, 1).unwrap();
        let child = parent.fork().unwrap();
        child.store(va.0, 2).unwrap();
        let page = w.vm.frames.try_get(parent.pagemap(va).pfn.unwrap()).unwrap();
        let guard = child.read();
        let entries = child.slot().space.walk(&w.vm.frames, &guard, va).unwrap().table().unwrap().lock();
        assert_eq!(elsewhere(w, || folio_referenced(&w.vm, page.folio()).mappings), 1);
        drop(entries);
        drop(guard);
    });
}

#[test]
fn nobody_waits_to_learn_that_a_page_is_not_mapped() {
    World::run_over(ReverseMapChoice::AnonVmas, Config::default(), |w| {
        let parent = w.vm.new_mm().unwrap();
        let va = map(&parent, 2);
        (0..2).for_each(|i| parent.store(va.0 + i * P, 1).unwrap());
        let page = w.vm.frames.try_get(parent.pagemap(va).pfn.unwrap()).unwrap();
        parent.madvise(va, P, Advice::DontNeed).unwrap();
        let guard = parent.read();
        let id = guard.slot().tree.find(w.vm.nodes(), va).unwrap().1;
        let lock = w.vm.anon_vma_lock_write(w.vm.vma(id).anon_vma().unwrap());
        assert!(elsewhere(w, || folio_lock_anon_vma_read(&w.vm, page.folio()).is_none()));
        drop(lock);
        drop(guard);
    });
}

#[test]
fn whoever_keeps_walks_away_keeps_them_from_the_pages_of_the_family_and_no_others() {
    for reverse_map in [ReverseMapChoice::AnonVmas, ReverseMapChoice::Families] {
        World::run_over(reverse_map, Config::default(), |w| {
            let [parent, stranger] = [w.vm.new_mm().unwrap(), w.vm.new_mm().unwrap()];
            let [va, theirs] = [map(&parent, 2), map(&stranger, 1)];
            (0..2).for_each(|i| parent.store(va.0 + i * P, 1).unwrap());
            let child = parent.fork().unwrap();
            child.store(va.0, 2).unwrap();
            stranger.store(theirs.0, 3).unwrap();
            let page = |mm: &Mm<'_, M>, va| w.vm.frames.try_get(mm.pagemap(va).pfn.unwrap()).unwrap();
            let own = page(&parent, va);
            let others = [page(&child, va), page(&child, Va(va.0 + P)), page(&stranger, theirs)];
            let lock = own.lock();
            let walks = Rmap::<M>::lock_to_move(&w.vm, &lock).unwrap();
            assert!(Rmap::<M>::moves_under(&walks, own.folio()));
            let moves = others.each_ref().map(|page| Rmap::<M>::moves_under(&walks, page.folio()));
            assert_eq!(moves, [true, true, false]);
            drop(walks);
            drop(lock);
        });
    }
}
