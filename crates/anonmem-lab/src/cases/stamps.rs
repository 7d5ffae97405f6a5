//! Which anon_vma a page belongs to when it was copied, or taken over.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, pages, scenario},
};
use crate::Model;
use anonmem::Prot;

/// The page of the case.
pub const CASE: Case = Case {
    name: "cow-stamps",
    title: "a page that was copied or taken over stays its ancestor's",
    happened: "Linux, folio_move_anon_rmap (2010, \"move exclusively owned pages to own anon_vma in do_wp_page\"): a page that a child has alone \
               and that stays in its parent's anon_vma makes every walk for it visit the whole family.",
    environment: "A child copies one page that it shares and takes over another that its parent has dropped; the parent takes the first over: \
                  two CPUs, each with its own mmap lock for reading.",
    rule: "An exclusive page belongs to the anon_vma of the VMA that maps it, as a page does that was touched there first.",
    mutants: &[
        Mutant::Patch { name: "wp-copy-keeps-stamp", what: "a copy belongs to the family's root" },
        Mutant::Patch {
            name: "wp-reuse-keeps-stamp",
            what: "a page that is taken over stays its ancestor's",
        },
    ],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| {
        let world = || {
            let kernel = Kernel::new(80, anonmem::LockMode::Mmap);
            kernel.spawn(0, &[0]);
            kernel.map(0, 0, 4, Prot::READ | Prot::WRITE);
            (0..2).for_each(|n| kernel.store(0, n, 7).expect("frames"));
            kernel.fork(0, 1, &[1]).expect("frames");
            kernel
                .mm(0)
                .madvise(pages(1, 1).start, super::kernel::P, anonmem::Advice::DontNeed)
                .expect("mapped");
            kernel
        };
        boxed(
            scenario("cow-stamps", 1, world)
                .cpu("the parent stores", |k| (0..4).for_each(|n| assert_eq!(k.store(0, n, 8), Ok(()))))
                .cpu("the child stores", |k| (0..3).for_each(|n| assert_eq!(k.store(1, n, 9), Ok(()))))
                .check(|k| {
                    // Page 2 was nobody's before.
                    for mm in 0..2 {
                        let own = k.anon_vma_of(mm, 2);
                        let stamps = [0, 1].map(|n| k.anon_vma_of(mm, n));
                        if stamps != [own; 2] {
                            return Err(format!(
                                "address space {mm} has pages of {stamps:?}, its own is {own:?}"
                            ));
                        }
                    }
                    k.check()
                }),
        )
    },
};
