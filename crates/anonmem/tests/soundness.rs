//! What a user's crate cannot do under `forbid(unsafe_code)`: break memory, or a count.
//!
//! | attempt | how it ends | test |
//! |---|---|---|
//! | a guard, or an owner of mappings, of one's own | does not compile | `anonmem-pgtable`: `fail_guard_of_ones_own`, `fail_owner_of_ones_own` |
//! | counts that are made up for a frozen folio | does not compile | `anonmem-pgtable`: `fail_forged_counts` |
//! | the root, or the kernel's frames, freed by number | does not compile | `fail_free_a_table`; `anonmem-pgtable`: `fail_free_by_number` |
//! | a walk of a space without tables | finds nothing | `anonmem-pgtable`: `a_space_without_tables_has_nothing_to_walk` |
//! | a walk of a space with other frames, or a guard of another `Vm` | panics | `anonmem-pgtable`: `tables_are_walked_with_their_own_frames` |
//! | owners of one `Vm` given to another | panics | [`pages_go_back_to_their_own_manager`]; `anonmem-frame`: `an_array_belongs_to_its_frames` |
//! | a count of a swap slot that nobody has | does not compile | `anonmem-pgtable`: `fail_put_without_count` |
//! | a folio changed, or locked, through a look | does not compile | `fail_change_by_look` |
//! | RCU guards dropped out of order | harmless | `anonmem-sync`: `sections_may_end_in_any_order` |
//! | a scheduler, a memory, an MMU that lies | does not compile | `fail_lying_scheduler`, `fail_lying_memory`; `anonmem-pgtable`: `fail_lying_machine` |
//! | the words of a page table changed | does not compile | `fail_words_of_a_table` |
//! | a use of a shared object that is put twice, or made up | does not compile | `fail_put_by_name`, `fail_use_by_name`, `fail_copy_use` |
//! | a mapping of an object by a name that is stale, foreign or made up | `Error::Invalid` | [`names_that_nobody_uses_map_nothing`] |
//! | a page of an object moved through its lock | panics | [`a_lock_forges_no_place`] |
//! | a page given a slot through its lock | it is a hint, which the slot's word must confirm | [`a_lock_forges_no_place`] |
//! | owners of a swap slot that nobody is | does not compile | `fail_forge_owners` |
//! | a reference taken back by its number | does not compile | `fail_take_a_count_back` |
//! | an address space or object that outlives its `Vm` | does not compile | `fail_owners_outlive_vm` |
//!
//! | a frame changed through the machine: zeroed, copied to, written, filled, given to a device | does not compile | `fail_machine_changes_frames` |
//! | the list of held locks borrowed twice | does not compile | `fail_machine_changes_frames` |
//! | a device that keeps pages in frames of one's own | does not compile | `fail_frames_of_ones_own` |
//! | a frame read, or copied, that there is not | panics | [`frames_that_there_are_not_are_not_read`] |
//! | words of an array, or of slots, freed while they are used | does not compile | `anonmem-pgtable`: `fail_free_words` |
//! | an array that two tasks fill | panics | `anonmem-frame`: `an_array_is_filled_once` |
//! | a walk without locks in the read section of another domain | does not compile | `anonmem-pgtable`: `fail_pin_in_any_section` |
//! | a new folio that two tasks write to | does not compile | `anonmem-pgtable`: `fail_share_new_folio` |
//! | the zero page, or one that was pinned to be read, written through a pin | panics | [`a_pin_writes_to_what_it_has`] |
//! | a page read from a device that belongs to somebody | panics | `anonmem-frame`: `only_a_new_page_is_read_from_a_device` |
//! | a page zeroed that is no object's | panics | [`a_lock_forges_no_place`] |
//! | a page given to a stable node that is made up | nothing merges with it; it is found nowhere, and ends with its mappings | [`a_node_that_is_made_up_has_nothing`] |
//!
//! Whoever has the machine may read its frames, as whoever has the kernel may.
#![forbid(unsafe_code)]

use anonmem::{
    Advice, Config, Error, MapBacking, MmapRequest, PAGE_SIZE, PinFlags, Prot, ShmId, Va, VaRange, Vm,
    hal::{Order, Pfn, PhysMem, SwapEntry},
};
use anonmem_frame::{FolioOwner, RawHandle};
use anonmem_testkit::{Program, VecMachine};

const P: u64 = PAGE_SIZE as u64;

#[test]
fn what_must_not_compile_does_not() {
    trybuild::TestCases::new().compile_fail("tests/ui/fail_*.rs");
}

#[test]
fn a_lock_forges_no_place() {
    let vm = Vm::new(VecMachine::new(256), Config::default()).unwrap();
    let object = vm.shm_new(1).unwrap();
    let page = object.page_at(0).unwrap();
    let lock = page.lock();
    let panics = |f: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err();
    assert!(panics(&|| lock.move_mapped(RawHandle::new(1).unwrap().into(), 7)));
    lock.set_swap_entry(SwapEntry { device: 0, offset: 99 });
    drop(lock);
    let new = vm.frames().alloc(Order::ZERO).unwrap().into_reference();
    assert!(panics(&|| new.zero_of_object()));
    drop(new);
    let mm = vm.new_mm().unwrap();
    let at = mm.mmap(shared(object.id())).unwrap();
    mm.store(at, 7).unwrap();
    drop(page);
    let _ = vm.reclaim_folio(object.page_at(0).unwrap());
    assert_eq!((mm.load(at).unwrap(), object.swapped()), (7, 0));
    object.page_at(0).unwrap().forget_swap_entry(SwapEntry { device: 0, offset: 99 });
    drop((mm, object));
    vm.validate().unwrap();
    assert_eq!(vm.stats().shared_objects, 0);
}

fn shared(object: ShmId) -> MmapRequest {
    let backing = MapBacking::Shared { object, first: 0 };
    MmapRequest { backing, ..MmapRequest::anonymous(P, Prot::READ | Prot::WRITE) }
}

#[test]
fn names_that_nobody_uses_map_nothing() {
    let vm = Vm::new(VecMachine::new(256), Config::default()).unwrap();
    let other = Vm::new(VecMachine::new(256), Config::default()).unwrap();
    let mm = vm.new_mm().unwrap();
    let refused = |id| {
        let refused = mm.mmap(shared(id));
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    };
    let object = vm.shm_new(1).unwrap();
    let stale = object.id();
    drop(object);
    refused(stale);
    // The name of an object elsewhere is that of a slot, too.
    let elsewhere = other.shm_new(1).unwrap();
    refused(elsewhere.id());
    // A mapping is a use of its own.
    let object = vm.shm_new(1).unwrap();
    let at = mm.mmap(shared(object.id())).unwrap();
    drop(object);
    mm.store(at, 7).unwrap();
    assert_eq!(mm.load(at).unwrap(), 7);
    drop(mm);
    vm.validate().unwrap();
    assert_eq!(vm.stats().shared_objects, 0);
}

#[test]
fn frames_that_there_are_not_are_not_read() {
    let vm = Vm::new(VecMachine::new(256), Config::default()).unwrap();
    let end = Pfn(vm.machine().base_pfn().0 + vm.machine().nr_frames());
    let new = vm.frames().alloc(Order::ZERO).unwrap();
    for none in [end, Pfn(vm.machine().base_pfn().0.wrapping_sub(1)), Pfn(u64::MAX)] {
        let panics = |f: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err();
        assert!(panics(&|| new.copy_from(none)), "{none:?} copied");
        assert!(panics(&|| vm.machine().read_bytes(none, 0, &mut [0])), "{none:?} read");
        assert!(panics(&|| _ = vm.machine().hash_page(none, 0)), "{none:?} hashed");
        assert!(panics(&|| _ = vm.machine().same_bytes(none, end)), "{none:?} compared");
    }
}

#[test]
fn a_pin_writes_to_what_it_has() {
    let vm = Vm::new(VecMachine::new(256), Config::default()).unwrap();
    let mm = vm.new_mm().unwrap();
    let at = mm.mmap(MmapRequest::anonymous(2 * P, Prot::READ | Prot::WRITE)).unwrap();
    let range = VaRange { start: at, end: Va(at.0 + 2 * P) };
    assert_eq!(mm.load(at).unwrap(), 0);
    let panics = |f: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err();
    let pinned = mm.pin(range, PinFlags::empty()).unwrap();
    assert!(panics(&|| pinned.write(at, &[7])), "the zero page");
    drop(pinned);
    mm.store(at, 7).unwrap();
    let child = mm.fork().unwrap();
    let pinned = mm.pin(range, PinFlags::empty()).unwrap();
    assert!(panics(&|| pinned.write(at, &[8])), "a page that others share, pinned to be read");
    assert_eq!(child.load(at).unwrap(), 7);
    drop((pinned, child));
    let pinned = mm.pin(range, PinFlags::WRITE).unwrap();
    pinned.write(Va(at.0 + P - 1), &[0, 9]);
    assert!(panics(&|| pinned.write(Va(at.0 + 2 * P - 1), &[1, 1])), "beyond its end");
    assert!(panics(&|| pinned.write(Va(at.0 - 1), &[1])), "before its start");
    assert_eq!(mm.load(Va(at.0 + P)).unwrap(), 9);
    drop((pinned, mm));
    vm.validate().unwrap();
}

#[test]
fn pages_go_back_to_their_own_manager() {
    let vm = Vm::new(VecMachine::new(256), Config::default()).unwrap();
    let other = Vm::new(VecMachine::new(256), Config::default()).unwrap();
    let object = vm.shm_new(1).unwrap();
    let panics = |f: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err();
    assert!(panics(&|| _ = other.reclaim_folio(object.page_at(0).unwrap())));
    assert!(panics(&|| _ = other.migrate_folio(object.page_at(0).unwrap())));
    drop(object);
    vm.validate().unwrap();
    other.validate().unwrap();
}

#[test]
fn a_node_that_is_made_up_has_nothing() {
    let vm = Vm::new(VecMachine::new(256), Config::default()).unwrap();
    vm.swap_on(0, 64, 0).unwrap();
    let mm = vm.new_mm().unwrap();
    let at = mm.mmap(MmapRequest::anonymous(4 * P, Prot::READ | Prot::WRITE)).unwrap();
    let page = |n: u64| Va(at.0 + n * P);
    let all = VaRange { start: at, end: page(4) };
    mm.madvise(at, 4 * P, Advice::Mergeable).unwrap();
    // There are nodes, and slots of nodes that have gone.
    (0..4).for_each(|n| mm.store(page(n), 7 + (n & 1)).unwrap());
    (0..4).for_each(|_| _ = vm.ksm_scan(256).unwrap());
    assert_eq!(vm.ksm_stats().pages_shared, 2, "two nodes");
    mm.store(page(1), 1).unwrap();
    mm.store(page(3), 1).unwrap();
    // The sweep takes its place out of the node: a node that has it would really be that of the page.
    mm.store(page(0), 5).unwrap();
    vm.ksm_scan(256).unwrap();
    for made_up in (1..256 * 64).filter_map(RawHandle::new) {
        mm.store(page(0), 5).unwrap();
        let frame = mm.pagemap(page(0)).pfn.expect("just written");
        let folio = || vm.frames().try_get(frame).expect("mapped");
        folio().lock().give_to_node(made_up);
        let child = mm.fork().unwrap();
        child.store(page(0), 6).unwrap();
        drop(child);
        let _ = vm.migrate_folio(folio());
        let _ = vm.reclaim_folio(folio());
        mm.madvise(at, P, Advice::PageOut).unwrap();
        mm.mprotect(all, Prot::READ).unwrap();
        mm.mprotect(all, Prot::READ | Prot::WRITE).unwrap();
        vm.ksm_scan(256).unwrap();
        assert_eq!(mm.load(page(0)).unwrap(), 5, "{made_up:?}");
        mm.madvise(at, P, Advice::DontNeed).unwrap();
    }
    vm.ksm_unmerge_all().unwrap();
    drop(mm);
    vm.validate().unwrap();
    assert_eq!(vm.stats().user, 0);
}
