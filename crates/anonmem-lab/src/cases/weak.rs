//! What a case is explored for under weak memory, and why not for more.
//!
//! Two preemptions find most races under `sc`, and under `c11` every load may choose as well: executions
//! multiply by a hundred. The lists are what an exploration of all cases under `c11` with two preemptions
//! came to, up to 200,000 executions each.

use super::{Case, Extent};
use crate::Model;

/// Two preemptions are more than 200,000 executions.
const TOO_MANY: &[&str] = &[
    "seed-000-vma-split-under-fault",
    "seed-002-page-table-vanishes",
    "seed-004-copy-after-reuse",
    "seed-004-copy-after-swap",
    "wp-reuse-of-cached",
    "rmap-youngest-stamp",
    "rmap-unlocked-new-anon-vma",
    "vma-lock-early-read",
    "anon-vma-two-first-faults",
    "speculative-wrong-half",
    "vma-lock-not-taken-by-fork",
    "vma-recycled-elsewhere",
    "vma-published-unordered",
    "vma-published-too-early",
    "fault-vs-munmap-speculative",
    "swap-in-aba",
    "swap-in-twice",
    "swapoff-vs-fault",
    "swapoff-smaller-vs-fault",
    "reclaim-gives-up-too-early",
    "tlb-mprotect-vs-batch",
    "tlb-discard-vs-batch",
    "tlb-mremap-vs-batch",
    "tlb-two-batches-one-table",
    "speculative-guard-of-another",
    "swap-error-of-another",
    "table-freed-under-speculation",
    "table-joins-running-grace-period",
    "table-added-under-munmap",
    "table-becomes-leaf-after-fault",
    "cow-on-three-cpus",
    "tlb-batch-full",
    "mremap-dontunmap-vs-store",
    "migrate-vs-fork",
    "migrate-vs-mremap",
    "migrate-vs-reclaim",
    "migrate-vs-swap-in",
    "migrate-vs-zap",
    "move-vs-swap-aba",
    "seed-004-copy-after-pin",
    "seed-004-copy-after-pin-fast",
    "thp-swap-in-half-cached",
    "thp-swap-in-run-shared",
];

/// Two preemptions come to their end, and nothing was found; not part of every check.
const HELD_ONCE: &[&str] = &[
    "anon-vma-2010",
    "anon-vma-fork-vs-exit",
    "anon-vma-last-put",
    "anon-vma-recycled-first-faults",
    "brk-vs-store",
    "cow-pin-leak",
    "cow-stamps",
    "exit-vs-exit",
    "exit-vs-fork",
    "fault-fails-half-way",
    "fault-vs-exit",
    "fault-vs-exit-speculative",
    "fault-vs-exit-vma-lock",
    "fault-vs-fault",
    "fault-vs-fault-speculative",
    "fault-vs-fault-vma-lock",
    "fault-vs-fork",
    "fault-vs-fork-speculative",
    "fault-vs-fork-vma-lock",
    "fault-vs-mprotect",
    "fault-vs-mprotect-speculative",
    "fault-vs-mprotect-vma-lock",
    "fault-vs-munmap",
    "fault-vs-munmap-vma-lock",
    "fork-a-million",
    "fork-fails-half-way",
    "fork-late-flush",
    "fork-of-cow",
    "fork-swap-count-full",
    "fork-vs-fork",
    "guard-vs-store",
    "kswapd-wakes-works-ends",
    "lazyfree-cold-vs-store",
    "lazyfree-fork-vs-store",
    "lazyfree-then-store",
    "lazyfree-vs-store",
    "migrate-leaf-left-behind-vs-zap",
    "migrate-left-behind-vs-zap",
    "migrate-vs-gup-fast",
    "migrate-vs-mprotect",
    "migrate-vs-swapoff",
    "mlock-vs-reclaim",
    "move-of-cached-page",
    "mprotect-fails-half-way",
    "mprotect-vs-exit",
    "mremap-fails-half-way",
    "munmap-fails-half-way",
    "munmap-vs-fork",
    "pin-fast-vs-frame-recycled",
    "rmap-double-reuse",
    "rmap-missed-by-mremap",
    "rmap-walk-vs-copy",
    "rmap-walk-vs-merge",
    "rmap-walk-vs-reuse",
    "rmap-youngest-stamp-swap",
    "seed-001-page-lock-anon-vma",
    "seed-002-swapped-in-already",
    "shm-last-user",
    "shm-punch-vs-fault",
    "shm-two-first-faults",
    "stack-grows-twice",
    "swap-forgets-exclusive",
    "swap-in-vs-dontneed",
    "swap-out-vs-slot-freed",
    "swapoff-vs-fork",
    "swapoff-vs-mincore",
    "switch-vs-flush",
    "sync-rcu",
    "sync-rcu-two-sections",
    "sync-seqcount",
    "sync-wait-queue",
    "table-added-beside-munmap",
    "table-added-twice",
    "table-freed-under-hardware-walk",
    "table-freed-under-rmap-walk",
    "thp-partial-unmap-vs-split",
    "thp-range-cow-vs-reuse",
    "thp-range-no-longer-empty",
    "thp-range-reuse-vs-exit",
    "thp-split-one-store",
    "thp-split-vs-slot-freed",
    "thp-swap-out-run-vs-page",
    "thp-untouched-vs-store",
    "tlb-mremap-late-flush",
    "tlb-mremap-late-flush-table",
    "uffd-fill-vs-remove",
    "uffd-wp-outlives-vma",
    "vma-recycled-under-lookup",
    "wp-reuse-vs-folio-lock",
];

/// Swapoff looks at entries without their lock, again and again until none is left. Under `c11` without
/// fairness it may be told of what was there before, for ever.
const UNFAIR: &[&str] = &["swapoff-vs-alloc"];

impl Case {
    /// How far the case is explored under weak memory, and if that is fewer than two preemptions, why.
    pub fn weak_memory(&self) -> &'static str {
        let far = self.runs.iter().filter(|run| run.model == Model::C11).map(|run| match run.extent {
            Extent::Exhaust => u32::MAX,
            Extent::Bound(most) => most,
            Extent::Sample(_) => 0,
        });
        match far.max() {
            Some(u32::MAX) => "c11, exhausted",
            Some(2..) => "c11, two preemptions",
            Some(_) | None if UNFAIR.contains(&self.name) => {
                "not under c11: it would look at an old value for ever"
            }
            Some(_) if TOO_MANY.contains(&self.name) => {
                "c11, one preemption: two are over 200,000 executions"
            }
            None if TOO_MANY.contains(&self.name) => {
                "not under c11: two preemptions are over 200,000 executions"
            }
            Some(_) | None if HELD_ONCE.contains(&self.name) => {
                "c11, two preemptions held once; not part of every check"
            }
            Some(_) => "c11, one preemption: two were not measured",
            None => "not under c11: not measured",
        }
    }
}
