//! Bytes in and out of an address space that need not be the caller's: for debuggers, and for copies between
//! programs.
//!
//! A page is read as it is, whoever else has it. It is written only when it is the program's own, as a pin
//! for writing has it. So a write by force through a read-only private mapping breaks copy-on-write, and
//! leaves the entry as read-only as it was. The page is pinned while it is written: fork does not share it
//! half-way, and reclaim does not drop what was written.
//!
//! Locks: the mmap lock for reading while a page is found and copied. No program's memory is touched but
//! through the kernel's own map, so nothing faults there.
//!
//! Linux: mm/memory.c `__access_remote_vm`; mm/process_vm_access.c.

use super::{
    BATCH, PinFlags,
    area::{Area, Stop},
    pinned::PinnedRange,
};
use crate::{error::Error, mm::Mm, rmap::machine::Machine};
use anonmem_frame::PinAccess;
use anonmem_hal::{PAGE_SIZE, Va};

/// Bytes on the caller's side.
#[derive(Debug)]
pub enum RemoteBytes<'b> {
    /// To be read from the address space.
    Read(&'b mut [u8]),
    /// To be written to it.
    Write(&'b [u8]),
}

impl RemoteBytes<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Read(to) => to.len(),
            Self::Write(from) => from.len(),
        }
    }

    /// What is asked of a mapping.
    fn flags(&self, flags: PinFlags) -> PinFlags {
        let asked = flags & (PinFlags::FORCE | PinFlags::NOFAULT);
        match self {
            Self::Read(_) => asked,
            Self::Write(_) => asked | PinFlags::WRITE,
        }
    }
}

impl<M: Machine> Mm<'_, M> {
    /// Moves bytes from or to the addresses from `at` on, up to the first page that cannot be had; returns
    /// how many. Of the flags, [`PinFlags::FORCE`] and [`PinFlags::NOFAULT`] count.
    ///
    /// ```
    /// # use anonmem::*;
    /// # use anonmem_testkit::Program;
    /// # anonmem_testkit::example(|_, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(2 * 4096, Prot::READ | Prot::WRITE))?;
    /// let at = Va(start.0 + 4096 - 2);
    /// mm.access_remote(at, RemoteBytes::Write(&[1, 2, 3, 4]), PinFlags::empty())?;
    /// assert_eq!((mm.load(Va(at.0 - 6))? >> 48, mm.load(Va(at.0 + 2))?), (0x0201, 0x0403));
    /// let (mut bytes, nearly_the_end) = ([9; 4], Va(start.0 + 2 * 4096 - 3));
    /// let read = mm.access_remote(nearly_the_end, RemoteBytes::Read(&mut bytes), PinFlags::empty())?;
    /// assert_eq!((read, bytes), (3, [0, 0, 0, 9]));
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Locks
    /// The mmap lock for reading, again and again. Sleeps.
    ///
    /// # Errors
    /// As [`pin`](Self::pin) and [`look`](Self::look), if not even the first page can be had.
    #[doc(alias = "access_process_vm")]
    #[doc(alias = "access_remote_vm")]
    pub fn access_remote(&self, at: Va, mut bytes: RemoteBytes<'_>, flags: PinFlags) -> Result<usize, Error> {
        let (flags, len) = (bytes.flags(flags), bytes.len());
        let mut done = 0;
        while done < len {
            let moved = self.vm.reclaiming(|| {
                let va = at.checked_add(done as u64).ok_or(Error::BadAddress)?;
                let moved = self.area(va, flags)?.access(self, va, &mut bytes, done);
                // Nothing, if it is to be tried again.
                self.unless_stopped(moved).map(Option::unwrap_or_default)
            });
            match moved {
                Ok(n) => done += n,
                Err(why) if done == 0 => return Err(why),
                Err(_) => break,
            }
        }
        Ok(done)
    }
}

impl<'v, M: Machine> Area<'v, M> {
    /// Moves the bytes from number `done` on, whose address is `va`, as far as the mapping goes and the lock
    /// should be held; returns how many.
    ///
    /// # Errors
    /// As [`Mm::access_remote`].
    fn access(
        &self,
        mm: &Mm<'v, M>,
        va: Va,
        bytes: &mut RemoteBytes<'_>,
        done: usize,
    ) -> Result<usize, Stop> {
        let whole =
            (self.end.0 - va.0).min(BATCH * PAGE_SIZE as u64).min((bytes.len() - done) as u64) as usize;
        let mut moved = 0;
        while moved < whole {
            let here = Va(va.0 + moved as u64);
            let (page, offset) = (here.page_down(), here.page_offset());
            let n = (PAGE_SIZE - offset).min(whole - moved);
            let part = done + moved..done + moved + n;
            let result = match bytes {
                RemoteBytes::Read(to) => self.look(page).map(|look| look.read(offset, &mut to[part])),
                RemoteBytes::Write(from) => self.write_page(mm, page, offset, &from[part]),
            };
            match result {
                Ok(()) => moved += n,
                Err(why) if moved == 0 => return Err(why),
                // Asked again without the lock, and reclaimed for if that helps.
                Err(_) => break,
            }
        }
        Ok(moved)
    }

    /// Writes to one page, which is pinned meanwhile.
    fn write_page(&self, mm: &Mm<'v, M>, page: Va, offset: usize, from: &[u8]) -> Result<(), Stop> {
        let mut pinned = PinnedRange::new(mm, page, PinAccess::Write, None);
        self.pin(&mut pinned, page.next_page())?;
        pinned.write(Va(page.0 + offset as u64), from);
        Ok(())
    }
}
