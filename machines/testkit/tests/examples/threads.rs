//! Threads are CPUs: two of them use one address space while its pages leave for swap and come back.

use anonmem::{Advice, Config, MmapRequest, PAGE_SIZE, Prot, Va, Vm};
use anonmem_testkit::{Program, VecMachine};

const PAGES: u64 = 16;

#[test]
#[should_panic(expected = "there is no CPU 99")]
fn a_cpu_that_does_not_exist_is_not_active() {
    let vm = Vm::new(VecMachine::new(256), Config::default()).unwrap();
    vm.new_mm().unwrap().activate(anonmem::CpuId(99));
}

#[test]
fn no_store_is_lost_while_pages_leave_and_come_back() {
    let vm = Vm::new(VecMachine::new(512), Config::default()).unwrap();
    vm.swap_on(0, 256, 0).unwrap();
    let mm = vm.new_mm().unwrap();
    let len = PAGES * PAGE_SIZE as u64;
    let start = mm.mmap(MmapRequest::anonymous(len, Prot::READ | Prot::WRITE)).unwrap();
    let rounds = 2_000;
    std::thread::scope(|scope| {
        for half in 0..2 {
            let mm = mm.clone();
            scope.spawn(move || {
                for round in 1..=rounds {
                    for page in 0..PAGES {
                        let word = Va(start.0 + page * PAGE_SIZE as u64 + half * 8);
                        assert_eq!(mm.load(word).unwrap(), round - 1);
                        mm.store(word, round).unwrap();
                    }
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..rounds {
                mm.madvise(start, len, Advice::PageOut).unwrap();
                drop(mm.fork().unwrap());
            }
        });
    });
    vm.validate().unwrap();
}

#[test]
fn a_program_gets_a_signal_for_what_it_may_not() {
    anonmem_testkit::example(|_, mm| {
        let start = mm.mmap(MmapRequest::anonymous(PAGE_SIZE as u64, Prot::READ))?;
        assert!(mm.store(start, 1).unwrap_err().to_string().contains("SegvAccerr"));
        assert!(mm.load(Va(start.0 + PAGE_SIZE as u64)).is_err());
        Ok(())
    });
}

#[test]
fn users_of_two_memory_managers_are_not_of_one_address_space() {
    let make = || Vm::new(VecMachine::new(64), Config::default()).unwrap();
    let (one, two) = (make(), make());
    let (here, there) = (one.new_mm().unwrap(), two.new_mm().unwrap());
    assert!(here.is(&here.clone()));
    assert!(!here.is(&there), "both are the first of their memory manager");
}
