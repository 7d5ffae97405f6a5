//! A userfaultfd and the memory that it watches.
//!
//! Registering changes the attributes of VMAs, as madvise does: parts are split off, and merge with
//! neighbours that are watched alike. The context is part of what must be alike.
//!
//! An entry that a userfaultfd write-protects is in a VMA that says so. Whatever takes that from a VMA
//! (unregistering, the end of the userfaultfd, a move without `EVENT_REMAP`) clears the entries first.
//!
//! Locks: the mmap lock for writing.
//!
//! Linux: fs/userfaultfd.c `userfaultfd_register`, `userfaultfd_unregister`, `userfaultfd_release`,
//! `userfaultfd_api`; mm/userfaultfd.c `userfaultfd_clear_vma`, `vma_can_userfault`.

use super::{
    context::{Said, UffdContext, UffdFault, UffdFaults, UffdFeatures},
    queue::Taken,
};
use crate::{
    config::LockMode,
    error::Error,
    ids::{UffdId, UffdMessageId, VmaId},
    mm::{
        Mm,
        mmap_lock::{MmapReadGuard, MmapWriteGuard},
        slot::MmSlot,
    },
    rmap::machine::Machine,
    vm::Vm,
    vma::{
        flags::VmFlags,
        vma::{Backing, Vma},
    },
};
use anonmem_hal::{Arch, GiveUp, Va, VaRange};
use core::mem::ManuallyDrop;

bitflags::bitflags! {
    /// What a range is watched for. The values are Linux's (`UFFDIO_REGISTER_MODE_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct RegisterMode: u64 {
        /// Pages that are missing.
        const MISSING = 1 << 0;
        /// Writes to pages that are protected.
        const WP = 1 << 1;
        /// Pages of shared memory that are there, but not mapped.
        const MINOR = 1 << 2;
    }
}

impl RegisterMode {
    fn vm_flags(self) -> VmFlags {
        let mut flags = VmFlags::empty();
        flags.set(VmFlags::UFFD_MISSING, self.contains(Self::MISSING));
        flags.set(VmFlags::UFFD_WP, self.contains(Self::WP));
        flags.set(VmFlags::UFFD_MINOR, self.contains(Self::MINOR));
        flags
    }
}

/// A userfaultfd. Dropping it ends its watch: whoever waits for it goes on.
pub struct Uffd<'v, M: Machine> {
    pub(super) vm: &'v Vm<M>,
    pub(super) id: UffdId,
    /// The same, looked up.
    pub(super) context: &'v UffdContext<M>,
    /// Its address space's, which it keeps.
    slot: &'v MmSlot<M>,
}

/// What somebody who reads a userfaultfd is told.
pub enum UffdMessage<'v, M: Machine> {
    /// A fault, which waits until it is answered.
    Fault(UffdFault),
    /// A child has a userfaultfd of its own.
    Fork(UffdFork<'v, M>),
    /// A mapping has moved.
    Remap {
        /// From here.
        from: Va,
        /// To there.
        to: Va,
        /// So many bytes.
        len: u64,
    },
    /// Pages are being dropped.
    Remove(VaRange),
    /// A range is no longer mapped, or by something else.
    Unmap(VaRange),
}

/// The userfaultfd of a child. Whoever has a place for it takes it; else the message stays to be read.
pub struct UffdFork<'v, M: Machine> {
    child: Option<Uffd<'v, M>>,
    vm: &'v Vm<M>,
    message: UffdMessageId,
}

impl<'v, M: Machine> UffdFork<'v, M> {
    /// Takes it: the parent's fork goes on.
    ///
    /// # Panics
    /// Never: there is one until it is taken.
    pub fn take(mut self) -> Uffd<'v, M> {
        self.child.take().expect("it is taken once")
    }
}

impl<M: Machine> Drop for UffdFork<'_, M> {
    fn drop(&mut self) {
        let taken = match self.child.take() {
            None => Taken::Yes,
            Some(child) => {
                // The message keeps it.
                let _ = ManuallyDrop::new(child);
                Taken::No
            }
        };
        if let Some(child) = self.vm.uffd_finish_read(self.message, taken) {
            release(self.vm, child);
        }
    }
}

impl<'v, M: Machine> Mm<'v, M> {
    /// Makes a userfaultfd for this address space. It watches nothing yet.
    ///
    /// ```
    /// # use anonmem::*;
    /// # use anonmem_testkit::Program;
    /// # anonmem_testkit::example(|_, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// let uffd = mm.userfaultfd(UffdFaults::UserOnly)?;
    /// uffd.agree(UffdFeatures::empty())?;
    /// uffd.register(start, 4 * 4096, RegisterMode::MISSING)?;
    /// std::thread::scope(|threads| {
    ///     let program = threads.spawn(|| mm.load(start));
    ///     assert!(uffd.wait_for_message());
    ///     let Some(UffdMessage::Fault(fault)) = uffd.read() else { panic!("no fault was told") };
    ///     assert_eq!((fault.va, fault.reason, fault.write), (start, UffdReason::Missing, false));
    ///     let filled = uffd.copy(start, 4096, FillMode::empty(), &mut |_, page| {
    ///         page.write(0, &[7]);
    ///         Ok(())
    ///     });
    ///     assert_eq!((filled.bytes, program.join().unwrap()), (4096, Ok(7)));
    /// });
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    #[doc(alias = "new_userfaultfd")]
    pub fn userfaultfd(&self, faults: UffdFaults) -> Result<Uffd<'v, M>, Error> {
        let id = self.vm.reclaiming(|| Ok(self.vm.uffd_alloc(self, faults)?))?;
        Ok(Uffd::new(self.vm, id))
    }
}

impl<'v, M: Machine> Uffd<'v, M> {
    /// The owner of a context.
    fn new(vm: &'v Vm<M>, id: UffdId) -> Self {
        let context = vm.uffd(id);
        Self { vm, id, context, slot: vm.mm_slot(context.mm()) }
    }

    /// The features that there are.
    pub const FEATURES: UffdFeatures = UffdFeatures::all();

    /// Agrees upon `features`, once.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are others among them, or features were agreed upon before.
    #[doc(alias = "userfaultfd_api")]
    pub fn agree(&self, features: UffdFeatures) -> Result<(), Error> {
        if !Self::FEATURES.contains(features) {
            return Err(Error::Invalid("a feature of userfaultfd that there is not"));
        }
        let mut features = features;
        if features.contains(UffdFeatures::WP_ASYNC) {
            features |= UffdFeatures::WP_UNPOPULATED;
        }
        match self.context.initialise(features) {
            true => Ok(()),
            false => Err(Error::Invalid("the features of a userfaultfd are agreed upon once")),
        }
    }

    /// Whether features were agreed upon. Nothing else may be asked before.
    pub fn has_agreed(&self) -> bool {
        self.context.is_initialised()
    }

    /// What was agreed upon.
    pub fn features(&self) -> UffdFeatures {
        self.context.features()
    }

    /// Whether it is for the address space of `mm`.
    pub fn is_for(&self, mm: &Mm<'_, M>) -> bool {
        self.context.mm() == mm.id
    }

    /// A number that tells it from the others that are in use.
    pub fn number(&self) -> u32 {
        self.id.raw().get()
    }

    /// The oldest message that nobody has read.
    #[doc(alias = "userfaultfd_ctx_read")]
    pub fn read(&self) -> Option<UffdMessage<'v, M>> {
        let (message, said) = self.vm.uffd_read(self.id)?;
        Some(match said {
            Said::Fault(fault) => UffdMessage::Fault(fault),
            Said::Fork(child) => {
                let child = child.get().map(|id| Uffd::new(self.vm, id));
                anonmem_hal::debug_check!(M, child.is_some(), "the event of a fork is read once");
                UffdMessage::Fork(UffdFork { child, vm: self.vm, message })
            }
            Said::Remap { from, to, len } => UffdMessage::Remap { from, to, len },
            Said::Remove(range) => UffdMessage::Remove(range),
            Said::Unmap(range) => UffdMessage::Unmap(range),
        })
    }

    /// Whether [`read`](Self::read) would find one.
    pub fn has_message(&self) -> bool {
        self.vm.uffd_has_message(self.id)
    }

    /// Waits until there is a message, or a signal comes; says whether there is one.
    ///
    /// # Locks
    /// None. Sleeps.
    pub fn wait_for_message(&self) -> bool {
        self.vm.uffd_wait_for_message(self.id, GiveUp::Signal)
    }

    /// Lets the faults go on that wait for pages of the `len` bytes from `start`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a range that makes no sense.
    pub fn wake(&self, start: Va, len: u64) -> Result<(), Error> {
        let range = self.check_range(start, len)?;
        self.vm.uffd_wake(self.context, range);
        Ok(())
    }

    /// The range, if it is one of pages of an address space.
    #[doc(alias = "validate_range")]
    pub(super) fn check_range(&self, start: Va, len: u64) -> Result<VaRange, Error> {
        let end = M::Arch::USER_END;
        let fits = start.is_page_aligned()
            && Va(len).is_page_aligned()
            && len > 0
            && start < end
            && len <= end.0 - start.0;
        if fits {
            Ok(VaRange { start, end: Va(start.0 + len) })
        } else {
            Err(Error::Invalid("no range of pages of an address space"))
        }
    }

    /// The address space, if it has users.
    pub(super) fn mm(&self) -> Result<Mm<'v, M>, Error> {
        self.vm.try_user(self.context.mm()).ok_or(Error::NoProcess)
    }

    /// A user of the address space, for whoever takes the locks of its VMAs; none if faults do not use those.
    /// Whoever takes the mmap lock needs none ([`mmap_read`](Self::mmap_read)).
    pub(super) fn user(&self) -> Result<Option<Mm<'v, M>>, Error> {
        match self.vm.config.lock_mode {
            LockMode::Mmap => Ok(None),
            LockMode::Vma | LockMode::Speculative => self.mm().map(Some),
        }
    }

    /// The mmap lock of the address space for reading, if that has users. The context keeps the slot.
    pub(super) fn mmap_read(&self) -> Result<MmapReadGuard<'v, M>, Error> {
        let guard = self.vm.mmap_read_lock_of(self.context.mm(), self.slot);
        if guard.slot().has_users() { Ok(guard) } else { Err(Error::NoProcess) }
    }

    fn is_async(&self) -> bool {
        self.features().contains(UffdFeatures::WP_ASYNC)
    }

    /// Watches the VMAs of the `len` bytes from `start` for `mode`, and for nothing else.
    ///
    /// # Locks
    /// The mmap lock, for writing. Sleeps.
    ///
    /// # Errors
    /// [`Error::Invalid`] for arguments that make no sense, if nothing is mapped there or something that
    /// cannot be watched so; [`Error::NotPermitted`] for a mapping that may not be written; [`Error::Busy`]
    /// if another one watches it; [`Error::OutOfMemory`], [`Error::Limit`]: what lies before the place is
    /// registered. [`Error::OutOfMemory`] also if the address space has ended.
    #[doc(alias = "userfaultfd_register")]
    pub fn register(&self, start: Va, len: u64, mode: RegisterMode) -> Result<(), Error> {
        if mode.is_empty() || !RegisterMode::all().contains(mode) {
            return Err(Error::Invalid("a way to watch that there is not"));
        }
        let range = self.check_range(start, len)?;
        let mm = self.mm().map_err(|_| Error::OutOfMemory)?;
        let watched = mode.vm_flags();
        self.vm.reclaiming(|| {
            let guard = mm.write();
            self.check_register(&guard, range, watched)?;
            guard.slot().note_uffd();
            self.each_part(&guard, range, |vma| ((vma.flags() - VmFlags::UFFD) | watched, Some(self.id)))
        })
    }

    fn check_register(
        &self,
        guard: &MmapWriteGuard<'_, M>,
        range: VaRange,
        watched: VmFlags,
    ) -> Result<(), Error> {
        let (tree, nodes) = (&guard.slot().tree, self.vm.nodes());
        let (mut vmas, mut found) = (tree.cursor(range), false);
        while let Some((_, id)) = vmas.next(tree, nodes) {
            let vma = self.vm.vma(id);
            if !can_userfault(vma, watched, self.is_async()) {
                return Err(Error::Invalid("a mapping that cannot be watched so"));
            }
            if !vma.flags().contains(VmFlags::MAYWRITE) {
                return Err(Error::NotPermitted);
            }
            if vma.uffd().is_some_and(|other| other != self.id) {
                return Err(Error::Busy);
            }
            found = true;
        }
        if found { Ok(()) } else { Err(Error::Invalid("nothing is mapped there")) }
    }

    /// Gives the parts of VMAs in `range` what `change` says.
    fn each_part(
        &self,
        guard: &MmapWriteGuard<'_, M>,
        range: VaRange,
        change: impl Fn(&Vma<M>) -> (VmFlags, Option<UffdId>),
    ) -> Result<(), Error> {
        let mut rest = range;
        while let Some((whole, id)) = guard.slot().tree.find(self.vm.nodes(), rest.start) {
            // A VMA that merged with the one before starts earlier than what is left.
            let Some(part) = whole.intersect(rest) else { break };
            let (flags, uffd) = change(self.vm.vma(id));
            guard.watch(id, part, flags, uffd)?;
            rest.start = part.end;
        }
        Ok(())
    }

    /// Ends the watch of the `len` bytes from `start`: faults that wait go on.
    ///
    /// # Locks
    /// The mmap lock, for writing. Sleeps.
    ///
    /// # Errors
    /// [`Error::Invalid`] for arguments that make no sense, if nothing is mapped there, or another one
    /// watches it; [`Error::OutOfMemory`], [`Error::Limit`]: what lies before the place is no longer watched.
    /// [`Error::OutOfMemory`] also if the address space has ended.
    #[doc(alias = "userfaultfd_unregister")]
    pub fn unregister(&self, start: Va, len: u64) -> Result<(), Error> {
        let range = self.check_range(start, len)?;
        let mm = self.mm().map_err(|_| Error::OutOfMemory)?;
        let result = self.vm.reclaiming(|| {
            let guard = mm.write();
            self.check_unregister(&guard, range)?;
            self.each_part(&guard, range, |vma| (vma.flags() - VmFlags::UFFD, None))
        });
        // Linux wakes those that wait for missing pages only; whoever waits for a range that nobody watches
        // any more would wait for ever.
        self.vm.uffd_wake(self.context, range);
        result
    }

    fn check_unregister(&self, guard: &MmapWriteGuard<'_, M>, range: VaRange) -> Result<(), Error> {
        let (tree, nodes) = (&guard.slot().tree, self.vm.nodes());
        let (mut vmas, mut found) = (tree.cursor(range), false);
        while let Some((_, id)) = vmas.next(tree, nodes) {
            let vma = self.vm.vma(id);
            let other = vma.uffd().is_some_and(|other| other != self.id);
            if other || !can_userfault(vma, vma.flags() & VmFlags::UFFD, self.is_async()) {
                return Err(Error::Invalid("a mapping that this userfaultfd cannot watch"));
            }
            found = true;
        }
        if found { Ok(()) } else { Err(Error::Invalid("nothing is mapped there")) }
    }
}

impl<M: Machine> Drop for Uffd<'_, M> {
    #[doc(alias = "userfaultfd_release")]
    fn drop(&mut self) {
        release(self.vm, self.id);
    }
}

/// Whether a mapping can be watched so: private or shared memory without a file behind it, whose pages stay;
/// anything else, if all that is asked for is write protection that writes end by themselves.
#[doc(alias = "vma_can_userfault")]
fn can_userfault<M: Machine>(vma: &Vma<M>, watched: VmFlags, is_async: bool) -> bool {
    let shared = matches!(vma.backing(), Backing::Shared(_));
    if watched.contains(VmFlags::UFFD_MINOR) && !shared {
        return false;
    }
    match vma.backing() {
        Backing::Anonymous if vma.flags().contains(VmFlags::DROPPABLE) => false,
        Backing::Anonymous | Backing::Shared(_) => true,
        Backing::Source(_) => is_async && watched == VmFlags::UFFD_WP,
    }
}

impl<M: Machine> MmapWriteGuard<'_, M> {
    /// Lets `uffd` watch `part` of VMA `id` as the attributes `flags` say.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Limit`]; none if the part is all of the VMA.
    fn watch(&self, id: VmaId, part: VaRange, flags: VmFlags, uffd: Option<UffdId>) -> Result<(), Error> {
        let vma = self.objects.vma(id);
        let was_protected = vma.flags().contains(VmFlags::UFFD_WP);
        let prot = flags.protection();
        self.modify_watched(id, part, flags, uffd)?;
        if was_protected && !flags.contains(VmFlags::UFFD_WP) {
            self.clear_uffd_wp_range(part, prot);
        }
        Ok(())
    }

    /// Ends the watch of all that `uffd` watches.
    fn unwatch_all(&self, uffd: UffdId) {
        let mut from = Va(0);
        while let Some((range, id)) = self.slot().tree.find(self.objects.nodes(), from) {
            from = range.end;
            let vma = self.objects.vma(id);
            if vma.uffd() == Some(uffd) {
                let ended = self.watch(id, range, vma.flags() - VmFlags::UFFD, None);
                ended.expect("nothing is split, and a merge is left out if it finds no memory");
            }
        }
    }

    /// Ends the watch of VMA `id`, which moves where nobody is told.
    pub(crate) fn unwatch(&self, id: VmaId) {
        let vma = self.objects.vma(id);
        if vma.uffd().is_none() {
            return;
        }
        let flags = vma.flags() - VmFlags::UFFD;
        self.clear_uffd_wp_range(vma.range(), flags.protection());
        vma.start_write(self).set_flags(flags, None);
    }
}

/// Ends the watch of a userfaultfd whose owner lets go, and of those of children that nobody has read about.
///
/// # Locks
/// Takes the mmap lock of its address space for writing. Sleeps.
pub(super) fn release<M: Machine>(vm: &Vm<M>, id: UffdId) {
    unwatch_all(vm, id, None);
    let mut at = Some(id);
    while let Some(id) = at {
        // Everybody who asks does so under a lock that was waited for; so nobody comes any more.
        if let Some(child) = vm.uffd_dismiss(id) {
            unwatch_all(vm, child, Some(id));
            at = Some(child);
            continue;
        }
        at = vm.uffd(id).next_released.get().get();
        vm.uffd_put(id);
    }
}

/// Ends the watch of all that `id` watches; `then` is to be gone on with afterwards.
fn unwatch_all<M: Machine>(vm: &Vm<M>, id: UffdId, then: Option<UffdId>) {
    vm.uffd(id).next_released.set(then.into());
    if let Some(mm) = vm.try_user(vm.uffd(id).mm()) {
        mm.write().unwatch_all(id);
    }
}
