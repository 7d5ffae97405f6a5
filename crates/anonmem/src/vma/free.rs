//! What a VMA holds besides its pages, and the end of a VMA.
//!
//! Linux: mm/vma.c `remove_vma`.

use crate::{ids::VmaId, objects::Objects, rmap::machine::Machine, vma::vma::Backing};

impl<M: Machine> Objects<M> {
    /// Counts a VMA more that has this backing; `free_vma` counts it less.
    pub(crate) fn backing_get(&self, backing: Backing) {
        match backing {
            Backing::Anonymous => {}
            Backing::Source(source) => self.machine().dup(source),
            Backing::Shared(object) => self.shm_get(object),
        }
    }

    /// The same for a backing that somebody outside names: `false` if it is an object that nobody uses.
    pub(crate) fn backing_try_get(&self, backing: Backing) -> bool {
        match backing {
            Backing::Anonymous | Backing::Source(_) => {
                self.backing_get(backing);
                true
            }
            Backing::Shared(object) => self.shm_try_get(object),
        }
    }
}

/// Frees a VMA that is out of the tree and unlinked.
#[doc(alias = "remove_vma")]
pub(crate) fn free_vma<M: Machine>(objects: &Objects<M>, id: VmaId) {
    let vma = objects.vma(id);
    match vma.backing() {
        Backing::Anonymous => {}
        Backing::Source(source) => objects.machine().release(source),
        Backing::Shared(object) => objects.shm_put(object),
    }
    vma.retire();
    objects.vmas.free(&objects.frames, id);
}
