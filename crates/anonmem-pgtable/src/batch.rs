//! Entries that are handled together: those of consecutive pages of one folio that say the same.
//!
//! Whoever touches several entries (fork, zap, unmap) asks a folio once and not once a page. A batch ends
//! with the table, with what the caller gives (a VMA, or a part of it), and with the folio. It ends before an
//! entry whose frame is not the next one. It also ends before an entry that differs in its permissions, in
//! the mark of userfaultfd, or in whether its page is exclusive. Accessed and dirty bits, which the hardware
//! sets one by one, are gathered.
//!
//! The entries of a folio of one page are batches of one. To find that out, nothing is asked but the word of
//! metadata that everybody reads anyway. mprotect has no use for batches: it asks no folio, but each page's
//! own word, with one load.
//!
//! Linux: mm/internal.h `folio_pte_batch_flags`.

use anonmem_frame::{Folio, Frames};
use anonmem_hal::{Arch, Machine, Pfn, Present, Pte, VaRange};
use anonmem_sync::{Atomic, Ordering};

/// Entries of one table for consecutive pages of one folio that say the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Batch {
    range: VaRange,
    present: Present,
}

impl Batch {
    /// The batch that `words`, the entries for `within`, start with.
    pub(crate) fn of<M: Machine>(
        frames: &Frames<M>,
        words: &[Atomic<u64, M>],
        within: VaRange,
    ) -> Option<Self> {
        let mut present = page_in::<M>(words[0].load(Ordering::Relaxed))?;
        let pages = match frames.is_one_page(present.pfn) {
            true => 1,
            false => gather(frames, words, &mut present) as u64,
        };
        Some(Self { range: VaRange { start: within.start, end: within.start.page_after(pages) }, present })
    }

    /// The number of entries, at least 1.
    pub const fn pages(&self) -> u64 {
        self.range.pages().0
    }

    /// The addresses.
    pub const fn range(&self) -> VaRange {
        self.range
    }

    /// What the entries say: the first one's frame, and accessed or dirty if any is.
    pub const fn present(&self) -> Present {
        self.present
    }
}

fn page_in<M: Machine>(raw: u64) -> Option<Present> {
    match M::Arch::decode_pte(raw) {
        Pte::Present(present) => (!present.special).then_some(present),
        Pte::None | Pte::Soft(_) => None,
    }
}

/// The length of the batch that `words` start with, whose first entry says `present`; gathers what the others
/// say.
#[cold]
fn gather<M: Machine>(frames: &Frames<M>, words: &[Atomic<u64, M>], present: &mut Present) -> usize {
    let folio = frames.folio_of_owned(present.pfn);
    let len = batch_len(folio, *present, words);
    for word in &words[1..len] {
        if present.young && present.dirty {
            break;
        }
        let Some(next) = page_in::<M>(word.load(Ordering::Relaxed)) else { break };
        present.young |= next.young;
        present.dirty |= next.dirty;
    }
    len
}

/// The length of the batch that `words` start with, whose first entry is for a page of `folio` and says
/// `first`.
#[inline]
pub(crate) fn batch_len<M: Machine>(folio: Folio<'_, M>, first: Present, words: &[Atomic<u64, M>]) -> usize {
    batch_len_of(folio, first.pfn, M::Arch::encode_pte(Pte::Present(first)), words)
}

/// The same, as the bits have it: the first entry is for `page` and holds `first`.
#[inline]
pub(crate) fn batch_len_of<M: Machine>(
    folio: Folio<'_, M>,
    page: Pfn,
    first: u64,
    words: &[Atomic<u64, M>],
) -> usize {
    let most = words.len().min(folio.owned_pages_from(page) as usize);
    let len = alike(first, &words[..most]);
    // Writable implies exclusive: then no page has to be asked.
    match M::Arch::pte_writable(first) {
        true => len,
        false => folio.frames().exclusive_alike(page, len as u64) as usize,
    }
}

/// How many of `words`, which start with the present entry `first`, are for frames in a row and say the same,
/// whatever of the accessed and dirty bits.
#[inline(always)]
pub(crate) fn alike<M: Machine>(first: u64, words: &[Atomic<u64, M>]) -> usize {
    let (step, mut next) = (M::Arch::pte_step(first), first);
    let goes_on = |word: &&Atomic<u64, M>| {
        next = next.wrapping_add(step);
        M::Arch::pte_alike(word.load(Ordering::Relaxed), next)
    };
    1 + words[1..].iter().take_while(goes_on).count()
}
