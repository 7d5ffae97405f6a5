//! The catalogue: how anonymous memory breaks, one file for each case.
//!
//! A [`Case`] says what happened where, in facts; which CPUs act and which locks their callers hold; the
//! rule; and the mutants that must be caught. `program` builds the scenario, whose CPUs run production
//! code. A mutant is either a patch of the production source (`mutants/`), or, where the case carries a
//! small model of its own, a variant of that model.

pub mod anon_vma_2010;
pub mod anon_vma_races;
pub mod calls;
mod case;
pub mod collapse;
pub mod dead_tables;
pub mod fails_half_way;
pub mod family_pairs;
pub mod family_walks;
pub mod fault_answers;
pub mod fault_exit;
pub mod fault_pairs;
pub mod folio_swap;
pub mod folios;
pub mod fork_a_million;
pub mod fork_fails;
pub mod fork_late_flush;
pub mod fork_of_cow;
pub(crate) mod kernel;
pub mod ksm;
pub mod ksm_large;
pub mod kswapd;
pub mod labels;
pub mod lazyfree;
pub mod leaves;
pub mod migrate;
pub mod migrate_devices;
pub mod migrate_entries;
pub mod migrate_large;
pub mod move_alone;
pub mod move_large;
pub mod moves;
pub mod mremap;
mod naming;
pub mod offline;
pub mod pin_fast;
pub mod pins;
pub mod reclaim_pairs;
pub mod reclaim_wait;
pub mod recycled;
pub mod rmap_family;
pub mod seed_001;
pub mod seed_003;
pub mod seed_004;
pub mod shared_objects;
pub mod soft_dirty;
pub mod speculative_vma;
pub mod stamps;
pub mod swap_exclusive;
pub mod swap_in;
pub mod swap_shared;
pub mod swapoff;
pub mod sync_rcu;
pub mod sync_seqcount;
pub mod sync_wait_queue;
pub mod tlb_batch;
pub mod translations;
pub mod userfaultfd;
pub mod vma_lookup;
mod weak;
pub mod wp_reuse;

pub use case::{Case, Extent, Mutant, Run};
pub use kernel::over;

/// The catalogue, in the order in which it is listed.
// Long: it is a list.
pub fn all() -> &'static [&'static Case] {
    // No static: that is compiled into programs that never ask for it, with all cases.
    const ALL: &[&Case] = &[
        &anon_vma_2010::CASE,
        &fault_pairs::SPLIT_SPECULATIVE,
        &seed_001::CASE,
        &fault_pairs::TABLE_SPECULATIVE,
        &swap_shared::SWAPPED_IN_ALREADY,
        &seed_003::CASE,
        &seed_003::UNMAP,
        &seed_003::FOLIO,
        &seed_004::CASE,
        &seed_004::PINNED,
        &seed_004::PINNED_FAST,
        &swap_shared::COPY_ABA,
        &wp_reuse::CASE,
        &rmap_family::YOUNGEST,
        &swap_shared::YOUNGEST,
        &rmap_family::UNLOCKED,
        &rmap_family::DOUBLE_REUSE,
        &mremap::MISSED,
        &vma_lookup::EARLY_READ,
        &anon_vma_races::FIRST_FAULTS,
        &anon_vma_races::FORK_AND_EXIT,
        &anon_vma_races::LAST_PUT,
        &anon_vma_races::WALK_AND_COPY,
        &anon_vma_races::WALK_AND_REUSE,
        &anon_vma_races::REUSE_AND_LOCK,
        &recycled::REFERENCE,
        &recycled::PINNED,
        &recycled::ANON_VMA,
        &speculative_vma::HALVES,
        &speculative_vma::LAST_SPECULATIVE,
        &speculative_vma::LAST_VMA_LOCK,
        &speculative_vma::ANOTHER,
        &speculative_vma::DROPPED,
        &fork_late_flush::VMA_LOCK,
        &vma_lookup::ANOTHER_MM,
        &vma_lookup::ELSEWHERE,
        &vma_lookup::ANOTHER_MM_SPECULATIVE,
        &vma_lookup::STALE,
        &fault_pairs::PUBLISHED,
        &fork_late_flush::CASE,
        &fork_fails::CASE,
        &fork_fails::SWAP_FULL,
        &fails_half_way::FAULT,
        &fails_half_way::MUNMAP,
        &fails_half_way::MPROTECT,
        &fails_half_way::MREMAP,
        &fork_of_cow::CASE,
        &fork_a_million::CASE,
        &fault_pairs::FAULT,
        &fault_pairs::FAULT_VMA,
        &fault_pairs::FAULT_SPECULATIVE,
        &fault_pairs::MUNMAP,
        &fault_pairs::MUNMAP_VMA,
        &fault_pairs::MUNMAP_SPECULATIVE,
        &fault_pairs::LOAD_SPECULATIVE,
        &fault_pairs::MPROTECT,
        &fault_pairs::MPROTECT_VMA,
        &fault_pairs::MPROTECT_SPECULATIVE,
        &fault_pairs::FORK,
        &fault_pairs::FORK_VMA,
        &fault_pairs::FORK_SPECULATIVE,
        &fault_exit::EXIT,
        &fault_exit::EXIT_VMA,
        &fault_exit::EXIT_SPECULATIVE,
        &family_pairs::FORK_FORK,
        &family_pairs::EXIT_FORK,
        &family_pairs::EXIT_EXIT,
        &family_pairs::MUNMAP_FORK,
        &family_pairs::MPROTECT_EXIT,
        &reclaim_pairs::FORK,
        &reclaim_pairs::EXIT,
        &reclaim_pairs::MUNMAP,
        &reclaim_pairs::MPROTECT,
        &reclaim_pairs::MREMAP,
        &mremap::LATE,
        &mremap::LATE_TABLE,
        &swap_exclusive::CASE,
        &swap_in::ABA,
        &swap_in::TWICE,
        &swap_in::DROPPED,
        &swap_in::FREED,
        &reclaim_wait::CASE,
        &tlb_batch::MPROTECT,
        &tlb_batch::DISCARD,
        &tlb_batch::MREMAP,
        &tlb_batch::TWO_BATCHES,
        &swapoff::FAULT,
        &swapoff::ALLOC,
        &swapoff::FORK,
        &swapoff::SMALLER_FAULT,
        &swapoff::SMALLER_MINCORE,
        &fault_answers::GUARD,
        &fault_answers::DEVICE,
        &dead_tables::SPECULATIVE,
        &dead_tables::SECOND_BATCH,
        &dead_tables::RMAP,
        &dead_tables::HARDWARE,
        &dead_tables::ADDED_BESIDE,
        &dead_tables::ADDED_UNDER,
        &dead_tables::ADDED_TWICE,
        &dead_tables::BECOMES_LEAF,
        &translations::SWITCH,
        &translations::COW_ON_THREE,
        &translations::FULL_BATCH,
        &lazyfree::ALONE,
        &lazyfree::RACE,
        &lazyfree::COLD,
        &lazyfree::FORK,
        &stamps::CASE,
        &calls::MLOCK,
        &calls::GUARD,
        &calls::BRK,
        &calls::STACK,
        &calls::DONTUNMAP,
        &calls::MERGE,
        &shared_objects::FIRST,
        &shared_objects::PUNCH,
        &shared_objects::MOVES,
        &shared_objects::SWAPS,
        &shared_objects::SWAPS_AGAIN,
        &shared_objects::LAST,
        &pins::DIRTY_COW,
        &pins::LEAK,
        &pins::FORK,
        &pins::UNSHARE,
        &pins::SATURATES,
        &pins::LAZYFREE,
        &pin_fast::FORK,
        &pin_fast::SHARE,
        &pin_fast::TABLE_FREE,
        &pin_fast::SPLIT,
        &kswapd::CASE,
        &kswapd::ENDS,
        &kswapd::TWO,
        &sync_seqcount::CASE,
        &sync_rcu::CASE,
        &sync_rcu::TWICE,
        &sync_wait_queue::CASE,
        &labels::FORK,
        &labels::EXIT,
        &labels::REUSED,
        &labels::RECORDS,
        &labels::SIBLINGS,
        &family_walks::MUNMAP,
        &family_walks::MOVE,
        &family_walks::FORK_AWAY,
        &family_walks::SPLIT_AWAY,
        &family_walks::MERGED,
        &migrate::FAULT,
        &migrate::MINCORE,
        &migrate::FORK,
        &migrate::ZAP,
        &migrate::PIN,
        &migrate::SWAP_IN,
        &migrate::PROTECT,
        &migrate::REMAP,
        &migrate::RECLAIM,
        &offline::COMPACT,
        &migrate_large::RUN_FAULT,
        &migrate_large::RUN_ZAP,
        &migrate_large::LEAF_FAULT,
        &migrate_large::LEAF_FORK,
        &migrate_large::LEAF_SPLIT,
        &migrate_large::LEAF_PIN,
        &migrate_large::LEAF_MINCORE,
        &migrate_large::LEAF_PROTECT,
        &migrate_large::LEAF_REMAP,
        &migrate_entries::LATE_FLUSH,
        &migrate_entries::LEFT_BEHIND,
        &migrate_entries::LEAF_LEFT_BEHIND,
        &migrate_entries::MUNMAP,
        &migrate_entries::MERGE,
        &migrate_devices::MIGRATE,
        &migrate_devices::COLLAPSE,
        &migrate_devices::FAILS,
        &collapse::DONTNEED,
        &collapse::REFAULT,
        &collapse::FAULT,
        &collapse::PIN,
        &collapse::MIGRATE,
        &collapse::LEAF_STORE,
        &collapse::LEAF_PIN,
        &collapse::LEAF_WALK,
        &ksm::WRITE,
        &ksm::FLUSH,
        &ksm::BATCH,
        &ksm::PIN,
        &ksm::REUSE,
        &ksm::CONSENT,
        &ksm::FORK,
        &ksm::ZAP,
        &ksm::SWAP,
        &ksm::ALONE,
        &ksm::MOVES,
        &ksm_large::STORE,
        &ksm_large::LEAF,
        &seed_003::PIN,
        &move_alone::PIN,
        &move_alone::LARGE_PIN,
        &move_alone::WALK,
        &move_alone::WALK_ANON_VMA,
        &move_alone::STORE,
        &moves::FORK,
        &moves::SWAP_OUT,
        &moves::EXIT,
        &moves::HOLE,
        &moves::FULL,
        &moves::CACHED,
        &moves::SWAP_IN,
        &moves::MOVE,
        &moves::UNMAP,
        &move_large::PIN,
        &move_large::WALK,
        &move_large::LEAF_PIN,
        &move_large::LEAF_LOOK,
        &move_large::LEAF_STORE,
        &soft_dirty::WRITE,
        &soft_dirty::PIN,
        &userfaultfd::SLEEPS,
        &userfaultfd::CLOSES,
        &userfaultfd::LATE,
        &userfaultfd::OUTLIVES,
        &userfaultfd::REMOVE,
        &folios::SECOND_LOOK,
        &folios::COPY,
        &folios::ALONE,
        &folios::PARTIAL,
        &folios::UNTOUCHED,
        &folios::ONE_STORE,
        &folio_swap::HALF_CACHED,
        &folio_swap::SHARED,
        &folio_swap::CLAIM,
        &folio_swap::SPLIT,
        &leaves::FAULT,
        &leaves::SPLIT,
        &leaves::FORK,
        &leaves::PIN,
    ];
    ALL
}

/// The case called `name`.
pub fn find(name: &str) -> Option<&'static Case> {
    all().iter().find(|c| c.name == name).copied()
}
