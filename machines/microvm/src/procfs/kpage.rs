//! `/proc/kpageflags` and `/proc/kpagecount`: a word for each frame of the machine.
//!
//! Linux: fs/proc/page.c.

use crate::machine;
use anonmem::PageState;
use anonmem_hal::Pfn;
use anonmem_oslib::Result;
use anonmem_oslib::errno::EINVAL;
use anonmem_oslib::vfs::{FileType, Meta, Synthetic};

/// One of the files: what its words say.
pub(super) struct KPage(pub(super) Word);

/// What the word of a frame says.
type Word = fn(PageState) -> u64;

/// The files of `/proc`.
pub(super) const FILES: [(&str, Word); 2] =
    [("kpagecount", |page| page.mappings), ("kpageflags", |page| page.flags)];

impl Synthetic for KPage {
    fn kind(&self) -> FileType {
        FileType::Regular
    }

    fn admits(&self, meta: &Meta, wanted: u32) -> bool {
        super::caller::caller_may(meta, wanted)
    }

    fn read_at(&self, offset: u64, to: &mut [u8]) -> Option<Result<usize>> {
        if !offset.is_multiple_of(8) || !to.len().is_multiple_of(8) {
            return Some(Err(EINVAL));
        }
        let first = offset / 8;
        let count = (to.len() as u64 / 8).min(machine::end_of_frames().saturating_sub(first));
        for (word, pfn) in to.chunks_exact_mut(8).zip(first..first + count) {
            let page = machine::vm().page_state(Pfn(pfn));
            word.copy_from_slice(&(self.0)(page).to_le_bytes());
        }
        Some(Ok(count as usize * 8))
    }
}
