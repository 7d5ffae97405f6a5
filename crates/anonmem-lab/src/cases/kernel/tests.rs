//! The kernel that cases run: its smallest programs.

use super::*;
use crate::{Exploration, explore};

#[test]
fn one_program_touches_forks_and_ends() {
    println!("size of Vm<Sim>: {}", size_of::<Vm<Sim>>());
    let scenario = scenario("kernel-smoke", 1, || {
        let kernel = Kernel::new(40, LockMode::Mmap);
        kernel.spawn(0, &[0]);
        kernel.map(0, 0, 2, Prot::READ | Prot::WRITE);
        kernel
    })
    .cpu("touches, forks, writes", |k| {
        assert_eq!(k.load(0, 0), Ok(0));
        assert_eq!(k.store(0, 0, 7), Ok(()));
        k.fork(0, 1, &[0]).expect("frames");
        assert_eq!(k.load(1, 0), Ok(7));
        assert_eq!(k.store(0, 0, 8), Ok(()));
        assert_eq!(k.load(1, 0), Ok(7));
        assert_eq!(k.load(0, 0), Ok(8));
        k.exit(0);
        assert_eq!(k.store(1, 0, 9), Ok(()));
    });
    let report = explore(&scenario, &Exploration::default());
    println!("{report}");
    report.assert_passed();
}

fn swapping(name: &str, body: impl Fn(&Kernel) + 'static) -> Scenario<Kernel> {
    scenario(name, 1, || {
        let kernel = Kernel::new(40, LockMode::Mmap);
        kernel.swap_on(0, 4);
        kernel.spawn(0, &[0]);
        kernel.map(0, 0, 1, Prot::READ | Prot::WRITE);
        kernel.store(0, 0, 7).expect("frames");
        kernel
    })
    .cpu("swaps", body)
}

#[test]
fn pages_leave_and_return() {
    let scenario = swapping("kernel-swap-smoke", |k| {
        k.page_out(0, 0);
        assert_eq!((k.frame_of(0, 0), k.sim.swap_stored()), (None, 1));
        assert_eq!(k.load(0, 0), Ok(7));
        k.fork(0, 1, &[0]).expect("frames");
        assert!(k.reclaim(k.frame_of(0, 0).expect("present")), "both mappings can go");
        assert_eq!(k.store(0, 0, 8), Ok(()));
        assert_eq!(k.load(1, 0), Ok(7));
        k.page_out(0, 0);
        k.vm.swap_off(0).expect("frames");
        assert_eq!((k.load(0, 0), k.sim.swap_stored()), (Ok(8), 0));
    });
    explore(&scenario, &Exploration::default()).assert_passed();
}

#[test]
fn a_device_may_fail() {
    let scenario = swapping("kernel-swap-fails", |k| {
        k.page_out(0, 0);
        let outcome = k.load(0, 0);
        k.notes[0].set(u64::from(outcome == Err(FaultOutcome::Bus)));
        assert!(matches!(outcome, Ok(7) | Err(FaultOutcome::Bus)), "{outcome:?}");
    });
    let inject = crate::Inject { at_most: 1, device: true, ..crate::Inject::NONE };
    let report = explore(&scenario, &Exploration { inject, ..Exploration::default() });
    report.assert_passed();
    assert!(report.exhausted && report.executions == 3, "nothing, the write or the read fails: {report}");
}
