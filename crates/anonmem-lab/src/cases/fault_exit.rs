//! A fault on a page that another address space leaves: in all three lock modes.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, scenario},
};
use crate::{Model, Program};
use anonmem::{LockMode, Prot};

const HAPPENED: &str = "The ordinary life of a shell: it forks, and either of the two ends while the other writes. Who is the last to \
                        have a page, and whose anon_vma it carries, has been wrong in many kernels.";
const ENVIRONMENT: &str = "CPU0 is a child that writes to what it shares with its parent, under what its lock mode says; then it loads \
                           what is its own. CPU1 is the parent, which ends.";
const RULE: &str = "The page is copied or taken over, and either way the child has it, with its stores. What the child's anon_vma \
                    needs of its parent's lives on.";

macro_rules! exit {
    ($name:ident, $id:literal, $mode:expr, $title:literal, $mutant:literal, $what:literal) => {
        /// The page of the case.
        pub const $name: Case = Case {
            name: $id,
            title: $title,
            happened: HAPPENED,
            environment: ENVIRONMENT,
            rule: RULE,
            mutants: &[Mutant::Patch { name: $mutant, what: $what }],
            runs: &[Run::new(Model::Sc, Extent::Exhaust), Run::new(Model::C11, Extent::Bound(2))],
            program: |_| parent_exits($id, $mode),
        };
    };
}

exit!(
    EXIT,
    "fault-vs-exit",
    LockMode::Mmap,
    "a page is copied while the other one who has it ends",
    "wp-reuse-shared",
    "a shared page is taken for the writer's own"
);
exit!(
    EXIT_VMA,
    "fault-vs-exit-vma-lock",
    LockMode::Vma,
    "a page is copied under the VMA's lock while the other one who has it ends",
    "anon-vma-root-uncounted",
    "a root does not live as long as its family"
);
exit!(
    EXIT_SPECULATIVE,
    "fault-vs-exit-speculative",
    LockMode::Speculative,
    "a page is copied without any lock while the other one who has it ends",
    "wp-reuse-shared",
    "a shared page is taken for the writer's own"
);

fn parent_exits(name: &str, mode: LockMode) -> Box<dyn Program> {
    let world = move || {
        let kernel = Kernel::new(64, mode);
        kernel.spawn(0, &[1]);
        kernel.map(0, 0, 2, Prot::READ | Prot::WRITE);
        for n in 0..2 {
            kernel.store(0, n, 7).expect("frames");
        }
        kernel.fork(0, 1, &[0]).expect("frames");
        kernel
    };
    boxed(
        scenario(name, 1, world)
            .cpu("the child stores", |k| {
                assert_eq!(k.store_word(1, 0, 1, 8), Ok(()));
                assert_eq!(k.load_word(1, 0, 0), Ok(7));
            })
            .cpu("the parent exits", |k| k.exit(0))
            .check(|k| {
                let found = [(0, 0), (0, 1), (1, 0)].map(|(n, word)| k.load_word(1, n, word).ok());
                if found == [Some(7), Some(8), Some(7)] {
                    k.check()
                } else {
                    Err(format!("7, 8 and 7 were stored, found {found:?}"))
                }
            }),
    )
}
