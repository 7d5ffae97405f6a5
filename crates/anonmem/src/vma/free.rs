//! What a VMA holds besides its pages, and the end of a VMA.
//!
//! Linux: mm/vma.c `remove_vma`.

use crate::{
    error::Error,
    ids::VmaId,
    objects::Objects,
    rmap::machine::Machine,
    vma::{flags::VmFlags, vma::Backing},
};

impl<M: Machine> Objects<M> {
    /// Counts a VMA more that has this backing and these attributes, as one does that there is; `free_vma`
    /// counts it less.
    pub(crate) fn backing_get(&self, backing: Backing, flags: VmFlags) {
        match backing {
            Backing::Anonymous => {}
            Backing::Source(source) => self.machine().dup(source),
            Backing::Shared(object) => {
                self.shm_get(object);
                if flags.may_store_shared() {
                    self.shm_add_writer(object).expect("an object that has a writer refuses no other");
                }
            }
        }
    }

    /// The same for a backing that somebody outside names.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an object that nobody uses; [`Error::NotPermitted`] for one that refuses
    /// writers.
    pub(crate) fn backing_try_get(&self, backing: Backing, flags: VmFlags) -> Result<(), Error> {
        let object = match backing {
            Backing::Anonymous | Backing::Source(_) => {
                self.backing_get(backing, flags);
                return Ok(());
            }
            Backing::Shared(object) => object,
        };
        if !self.shm_try_get(object) {
            return Err(Error::Invalid("a shared object that nobody uses"));
        }
        if flags.may_store_shared() {
            self.shm_add_writer(object).inspect_err(|_| self.shm_put(object))?;
        }
        Ok(())
    }
}

/// Frees a VMA that is out of the tree and unlinked.
#[doc(alias = "remove_vma")]
pub(crate) fn free_vma<M: Machine>(objects: &Objects<M>, id: VmaId) {
    let vma = objects.vma(id);
    match vma.backing() {
        Backing::Anonymous => {}
        Backing::Source(source) => objects.machine().release(source),
        Backing::Shared(object) => {
            if vma.flags().may_store_shared() {
                objects.shm_drop_writer(object);
            }
            objects.shm_put(object);
        }
    }
    vma.retire();
    objects.vmas.free(&objects.frames, id);
}
