//! Faults that wait for a userfaultfd.
//!
//! A fault that must wait brings a message, looks at the entry once more under its lock, and ends with
//! `FaultResult::Userfault`. Whoever called it lets go of all locks, sleeps, and faults again from the
//! beginning: nothing is assumed of what was there before. A speculative fault is refused and comes back
//! with the VMA's lock.
//!
//! Linux: fs/userfaultfd.c `handle_userfault`, `userfaultfd_must_wait`. Differs: whether a fault must wait is
//! decided for every kind of entry. So none sleeps over an entry that nobody will answer for
//! (CVE-2026-64514).

use super::context::{Said, UffdFault, UffdFeatures, UffdReason};
use crate::{
    events::Event,
    fault::vm_fault::{FaultAccess, FaultGuard, FaultOutcome, FaultResult, VmFault, Waits},
    ids::UffdMessageId,
    objects::Objects,
    rmap::machine::Machine,
    vma::{flags::VmFlags, refusal::Refusal},
};
use anonmem_hal::{GiveUp, Marker};
use anonmem_pgtable::{Mapped, PteGuard, StableVma, Walked};

/// What becomes of a fault that the VMA's userfaultfd is asked about.
#[cold]
#[inline(never)]
pub(crate) fn handle_userfault<M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'_, M, G>,
    reason: UffdReason,
) -> FaultResult {
    if let Err(why) = fault.guard.sleeps(Refusal::Userfault) {
        return why.into();
    }
    let vm = fault.vm;
    // The guard keeps the VMA, and that the context.
    let Some(id) = vm.vma(fault.id).uffd() else { return FaultResult::Reload };
    let (context, features) = (vm.uffd(id), vm.uffd(id).features());
    let told = match fault.waits {
        Waits::Never => false,
        Waits::Kernel => !context.is_user_only(),
        Waits::Program => true,
    };
    if !told || features.contains(UffdFeatures::SIGBUS) {
        return FaultResult::Bus;
    }
    let exact = features.contains(UffdFeatures::EXACT_ADDRESS);
    let said = UffdFault {
        va: if exact { fault.exact } else { fault.va },
        write: fault.access == FaultAccess::Write,
        reason,
        thread: if features.contains(UffdFeatures::THREAD_ID) { M::task_number() } else { 0 },
    };
    let Ok(message) = vm.uffd_message_alloc(id, Said::Fault(said)) else { return FaultResult::Oom };
    vm.uffd_queue(message);
    // Races with whoever fills the entry, and then looks for sleepers: if the fill came before our look, we
    // see it; else our message was there when he looked.
    match must_wait(fault, reason) {
        Ok(true) => FaultResult::Userfault(message),
        Ok(false) => {
            vm.uffd_end_fault(message);
            FaultResult::Reload
        }
        Err(other) => {
            vm.uffd_end_fault(message);
            other
        }
    }
}

impl<M: Machine, G: FaultGuard<M>> VmFault<'_, M, G> {
    /// Whether writes end the write protection of the VMA's pages without anybody being asked.
    #[doc(alias = "userfaultfd_wp_async")]
    pub(crate) fn uffd_is_async(&self) -> bool {
        let ctx = self.vma.uffd();
        ctx.is_some_and(|ctx| self.vm.uffd(ctx).features().contains(UffdFeatures::WP_ASYNC))
    }
}

/// Whether the entry is such that only the userfaultfd can go on.
#[doc(alias = "userfaultfd_must_wait")]
fn must_wait<M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'_, M, G>,
    reason: UffdReason,
) -> Result<bool, FaultResult> {
    let table = match fault.slot.space.walk(&fault.vm.frames, fault.guard, fault.va) {
        Some(Walked::Table(table)) => table,
        // A leaf that is protected becomes a table before anybody waits for it.
        Some(Walked::Leaf(_)) => return Ok(false),
        None => return Ok(reason != UffdReason::WriteProtected),
    };
    let entries = fault.lock(table)?;
    Ok(entry_waits(&entries, fault.va, reason))
}

fn entry_waits<M: Machine, G: StableVma<M>>(
    entries: &PteGuard<'_, M, G>,
    va: anonmem_hal::Va,
    reason: UffdReason,
) -> bool {
    let protected = match entries.mapped(va) {
        Mapped::None => false,
        Mapped::Marker(Marker::UffdWp) => true,
        Mapped::Zero(present)
        | Mapped::Exclusive(_, present)
        | Mapped::Shared(_, present)
        | Mapped::Shm(present) => {
            return reason == UffdReason::WriteProtected && present.uffd_wp && !present.prot.write;
        }
        // Whatever the userfaultfd says of them, a fault can go on with these.
        Mapped::Swap(..) | Mapped::Migration(..) | Mapped::Marker(Marker::Guard | Marker::Poisoned) => {
            return false;
        }
    };
    match reason {
        UffdReason::Missing | UffdReason::Minor => true,
        UffdReason::WriteProtected => protected,
    }
}

/// Whether the VMA's userfaultfd is asked about an empty entry, and what for. `has_page` says whether a
/// shared object has the page.
pub(crate) fn asked_for(flags: VmFlags, has_page: impl FnOnce() -> bool) -> Option<UffdReason> {
    if !flags.intersects(VmFlags::UFFD_MISSING | VmFlags::UFFD_MINOR) {
        return None;
    }
    let reason = if has_page() { UffdReason::Minor } else { UffdReason::Missing };
    let asked = match reason {
        UffdReason::Minor => VmFlags::UFFD_MINOR,
        UffdReason::Missing | UffdReason::WriteProtected => VmFlags::UFFD_MISSING,
    };
    flags.contains(asked).then_some(reason)
}

impl<M: Machine> Objects<M> {
    /// Waits until a userfaultfd has answered a fault: then the access is to be done again. A signal ends the
    /// wait of a program; what the kernel does for it ends only with the program.
    ///
    /// # Locks
    /// None. Sleeps.
    #[cold]
    pub(crate) fn wait_for_userfault(&self, message: UffdMessageId, waits: Waits) -> FaultOutcome {
        self.count(Event::FaultUserfault);
        let until = match waits {
            Waits::Program => GiveUp::Signal,
            Waits::Kernel | Waits::Never => GiveUp::Death,
        };
        let answered = self.uffd_sleep(message, until);
        self.uffd_end_fault(message);
        match (answered, waits) {
            (true, _) | (false, Waits::Program) => FaultOutcome::Done,
            (false, Waits::Kernel | Waits::Never) => FaultOutcome::Bus,
        }
    }
}
