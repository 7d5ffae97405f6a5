//! What was written since it was asked: no store may pass unnoticed.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, scenario},
};
use crate::Model;
use anonmem::{LockMode, PinFlags, Prot};
use anonmem_sync::Ordering;

const RW: Prot = Prot::READ.union(Prot::WRITE);

/// One page, written by CPU 1, which has its translation.
fn written() -> Kernel {
    let kernel = Kernel::new(64, LockMode::Vma);
    kernel.spawn(0, &[0, 1]);
    kernel.map(0, 0, 1, RW);
    kernel.store(0, 0, 1).expect("frames");
    kernel
}

/// What was noted as stored after the clear is soft-dirty.
fn check(kernel: &Kernel) -> Result<(), String> {
    if kernel.notes[0].get() == 1 && !kernel.is_soft_dirty(0, 0) {
        return Err("the page was written after the clear, and is called clean".into());
    }
    kernel.check()
}

/// The page of the case.
pub static WRITE: Case = Case {
    name: "soft-dirty-clear-vs-write",
    title: "a program writes a page while it is noted as not written",
    happened: "What this memory manager must keep: programs that are saved again and again save what was written since the last time. A store that nobody \
               notices is lost in the copy.",
    environment: "CPU0 clears the soft-dirty bits, with the mmap lock for writing; CPU1 stores twice through a translation that it has.",
    rule: "Who stores once the clear has returned makes the page soft-dirty.",
    mutants: &[
        Mutant::Patch { name: "soft-clean-no-flush", what: "nothing is flushed" },
        Mutant::Patch { name: "soft-clean-early-flush", what: "it is flushed before the entries change" },
        Mutant::Patch { name: "soft-clean-keeps-write", what: "an entry that is clean allows stores" },
    ],
    runs: &[Run::new(Model::Sc, Extent::Exhaust), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| {
        let world = || {
            let kernel = written();
            crate::Sim::on_cpu(1, || assert_eq!(kernel.store(0, 0, 2), Ok(())));
            kernel
        };
        boxed(
            scenario("soft-dirty-clear-vs-write", 1, world)
                .cpu("clears", |k| {
                    k.clear_soft_dirty(0);
                    k.flag.store(1, Ordering::Release);
                })
                .cpu("stores", |k| {
                    for value in [3, 4] {
                        let cleared = k.flag.load(Ordering::Acquire) == 1;
                        assert_eq!(k.store(0, 0, value), Ok(()));
                        if cleared {
                            k.notes[0].set(1);
                        }
                    }
                })
                .check(check),
        )
    },
};

/// The page of the case.
pub static PIN: Case = Case {
    name: "soft-dirty-clear-vs-pin",
    title: "a page is pinned for writing while it is noted as not written",
    happened: "Linux asks whether a page is pinned before it changes the entry (clear_soft_dirty, pte_is_pinned): GUP-fast may pin it in between, and the device \
               writes to a page that is called clean. Not reported there.",
    environment: "CPU0 clears the soft-dirty bits, with the mmap lock for writing; CPU1 pins the page without a lock, and has it written.",
    rule: "A page that a device has for writing is soft-dirty.",
    mutants: &[
        Mutant::Patch { name: "soft-clean-ignores-pins", what: "nobody asks whether a page is pinned" },
        Mutant::Patch {
            name: "soft-clean-no-fence",
            what: "the entries are not ordered before the question for pins",
        },
    ],
    runs: &[Run::new(Model::Sc, Extent::Bound(3)), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| {
        boxed(
            scenario("soft-dirty-clear-vs-pin", 1, written)
                .cpu("clears", |k| k.clear_soft_dirty(0))
                .cpu("pins", |k| {
                    assert_eq!(k.pin_fast(0, 0, 0, PinFlags::WRITE), Ok(()));
                    k.notes[0].set(1);
                    k.device_store(0, 7);
                })
                .check(|k| {
                    let noticed = check(k);
                    k.unpin(0, anonmem::Unpin::Dirty);
                    noticed
                }),
        )
    },
};
